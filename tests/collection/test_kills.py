"""A run over many objects that is killed again and again."""

from __future__ import annotations

import random
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.collection.conftest import Batch, files_of
from tests.support.architectures import Module
from tests.support.limits import PATIENCE
from tests.support.realistic import small_lora
from tests.support.stores import S3

pytestmark = pytest.mark.slow

OBJECTS, KILLS = 2000, 5
CONTENTS = 20  # different ones; the marks of an output have the name, so that all outputs differ
TINY = (Module("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", 32, 32),)
ARGUMENTS = ("--min-saving", "0", "--processes", "2", "--inflight", "8")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    for number in range(10):
        (folder / str(number)).mkdir(parents=True)
    made = [
        small_lora(tmp_path / "one", seed=seed, modules=TINY).path.read_bytes()
        for seed in range(CONTENTS)
    ]
    for number in range(OBJECTS):
        path = folder / f"{number % 10}/{number:04}.safetensors"
        path.write_bytes(made[number % CONTENTS])
    return folder


def test_killed_five_times_and_then_complete(batch: Batch, many: Path) -> None:
    """Each object has one row and the same output as in a run that nothing disturbed.

    The memory of the client does not grow with the number of objects that are done.
    """
    dest, journal = batch.folder / "killed", batch.folder / "m.jsonl.journal"
    chosen = random.Random(1)  # noqa: S311  not for secrets
    for goal in sorted(chosen.sample(range(OBJECTS // 20, OBJECTS * 9 // 10), KILLS)):
        with _start(batch, "many", "killed", "--manifest", "m.jsonl") as process:
            _wait_for_rows(process, journal, goal)
            process.kill()
        assert len(files_of(dest)) < len(files_of(many))
    with _start(batch, "many", "killed", "--manifest", "m.jsonl") as process:
        _wait_for_rows(process, journal, OBJECTS * 9 // 10)
        late = _resident(process)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    rows = (batch.folder / "m.jsonl").read_text().splitlines()
    assert len(rows) == OBJECTS
    with _start(batch, "many", "whole", "--manifest", "whole.jsonl") as process:
        whole_journal = batch.folder / "whole.jsonl.journal"
        _wait_for_rows(process, whole_journal, OBJECTS // 10)
        early = _resident(process)
        _wait_for_rows(process, whole_journal, OBJECTS * 9 // 10)
        assert _resident(process) < early + 8
        process.communicate(timeout=PATIENCE)
    assert late < early + 16
    assert files_of(batch.folder / "whole") == files_of(dest)
    assert {"killed", "m.jsonl", "many", "one", "whole", "whole.jsonl"} == {
        path.name for path in batch.folder.iterdir()
    }


def test_a_killed_run_leaves_whole_objects_in_a_bucket(batch: Batch, many: Path, s3: S3) -> None:
    """Of 200 objects: at each kill each object in the bucket is one of the undisturbed run."""
    for number in range(1, 10):
        (many / str(number)).rename(batch.folder / f"aside{number}")
    names = files_of(many)
    batch.run("many", "whole", *ARGUMENTS)
    expected = files_of(batch.folder / "whole")
    on_s3 = batch._replace(env=s3.env)
    for goal in (20, 90):
        with _start(on_s3, "many", "s3://hub/killed", "--manifest", "s3.jsonl") as process:
            _wait_for_rows(process, batch.folder / "s3.jsonl.journal", goal)
            process.kill()
        for key in s3.keys("killed/"):
            assert expected[key.removeprefix("killed/")] == s3.get(key)
    on_s3.run("many", "s3://hub/killed", "--manifest", "s3.jsonl", *ARGUMENTS)
    assert len(names) == len(s3.keys("killed/")) == len(on_s3.rows("s3.jsonl"))


def _start(batch: Batch, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        batch.command(*arguments, *ARGUMENTS),
        cwd=batch.folder,
        env=batch.whole_env,
        stderr=subprocess.DEVNULL,
    )


def _wait_for_rows(process: subprocess.Popen[bytes], journal: Path, count: int) -> None:
    """Until the journal has so many rows."""
    deadline = time.monotonic() + PATIENCE
    while not journal.exists() or journal.read_bytes().count(b"\n") < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)  # a fast machine does a hundred objects in a tenth of a second


def _resident(process: subprocess.Popen[bytes]) -> float:
    """MiB of the process now, without those that it started."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s*(\d+)", status)
    assert found is not None
    return int(found[1]) / 1024
