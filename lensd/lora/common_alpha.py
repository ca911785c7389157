"""Choose the one alpha of an output: that of all modules that are not int8."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lensd.lora import float8
from lensd.lora.layout import Module
from lensd.lora.plan import Reading


class CommonAlpha(NamedTuple):
    """The alpha of all modules that are not int8; None: they have none.

    `is_added`: the original has no alphas, and every module gets this one.
    """

    value: float | None
    is_added: bool = False

    def of(self, module: Module) -> float | None:
        return self.value if module.alpha or self.is_added else None


def choose_common_alpha(
    readings: Sequence[Reading],
    ranks: Sequence[int],
    spectra: Sequence[float8.Spectrum | None],
    *,
    may_add: bool,
) -> CommonAlpha:
    """Return the alpha of all modules that are not int8. `spectra`: see `find_spectra`.

    With float8 modules the file's alpha is divided by a power of two, because their elements would
    be too small otherwise; a file without alphas gets one for that reason alone.
    """
    every = zip(readings, ranks, spectra, strict=True)
    in_float8 = [(r.module, k, spectrum) for r, k, spectrum in every if spectrum]

    def divided(alpha: CommonAlpha) -> CommonAlpha:
        found = [in_output(*each, alpha) for each in in_float8 if alpha.of(each[0])]
        return alpha._replace(value=(alpha.value or 1.0) / float8.alpha_divisor(found))

    stored = most_common_alpha((r.module, r.alpha) for r in readings)
    if stored is not None:
        return divided(CommonAlpha(stored))
    nothing = CommonAlpha(None)
    is_large = float8.alpha_divisor(spectrum for _, _, spectrum in in_float8) == 1
    if is_large or not may_add or any(r.module.scaled_last or r.module.alpha for r in readings):
        return nothing
    return divided(CommonAlpha(float(max(k for _, k, _ in in_float8)), is_added=True))


def most_common_alpha(modules: Iterable[tuple[Module, float]]) -> float | None:
    """Return the alpha for all modules, given that of each; None if the file has no alphas.

    It is the file's most common one, and the rest of a module's scale goes into its `up`: diffusers
    misreads alphas that differ between modules, by 34 % and without any message.
    """
    alphas = Counter(alpha for m, alpha in modules if m.alpha and not m.scaled_last)
    return alphas.most_common(1)[0][0] if alphas else None


def find_spectra(
    readings: Sequence[Reading], encodings: Sequence[str], ranks: Sequence[int]
) -> list[float8.Spectrum | None]:
    """Return the spectrum of each truncated delta weight that becomes float8; None for others."""
    return [
        float8.Spectrum.of(r.values.numpy()[:k], r.module.out_features, r.module.in_features)
        if dtype == "F8_E4M3"
        else None
        for r, dtype, k in zip(readings, encodings, ranks, strict=True)
    ]


def in_output(
    module: Module, rank_: int, spectrum: float8.Spectrum, alpha: CommonAlpha
) -> float8.Spectrum:
    """Return the spectrum of up @ down in an output with that alpha, for that of delta."""
    own = alpha.of(module)
    return spectrum if own is None else spectrum.divided(abs(own / rank_))
