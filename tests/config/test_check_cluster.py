"""lensd.config.check_cluster: what a cluster needs is checked before it is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lensd.config.addresses import host_of
from lensd.config.faults import Fault

Faults = Callable[[str], dict[str, Fault]]


@pytest.fixture
def worker_faults(run_faults: Faults, tmp_path: Path) -> Faults:
    """A function from the keys of `worker` to their faults by key."""
    (tmp_path / "loras").mkdir()
    for name in ("ca.pem", "lensd.pem", "lensd.key"):
        (tmp_path / name).touch()
    folders = "watch: [{path: loras}]\narchive: {path: archive}\nstate: {path: state}\n"
    return lambda keys: run_faults(f"{folders}worker: {{{keys}}}\n")


TLS = "cluster_tls: {ca: ca.pem, cert: lensd.pem, key: lensd.key}"


@pytest.mark.parametrize(
    "keys",
    [
        "cluster: 'tcp://127.0.0.1:8786'",
        "cluster: 'tcp://[::1]:8786'",
        "cluster: 'tcp://localhost:8786', cluster_fallback: local",
        "cluster: 'tcp://10.0.0.5:8786', cluster_insecure: true, cluster_paths: shared",
        f"cluster: 'tls://scheduler:8786', {TLS}",
        "cluster_insecure: true",
    ],
)
def test_a_safe_cluster_has_no_fault(worker_faults: Faults, keys: str) -> None:
    """Encrypted, on this machine, or permitted in so many words."""
    assert {} == worker_faults(keys)


@pytest.mark.parametrize(
    ("keys", "key", "remedy"),
    [
        ("cluster: 'tcp://10.0.0.5:8786'", "worker.cluster", "tls://"),
        ("cluster: 'tcp://scheduler:8786'", "worker.cluster", "cluster_insecure"),
        (f"cluster: 'tcp://scheduler:8786', {TLS}", "worker.cluster", "tls://"),
        ("cluster: 'tls://scheduler:8786'", "worker.cluster", "cluster_tls"),
        ("cluster: 'scheduler:8786'", "worker.cluster", "tls://HOST:PORT"),
        ("cluster: 8786", "worker.cluster", "tls://HOST:PORT"),
        ("cluster_paths: nfs", "worker.cluster_paths", "shared"),
        ("cluster: 'tls://a:1', cluster_tls: {ca: ca.pem}", "worker.cluster_tls.key", "key"),
        (
            f"cluster: 'tls://a:1', {TLS.replace('ca.pem', 'nowhere.pem')}",
            "worker.cluster_tls.ca",
            "PEM",
        ),
    ],
)
def test_a_fault_names_its_remedy(worker_faults: Faults, keys: str, key: str, remedy: str) -> None:
    """TLS is required but on loopback; its files must be there."""
    found = worker_faults(keys)
    assert remedy in found[key].remedy


def test_the_host_of_an_address() -> None:
    """Without brackets."""
    assert host_of("tls://[fe80::1]:8786") == "fe80::1"
    assert host_of("tcp://scheduler:8786") == "scheduler"
