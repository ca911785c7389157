"""Every command of docs/scale.md is run, with an S3 endpoint on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.docs import markdown, shell
from tests.docs.rendering import REPOSITORY
from tests.support import stores
from tests.support.realistic import small_lora

PAGE = (REPOSITORY / "docs/scale.md").read_text(encoding="utf-8")
BLOCKS = [
    block.text for block in markdown.blocks(PAGE) if "lensd batch" in block.text
]  # tests/worker/cluster runs those that start a cluster

pytestmark = pytest.mark.slow


def test_collections(tmp_path: Path) -> None:
    """The blocks one after the other, as a person would; the outputs are there at the end."""
    (tmp_path / "loras").mkdir()
    content = small_lora(tmp_path / "loras/style.safetensors").path.read_bytes()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with stores.s3(tmp_path) as s3:
        s3.put("loras/style.safetensors", content)
        for block in BLOCKS:
            shell.output(shell.plain(block), tmp_path, {**os.environ, **s3.env, "PATH": path})
        output = s3.get("small/style.safetensors")
    assert (tmp_path / "small/style.safetensors").read_bytes() == output
    assert (tmp_path / "local/style.safetensors").read_bytes() == output
    assert (tmp_path / "small.parquet").exists()
