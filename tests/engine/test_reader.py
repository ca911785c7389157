"""lensd.engine.reader: open an original, or refuse it before its tensors are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lensd.engine.reader import Source
from lensd.errors import Skipped
from lensd.store.identity import Identity
from tests.lora import making
from tests.support.descriptors import Descriptors
from tests.support.realistic import small_lora


def reason(path: Path) -> str:
    with pytest.raises(Skipped) as caught:
        Source.open(str(path))
    return caught.value.reason


def test_factors_are_those_of_the_file(tmp_path: Path) -> None:
    """They are equal bit for bit, and changing them changes neither the file nor later reads."""
    path = tmp_path / "a.safetensors"
    deltas = small_lora(path).deltas
    with Source.open(str(path)) as source:
        for module in source.layout.modules:
            up, down = source.factors(module)
            scale = (source.alpha(module) or 0.0) / module.rank
            assert torch.equal(scale * making.product(up, down), deltas[module.name])
            up.zero_()
            assert source.factors(module)[0].any()


def test_factors_of_two_dtypes_are_read_in_one_that_represents_both(tmp_path: Path) -> None:
    """float16 and bfloat16 are both read as float32."""
    path = tmp_path / "a.safetensors"
    up, down = making.factors("random", 6, 5, 3, 0)
    save_file(making.kohya("x", making.Made(up.half(), down.bfloat16(), None)), path)
    with Source.open(str(path)) as source:
        found = source.factors(source.layout.modules[0])
    assert [t.dtype for t in found] == [torch.float32] * 2
    assert torch.equal(found[0], up.half().float())
    assert torch.equal(found[1], down.bfloat16().float())


def test_only_the_expected_version_is_opened(tmp_path: Path) -> None:
    """For another inode, size or time the reason is `changed`."""
    path = tmp_path / "a.safetensors"
    small_lora(path)
    identity = Identity.of(path.stat())
    with Source.open(str(path), identity) as source:
        assert source.unchanged()
        os.utime(path, ns=(5, 5))
        assert not source.unchanged()
    with pytest.raises(Skipped) as caught:
        Source.open(str(path), identity)
    assert caught.value.reason == "changed"


def test_other_than_regular_files_are_skipped(tmp_path: Path) -> None:
    """Missing names, folders, links and FIFOs, which do not block, each have their reason."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "a.safetensors")
    small_lora(tmp_path / "a.safetensors")
    assert reason(tmp_path / "gone") == "vanished"
    assert reason(tmp_path) == "not_regular"
    assert reason(tmp_path / "fifo") == "not_regular"
    assert reason(tmp_path / "link") == "symlink"


def test_a_skipped_file_leaves_no_descriptor_open(tmp_path: Path) -> None:
    """So it is for every reason."""
    save_file({"x": torch.ones(1)}, tmp_path / "no.safetensors")
    descriptors = Descriptors()
    assert reason(tmp_path / "no.safetensors") == "no_lora"
    assert reason(tmp_path) == "not_regular"
    assert [] == descriptors.opened()
