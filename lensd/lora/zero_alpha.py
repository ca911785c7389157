"""Leave modules with alpha 0 untouched: programs disagree about what they mean.

ComfyUI, AUTOMATIC1111 and InvokeAI multiply such a module by 0 / rank and apply nothing. kohya's
scripts take 0 for the rank, and apply all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lensd.errors import Reason, Skipped
from lensd.lora.layout import Layout
from lensd.lora.names import canonical


def leave_untouched(layout: Layout, alphas: Mapping[str, float | None]) -> Layout:
    """Move modules with alpha 0 to the untouched tensors, given module name -> alpha.

    Raises Skipped(`alpha_zero`) if no other module is left, or none of the denoiser.
    """
    zero = [m for m in layout.modules if alphas[m.name] == 0]
    if not zero:
        return layout
    left = tuple(m for m in layout.modules if alphas[m.name] != 0)
    had_denoiser = any(map(_is_in_denoiser, (m.name for m in zero)))
    if not left or (had_denoiser and not any(_is_in_denoiser(m.name) for m in left)):
        raise Skipped(
            Reason.ALPHA_ZERO,
            f"{len(zero)} of {len(layout.modules)} modules have alpha 0, and no module of the "
            "denoiser has another: ComfyUI, AUTOMATIC1111 and InvokeAI apply nothing of these, "
            "kohya's scripts take 0 for the rank. The file stays unchanged; ask its author for the "
            "right alpha",
        )
    keys = frozenset(key for m in zero for key in (m.up, m.down, m.alpha) if key)
    return replace(
        layout, modules=left, untouched=(*layout.untouched, *sorted(keys)), alpha_zero=keys
    )


def _is_in_denoiser(name: str) -> bool:
    return canonical(name).startswith("denoiser/")
