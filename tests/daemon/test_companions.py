"""What other programs put beside a LoRA, and what they read from the LoRA itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.support.aging import age
from tests.support.home_server import HomeServer, Seen, wait_until

SIDECARS = (
    ".preview.png",  # A1111, Forge, Stability Matrix
    ".png",
    ".json",  # A1111's and Forge's notes on a network
    ".txt",
    ".civitai.info",  # Civitai Helper
    ".metadata.json",  # ComfyUI-Lora-Manager
    ".cm-info.json",  # Stability Matrix
    ".preview.mp4",
    ".webp",
    ".yaml",
    ".safetensors.rgthree-info.json",  # rgthree-comfy
)


def _beside(path: Path) -> dict[Path, Seen]:
    """Every sidecar of a LoRA, with a date of its own."""
    for number, ending in enumerate(SIDECARS):
        sidecar = path.with_name(path.name.removesuffix(".safetensors") + ending)
        sidecar.write_bytes(os.urandom(100 + number))
        os.utime(sidecar, (1e9 + number, 1e9 + number))
    return _seen(path.parent)


def _seen(folder: Path) -> dict[Path, Seen]:
    return {p: Seen.of(p) for p in folder.iterdir() if p.suffix != ".safetensors"}


@pytest.mark.slow
def test_sidecars_are_never_touched(server: HomeServer) -> None:
    """Bytes, date, inode: through compressing, a rename, a restore, a pass with --redo, a prune."""
    server.configure(keep_days=1)
    lora = server.make("style.safetensors", seed=1).path
    lora = server.move_in(lora, "sub/style.safetensors")
    before = _beside(lora)
    assert len(before) == len(SIDECARS)
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        assert daemon.of(lora) == []  # it was there before: left
        new = server.drop("sub/new.safetensors", seed=2).path
        daemon.wait_for_file(new, "file.compressed")
        moved = new.rename(new.with_name("renamed.safetensors"))
        daemon.wait_for_file(moved, "file.moved")
        assert server.lensd("restore", moved).returncode == 0
        assert daemon.stop() == 0
    server.once(lora)
    server.once("--redo", lora)
    age(server, lora, days=2)
    assert server.lensd("prune").returncode == 0
    assert not server.archived(lora).exists()
    assert before == _seen(lora.parent)


@pytest.mark.slow
@pytest.mark.parametrize("preserve", [True, False])
def test_what_programs_remember_a_file_by(server: HomeServer, preserve: bool) -> None:  # noqa: FBT001
    """Name, date and every entry of the metadata; without `preserve_mtime` the date is newer.

    The folder's date changes, as whenever a file in it is replaced: so do lists refresh.
    """
    server.configure(defaults={"preserve_mtime": preserve})
    lora = server.drop("style.safetensors", seed=1).path
    os.utime(lora, (1e9, 1e9))
    with safe_open(lora, "pt") as file:
        metadata = file.metadata()
    folder = server.loras.stat().st_mtime_ns
    server.once()
    assert (lora.stat().st_mtime == 1e9) == preserve
    assert lora.stat().st_mtime >= 1e9
    assert server.loras.stat().st_mtime_ns > folder
    with safe_open(lora, "pt") as file:
        now = file.metadata()
    rewritten = {"ss_network_dim", "ss_network_alpha"}
    assert {k: v for k, v in now.items() if k in metadata and k not in rewritten} == {
        k: v for k, v in metadata.items() if k not in rewritten
    }


@pytest.mark.slow
def test_a_manager_that_writes_beside_it_is_no_event(server: HomeServer) -> None:
    """Sidecars that come and change while the daemon runs are no jobs and wake nobody."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        lora = server.drop("style.safetensors", seed=1).path
        daemon.wait_for_file(lora, "file.compressed")
        info = server.loras / "style.metadata.json"
        temporary = info.with_name(f"{info.name}.tmp")  # as ComfyUI-Lora-Manager writes it
        temporary.write_text(json.dumps({"sha256": "0" * 64}))
        temporary.rename(info)
        before = Seen.of(info)
        other = server.drop("other.safetensors", seed=2).path
        daemon.wait_for_file(other, "file.compressed")
        assert before == Seen.of(info)
        assert daemon.stop() == 0
    told = {line["path"] for line in daemon.lines if line["event"].startswith("file.")}
    assert told == {str(lora), str(other)}
    wait_until(lambda: server.temporaries() == [], "no temporary is left")
