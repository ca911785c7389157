"""The tables of bench.pictures: mean damages over all trainings, with the smallest and largest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

RESULTS = Path(__file__).with_name("results") / "pictures.json"
Results = dict[str, Any]
Row = dict[str, Any]  # pictures_measure.Row as JSON has it


def read(path: Path = RESULTS) -> Results:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def of_documentation(part: str) -> Iterator[str]:
    """Yield the table of one part from the results in the tree."""
    results = read()
    yield from {"rules": rules, "settings": settings}[part](results[part])
    yield ""
    yield f"`python -m bench.pictures`; {results['machine']}."


def print_tables(results: Results) -> None:
    print(results.get("machine", ""))
    if "rules" in results:
        print("\nDamage at equal bytes, relative to p = 0: mean (smallest - largest)\n")
        print(*rules(results["rules"]), sep="\n")
    if "settings" in results:
        print("\nWhat each setting of lensd does\n")
        print(*settings(results["settings"]), sep="\n")


def rules(rows: Sequence[Row]) -> Iterator[str]:
    """Compare the damage of each rule with that of p = 0, at the bytes of `module`."""
    budgets = unique(row["energy"] for row in rows)
    plain = {(r["training"], r["energy"]): r["damage"] for r in rows if r["rule"] == "p = 0"}
    yield from head(
        "rule", *(f"{energy:.1%}".replace("%", " %") for energy in budgets), "all", "LoRAs"
    )
    for rule in unique(row["rule"] for row in rows):
        cells = []
        for chosen in (*([energy] for energy in budgets), budgets):
            ratios = [
                row["damage"] / plain[row["training"], row["energy"]]
                for row in rows
                if row["rule"] == rule and row["energy"] in chosen
            ]
            cells.append(f"{geometric_mean(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})")
        count = len({row["training"] for row in rows if row["rule"] == rule})
        yield line(rule, *cells, f"{count}")


def settings(rows: Sequence[Row]) -> Iterator[str]:
    """Show bytes, delta error and damage of each setting."""
    yield from head("stored as", "allocation", "energy", "times smaller", "delta error", "damage")
    for stored, rule, energy, found in by_setting(rows):
        damages = [row["damage"] for row in found]
        yield line(
            stored,
            f"`{rule}`" if energy < 1 else "-",
            f"{energy:g}" if energy < 1 else "all ranks",
            f"{mean_of(row['bytes_in'] / row['bytes'] for row in found):.1f}",
            f"{mean_of(row['delta_error'] for row in found):.1%}".replace("%", " %"),
            f"{mean_of(damages):.1%} ({min(damages):.1%} - {max(damages):.1%})".replace("%", " %"),
        )


def by_setting(rows: Sequence[Row]) -> Iterator[tuple[str, str, float, list[Row]]]:
    """Yield encoding, allocation, energy and the rows of all trainings."""
    for setting in unique((r["stored"], r["rule"], r["energy"]) for r in rows):
        yield *setting, [r for r in rows if (r["stored"], r["rule"], r["energy"]) == setting]


def mean_of(values: Iterable[float]) -> float:
    return geometric_mean(list(values))


def unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def head(*names: str) -> Iterator[str]:
    yield line(*names)
    yield f"|{'---|' * len(names)}"


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
