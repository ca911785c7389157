"""Record a session at terminals of 60, 80 and 120 columns: `run`, a drop, ^C in `once`, and go on.

Run it from the top of the tree with `python -m bench.sessions`, on a machine with unshare. It draws
docs/pictures/session-COLUMNS.svg. It waits for what lensd prints, and sends signals.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyte

from bench.recording import CONFIG, PICTURES, draw
from tests.support.realistic import write_lora
from tests.support.terminal import LINES, AtTerminal

WIDTHS = (60, 80, 120)
MOUNT = 'mount --bind "$1" /srv; cd /srv; shift; exec "$@"'
BEFORE = ("ink", "style", "a-long-name-of-a-painter-from-the-golden-age-v2-final")


def main() -> int:
    for columns in WIDTHS:
        with tempfile.TemporaryDirectory(prefix="lensd-session-") as folder:
            home = Path(folder)
            write_home(home)
            picture = PICTURES / f"session-{columns}.svg"
            picture.write_text(draw(record(home, columns)), encoding="utf-8")
            print(picture.relative_to(PICTURES.parents[1]))
    return 0


def write_home(home: Path) -> None:
    """Write a configuration, three LoRAs that are there, and one that will arrive."""
    (home / "config.yaml").write_text(CONFIG)
    for name in ("loras", "lora-archive", "new"):
        (home / name).mkdir()
    for name in BEFORE:
        write_lora(home / f"loras/{name}.safetensors", rank=16)
    (home / "loras/page.safetensors").write_text("<html>not found</html>")
    write_lora(home / "new/poster.safetensors", rank=16)


def record(home: Path, columns: int) -> pyte.Screen:
    """Run the commands one after the other at one terminal, and return its screen."""
    screen = pyte.Screen(columns, LINES)
    with _lensd(home, screen, "run") as run:
        run.wait_for("^watching 1 folder")
        part = home / "loras/poster.safetensors.part"
        part.touch()
        (home / "new/poster.safetensors").rename(home / "loras/poster.safetensors")
        run.wait_for("^waiting: loras/poster")
        part.unlink()
        run.wait_for("^compressed  loras/poster")
        run.signal(signal.SIGINT)
        run.wait()
    with _lensd(home, screen, "once", "--yes") as once:
        once.wait_for("^compressed  loras/a-")
        once.signal(signal.SIGINT)
        once.wait()
    for arguments in (("once", "--dry-run"), ("once", "--yes"), ("status",)):
        with _lensd(home, screen, *arguments) as lensd:
            lensd.wait()
    return screen


def _lensd(home: Path, screen: pyte.Screen, *arguments: str) -> AtTerminal:
    prompt = f"\033[1;32m$\033[0m \033[1mlensd {' '.join(arguments)}\033[0m\r\n"
    pyte.Stream(screen).feed(("\r\n" if screen.cursor.y else "") + prompt)
    return AtTerminal(_command(home, arguments), home, columns=screen.columns, screen=screen)


def _command(home: Path, arguments: Sequence[str]) -> list[str]:
    """Without the name of this machine's folders: the home is at /srv."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    lensd = [sys.executable, "-m", "lensd", *arguments]
    return ["unshare", "--mount", *user, "sh", "-ec", MOUNT, "sh", str(home), *lensd]


if __name__ == "__main__":
    raise SystemExit(main())
