"""`lensd compare`: measure how far the delta weights of two LoRAs are apart."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from lensd.cli.interrupts import delay_interrupts
from lensd.cli.options import LORA
from lensd.text import printable, visible

if TYPE_CHECKING:
    from rich.table import Table

WORST = 5
NAMED = 3  # of the modules that only one file has


@click.command()
@click.argument("a", type=LORA)
@click.argument("b", type=LORA)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, with all modules.")
def compare(a: str, b: str, as_json: bool) -> None:
    """Measure how far B is from A: the relative error of the delta weights.

    \b
    lensd compare style.safetensors style.lensd.safetensors
    lensd compare --json A B | jq '.per_module[] | select(.delta_error > 0.1)'

    The two LoRAs must be for the same base model. They may be int8 or float, and differ in ranks
    and naming.
    """
    with delay_interrupts():
        from lensd.engine import compare as work  # importing torch takes a second

    numbers: dict[str, Any] = {"a": printable(a), "b": printable(b), **work.compare(a, b)}
    if as_json:
        click.echo(json.dumps(numbers))
    else:
        _show(numbers)


def _show(numbers: dict[str, Any]) -> None:
    from lensd.cli.views.terminal import show

    worst = sorted(numbers["per_module"], key=_badness, reverse=True)[:WORST]
    show(*map(visible, _lines(numbers)))
    if worst:
        show("", f"the worst {len(worst)} of {numbers['modules']}:", _table(worst))


def _lines(numbers: dict[str, Any]) -> Iterator[str]:
    yield f"{numbers['b']} against {numbers['a']}:"
    yield f"  {numbers['modules']} modules in both, {_error(numbers)}"
    for side, path in (("only_in_a", numbers["a"]), ("only_in_b", numbers["b"])):
        if numbers[side]:
            yield f"  {len(numbers[side])} only in {path}: {_some(numbers[side])}"
    if numbers["only_in_a"] or numbers["only_in_b"]:
        common = _number(numbers["delta_error_common"])
        yield f"  relative delta error of the modules in both: {common}"


def _table(modules: list[dict[str, Any]]) -> Table:
    from lensd.cli.views.terminal import table

    found = table("module", "error", "SNR", "rank", numbers=("error", "SNR", "rank"))
    for module in modules:
        ranks = f"{module['rank_a']} -> {module['rank_b']}"
        cells = visible(module["module"]), _number(module["delta_error"]), _snr(module), ranks
        found.add_row(*cells)
    return found


def _some(names: list[str]) -> str:
    """The first few; `--json` has all."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _error(numbers: dict[str, Any]) -> str:
    error = f"relative delta error {_number(numbers['delta_error'])}"
    return error if numbers["snr_db"] is None else f"{error}, SNR {_snr(numbers)}"


def _snr(numbers: dict[str, Any]) -> str:
    return "-" if numbers["snr_db"] is None else f"{numbers['snr_db']:.1f} dB"


def _number(error: float | None) -> str:
    return "without measure (there is nothing in A)" if error is None else f"{error:.3g}"


def _badness(module: dict[str, Any]) -> float:
    return math.inf if module["delta_error"] is None else module["delta_error"]
