"""InvokeAI's own loader of LoRAs, from its released package, without the rest of InvokeAI.

The package pins other versions of diffusers and numpy than lensd's tests need, so it cannot be
installed beside them; `make invokeai` puts it into a folder of its own. Only its modules that
convert and apply LoRAs are imported. Without the folder these tests are skipped.
"""

from __future__ import annotations

import importlib
import logging
import sys
import types
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.loading.pipelines import libraries

VERSION = "6.14.2"
FOLDER = Path(sys.prefix) / "share" / "invokeai"
MISSING = f"InvokeAI {VERSION} is not in {FOLDER}; `make invokeai` puts it there"
# Packages whose __init__ imports the whole program.
_PARENTS = (
    "invokeai",
    "invokeai.backend",
    "invokeai.backend.model_manager",
    "invokeai.backend.model_manager.load",
    "invokeai.backend.model_manager.load.model_cache",
    "invokeai.backend.util",
)
# family -> the converter that LoRALoader._load_model calls for it, after its module
CONVERTERS = {
    "sd15": "sd_lora_conversion_utils.lora_model_from_sd_state_dict",
    "sdxl": "sd_lora_conversion_utils.lora_model_from_sd_state_dict",
    "qwenimage": "qwen_image_lora_conversion_utils.lora_model_from_qwen_image_state_dict",
    "wan": "wan_lora_conversion_utils.lora_model_from_wan_state_dict",
    "zimage": "z_image_lora_conversion_utils.lora_model_from_z_image_state_dict",
}
# In the order in which it asks for FLUX: is it this format, and the converter. FLUX.2 has two own.
_FLUX = "flux_{0}_lora_conversion_utils.is_state_dict_likely_in_flux_{0}_format"
FLUX_FORMATS = (
    "diffusers",
    "kohya",
    "onetrainer_bfl",
    "onetrainer",
    "aitoolkit",
    "xlabs",
    "bfl_peft",
)


# The loader passes alpha=None to these.
_RANK_IS_ALPHA = {"alpha": None}
_TAKES_ALPHA = tuple(
    f"{n}_state_dict" for n in ("diffusers", "bfl_peft", "z_image", "qwen_image", "wan")
)


class Applied(NamedTuple):
    """The layers that InvokeAI makes of a file, flat, in the order of their names."""

    layers: list[Any]

    def deltas(self) -> Iterator[Tensor]:
        """Yield what it adds to each weight when it patches directly: in float32."""
        for layer in self.layers:
            layer.to(dtype=torch.float32)
            yield layer.get_weight(torch.empty(0)) * layer.scale()

    def outputs(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """Yield what its sidecar adds for the same random inputs, layer by layer.

        These are the lines of custom_linear.linear_lora_forward, whose module imports too much.
        """
        random = torch.Generator().manual_seed(0)
        for layer in self.layers:
            layer.to(dtype=dtype)
            x = torch.randn(16, layer.down.shape[1], generator=random).bfloat16().to(dtype)
            inner = torch.nn.functional.linear(x, layer.down)
            yield torch.nn.functional.linear(inner, layer.up) * (1.0 * layer.scale())


def load(family: str, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Applied:
    """LoRALoader._load_model for a state dict: `dtype` is the precision that InvokeAI runs in.

    It takes a LoRA of Chroma for one of FLUX, by the names.
    """
    family = "flux" if family == "chroma" else family
    state = _call("peft_adapter_utils.normalize_peft_adapter_names", dict(tensors))
    if family == "sdxl":
        state = _call("sdxl_lora_conversion_utils.convert_sdxl_keys_to_diffusers_format", state)
    converter = _converter(family, state)
    patch = _call(converter, state, **(_RANK_IS_ALPHA if converter.endswith(_TAKES_ALPHA) else {}))
    patch.to(dtype=dtype)
    return Applied([flat for _, layer in sorted(patch.layers.items()) for flat in _flat(layer)])


def _converter(family: str, state: dict[str, Tensor]) -> str:
    if family in CONVERTERS:
        return CONVERTERS[family]
    if family not in ("flux", "flux2"):
        raise ValueError(f"Unsupported LoRA base model: {family}")
    for name in FLUX_FORMATS:
        if _call(_FLUX.format(name), state):
            own = family if name in ("diffusers", "bfl_peft") else "flux"
            return f"flux_{name}_lora_conversion_utils.lora_model_from_{own}_{name}_state_dict"
    raise ValueError("LoRA model is in unsupported FLUX format")


def _flat(layer: Any) -> Iterator[Any]:
    parts = getattr(layer, "lora_layers", None)
    if parts is None:
        yield layer
    for part in parts or ():
        yield from _flat(part)


def _call(name: str, *arguments: Any, **options: Any) -> Any:
    return _function(f"invokeai.backend.patches.lora_conversions.{name}")(*arguments, **options)


def _function(name: str) -> Any:
    _prepare()
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(module), function)


@cache
def _prepare() -> None:
    """Make its modules importable one by one, and log through the standard library."""
    libraries()  # diffusers would take the onnxruntime below for the real one
    sys.path.append(str(FOLDER))
    for name in _PARENTS:
        package = types.ModuleType(name)
        package.__path__ = [str(FOLDER / name.replace(".", "/"))]
        sys.modules[name] = package
    log: Any = types.ModuleType("invokeai.backend.util.logging")
    log.InvokeAILogger = types.SimpleNamespace(get_logger=logging.getLogger)
    log.warning = logging.warning
    util: Any = sys.modules["invokeai.backend.util"]
    util.logging, util.InvokeAILogger = log, log.InvokeAILogger
    sys.modules[log.__name__] = log
    onnx: Any = types.ModuleType("onnxruntime")  # only the name of a type is used
    onnx.InferenceSession = object
    sys.modules.setdefault(onnx.__name__, onnx)
