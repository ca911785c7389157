"""Which program reads which file, and in which encodings exactly: a table, and how to use it.

`reads.READS` is the table, dialect by dialect; `dialects` finds the dialect of a module. A program
loads an encoding exactly if the delta weights that it computes have no NaN and no infinity, and
differ from what the factors mean by a relative error of at most 1e-6 (float32), 5e-4 (float16) or
5e-3 (bfloat16). A program that was not observed with a dialect counts as one that reads it, but
exactly only in floats.

No module of this package loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lensd.lora.layout import Layout
from lensd.lora.portability.cells import (
    DEFAULT_TARGETS,
    ENCODINGS,
    NOT_OBSERVED,
    PROGRAMS,
    Cell,
    Encoding,
    Program,
    Source,
)
from lensd.lora.portability.dialects import DIALECTS, dialect_of_modules
from lensd.lora.portability.reads import READS, applies_added_alpha

__all__ = [
    "DEFAULT_TARGETS",
    "DIALECTS",
    "ENCODINGS",
    "PROGRAMS",
    "READS",
    "Cell",
    "Encoding",
    "Program",
    "Source",
    "Verdict",
    "cell",
    "constraining",
    "dialects",
    "verdict",
]


class Verdict(NamedTuple):
    """The encodings of each module, and the programs because of which the first is no better one.

    `choices`: module name -> the encodings that every constraining program loads exactly in the
    module's dialect, in order of preference; none: 16 bits. Programs read modules one by one, so a
    file whose modules differ in encoding is exact if each module is (tests/loading has such files
    in diffusers). All modules of one dialect get the same encodings. `forced_by`: the programs that
    do not load an encoding exactly that would be preferred to the first choice, in any module;
    targets only, except where no target reads the file. `may_add_alpha`: whether every constraining
    program applies an alpha that the file does not have to float8 factors.
    """

    choices: Mapping[str, tuple[Encoding, ...]]
    forced_by: tuple[str, ...]
    may_add_alpha: bool = False

    @property
    def encodings(self) -> dict[str, Encoding | None]:
        """Module name -> its first choice; None: 16 bits."""
        return {name: found[0] if found else None for name, found in self.choices.items()}


def dialects(layout: Layout) -> frozenset[str]:
    """Return the rows of READS that the file's modules belong to; `other` if no row matches."""
    return frozenset(dialect_of_modules(layout).values())


def cell(dialect: str, program: str, encoding: Encoding) -> Cell:
    """Return what a program does with a dialect in an encoding."""
    return READS.get(dialect, {}).get(program, {}).get(encoding, NOT_OBSERVED)


def constraining(layout: Layout, targets: Sequence[str]) -> tuple[str, ...]:
    """Return the programs that must be able to load the output: the targets that may read the file.

    If no target may read it, return all programs that are known to.
    """
    return _constraining(dialects(layout), targets)


def _constraining(found: frozenset[str], targets: Sequence[str]) -> tuple[str, ...]:
    """Return `constraining` for modules of these dialects."""

    def reads(program: str) -> bool:
        return any(cell(d, program, e).may_read for d in found for e in ENCODINGS)

    chosen = tuple(t for t in targets if reads(t))
    known = tuple(p for p in PROGRAMS if reads(p) and any(p in READS.get(d, {}) for d in found))
    return chosen or known


def verdict(
    layout: Layout, targets: Sequence[str], encodings: Sequence[Encoding] = ENCODINGS
) -> Verdict:
    """Return the encodings of each module for the programs of `constraining`.

    `encodings`: those to choose from, in order of preference. Modules of a dialect that no program
    is known to read stay in floats.
    """
    of_modules = dialect_of_modules(layout)
    programs = _constraining(frozenset(of_modules.values()), targets)
    chosen: dict[str, tuple[Encoding, ...]] = {}
    forced_by: set[str] = set()
    for dialect in set(of_modules.values()):
        inexact = {e: {p for p in programs if _blocks(cell(dialect, p, e))} for e in encodings}
        chosen[dialect] = tuple(e for e in encodings if dialect in READS and not inexact[e])
        for encoding in encodings:
            if encoding in chosen[dialect]:
                break
            forced_by |= inexact[encoding]
    choices = {name: chosen[dialect] for name, dialect in of_modules.items()}
    may_add_alpha = all(
        applies_added_alpha(d, p)
        for d in set(of_modules.values())
        for p in programs
        if cell(d, p, "float8").may_read
    )
    return Verdict(choices, tuple(p for p in programs if p in forced_by), may_add_alpha)


def _blocks(found: Cell) -> bool:
    return found.may_read and found.kind != "exact"
