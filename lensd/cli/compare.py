"""`lensd compare`: measure how far the delta weights of two LoRAs are apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from lensd.cli.options import LORA
from lensd.cli.torch_import import importing_torch
from lensd.text import visible

if TYPE_CHECKING:
    from rich.table import Table

    from lensd.engine.results import Comparison, ModuleComparison

WORST = 5  # modules in the table
NAMED = 3  # modules that are named of those in only one file


@click.command()
@click.argument("a", type=LORA)
@click.argument("b", type=LORA)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, with all modules.")
def compare(a: str, b: str, as_json: bool) -> None:
    """Measure how far B is from A: the relative error of the delta weights.

    \b
    lensd compare style.safetensors style.lensd.safetensors
    lensd compare --json A B | jq '.per_module[] | select(.delta_error > 0.1)'

    The two LoRAs must be for the same base model. They may be in 8 bits or float, and differ in
    ranks and naming.
    """
    with importing_torch():
        from lensd.engine import compare as work

    result = work.compare(a, b)
    if as_json:
        from lensd.report.json_text import to_json

        click.echo(to_json(result))
    else:
        _print(result)


def _print(result: Comparison) -> None:
    from lensd.cli.views.terminal import show

    worst = sorted(result.per_module, key=_error_or_infinity, reverse=True)[:WORST]
    show(*map(visible, _lines(result)), folds=True)
    if worst:
        show("", f"the worst {len(worst)} of {result.modules}:", _table(worst))


def _lines(result: Comparison) -> Iterator[str]:
    yield f"{result.b} against {result.a}:"
    snr = "" if result.snr_db is None else f", SNR {_format_snr(result.snr_db)}"
    error = _format_error(result.delta_error)
    yield f"  {result.modules} modules in both, relative delta error {error}{snr}"
    for names, path in ((result.only_in_a, result.a), (result.only_in_b, result.b)):
        if names:
            yield f"  {len(names)} only in {path}: {_list_some(names)}"
    if result.modules and (result.only_in_a or result.only_in_b):
        common = _format_error(result.delta_error_common)
        yield f"  relative delta error of the modules in both: {common}"


def _table(modules: Sequence[ModuleComparison]) -> Table:
    from lensd.cli.views.file_lines import shorten
    from lensd.cli.views.terminal import columns_for_names, console

    names = [visible(m.module) for m in modules]
    space = columns_for_names(names, partial(_rows, modules), console())
    return _rows(modules, [shorten(name, max(1, space)) for name in names])


def _rows(modules: Sequence[ModuleComparison], names: Sequence[str]) -> Table:
    from lensd.cli.views.terminal import table

    numbers = ("error", "SNR", "rank")
    rows = table("module", *numbers, numbers=numbers)
    for m, name in zip(modules, names, strict=True):
        error, snr = _format_error(m.delta_error), _format_snr(m.snr_db)
        rows.add_row(name, error, snr, f"{m.rank_a} -> {m.rank_b}")
    return rows


def _list_some(names: Sequence[str]) -> str:
    """The first names, and the number of the others; `--json` has all names."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _format_snr(decibels: float | None) -> str:
    return "-" if decibels is None else f"{decibels:.1f} dB"


def _format_error(error: float | None) -> str:
    return "undefined (A is zero)" if error is None else f"{error:.3g}"


def _error_or_infinity(module: ModuleComparison) -> float:
    return math.inf if module.delta_error is None else module.delta_error
