"""Report as faults the paths of a configuration that the running lensd cannot write."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

from lensd.config.faults import Fault
from lensd.config.model import Config
from lensd.store.locks import holder
from lensd.systemd.access import Denial, NotAllowed, Process, denials


def unwritable(config: Config) -> list[Fault]:
    """Return a fault for each path that the running lensd cannot write; none if lensd does not run.

    Raises NotAllowed if the caller is neither root nor the user of the running lensd.
    """
    pid = _find_running(config)
    if not pid:
        return []
    try:
        process = Process.of(pid)
        paths = dict(_paths_to_write(config))
        denied = denials(process, sorted(set(paths.values())))
    except ProcessLookupError:  # it has ended meanwhile
        return []
    return [
        config.fault(
            key, _message(process, path, denied[path]), _remedy(config, path, denied[path])
        )
        for key, path in paths.items()
        if path in denied
    ]


def _find_running(config: Config) -> int | None:
    """Return the process that has locked the state folder; None if there is none."""
    lock = os.path.join(config.state.path, "lock")
    if os.path.lexists(config.state.path) and not os.access(lock, os.R_OK):
        if os.access(config.state.path, os.X_OK) and not os.path.lexists(lock):
            return None
        raise NotAllowed
    return holder(config.state.path)


def _paths_to_write(config: Config) -> Iterator[tuple[str, str]]:
    """Yield each key of the configuration that needs a writable path, and the path."""
    for watch in config.watch:
        if watch.settings.mode != "analyze":
            yield f"{watch.key}.path", watch.root
    yield "archive.path", os.path.realpath(config.archive.path)
    yield "state.path", os.path.realpath(config.state.path)
    if config.log.path is not None:
        yield "log.path", os.path.realpath(os.path.dirname(config.log.path))
    if config.metrics.textfile is not None:
        yield "metrics.textfile", os.path.realpath(os.path.dirname(config.metrics.textfile))


def _message(process: Process, path: str, denial: Denial) -> str:
    lensd = f"the running lensd (process {process.pid})"
    return {
        "missing": f"{lensd} cannot see {path}",
        "read_only": f"{lensd} can only read {path}",
        "disk": f"{lensd} cannot write to {path}, because its disk is read-only",
        "rights": f"{lensd}, as user {process.user}, has no right to write to {path}",
    }[denial]


def _remedy(config: Config, path: str, denial: Denial) -> str:
    command = f"lensd service -c {shlex.quote(config.source)}"
    if denial == "disk":
        return f"remount the disk of {path} read-write; `dmesg` may say why it is read-only"
    if denial == "rights":
        return (
            "give that user access (chown, setfacl), or run lensd as the owner of the folder: "
            f"`{command}` prints the User= that the unit needs"
        )
    return (
        f"its unit does not open this path: generate the drop-in again (`{command}` says where it "
        "goes), then run systemctl daemon-reload and systemctl restart lensd"
    )
