"""Record sessions at a terminal: `init`, and `run`, a drop, ^C in `once`, and how it goes on.

Run it from the top of the tree with `python -m bench.sessions`, on a machine with unshare. It draws
docs/pictures/init.svg and, for 60, 80 and 120 columns, session-COLUMNS.svg. It waits for what lensd
prints, types answers and sends signals.
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
HOME = 'mount --bind "$1" /home; cd /home/anna; export HOME=/home/anna; shift; exec "$@"'
BEFORE = ("ink", "style", "a-long-name-of-a-painter-from-the-golden-age-v2-final")


def main() -> int:
    for columns in WIDTHS:
        with tempfile.TemporaryDirectory(prefix="lensd-session-") as folder:
            home = Path(folder)
            write_home(home)
            picture = PICTURES / f"session-{columns}.svg"
            picture.write_text(draw(record(home, columns)), encoding="utf-8")
            print(picture.relative_to(PICTURES.parents[1]))
    with tempfile.TemporaryDirectory(prefix="lensd-session-") as folder:
        write_comfyui(Path(folder))
        picture = PICTURES / "init.svg"
        picture.write_text(draw(record_init(Path(folder))), encoding="utf-8")
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


def write_comfyui(homes: Path) -> None:
    """Write the home of a user who has ComfyUI with a LoRA."""
    comfyui = homes / "anna/ComfyUI"
    for folder in ("comfy", "models/loras"):
        (comfyui / folder).mkdir(parents=True)
    for name in ("main.py", "folder_paths.py"):
        (comfyui / name).touch()
    write_lora(comfyui / "models/loras/ink.safetensors", rank=16)


def record_init(homes: Path) -> pyte.Screen:
    """Take what `lensd init` offers, and look at the plan."""
    screen = pyte.Screen(80, LINES)
    _show_prompt(screen, "init")
    with AtTerminal(_as_anna(homes, "init"), homes, columns=80, screen=screen) as init:
        for question in ("Watch all", "Another folder", "Which of them", "Folder for", "1 file, "):
            init.wait_for(f"^{question}.*:$")
            init.type("\n")
        init.wait()
    _show_prompt(screen, "once --dry-run")
    with AtTerminal(_as_anna(homes, "once", "--dry-run"), homes, screen=screen) as plan:
        plan.wait()
    return screen


def _as_anna(homes: Path, *arguments: str) -> list[str]:
    """As a user whose home is /home/anna."""
    user = ["unshare", "--mount", "--user", "--map-user=1000", "--map-group=1000", "--keep-caps"]
    lensd = [sys.executable, "-m", "lensd", *arguments]
    return [*user, "sh", "-ec", HOME, "sh", str(homes), *lensd]


def _lensd(home: Path, screen: pyte.Screen, *arguments: str) -> AtTerminal:
    _show_prompt(screen, " ".join(arguments))
    return AtTerminal(_command(home, arguments), home, columns=screen.columns, screen=screen)


def _show_prompt(screen: pyte.Screen, arguments: str) -> None:
    prompt = f"\033[1;32m$\033[0m \033[1mlensd {arguments}\033[0m\r\n"
    pyte.Stream(screen).feed(("\r\n" if screen.cursor.y else "") + prompt)


def _command(home: Path, arguments: Sequence[str]) -> list[str]:
    """Without the name of this machine's folders: the home is at /srv."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    lensd = [sys.executable, "-m", "lensd", *arguments]
    return ["unshare", "--mount", *user, "sh", "-ec", MOUNT, "sh", str(home), *lensd]


if __name__ == "__main__":
    raise SystemExit(main())
