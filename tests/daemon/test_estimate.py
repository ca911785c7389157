"""What the dry run of `lensd once` leaves behind: nothing."""

from __future__ import annotations

import os

import pytest
from safetensors.torch import load_file, save_file

from lensd import __version__
from lensd.config.load import load_for_run
from lensd.daemon.estimate import estimate
from lensd.errors import UsageError
from lensd.store.ledger import Ledger
from tests.lora import making
from tests.support.home_server import HomeServer


def _open_descriptors() -> set[str]:
    """What this process has open, apart from the listing itself."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # the descriptor of the listing
            continue
    return found


def test_an_estimate_closes_the_ledger(server: HomeServer) -> None:
    """Also when it ends in an error, while the error and its frames are still in use."""
    server.drop("style.safetensors", seed=1)
    server.state.mkdir()
    Ledger(str(server.state), __version__).close()
    config = load_for_run(str(server.config))
    before = _open_descriptors()
    [plan] = estimate(config, [], redo=False)
    assert (1, before) == (plan.files, _open_descriptors())
    with pytest.raises(UsageError, match="does not exist") as error:
        estimate(config, [str(server.top / "nowhere")], redo=False)
    assert before == _open_descriptors(), error


def test_an_estimate_follows_min_saving(server: HomeServer) -> None:
    """A file that would save less counts with the size that it has, because it is kept."""
    path = server.drop("large.safetensors", seed=1).path
    save_file(load_file(path) | making.ballast(), path)
    config = load_for_run(str(server.config))
    [plan] = estimate(config, [], redo=False)
    assert plan.bytes_then == plan.bytes_now == path.stat().st_size
    server.configure(defaults={"min_saving": 0.0})
    [plan] = estimate(load_for_run(str(server.config)), [], redo=False)
    assert plan.bytes_then < plan.bytes_now
