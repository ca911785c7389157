"""docs/companions.md: its recipe is run, and what it says of hashes is so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lensd.config.settings import WatchEntry
from tests.docs.rendering import REPOSITORY
from tests.support.home_server import HomeServer, Seen
from tests.support.limits import PATIENCE
from tests.support.marks import needs_program

PAGE = (REPOSITORY / "docs/companions.md").read_text(encoding="utf-8")
[RECIPE] = re.findall(r"<!-- recipe: inform the manager -->\n```sh\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
@needs_program("jq")
def test_the_manager_is_told_the_original(tmp_path: Path) -> None:
    """Its file gets the original's sha256, and keeps all else; LoRAs without one get none."""
    server = HomeServer(tmp_path)
    first, second = (server.drop(f"a {n}.safetensors", seed=n).path for n in (1, 2))
    original = Seen.of(first).sha256
    server.once()
    info = first.with_suffix(".metadata.json")
    info.write_text(json.dumps({"sha256": Seen.of(first).sha256, "notes": "mine", "size": 1}))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = RECIPE.replace("lensd status", f"lensd status -c '{server.config}'")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={**os.environ, "PATH": path},
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads(info.read_text()) == {"sha256": original, "notes": "mine", "size": 1}
    assert sorted(p.name for p in server.loras.iterdir()) == [
        "a 1.metadata.json", first.name, second.name,
    ]  # fmt: skip


def test_sidecars_of_the_page_are_those_of_the_test() -> None:
    """What it says is left alone is tried (tests/daemon/test_companions.py), and not looked at."""
    from tests.daemon.test_companions import SIDECARS

    [listed] = re.findall(r"to the byte and the date: (.*?), and all others", PAGE, re.DOTALL)
    found = {name.removeprefix("NAME") for name in re.findall(r"`([^`]+)`", listed)}
    assert found == set(SIDECARS) - {".yaml"}
    assert WatchEntry.model_fields["include"].default == ("*.safetensors",)
