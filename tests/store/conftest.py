"""A second device, a second process, and a kernel that refuses some system calls."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lensd.store.lease import block_lease_signal
from tests.support.limits import PATIENCE

REPOSITORY = Path(__file__).resolve().parent.parent.parent
RunPython = Callable[..., subprocess.CompletedProcess[str]]

_NUMBERS = {
    "x86_64": {"fsync": 74, "linkat": 265, "renameat2": 316},
    "aarch64": {"fsync": 82, "linkat": 37, "renameat2": 276},
}
# A seccomp filter answers the listed system calls with an errno, and lets all others through.
_REFUSE = """
import ctypes, struct
def refuse(calls):
    steps = [struct.pack("HBBI", 0x20, 0, 0, 0)]
    for number, code in calls:
        steps.append(struct.pack("HBBI", 0x15, 0, 1, number))
        steps.append(struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | code))
    steps.append(struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000))
    buffer = ctypes.create_string_buffer(b"".join(steps))
    program = ctypes.create_string_buffer(
        struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(buffer))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()
"""


@pytest.fixture(autouse=True, scope="session")
def lease_signal() -> None:
    """The daemon blocks this signal first of all."""
    block_lease_signal()


@pytest.fixture
def run_python() -> RunPython:
    """Run a script with arguments in a second process, which must succeed."""

    def run(
        script: str, *arguments: object, pass_fds: tuple[int, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            text=True,
            capture_output=True,
            timeout=PATIENCE,
            pass_fds=pass_fds,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def run_refused(run_python: RunPython) -> RunPython:
    """As run_python, with `refused={"fsync": errno.EIO}`: each such call fails with that error."""
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None:
        pytest.skip(f"the numbers of system calls on {platform.machine()} are not known here")

    def run(
        script: str, *arguments: object, refused: dict[str, int]
    ) -> subprocess.CompletedProcess[str]:
        calls = [(numbers[name], code) for name, code in refused.items()]
        return run_python(f"{_REFUSE}\nrefuse({calls!r})\n{script}", *arguments)

    return run


@pytest.fixture
def other_device(tmp_path: Path) -> Iterator[Path]:
    """An empty folder on another device than tmp_path."""
    shared_memory = Path("/dev/shm")  # noqa: S108
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no other device in shared memory")
    folder = shared_memory / f"lensd-test-{os.getpid()}-{tmp_path.name}"
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a tmpfs")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this container may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def reflink_disk(tmp_path: Path) -> Iterator[Path]:
    """A btrfs, which can share blocks between files."""
    image, folder = tmp_path / "image", tmp_path / "btrfs"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(256 * 2**20)
    for command in (
        ["mkfs.btrfs", "-q", str(image)],
        ["mount", "-o", "loop", str(image), str(folder)],
    ):
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("needs root, mkfs.btrfs, and a kernel with btrfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    image.unlink()


@pytest.fixture
def folder_fd(tmp_path: Path) -> Iterator[int]:
    """tmp_path, open."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)
