"""lensd.systemd.dropin: the drop-in for a configuration and a machine."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lensd.config.load import load
from lensd.config.model import Config
from lensd.systemd.dropin import drop_in, unreachable
from lensd.systemd.facts import Facts, Owner, probe
from lensd.systemd.users import CAPABILITIES

FACTS = Facts(
    mounts=("/", "/mnt/big", "/mnt/more"),
    owners={"/mnt/big/loras": Counter({(1000, 1000): 3})},
    users={0: "root", 1000: "ada", 1001: "bob"},
    groups={0: "root", 1000: "ada", 100: "users"},
    missing=frozenset(),
    python="/opt/lensd/bin/python",
    program=("/opt/lensd/bin/python", "/usr"),
    nvidia=False,
)


def _config(folder: Path, **parts: Any) -> Config:
    document = {
        "watch": [{"path": "/mnt/big/loras"}],
        "archive": {"path": "/mnt/big/archive"},
        **parts,
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(document))
    return load(str(path)).model_copy(update={"source": "/etc/lensd/config.yaml"})


def _settings(text: str) -> list[str]:
    return [line for line in text.splitlines() if "=" in line and not line.startswith("#")]


def _owned(*owners: Owner) -> Facts:
    return replace(FACTS, owners={"/mnt/big/loras": Counter(owners)})


def test_files_of_one_user(tmp_path: Path) -> None:
    """lensd runs as that user without capabilities, and one folder is opened for the disk."""
    assert _settings(drop_in(_config(tmp_path), FACTS)) == [
        "BindsTo=mnt-big.mount",
        "After=mnt-big.mount",
        "User=ada",
        "Group=ada",
        "ExecStart=",
        "ExecStart=/opt/lensd/bin/python -m lensd run -c /etc/lensd/config.yaml",
        "ReadWritePaths=/mnt",
        "WantedBy=mnt-big.mount",
    ]


def test_no_section_is_empty(tmp_path: Path) -> None:
    """On one disk nothing is to be said of mounts."""
    text = drop_in(_config(tmp_path), replace(FACTS, mounts=("/",)))
    assert [line for line in text.splitlines() if line.startswith("[")] == ["[Service]"]


def test_every_setting_has_its_reason(tmp_path: Path) -> None:
    """Each group of lines begins with a comment."""
    text = drop_in(_config(tmp_path, worker={"device": "cuda"}), _owned((0, 0), (1000, 100)))
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("[")]
        assert not lines or lines[0].startswith("#"), block


def test_several_groups(tmp_path: Path) -> None:
    """The group of most files is the primary one; the others let outputs keep their group."""
    found = _settings(drop_in(_config(tmp_path), _owned((1000, 100), (1000, 100), (1000, 1000))))
    assert {"User=ada", "Group=users", "SupplementaryGroups=ada"} <= set(found)


@pytest.mark.parametrize("owners", [((1000, 1000), (1001, 1000)), ((0, 0),)])
def test_several_owners_or_root(tmp_path: Path, owners: tuple[Owner, ...]) -> None:
    """Only then lensd gets capabilities, each with its purpose; it never runs as root."""
    text = drop_in(_config(tmp_path), _owned(*owners))
    assert "User=lensd\n" in text
    assert f"\nAmbientCapabilities={' '.join(CAPABILITIES)}\n" in text
    assert f"\nCapabilityBoundingSet={' '.join(CAPABILITIES)}\n" in text
    assert all(f"# {name}: " in text for name in CAPABILITIES)


def test_a_disk_of_watched_folders_only(tmp_path: Path) -> None:
    """lensd starts after it, but also runs without it."""
    watch = [{"path": "/mnt/big/loras"}, {"path": "/mnt/more/loras", "name": "more"}]
    found = _settings(drop_in(_config(tmp_path, watch=watch), FACTS))
    assert "BindsTo=mnt-big.mount" in found
    assert {"Wants=mnt-more.mount", "After=mnt-more.mount"} <= set(found)
    assert found.count("ReadWritePaths=/mnt") == 1


def test_a_textfile(tmp_path: Path) -> None:
    """Its folder is opened, also in /tmp; lensd starts without the folder too."""
    metrics = {"textfile": "/var/lib/prometheus/node exporter/lensd.prom"}
    found = _settings(drop_in(_config(tmp_path, metrics=metrics), FACTS))
    assert 'ReadWritePaths="-/var/lib/prometheus/node exporter"' in found
    metrics = {"textfile": "/tmp/m/lensd.prom"}  # noqa: S108
    assert "PrivateTmp=no" in _settings(drop_in(_config(tmp_path, metrics=metrics), FACTS))


def test_homes_and_temporary_folders(tmp_path: Path) -> None:
    """They stay hidden unless lensd needs a path in them, such as its program."""
    at_home = replace(FACTS, program=("/home/ada/venv/bin/python",))
    assert "ProtectHome=read-only" in _settings(drop_in(_config(tmp_path), at_home))
    found = _settings(drop_in(_config(tmp_path, archive={"path": "/tmp/a"}), FACTS))  # noqa: S108
    assert "PrivateTmp=no" in found
    assert not any("ProtectHome" in line for line in found)


@pytest.mark.parametrize(
    ("device", "card", "wanted"),
    [("cuda:1", False, True), ("auto", True, True), ("auto", False, False), ("cpu", True, False)],
)
def test_a_gpu(tmp_path: Path, device: str, card: bool, wanted: bool) -> None:  # noqa: FBT001
    """Its devices are opened if the configuration allows to use them."""
    text = drop_in(_config(tmp_path, worker={"device": device}), replace(FACTS, nvidia=card))
    assert wanted == ("DeviceAllow=char-nvidia* rw" in text)
    assert wanted == ("MemoryDenyWriteExecute=no" in text)


def test_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    """The drop-in has the command that creates it for the user of the service."""
    text = drop_in(_config(tmp_path), replace(FACTS, missing=frozenset({"/mnt/big/archive"})))
    assert "#   sudo install -d -m 0750 -o ada -g ada /mnt/big/archive" in text


def test_a_program_that_the_user_cannot_reach() -> None:
    """There is a warning, because systemd reports only 203/EXEC; the owner needs none."""
    program = FACTS.python, "/root/.pyenv/versions/3.12.1", "/opt/lensd/lib"
    of_root = replace(FACTS, private_folder=("/root", "root"), program=program)
    warning = unreachable(of_root)
    assert warning
    assert warning.startswith("only root may enter /root, so ada cannot run the Python in it")
    assert "`sudo /usr/bin/python3 -m venv --clear " in warning
    for inside in (
        replace(of_root, python="/root/venv/bin/python"),
        replace(of_root, program=(FACTS.python, "/usr", "/root/lensd/lensd")),
    ):
        assert "install lensd elsewhere" in (unreachable(inside) or "")
    assert unreachable(replace(FACTS, private_folder=("/home/ada", "ada"))) is None
    assert unreachable(FACTS) is None


def test_no_name_begins_a_line_of_its_own(tmp_path: Path) -> None:
    """A line break in a path is escaped, in comments too."""
    watch = [{"path": "/mnt/big/a\nUser=root", "name": "a"}]
    owners = {"/mnt/big/a\nUser=root": Counter({(1000, 1000): 1, (1001, 1000): 1})}
    text = drop_in(_config(tmp_path, watch=watch), replace(FACTS, owners=owners))
    assert "User=root" not in text.splitlines()


def test_facts_of_this_machine(tmp_path: Path) -> None:
    """With real files and mounts, it finds the owner and opens a folder above them."""
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras/a.safetensors").touch()
    archive = {"path": str(tmp_path / "archive")}
    config = _config(tmp_path, watch=[{"path": str(tmp_path / "loras")}], archive=archive)
    facts = probe(config)
    status = (tmp_path / "loras").stat()
    assert facts.owners[str(tmp_path / "loras")] == {(status.st_uid, status.st_gid): 1}
    assert str(tmp_path / "archive") in facts.missing
    assert "/" in facts.mounts
    assert "ReadWritePaths=" in drop_in(config, facts)


@pytest.mark.parametrize(
    ("address", "permitted"),
    [
        ("tls://10.0.0.5:8786", "IPAddressAllow=10.0.0.5"),
        ("tls://[fd00::5]:8786", "IPAddressAllow=fd00::5"),
        ("tls://scheduler:8786", "IPAddressDeny="),
    ],
)
def test_a_cluster_opens_the_network_to_its_scheduler(
    tmp_path: Path, address: str, permitted: str
) -> None:
    """To nothing else, where its address is known; a key in a home folder becomes visible."""
    tls = {name: f"/home/ada/{name}.pem" for name in ("ca", "cert", "key")}
    config = _config(tmp_path, worker={"cluster": address, "cluster_tls": tls})
    found = _settings(drop_in(config, FACTS))
    assert found[-4:-1] == [
        "PrivateNetwork=no",
        "RestrictAddressFamilies=AF_INET AF_INET6",
        permitted,
    ]
    assert {"Wants=network-online.target", "ProtectHome=read-only"} <= set(found)
    assert not any("Network" in line for line in _settings(drop_in(_config(tmp_path), FACTS)))
