"""`lensd compare`: how far one LoRA's delta weights are from another's."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
import msgspec

from lensd.cli.interrupts import uninterrupted
from lensd.cli.options import LORA
from lensd.text import printable, visible

if TYPE_CHECKING:
    from rich.table import Table

    from lensd.engine.compare import Comparison, ModuleDistance

WORST = 5
NAMED = 3  # of the modules that only one file has


@click.command()
@click.argument("a", type=LORA)
@click.argument("b", type=LORA)
@click.option("--json", "as_json", is_flag=True, help="One JSON document, with every module.")
def compare(a: str, b: str, as_json: bool) -> None:
    """Tell how far B is from A, as relative error of the delta weights.

    \b
    lensd compare style.safetensors style.lensd.safetensors
    lensd compare --json A B | jq '.per_module[] | select(.delta_error > 0.1)'

    int8 or float, of any ranks, and of any naming of the same base model.
    """
    with uninterrupted():
        from lensd.engine import compare as work  # torch takes a second; only this needs it

    found = work.compare(a, b)
    if as_json:
        paths = {"a": printable(a), "b": printable(b)}
        click.echo(json.dumps(paths | msgspec.to_builtins(found)))
    else:
        _show(printable(a), printable(b), found)


def _show(a: str, b: str, found: Comparison) -> None:
    from lensd.cli.views.terminal import show

    worst = sorted(found.per_module, key=_badness, reverse=True)[:WORST]
    show(*map(visible, _lines(a, b, found)))
    if worst:
        show("", f"the worst {len(worst)} of {found.modules}:", _table(worst))


def _lines(a: str, b: str, found: Comparison) -> Iterator[str]:
    yield f"{b} against {a}:"
    yield f"  {found.modules} modules in both, {_error(found)}"
    for names, path in ((found.only_in_a, a), (found.only_in_b, b)):
        if names:
            yield f"  {len(names)} only in {path}: {_some(names)}"
    if found.only_in_a or found.only_in_b:
        common = _number(found.delta_error_common)
        yield f"  relative delta error of the modules in both: {common}"


def _table(modules: list[ModuleDistance]) -> Table:
    from lensd.cli.views.terminal import table

    found = table("module", "error", "SNR", "rank", numbers=("error", "SNR", "rank"))
    for module in modules:
        ranks = f"{module.rank_a} -> {module.rank_b}"
        error, snr = _number(module.delta_error), _decibels(module.snr_db)
        found.add_row(visible(module.module), error, snr, ranks)
    return found


def _some(names: list[str]) -> str:
    """The first few; `--json` has all."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _error(found: Comparison) -> str:
    error = f"relative delta error {_number(found.delta_error)}"
    return error if found.snr_db is None else f"{error}, SNR {_decibels(found.snr_db)}"


def _decibels(snr: float | None) -> str:
    return "-" if snr is None else f"{snr:.1f} dB"


def _number(error: float | None) -> str:
    return "without measure (there is nothing in A)" if error is None else f"{error:.3g}"


def _badness(module: ModuleDistance) -> float:
    return math.inf if module.delta_error is None else module.delta_error
