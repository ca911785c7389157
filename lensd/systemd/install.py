"""Install lensd as a service: unit, user, folders and drop-in; then start it. Needs root."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from lensd.config.model import Config
from lensd.errors import ConfigError, LensdError, StorageError
from lensd.systemd.dropin import FOLDER, drop_in, side_drop_in, unreachable
from lensd.systemd.facts import Facts
from lensd.systemd.users import choose_user

UNITS = "/etc/systemd/system"
FILES = {
    "lensd.service": f"{UNITS}/lensd.service",
    "lensd.sysusers.conf": "/etc/sysusers.d/lensd.conf",
    "lensd.tmpfiles.conf": "/etc/tmpfiles.d/lensd.conf",
}
LINK = "/usr/local/bin/lensd"
MAN_PAGE = "share/man/man1/lensd.1"  # below the environment, and below /usr/local
ROOTS_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def is_booted() -> bool:
    """Whether systemd is process 1, as sd_booted(3) asks."""
    return os.path.isdir("/run/systemd/system")


def install(config: Config, facts: Facts) -> Iterator[str]:
    """Install and start the service; yield a line for each step that was done.

    Raises ConfigError if the service could not start this lensd; LensdError.
    """
    _require_possible(facts, config)
    for name, path in FILES.items():
        yield _write(path, read_unit_file(name))
    yield _write(f"{FOLDER}/lensd.conf", drop_in(config, facts))
    units = ["lensd"]
    if config.notify.is_wanted:
        yield from _write_side("notify", config, facts)
        units.append("lensd-notify")
    if not shutil.which("lensd", path=ROOTS_PATH):
        program = os.path.join(os.path.dirname(sys.executable), "lensd")
        os.symlink(program, LINK)
        yield f"linked {LINK} to {program}"
        page = os.path.join(sys.prefix, MAN_PAGE)
        if os.path.exists(page) and not os.path.lexists(f"/usr/local/{MAN_PAGE}"):
            os.makedirs(os.path.dirname(f"/usr/local/{MAN_PAGE}"), exist_ok=True)
            os.symlink(page, f"/usr/local/{MAN_PAGE}")
    yield _run("systemd-sysusers")
    yield _run("systemd-tmpfiles", "--create", "lensd.conf")
    user = choose_user(facts)
    for path in sorted(facts.missing - {"/var/lib/lensd"}):
        group = ["-g", user.group] if user.group else []
        yield _run("install", "-d", "-m", "0750", "-o", user.user, *group, path)
    yield from _start(*units)


def install_web(config: Config, facts: Facts) -> Iterator[str]:
    """As `install`, but the page: lensd-web.service, with the user of lensd.service."""
    _require_possible(facts, config)
    yield from _write_side("web", config, facts)
    yield from _start("lensd-web")


def _write_side(verb: Literal["notify", "web"], config: Config, facts: Facts) -> Iterator[str]:
    path = f"{UNITS}/lensd-{verb}.service"
    yield _write(path, read_unit_file(os.path.basename(path)))
    yield _write(f"{path}.d/lensd.conf", side_drop_in(verb, config, facts))


def _start(*units: str) -> Iterator[str]:
    """Now and at each boot."""
    yield _run("systemctl", "daemon-reload")
    yield _run("systemctl", "reenable", *units)
    yield _run("systemctl", "restart", *units)


def read_unit_file(name: str) -> str:
    """Return a file of the folder `systemd` of the sources, which wheels have beside this one."""
    package = Path(__file__).parent
    folder = package / "units"
    if not folder.is_dir():  # an editable installation
        folder = package.parents[1] / "systemd"
    return (folder / name).read_text(encoding="utf-8")


def _require_possible(facts: Facts, config: Config) -> None:
    if os.geteuid() != 0:
        command = shlex.join([sys.executable, "-m", "lensd", "service", "--install"])
        raise LensdError(
            f"only root can install a service: sudo {command} -c {shlex.quote(config.source)}"
        )
    if not is_booted():
        raise LensdError(
            "systemd does not run on this machine; start `lensd run` with the program that starts "
            "services here"
        )
    fault = unreachable(facts)
    if fault is not None:
        raise ConfigError(fault)


def _write(path: str, text: str) -> str:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    return f"wrote {path}"


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        hint = f"; `journalctl -u {command[-1]} -n 20` says more" if "restart" in command else ""
        raise LensdError(f"`{shlex.join(command)}` failed: {done.stderr.strip()}{hint}")
    return shlex.join(command)
