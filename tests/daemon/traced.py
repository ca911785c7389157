"""lensd with a note of which thread ran which of its functions.

`python traced.py OUT ARGUMENTS...` runs `lensd ARGUMENTS...` and then writes to OUT, as JSON, a
list of [thread, file, function]: the qualified names of lensd's functions and methods.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lensd
from lensd.cli import main

PACKAGE = str(Path(lensd.__file__).parent)
seen: set[tuple[str, str, str]] = set()


def note(frame: FrameType, event: str, _: Any) -> None:
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(PACKAGE):
        thread = threading.current_thread().name
        seen.add((thread, code.co_filename[len(PACKAGE) + 1 :], code.co_qualname))


if __name__ == "__main__":
    out, *sys.argv[1:] = sys.argv[1:]
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        main()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        Path(out).write_text(json.dumps(sorted(seen)))
