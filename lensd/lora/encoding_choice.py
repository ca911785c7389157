"""Choose the dtype of each module of an output, and expect which float8 modules lose too much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import torch

from lensd.lora.common_alpha import CommonAlpha, in_output
from lensd.lora.float8 import Spectrum
from lensd.lora.layout import Module
from lensd.lora.parameters import Parameters
from lensd.lora.plan import DTYPES, Findings, Reading
from lensd.lora.portability import Verdict
from lensd.lora.tensor_spec import WIDE_DTYPES

QUANTIZING = ("int8", "ultra")  # modes
NARROW = {"float16": "F16", "bfloat16": "BF16", "keep": "F32"}  # values of the setting `float32`
# Largest relative delta error of an 8-bit encoding alone. 0.015 is typical of int8, 0.025 of
# float8; truncation at 99 % of the energy has 0.1.
MAX_NOISE = 0.05
NOISE_TO_AVOID = 0.048  # expected of a module that then is not tried: an attempt takes long


def choose_encodings(
    verdict: Verdict, readings: Sequence[Reading], p: Parameters, found: Findings
) -> tuple[list[str], Counter[str]]:
    """Return the dtype of each module, and why how many of them are not in 8 bits."""
    encodings = _float_dtypes(readings, p.float32, found.in_bfloat16)
    float_because: Counter[str] = Counter()
    for at, reading in enumerate(readings if p.mode in QUANTIZING else ()):
        dtype, reason = eight_bits(reading.module, verdict, found.too_noisy)
        encodings[at] = dtype or encodings[at]
        if reason:
            float_because[reason] += 1
    return encodings, float_because


def eight_bits(
    module: Module, verdict: Verdict, too_noisy: Collection[tuple[str, str]] = ()
) -> tuple[str | None, str | None]:
    """Return the 8-bit dtype of a module, or the reason why it stays in floats."""
    choices = [DTYPES[encoding] for encoding in verdict.choices[module.name]]
    if not choices:
        return None, "targets"
    if module.scaled_last:
        return None, "dora"
    usable = [dtype for dtype in choices if (module.name, dtype) not in too_noisy]
    return (usable[0], None) if usable else (None, "noise")


def _float_dtypes(
    readings: Sequence[Reading], float32: str, in_bfloat16: Collection[str]
) -> list[str]:
    """Return each module's dtype for storing it in floats.

    16-bit modules keep their dtype. Wider ones get the 16-bit dtype that `float32` (a setting)
    names or implies, or bfloat16 if `in_bfloat16` has them; `keep` stores them as float32.
    """
    wide = [r for r in readings if r.module.dtype in WIDE_DTYPES]
    if float32 == "auto":
        fits = all(r.largest <= torch.finfo(torch.float16).max for r in wide)
        narrow = "BF16" if all(r.exact_bfloat16 for r in wide) or not fits else "F16"
    else:
        narrow = NARROW[float32]
    return [
        "BF16"
        if changes_width(r.module) and r.module.name in in_bfloat16
        else narrow
        if changes_width(r.module)
        else r.module.dtype
        for r in readings
    ]


def changes_width(module: Module) -> bool:
    """Whether a module that is stored in floats gets another dtype."""
    return module.dtype in WIDE_DTYPES and not module.naming.keeps_dtype


def expect_noise(
    readings: Sequence[Reading],
    ranks: Sequence[int],
    spectra: Sequence[Spectrum | None],
    alpha: CommonAlpha,
) -> set[tuple[str, str]]:
    """Return the modules whose elements would be too small for float8, each with its dtype.

    `spectra`: see `find_spectra`.
    """
    every = zip(readings, ranks, spectra, strict=True)
    return {
        (r.module.name, DTYPES["float8"])
        for r, k, spectrum in every
        if spectrum and in_output(r.module, k, spectrum, alpha).expected_noise > NOISE_TO_AVOID
    }
