"""Measure how much a compressed LoRA changes images: figures and pictures of docs/quality.md.

Run it from the top of the tree with `python -m bench.pictures --cache FOLDER`. It trains small
diffusion models of handwritten digits and LoRAs on them, and keeps both in FOLDER: half an hour
of CPU for two models and six LoRAs, and as much for the measurements. It needs
scikit-learn, which `pip install -e '.[dev]'` installs. It writes `bench/results/pictures.json` and
two pictures, and prints the tables of docs/quality.md and docs/decisions/0038. `--parts` repeats
only some of the measurements.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import pictures_tables

if TYPE_CHECKING:
    from bench.pictures_measure import Judge

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
TRAININGS = "attention:0,text:1,conv:2,attention:3,text:2,conv:1"
PARTS = ("rules", "settings", "pictures", "tables")
# How each encoding is asked of lensd.
ENCODINGS: Mapping[str, Mapping[str, Any]] = {
    "float16": {"mode": "rank"},
    "int8": {"mode": "ultra"},
    "float8": {"mode": "ultra", "encodings": ("float8",)},
}


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    if importlib.util.find_spec("sklearn") is None:
        print("bench.pictures needs scikit-learn: pip install scikit-learn")
        return 1
    for part in options.parts.split(","):
        if part in ("rules", "settings"):
            _measure(part, options)
        elif part == "pictures":
            _draw(options)
        else:
            pictures_tables.print_tables(pictures_tables.read(options.results))
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.pictures")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the trained weights")
    parser.add_argument("--parts", default=",".join(PARTS), help="of: %(default)s")
    parser.add_argument("--results", type=Path, default=pictures_tables.RESULTS)
    parser.add_argument("--pictures", type=Path, default=PICTURES)
    parser.add_argument("--trainings", default=TRAININGS, help="kind:seed,... (%(default)s)")
    for name, number in {
        "model-steps": 800, "lora-steps": 300, "rank": 64,
        "images": 40, "sampling-steps": 20,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=number)
    return parser.parse_args(arguments)


def _measure(part: str, options: argparse.Namespace) -> None:
    """Measure one part on the chosen trainings and replace their rows in the file of results."""
    from bench.pictures_measure import compare_rules, measure_settings
    from bench.sizes import machine

    for training in options.trainings.split(","):
        judge = _judge(options, training)
        found = compare_rules(judge) if part == "rules" else measure_settings(judge, ENCODINGS)
        rows = [row._asdict() for row in found]
        results = pictures_tables.read(options.results)
        others = [r for r in results.get(part, []) if r["training"] != judge.training.name]
        results |= {"machine": machine(), part: others + rows}
        options.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"{part}: {judge.training.name}", flush=True)


def _judge(options: argparse.Namespace, name: str) -> Judge:
    import torch

    from bench.pictures_lora import Effort, training
    from bench.pictures_measure import Judge, Sampling

    torch.set_num_threads(1)
    effort = Effort(options.model_steps, options.lora_steps, options.rank)
    sampling = Sampling(options.images, options.sampling_steps)
    kind, _, seed = name.partition(":")
    return Judge(training(kind, int(seed), effort, options.cache), sampling)


def _draw(options: argparse.Namespace) -> None:
    from bench import pictures_drawing as drawing

    results = pictures_tables.read(options.results)
    if "settings" in results:
        drawing.draw_damage(results, options.pictures / "quality.svg")
    judge = _judge(options, options.trainings.split(",")[0])
    drawing.draw_strip(judge, options.pictures / "quality-images.png")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
