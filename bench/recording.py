"""Draw pictures of a terminal for the documentation: run real commands, and draw their output.

Run it from the top of the tree with `python -m bench.recording`, on a machine with unshare and jq.
The commands run in their own mount namespace, where /srv has the folders of a home server. A
terminal emulator reads their output, so that a progress bar leaves only its last state.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import itertools
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

PICTURES = Path(__file__).resolve().parents[1] / "docs/pictures"
COLUMNS, LINES = 110, 48
MAX_LINES = 500  # of a recording
LOG_LINE = (
    "grep file.compressed lensd.log | tail -n 1 | "
    "jq '{path, mode, bytes_in, bytes_out, delta_error}'"
)
SCENES = {
    "first-steps": (
        "lensd once --dry-run",
        "lensd once --yes",
        LOG_LINE,
        "lensd status",
        "lensd restore loras/ink.safetensors",
    ),
    "analyze": ("lensd analyze loras/ink.safetensors",),
}
CONFIG = """\
watch:
  - path: loras
archive:
  path: lora-archive
state:
  path: state
log:
  path: lensd.log
settle:
  quiet_seconds: 1
"""
# $1: the folder to mount at /srv. The other arguments: commands.
SESSION = r"""
mount --bind "$1" /srv
cd /srv
shift
for command; do
    printf '\033[1;32m$\033[0m \033[1m%s\033[0m\n' "$command"
    eval "$command"
    printf '\n'
done
"""


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="lensd-recording-") as folder:
        home = Path(folder)
        write_home(home)
        for name in ("analyze", "first-steps"):
            picture = PICTURES / f"{name}.svg"
            picture.write_text(draw(record(home, SCENES[name])), encoding="utf-8")
            print(picture.relative_to(PICTURES.parents[1]))
    return 0


def write_home(home: Path, files: Mapping[str, Mapping[str, object]] | None = None) -> None:
    """Write a configuration and LoRAs. `files`: name -> arguments of `write_lora`.

    None: three LoRAs of real size.
    """
    from tests.support import sdxl_flux
    from tests.support.realistic import write_lora

    (home / "config.yaml").write_text(CONFIG)
    for name in ("loras", "lora-archive"):
        (home / name).mkdir()
    sdxl = {"modules": sdxl_flux.sdxl_kohya(), "rank": 32, "alpha": 16.0, "effective_rank": 12.0}
    flux = {"modules": sdxl_flux.flux_kohya(), "rank": 16, "alpha": 16.0, "effective_rank": 6.0}
    default = {"ink": {}, "style": sdxl, "poster": flux | {"dtype": "BF16"}}
    for name, arguments in (default if files is None else files).items():
        write_lora(home / f"loras/{name}.safetensors", **arguments)  # type: ignore[arg-type]


def record(home: Path, commands: Sequence[str]) -> pyte.Screen:
    """Run the commands, and return the screen. Raises CalledProcessError if one of them fails."""
    screen = pyte.Screen(COLUMNS, MAX_LINES)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    command = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    command += ["sh", "-ec", SESSION, "sh", str(home), *commands]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=_environment(), process_group=0
    )
    os.close(theirs)
    with contextlib.suppress(OSError):  # EIO: all processes have closed the other end
        while data := os.read(ours, 1 << 16):
            stream.feed(data)
    os.close(ours)
    if process.wait() != 0:
        raise subprocess.CalledProcessError(process.returncode, command, "\n".join(screen.display))
    return screen


def _environment() -> dict[str, str]:
    """Return an environment with this environment's lensd first in PATH, and with colours."""
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
    return kept | {"PATH": programs, "TERM": "xterm-256color", "LANG": "C.UTF-8"}


def draw(screen: pyte.Screen) -> str:
    """Return the screen as SVG, without the fonts that a browser would fetch from a network."""
    console = Console(record=True, width=screen.columns, file=io.StringIO(), force_terminal=True)
    lines = [_line(screen, y) for y in range(screen.cursor.y)]
    while lines and not lines[-1].plain:
        lines.pop()
    console.print(Text("\n").join(lines), no_wrap=True, overflow="ignore", crop=False)
    svg = console.export_svg(title="lensd", theme=SVG_EXPORT_THEME, unique_id="lensd")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def _line(screen: pyte.Screen, y: int) -> Text:
    text = Text()
    cells = (screen.buffer[y][x] for x in range(screen.columns))
    for (color, bold, reverse), run in itertools.groupby(
        cells, lambda c: (c.fg, c.bold, c.reverse)
    ):
        style = Style(color=_color(color), bold=bold, reverse=reverse)
        text.append("".join(cell.data for cell in run), style)
    text.rstrip()
    return text


def _color(name: str) -> str | None:
    """Return rich's name for a colour of pyte, which calls yellow brown and others by their hex."""
    if name == "default":
        return None
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    return name.replace("brown", "yellow").replace("bright", "bright_")


if __name__ == "__main__":
    sys.exit(main())
