"""The plan that `lensd once` shows before it begins."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from lensd.config.settings import Settings
from lensd.daemon.sample import Expected, expect
from tests.support.home_server import UNPROVEN, HomeServer
from tests.support.realistic import small_lora
from tests.support.terminal import AtTerminal


@pytest.fixture
def server(tmp_path: Path) -> HomeServer:
    return HomeServer(tmp_path)


def _size_then(server: HomeServer, path: Path) -> int:
    server.once()
    return path.stat().st_size


@pytest.mark.parametrize(
    "energy", [*(pytest.param(e, marks=pytest.mark.slow) for e in (0.5, 0.9999)), 0.99]
)
def test_the_size_that_comes_lies_in_the_range(server: HomeServer, energy: float) -> None:
    """The plan computes spectra: a constant share of the ranks would miss most of these."""
    path = server.drop("style.safetensors", seed=4).path
    server.configure(defaults={"energy": energy, "min_saving": 0.0})
    found = expect(str(path), path.stat().st_size, Settings(energy=energy, min_saving=0.0))
    header = 1500  # bytes of marks, which do not matter in a file of real size
    assert found.least - header <= _size_then(server, path) <= found.most + header


def test_what_stays_is_named_with_the_reason(server: HomeServer) -> None:
    """A page that was saved under the name, an unfinished download, and a file with NaN."""
    server.drop("good.safetensors", seed=1)
    (server.loras / "page.safetensors").write_text("<html>not found</html>")
    part = server.drop("part.safetensors", seed=2).path
    Path(f"{part}.part").touch()
    bad = server.drop("bad.safetensors", seed=3).path
    bad.write_bytes(bad.read_bytes()[:-2] + b"\xff\x7f")
    lines = server.lensd("once", "--dry-run").stdout.splitlines()
    left = [line for line in lines if line.startswith("left alone: ")]
    assert [re.search(r"(\w+)\.safetensors: ", line)[1] for line in left] == ["bad", "page", "part"]  # type: ignore[index]
    assert "web page" in left[1]
    assert "unfinished download: part.safetensors.part" in left[2]


def test_the_time_counts_the_wait(server: HomeServer) -> None:
    """A file that ends in zeros has to be quiet for `unproven_seconds`."""
    path = server.drop("style.safetensors", seed=1).path

    def seconds() -> int:
        found = re.search(r"about (\d+) s$", server.lensd("once", "--dry-run").stdout, re.MULTILINE)
        assert found
        return int(found[1])

    server.configure(settle={"unproven_seconds": 300})
    assert seconds() < 60
    path.write_bytes(path.read_bytes()[:-9000] + bytes(9000))
    assert 300 <= seconds() < 400
    assert UNPROVEN < 300


@pytest.mark.slow
def test_nothing_to_do_names_redo(server: HomeServer) -> None:
    """With files that `--redo` would process, and how many these are."""
    server.drop("style.safetensors", seed=1)
    server.once()
    done = server.lensd("once", "--dry-run")
    assert done.stdout == "loras: nothing to do; --redo would process 1 file again\n"
    assert "1 file" in server.lensd("once", "--dry-run", "--redo").stdout
    (server.loras / "page.safetensors").write_text("<html>not found</html>")
    lines = server.lensd("once", "--dry-run").stdout.splitlines()
    assert lines[0] == "loras: nothing to do; --redo would process 1 file again"
    assert lines[1].startswith(f"left alone: {server.loras}/page.safetensors: ")


def test_a_long_name_of_a_folder_is_shortened(server: HomeServer) -> None:
    """`lensd init` makes names from paths: no word is broken, no two names look the same."""
    server.drop("style.safetensors", seed=1)
    other = server.top / "other"
    other.mkdir()
    small_lora(other / "style.safetensors", seed=2)
    names = ["stable-diffusion-webui-forge-models-Lora", "stable-diffusion-webui-models-Lora"]
    watch = [
        {"path": str(path), "name": name}
        for path, name in zip((server.loras, other), names, strict=True)
    ]
    command = [sys.executable, "-m", "lensd", "once", "--dry-run", "-c", str(server.config)]
    for watched in (watch[:1], watch):
        server.configure(watch=watched)
        with AtTerminal(command, server.top, columns=80) as terminal:
            assert terminal.wait() == 0
        if watched is watch:
            assert [line for line in terminal.lines if line.startswith("stable")] == [
                f"{name}, mode ultra: 1 file" for name in names
            ]
        else:
            assert re.match(r"stab\S*…\S*models-Lora +ultra +1 ", terminal.lines[1])


@pytest.mark.parametrize("columns", [60, 80])
def test_it_fits_the_terminal(server: HomeServer, columns: int) -> None:
    """No line is wrapped by the terminal, so no word is broken."""
    server.drop("style.safetensors", seed=1)
    (server.loras / "page.safetensors").write_text("<html>not found</html>")
    command = [sys.executable, "-m", "lensd", "once", "--dry-run", "-c", str(server.config)]
    with AtTerminal(command, server.top, columns=columns) as terminal:
        assert terminal.wait() == 0
    assert all(len(line) < columns for line in terminal.lines)
    words = terminal.text.split()
    assert {"loras/page.safetensors:", "estimate" if columns == 80 else "free"} <= {
        word.rstrip(".;") for word in words
    }


def test_a_file_of_a_reasonable_size_is_sampled_quickly(tmp_path: Path) -> None:
    """The mode analyze reads the header alone."""
    path = small_lora(tmp_path / "style.safetensors", seed=1).path
    size = path.stat().st_size
    assert expect(str(path), size, Settings(mode="analyze")) == Expected(size, size, size)


@pytest.mark.slow
def test_a_copy_of_an_output_is_not_done_again(server: HomeServer) -> None:
    """With the commands that do it: the archive has the original of the first file alone."""
    path = server.drop("style.safetensors", seed=1).path
    original = path.read_bytes()
    server.once()
    copy = server.loras / "copy.safetensors"
    copy.write_bytes(path.read_bytes())
    server.once()
    redo = ["once", "--redo", str(copy)]
    lines = server.lensd(*redo, "--dry-run").stdout.splitlines()
    assert lines[0] == "loras: nothing to do"
    assert lines[1].startswith(f"left alone: {copy}: it is a copy of an output; `lensd restore`")
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        said = server.lensd(*redo).stderr
        assert "takes 0 files" in said
        assert "leaves 1 copy of an output alone" in said
        assert server.lensd("restore", str(copy)).returncode == 0
        assert server.lensd(*redo).returncode == 0
        daemon.wait_for_file(copy, "file.compressed")
    assert server.archived(copy).read_bytes() == original
