"""`lensd compare`: how far one LoRA's delta weights are from another's."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import click

from lensd.config.folders import printable

WORST = 5


@click.command()
@click.argument("a", type=click.Path(exists=True, dir_okay=False))
@click.argument("b", type=click.Path(exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="One JSON document, with every module.")
def compare(a: str, b: str, as_json: bool) -> None:
    """Tell how far B is from A, as relative error of the delta weights.

    \b
    lensd compare style.safetensors style.lensd.safetensors

    int8 or float, of any ranks, and of any naming of the same base model.
    """
    from lensd.compute import compare as work  # torch takes a second; only this needs it

    numbers = {"a": printable(a), "b": printable(b), **work.compare(a, b)}
    if as_json:
        click.echo(json.dumps(numbers))
    else:
        click.echo(printable("\n".join(_lines(numbers))))


def _lines(numbers: dict[str, Any]) -> Iterator[str]:
    yield f"{numbers['b']} against {numbers['a']}:"
    yield f"  {numbers['modules']} modules in both, {_error(numbers)}"
    for side, path in (("only_in_a", numbers["a"]), ("only_in_b", numbers["b"])):
        if numbers[side]:
            yield f"  {len(numbers[side])} only in {path}: {', '.join(numbers[side])}"
    if numbers["only_in_a"] or numbers["only_in_b"]:
        common = _number(numbers["delta_error_common"])
        yield f"  relative delta error of the modules in both: {common}"
    worst = sorted(numbers["per_module"], key=_badness, reverse=True)[:WORST]
    if worst:
        yield "  the worst:"
    for module in worst:
        ranks = f"rank {module['rank_a']} and {module['rank_b']}"
        yield f"    {module['module']}: {_error(module)}, {ranks}"


def _error(numbers: dict[str, Any]) -> str:
    error = f"relative delta error {_number(numbers['delta_error'])}"
    return error if numbers["snr_db"] is None else f"{error}, SNR {numbers['snr_db']:.1f} dB"


def _number(error: float | None) -> str:
    return "without measure (there is nothing in A)" if error is None else f"{error:.3g}"


def _badness(module: dict[str, Any]) -> float:
    return math.inf if module["delta_error"] is None else module["delta_error"]
