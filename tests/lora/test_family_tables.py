"""No false word: lensd.lora.family on parts of every real model."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lensd.lora.family import Shape, family_of
from lensd.lora.layout import read_layout
from tests.lora.test_key_lists import FAMILIES, table

# Words that are true for a part of a model, besides the family's own.
UNDECIDED = {"unknown", "flux_or_chroma"}
# Classes of diffusers -> their family. Classes whose layers are those of a family count as it.
CLASSES = {
    "AnyFlowFARTransformer3DModel": "wan",
    "AnyFlowTransformer3DModel": "wan",
    "AuraFlowTransformer2DModel": "auraflow",
    "BriaTransformer2DModel": "flux",
    "BriaFiboTransformer2DModel": "flux",
    "ChromaTransformer2DModel": "chroma",
    "ChronoEditTransformer3DModel": "wan",
    "CosmosTransformer3DModel": "cosmos",
    "Flux2Transformer2DModel": "flux2",
    "FluxTransformer2DModel": "flux",
    "HeliosTransformer3DModel": "wan",
    "HunyuanVideoFramepackTransformer3DModel": "hunyuanvideo",
    "HunyuanVideoTransformer3DModel": "hunyuanvideo",
    "LTX2VideoTransformer3DModel": "ltx2",
    "LTXVideoTransformer3DModel": "ltx",
    "LongCatImageTransformer2DModel": "flux",
    "Lumina2Transformer2DModel": "lumina2",
    "MotifVideoTransformer3DModel": "hunyuanvideo",
    "PixArtTransformer2DModel": "pixart",
    "QwenImageTransformer2DModel": "qwenimage",
    "SanaTransformer2DModel": "sana",
    "SanaVideoTransformer3DModel": "sana",
    "SanaWMLTX2RefinerTransformer3DModel": "ltx2",
    "WanAnimate2Transformer3DModel": "wan",
    "WanAnimateTransformer3DModel": "wan",
    "WanTransformer3DModel": "wan",
    "WanVACETransformer3DModel": "wan",
    "ZImageTransformer2DModel": "zimage",
}
# They have further layers, so that only parts of them are those of the family.
PARTLY = ("SanaVideoTransformer3DModel", "WanAnimate2Transformer3DModel")
PARTS: dict[str, Callable[[str], bool]] = {
    "everything": bool,
    "the first block": lambda name: _block(name) == 0,
    "one block": lambda name: _block(name) == 7,
    "the last blocks": lambda name: _block(name) > 15,
    "attention": lambda name: "att" in name,
    "attention of the first block": lambda name: "att" in name and _block(name) == 0,
    "queries": lambda name: name.endswith(("to_q", "_q", ".q", "q_proj")),
    "feed-forward": lambda name: bool(re.search(r"mlp|ff|feed_forward", name)),
    "single blocks": lambda name: "single" in name,
    "other blocks": lambda name: "single" not in name and _block(name) >= 0,
}


def _block(name: str) -> int:
    found = re.search(r"(?:blocks|layers)[._](\d+)[._]", name)
    return int(found[1]) if found else -1


def parts(shapes: list[Shape]) -> Iterator[tuple[str, list[Shape]]]:
    """Yield parts of a file, as people train them."""
    for title, belongs in PARTS.items():
        if part := [shape for shape in shapes if belongs(shape[0])]:
            yield title, part


@pytest.mark.slow
@pytest.mark.lengthy
def test_no_part_of_a_real_model_gets_a_false_word(shared: Path) -> None:
    folder = shared / "models"
    for key, facts in json.loads((folder / "index.json").read_text()).items():
        modules = read_layout(table(folder, key, facts)).modules
        shapes = [(m.name, m.out_features, m.in_features) for m in modules]
        denoiser = [s for s in shapes if not s[0].startswith(("lora_te", "text_encoder"))]
        truth = {"chroma": "chroma"}.get(facts["arch"], FAMILIES[facts["arch"]])
        for title, part in parts(denoiser):
            assert family_of(part) in {truth} | UNDECIDED, (key, title)
            if truth not in ("flux", "chroma"):
                assert family_of(part) != "flux_or_chroma", (key, title)
        assert family_of([s for s in shapes if s not in denoiser]) in {truth, "unknown"}, key


@pytest.mark.slow
def test_no_part_of_a_class_of_diffusers_gets_a_false_word() -> None:
    """Every transformer of diffusers with its default sizes, on torch's device without memory."""
    seen = set()
    for name, shapes in _classes_of_diffusers():
        seen.add(name)
        truth = CLASSES.get(name, "unknown")
        allowed = {truth, "unknown"} | (UNDECIDED if truth in ("flux", "chroma") else set())
        for prefix in ("transformer.", "lora_unet_"):
            own = [(_with_prefix(prefix, n), rows, columns) for n, rows, columns in shapes]
            for title, part in parts(own):
                assert family_of(part) in allowed, (name, prefix, title)
            if truth != "unknown" and name not in PARTLY:
                assert family_of(own) in allowed - {"unknown"}, (name, prefix)
    assert set(CLASSES) <= seen


def _with_prefix(prefix: str, name: str) -> str:
    return prefix + (name.replace(".", "_") if prefix.endswith("_") else name)


def _classes_of_diffusers() -> Iterator[tuple[str, list[Shape]]]:
    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    for name in dir(diffusers):
        found: Any = getattr(diffusers, name) if "Transformer" in name else None
        if not (inspect.isclass(found) and issubclass(found, torch.nn.Module)):
            continue
        try:
            with torch.device("meta"), warnings.catch_warnings(action="ignore"):
                model: Any = found()
        except (TypeError, ValueError):
            continue  # a class without default sizes
        yield (
            name,
            [
                (module_name, len(module.weight), module.weight[0].numel())
                for module_name, module in model.named_modules()
                if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d)
            ],
        )
