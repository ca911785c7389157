"""The drop-in for lensd.service: configuration and facts to text. No I/O."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from lensd.config.model import Config
from lensd.store.paths import is_below
from lensd.systemd.facts import Facts
from lensd.systemd.syntax import argument, mount_unit, path_value
from lensd.systemd.users import CAPABILITIES, Identity, identity
from lensd.systemd.writable_paths import (
    OWN,
    Places,
    copied,
    covering,
    entries,
    needed_mounts,
    optional_entries,
)
from lensd.text import printable

FOLDER = "/etc/systemd/system/lensd.service.d"
HOMES = ("/home", "/root", "/run/user")
TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - nothing is written there, they are looked for

# As systemd/lensd.service.d/cuda.conf.
CUDA = (
    "PrivateDevices=no",
    "DevicePolicy=closed",
    "DeviceAllow=char-nvidia* rw",
    "MemoryDenyWriteExecute=no",
)


def drop_in(config: Config, facts: Facts) -> str:
    """What goes to `FOLDER/lensd.conf`. Raises ConfigError for a folder that cannot be named."""
    places = Places.of(config)
    who = identity(facts)
    sections = (
        _head(config, places, who, facts),
        ["[Unit]", *_mounts(places, facts)],
        ["[Service]", *_user(who), *_program(config, facts), *_folders(places, facts)],
        ["", *_hidden(config, places, facts), *_device(config, facts)],
        ["", "[Install]", *_install(places, facts)],
    )
    return "".join(f"{_one_line(line)}\n" for lines in sections for line in lines)


def unreachable(facts: Facts) -> str | None:
    """Why the service's user could not even start this lensd, and what to do; None: it could."""
    user = identity(facts).user
    if facts.closed is None or facts.closed[1] == user:
        return None
    return (
        f"{facts.closed[0]} lets nobody but {facts.closed[1]} in, so {user} cannot run the lensd "
        "in it; install lensd elsewhere, e.g. in /opt/lensd, and call that one's `lensd service`"
    )


def _one_line(text: str) -> str:
    """A path in a comment must not begin a line of its own."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in printable(text))


def _head(config: Config, places: Places, who: Identity, facts: Facts) -> Iterator[str]:
    command = f"lensd service -c {shlex.quote(config.source)}"
    yield f"# From `{command}`: write it anew when folders, disks or owners change."
    yield f"#   sudo mkdir -p {FOLDER}"
    yield f"#   {command} | sudo tee {FOLDER}/lensd.conf"
    yield "#   sudo systemctl daemon-reload && sudo systemctl reenable lensd"
    yield "#   sudo systemctl restart lensd"
    group = f" -g {who.group}" if who.group else ""
    for path in sorted({places.archive, *places.kept} & facts.missing):
        if not covering(path, OWN):
            yield "# Before the first start, since it is not there yet:"
            yield f"#   sudo install -d -m 0750 -o {who.user}{group} {shlex.quote(path)}"
    yield ""


def _mounts(places: Places, facts: Facts) -> Iterator[str]:
    must, may = needed_mounts(places, facts.mounts)
    if must:
        units = " ".join(map(mount_unit, must))
        yield "# Archive, state or log lie on these disks. Without them originals would go to the"
        yield "# folder below the mount point: so it starts after them, and is stopped with one."
        yield f"BindsTo={units}"
        yield f"After={units}"
    if may:
        units = " ".join(map(mount_unit, may))
        yield "# Only watched folders lie on these. lensd goes on without them (daemon.degraded):"
        yield "# one that goes does not stop it."
        yield f"Wants={units}"
        yield f"After={units}"
    if must or may:
        yield ""


def _user(who: Identity) -> Iterator[str]:
    if not who.group and who.why and not who.capabilities:
        yield "# The unit's own user:"
    elif who.capabilities:
        yield "# The files have several owners, or root's, and so no plain user may treat all:"
    else:
        yield "# The owner of the files, and their groups: then no capability is needed."
    for line in who.why:
        yield f"#   {line}"
    yield f"User={who.user}"
    if who.group:
        yield f"Group={who.group}"
    if who.groups:
        yield f"SupplementaryGroups={' '.join(who.groups)}"
    if who.capabilities:
        yield "# With one owner for all files (chown -R) these lines are not needed:"
        for name in who.capabilities:
            yield f"# {name}: {CAPABILITIES[name]}."
        yield f"CapabilityBoundingSet={' '.join(who.capabilities)}"
        yield f"AmbientCapabilities={' '.join(who.capabilities)}"


def _program(config: Config, facts: Facts) -> Iterator[str]:
    words = (facts.python, "-m", "lensd", "run", "-c", config.source)
    yield "# This lensd, and this configuration."
    yield "ExecStart="
    yield f"ExecStart={' '.join(map(argument, words))}"


def _folders(places: Places, facts: Facts) -> Iterator[str]:
    for path in optional_entries(places, facts.mounts):
        yield "# The metrics' textfile. The minus: lensd starts without the folder, too."
        yield f"ReadWritePaths={path_value(f'-{path}')}"
    opened = entries(places, facts.mounts)
    if not opened:
        return
    yield "# One entry above all folders of a disk: hard links from folder to archive work, and an"
    yield "# unmount and a remount are seen. What its user may write there, its rights still say."
    for path in opened:
        if path in facts.mounts:
            yield "# (A disk mounted right below /: above it is only the whole system.)"
        yield f"ReadWritePaths={path_value(path)}"
    for path in copied(places, facts.mounts):
        yield f"# {path} is on the archive's disk, but only / is above both: originals are"
        yield "# copied, not linked. An archive beside the folder, below one parent, gets links."


def _hidden(config: Config, places: Places, facts: Facts) -> Iterator[str]:
    needed = (*places.all, config.source, *facts.program)
    at_home = _first_below(needed, HOMES)
    if at_home:
        yield f"# {at_home} lies below a home. Homes are shown, read-only but for the paths above."
        yield "ProtectHome=read-only"
    temporary = _first_below(needed, TEMPORARY)
    if temporary:
        yield f"# {temporary} lies in the /tmp of all."
        yield "PrivateTmp=no"


def _device(config: Config, facts: Facts) -> Iterator[str]:
    device = config.worker.device
    if device.startswith("cuda") or (device == "auto" and facts.nvidia):
        yield f"# `worker.device: {device}`: the cards' devices, and code made at run time by CUDA."
        yield from CUDA


def _install(places: Places, facts: Facts) -> Iterator[str]:
    must, _ = needed_mounts(places, facts.mounts)
    if must:
        yield "# Started again when the disk is mounted again, if /etc/fstab or a unit names it."
        yield f"WantedBy={' '.join(map(mount_unit, must))}"


def _first_below(paths: Sequence[str], folders: Sequence[str]) -> str | None:
    return next((p for p in paths for folder in folders if is_below(p, folder)), None)
