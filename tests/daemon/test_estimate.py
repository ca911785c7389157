"""What the dry run of `lensd once` leaves behind: nothing."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from lensd import __version__
from lensd.config.load import load_for_run
from lensd.daemon.estimate import estimate
from lensd.errors import UsageError
from lensd.store.ledger import Ledger
from tests.lora import making
from tests.support.descriptors import Descriptors
from tests.support.home_server import HomeServer


def test_an_estimate_closes_the_ledger(server: HomeServer) -> None:
    """Also when it ends in an error, while the error and its frames are still in use."""
    server.drop("style.safetensors", seed=1)
    server.state.mkdir()
    Ledger(str(server.state), __version__).close()
    config = load_for_run(str(server.config))
    descriptors = Descriptors()
    [plan] = estimate(config, [], redo=False)
    assert (1, []) == (plan.files, descriptors.opened())
    with pytest.raises(UsageError, match="does not exist") as error:
        estimate(config, [str(server.top / "nowhere")], redo=False)
    assert [] == descriptors.opened(), error


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


def test_a_loha_in_32_bits_will_need_half_of_its_bytes(server: HomeServer) -> None:
    """Its data become 16-bit, whatever the mode does with pairs."""
    tensors = {f"lora_unet_x.hada_w{at}_a": torch.ones(640, 16) for at in (1, 2)}
    tensors |= {f"lora_unet_x.hada_w{at}_b": torch.ones(16, 640) for at in (1, 2)}
    save_file(tensors, server.loras / "loha.safetensors")
    server.state.mkdir()
    Ledger(str(server.state), __version__).close()
    [plan] = estimate(load_for_run(str(server.config)), [], redo=False)
    assert (plan.files, plan.bytes_now - plan.bytes_then) == (1, 640 * 16 * 4 * 2)
