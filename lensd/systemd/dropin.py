"""Render the drop-ins of the two units from the configuration and the facts. No I/O."""

from __future__ import annotations

import ipaddress
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from lensd.config.addresses import host_of
from lensd.config.model import Config
from lensd.store.paths import is_below
from lensd.systemd.facts import Facts
from lensd.systemd.syntax import argument, mount_unit, path_value
from lensd.systemd.users import CAPABILITIES, ServiceUser, choose_user
from lensd.systemd.writable_paths import (
    OWN_FOLDERS,
    ServicePaths,
    folders_without_links,
    needed_mounts,
    optional_read_write_paths,
    outermost,
    read_write_paths,
)
from lensd.text import printable

FOLDER = "/etc/systemd/system/lensd.service.d"
HOMES = ("/home", "/root", "/run/user")
TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - no file is written there, paths are compared

# The settings of systemd/lensd.service.d/cuda.conf.
CUDA = (
    "PrivateDevices=no",
    "DevicePolicy=closed",
    "DeviceAllow=char-nvidia* rw",
    "MemoryDenyWriteExecute=no",
)


def drop_in(config: Config, facts: Facts) -> str:
    """Return the text of `FOLDER/lensd.conf`.

    Raises ConfigError for a folder that a unit file cannot contain.
    """
    paths = ServicePaths.of(config)
    user = choose_user(facts)
    sections = (
        _render_head(config, paths, user, facts),
        _section("[Unit]", [*_render_mounts(paths, facts), *_render_network(config)]),
        [
            "[Service]",
            *_render_user(user),
            *_render_program(config, facts),
            *_render_folders(paths, facts),
        ],
        [
            "",
            *_render_hidden((*paths.all, config.source, *_tls_files(config), *facts.program)),
            *_render_device(config, facts),
            *_render_cluster(config),
        ],
        _section("", _section("[Install]", _render_install(paths, facts))),
    )
    return "".join(f"{_to_one_line(line)}\n" for lines in sections for line in lines)


def _section(head: str, lines: Iterable[str]) -> list[str]:
    """No head where there are no lines."""
    below = list(lines)
    return [head, *below] if below else []


def side_drop_in(verb: Literal["notify", "web"], config: Config, facts: Facts) -> str:
    """Return the text of the drop-in for lensd-notify.service or lensd-web.service.

    Both run as the user of lensd.service, whose ledger they read; `web` writes nothing.
    """
    user, paths = choose_user(facts), ServicePaths.of(config)
    state = paths.state_and_log[0]
    words = (facts.python, "-m", "lensd", verb, "-c", config.source)
    needs_path = verb == "notify" and not outermost(state, OWN_FOLDERS)
    lines = [
        f"# Made by `lensd service --unit {verb} -c {shlex.quote(config.source)}`.",
        "[Unit]",
        f"RequiresMountsFor={path_value(state)}",
        "[Service]",
        f"User={user.user}",
        *([f"Group={user.group}"] if user.group else []),
        "ExecStart=",
        f"ExecStart={' '.join(map(argument, words))}",
        *([f"ReadWritePaths={path_value(state)}"] if needs_path else []),
        *_render_hidden(
            (*(paths.all if verb == "web" else (state,)), config.source, *facts.program)
        ),
    ]
    return "".join(f"{_to_one_line(line)}\n" for line in lines)


def unreachable(facts: Facts) -> str | None:
    """Return why the service's user could not start this lensd, and what to do; None if it can."""
    user = choose_user(facts).user
    if facts.private_folder is None or facts.private_folder[1] == user:
        return None
    folder, owner = facts.private_folder
    head = f"only {owner} may enter {folder}, so {user} cannot run the"
    _, base, *_ = facts.program
    if is_below(facts.python, folder) or not is_below(base, folder):
        return (
            f"{head} lensd in it; install lensd elsewhere, e.g. in /opt/lensd, and run "
            "`lensd service` of that installation"
        )
    environment = os.path.dirname(os.path.dirname(facts.python))
    return (
        f"{head} Python in it, which {environment} uses; make that again with a Python that all "
        f"users may run, `sudo /usr/bin/python3 -m venv --clear {shlex.quote(environment)}`, and "
        "install lensd in it"
    )


