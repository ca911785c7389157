"""Files that are not for lensd, or that it must not touch: one line with a reason, no change."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.daemon.conftest import Running
from tests.support.home_server import HomeServer, Seen
from tests.support.marks import WITHOUT_OVERRIDE, needs_program, needs_root
from tests.support.running import RunningDaemon


class Case(NamedTuple):
    """How to make a file, and what must be said of it."""

    make: Callable[[HomeServer, Path], object]
    event: str
    reason: str
    says: str  # a part of the message: its remedy


def _truncated(server: HomeServer, path: Path) -> None:
    whole = server.make("whole", seed=1).path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _web_page(_: HomeServer, path: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>Please log in to download.</body></html>")


def _not_finite(server: HomeServer, path: Path) -> None:
    made = server.make("whole", seed=1)
    tensors = load_file(made.path)
    name = next(k for k in tensors if k.endswith("to_q.lora_up.weight"))
    tensors[name][3, 2] = float("nan")
    save_file(tensors, path, {"format": "pt"})


def _infinite(server: HomeServer, path: Path) -> None:
    tensors = load_file(server.make("whole", seed=1).path)
    name = next(k for k in tensors if k.endswith("to_q.alpha"))
    tensors[name] = torch.tensor(float("-inf"), dtype=torch.float16)
    save_file(tensors, path, {"format": "pt"})


def _checkpoint(_: HomeServer, path: Path) -> None:
    names = ["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.encoder.weight"]
    names += [f"model.diffusion_model.out.{n}.weight" for n in range(20)]
    save_file({name: torch.zeros(64, 64) for name in names}, path)


def _no_lora(_: HomeServer, path: Path) -> None:
    save_file({"emb_params": torch.ones(4, 768)}, path)


def _loha(_: HomeServer, path: Path) -> None:
    parts = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    tensors = {f"{name}.{part}": torch.ones(8, 8).half() for part in parts}
    save_file({**tensors, f"{name}.alpha": torch.tensor(4.0)}, path)


def _overlap(_: HomeServer, path: Path) -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"a": entry, "b": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def _hardlink(server: HomeServer, path: Path) -> None:
    os.link(server.make(f"other-{path.name}", seed=1).path, path)


def _beside_adapter_config(server: HomeServer, path: Path) -> None:
    path.with_name("adapter_config.json").write_text('{"r": 16}')
    server.make("peft-lora", naming="peft", seed=1).path.rename(path)


def _alpha_zero(server: HomeServer, path: Path) -> None:
    """A LoRA that some programs apply and others do not."""
    tensors = load_file(server.make("zero", seed=1).path)
    save_file({k: t * 0 if k.endswith(".alpha") else t for k, t in tensors.items()}, path)


CASES = {
    "truncated": Case(_truncated, "file.skipped", "truncated", "if a download is going on"),
    "empty": Case(lambda _, p: p.touch(), "file.skipped", "empty", "download the file again"),
    "web_page": Case(_web_page, "file.skipped", "not_safetensors", "a web page"),
    "not_finite": Case(_not_finite, "file.failed", "not_finite", "attn1_to_q"),
    "infinite": Case(_infinite, "file.failed", "not_finite", "attn1_to_q"),
    "checkpoint": Case(_checkpoint, "file.skipped", "checkpoint", "LoRA"),
    "no_lora": Case(_no_lora, "file.skipped", "no_lora", "add it to `exclude`"),
    "loha": Case(_loha, "file.skipped", "unsupported_adapter", "LoHa"),
    "overlap": Case(_overlap, "file.skipped", "bad_header", "out of the watched folder"),
    "alpha_zero": Case(_alpha_zero, "file.skipped", "alpha_zero", "the right alpha"),
    "hardlink": Case(_hardlink, "file.skipped", "hardlinked", "by a copy"),
    "peft": Case(_beside_adapter_config, "file.skipped", "adapter_config", "lensd compress"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_is_not_for_lensd_stays_as_it_is(running: Running, name: str) -> None:
    """One line with the stable reason and the remedy; bytes, time and inode stay; lensd goes on."""
    case, (server, daemon) = CASES[name], running
    made = server.elsewhere / name / "bad.safetensors"
    made.parent.mkdir()
    case.make(server, made)
    before = Seen.of(made)
    made.parent.rename(server.loras / name)
    path = server.loras / name / made.name
    line = daemon.wait_for_file(path)
    assert (case.event, case.reason) == (line["event"], line["reason"])
    assert case.says in line["message"]
    assert before == Seen.of(path)
    good = server.drop(f"{name}/good.safetensors", seed=2)
    daemon.wait_for_file(good.path, "file.compressed")
    ends = [event for event in daemon.of(path) if event not in ("file.detected", "file.settled")]
    assert [case.event] == ends
    assert not server.archived(path).exists()


@pytest.mark.fault("links")
def test_a_symbolic_link_stays_a_link(running: Running) -> None:
    """Neither the link nor what it points to is touched."""
    server, daemon = running
    target = server.make("target.safetensors", seed=3).path
    before = Seen.of(target)
    link = server.loras / "link.safetensors"
    link.symlink_to(target)
    line = daemon.wait_for_file(link)
    assert ("file.skipped", "symlink") == (line["event"], line["reason"])
    assert "watch the folder" in line["message"]
    assert link.is_symlink()
    assert before == Seen.of(target)


@pytest.mark.fault("links")
def test_a_pipe_is_not_opened(running: Running) -> None:
    """A FIFO under a LoRA's name: opening it would hang."""
    server, daemon = running
    pipe = server.loras / "pipe.safetensors"
    os.mkfifo(pipe)
    line = daemon.wait_for_file(pipe)
    assert ("file.skipped", "not_regular") == (line["event"], line["reason"])
    assert pipe.is_fifo()
    pipe.unlink()


