"""The paths of a configuration that the lensd which runs with it cannot write, as faults."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

from lensd.config.faults import Fault
from lensd.config.model import Config
from lensd.store.locks import holder
from lensd.systemd.access import Denial, NotAllowed, Process, denials


def unwritable(config: Config) -> list[Fault]:
    """Nothing where no lensd runs. Raises NotAllowed where only its own user and root may ask."""
    pid = _running(config)
    if not pid:
        return []
    try:
        process = Process.of(pid)
        wanted = dict(_wanted(config))
        found = denials(process, sorted(set(wanted.values())))
    except ProcessLookupError:  # it has ended meanwhile
        return []
    return [
        config.fault(key, _message(process, path, found[path]), _remedy(config, path, found[path]))
        for key, path in wanted.items()
        if path in found
    ]


def _running(config: Config) -> int | None:
    lock = os.path.join(config.state.path, "lock")
    if os.path.lexists(config.state.path) and not os.access(lock, os.R_OK):
        if os.access(config.state.path, os.X_OK) and not os.path.lexists(lock):
            return None
        raise NotAllowed
    return holder(config.state.path)


def _wanted(config: Config) -> Iterator[tuple[str, str]]:
    """Keys, and the path of each that has to be writable."""
    for watch in config.watch:
        if watch.settings.mode != "analyze":
            yield f"{watch.key}.path", watch.root
    yield "archive.path", os.path.realpath(config.archive.path)
    yield "state.path", os.path.realpath(config.state.path)
    if config.log.path is not None:
        yield "log.path", os.path.realpath(os.path.dirname(config.log.path))
    if config.metrics.textfile is not None:
        yield "metrics.textfile", os.path.realpath(os.path.dirname(config.metrics.textfile))


def _message(process: Process, path: str, why: Denial) -> str:
    what = {
        "missing": "does not see",
        "read_only": "sees only read-only",
        "disk": "cannot write, since its disk is read-only,",
        "rights": f"(user {process.user}) has no right to write",
    }[why]
    return f"the running lensd (process {process.pid}) {what} {path}"


def _remedy(config: Config, path: str, why: Denial) -> str:
    command = f"lensd service -c {shlex.quote(config.source)}"
    if why == "disk":
        return f"remount it writable; `dmesg` may say why it is not: {path}"
    if why == "rights":
        return (
            f"give that user the rights (chown, setfacl), or let it run as the owner: `{command}` "
            "prints the unit's User="
        )
    return (
        f"its unit does not open it: write the drop-in anew (`{command}` says where), then "
        "systemctl daemon-reload and systemctl restart lensd"
    )