def _to_one_line(text: str) -> str:
    """Escape characters that are not printable: a path in a comment must not begin a new line."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in printable(text))


def _render_head(
    config: Config, paths: ServicePaths, user: ServiceUser, facts: Facts
) -> Iterator[str]:
    command = f"lensd service -c {shlex.quote(config.source)}"
    yield f"# Made by `{command}`."
    yield "# Make it again when folders, disks or owners change:"
    yield f"#   sudo mkdir -p {FOLDER}"
    yield f"#   {command} | sudo tee {FOLDER}/lensd.conf"
    yield "#   sudo systemctl daemon-reload && sudo systemctl reenable lensd"
    yield "#   sudo systemctl restart lensd"
    group = f" -g {user.group}" if user.group else ""
    for path in sorted({paths.archive, *paths.state_and_log} & facts.missing):
        if not outermost(path, OWN_FOLDERS):
            yield "# This folder does not exist yet. Create it before the first start:"
            yield f"#   sudo install -d -m 0750 -o {user.user}{group} {shlex.quote(path)}"
    yield ""


def _render_mounts(paths: ServicePaths, facts: Facts) -> Iterator[str]:
    required, optional = needed_mounts(paths, facts.mounts)
    if required:
        units = " ".join(map(mount_unit, required))
        yield "# Archive, state or log are on these disks. Without them, originals would go to the"
        yield "# folder below the mount point. So lensd starts after these disks are mounted, and"
        yield "# systemd stops it when one of them is unmounted."
        yield f"BindsTo={units}"
        yield f"After={units}"
    if optional:
        units = " ".join(map(mount_unit, optional))
        yield "# Only watched folders are on these disks. lensd starts after them, but it also runs"
        yield "# without them (daemon.degraded in the log)."
        yield f"Wants={units}"
        yield f"After={units}"
    if required or optional:
        yield ""


def _render_user(user: ServiceUser) -> Iterator[str]:
    if not user.group and user.reasons and not user.capabilities:
        yield "# The unit's default user:"
    elif user.capabilities:
        yield "# The files have several owners, or belong to root. So lensd runs as a user of its"
        yield "# own, with capabilities:"
    else:
        yield "# The owner of the files, and their groups. This user needs no capabilities."
    for reason in user.reasons:
        yield f"#   {reason}"
    yield f"User={user.user}"
    if user.group:
        yield f"Group={user.group}"
    if user.groups:
        yield f"SupplementaryGroups={' '.join(user.groups)}"
    if user.capabilities:
        yield "# If one user owned all files (chown -R), these lines would not be needed:"
        for name in user.capabilities:
            yield f"# {name}: {CAPABILITIES[name]}."
        yield f"CapabilityBoundingSet={' '.join(user.capabilities)}"
        yield f"AmbientCapabilities={' '.join(user.capabilities)}"


def _render_program(config: Config, facts: Facts) -> Iterator[str]:
    words = (facts.python, "-m", "lensd", "run", "-c", config.source)
    yield "# This installation of lensd, and this configuration."
    yield "ExecStart="
    yield f"ExecStart={' '.join(map(argument, words))}"


def _render_folders(paths: ServicePaths, facts: Facts) -> Iterator[str]:
    for path in optional_read_write_paths(paths, facts.mounts):
        yield "# The folder of metrics.textfile. The minus lets lensd start without the folder."
        yield f"ReadWritePaths={path_value(f'-{path}')}"
    opened = read_write_paths(paths, facts.mounts)
    if not opened:
        return
    yield "# One entry above all folders of a disk, so that originals can be hard-linked into the"
    yield "# archive, and lensd sees when the disk is unmounted or mounted again. The access rights"
    yield "# of the user still apply there."
    for path in opened:
        if path in facts.mounts:
            yield "# (This disk is mounted directly below /, so no folder above it can be opened.)"
        yield f"ReadWritePaths={path_value(path)}"
    for path in folders_without_links(paths, facts.mounts):
        yield f"# {path} is on the disk of the archive, but their only common parent is /."
        yield "# Its originals are copied instead of hard-linked. To get hard links, move the"
        yield "# archive beside the folder."


def _render_hidden(needed: Sequence[str]) -> Iterator[str]:
    in_home = _first_below(needed, HOMES)
    if in_home:
        yield f"# {in_home} is in a home folder. Homes are visible, but read-only except for the"
        yield "# paths above."
        yield "ProtectHome=read-only"
    in_temporary = _first_below(needed, TEMPORARY)
    if in_temporary:
        yield f"# {in_temporary} is in the /tmp or /var/tmp that all programs share."
        yield "PrivateTmp=no"


def _render_device(config: Config, facts: Facts) -> Iterator[str]:
    device = config.worker.device
    if device.startswith("cuda") or (device == "auto" and facts.nvidia):
        yield f"# `worker.device: {device}` needs the devices of the GPUs, and memory that is both"
        yield "# writable and executable, for code that CUDA makes at run time."
        yield from CUDA


def _tls_files(config: Config) -> tuple[str, ...]:
    tls = config.worker.cluster_tls
    return () if tls is None else (tls.ca, tls.cert, tls.key)


def _render_network(config: Config) -> Iterator[str]:
    if config.worker.cluster is not None:
        yield "# The cluster is reached over the network."
        yield "Wants=network-online.target"
        yield "After=network-online.target"


def _render_cluster(config: Config) -> Iterator[str]:
    """Yield what the client process of a cluster needs: it connects to the scheduler only."""
    cluster = config.worker.cluster
    if cluster is None:
        return
    yield f"# `worker.cluster: {cluster}`: the client process, a child of lensd, connects to the"
    yield "# scheduler. The daemon itself and the process that computes open no connection."
    yield "PrivateNetwork=no"
    yield "RestrictAddressFamilies=AF_INET AF_INET6"
    host = host_of(cluster)
    try:
        yield f"IPAddressAllow={ipaddress.ip_address(host)}"
    except ValueError:
        yield f"# Its name {host} may get any address. With an IP address in `worker.cluster`, this"
        yield "# file would permit that address only."
        yield "IPAddressDeny="


def _render_install(paths: ServicePaths, facts: Facts) -> Iterator[str]:
    required, _ = needed_mounts(paths, facts.mounts)
    if required:
        yield "# systemd starts lensd again when the disk is mounted again, if /etc/fstab or a unit"
        yield "# has the disk."
        yield f"WantedBy={' '.join(map(mount_unit, required))}"


def _first_below(paths: Sequence[str], folders: Sequence[str]) -> str | None:
    return next((p for p in paths for folder in folders if is_below(p, folder)), None)