def test_a_folder_called_like_a_file_is_a_folder(running: Running) -> None:
    """Nothing is said of it, also not when something in it changes."""
    server, daemon = running
    folder = server.loras / "folder.safetensors"
    folder.mkdir()
    (folder / "note.txt").write_text("x")
    inside = server.drop("folder.safetensors/style.safetensors", seed=4)
    daemon.wait_for_file(inside.path, "file.compressed")
    (folder / "note.txt").unlink()
    other = server.drop("after.safetensors", seed=4)
    daemon.wait_for_file(other.path, "file.compressed")
    assert [] == daemon.of(folder)


@pytest.fixture
def unprivileged(tmp_path: Path) -> Iterator[tuple[HomeServer, RunningDaemon]]:
    """A daemon of root's without the right to read and write what its owner may not."""
    server = HomeServer(tmp_path)
    with server.daemon(prefix=WITHOUT_OVERRIDE) as daemon:
        daemon.wait_for_event("daemon.ready")
        yield server, daemon


@needs_root
@needs_program("setpriv")
def test_a_file_that_may_not_be_read_has_failed(
    unprivileged: tuple[HomeServer, RunningDaemon],
) -> None:
    """Another owner's file without a right for lensd: `unreadable`, with the remedy."""
    server, daemon = unprivileged
    made = server.make("private.safetensors", seed=5)
    os.chown(made.path, 12345, 12345)
    made.path.chmod(0o600)
    before = Seen.of(made.path)
    path = server.move_in(made.path)
    line = daemon.wait_for_file(path)
    assert ("file.failed", "unreadable") == (line["event"], line["reason"])
    assert "chmod" in line["message"]
    assert before == Seen.of(path)
    good = server.drop("good.safetensors", seed=5)
    daemon.wait_for_file(good.path, "file.compressed")


@pytest.mark.slow
@needs_root
@needs_program("setpriv")
def test_a_folder_that_may_not_be_written_fails_its_files_only(
    unprivileged: tuple[HomeServer, RunningDaemon],
) -> None:
    """Another owner's folder that lensd may only read: one `file.failed`, the daemon goes on."""
    server, daemon = unprivileged
    made = server.make("style.safetensors", seed=6)
    folder = server.loras / "theirs"
    folder.mkdir()
    path = server.move_in(made.path, "theirs/style.safetensors")
    os.chown(folder, 12345, 12345)
    folder.chmod(0o755)
    line = daemon.wait_for_file(path)
    assert ("file.failed", "io_error") == (line["event"], line["reason"])
    assert "rights" in line["message"]
    good = server.drop("good.safetensors", seed=6)
    daemon.wait_for_file(good.path, "file.compressed")
