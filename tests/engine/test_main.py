"""lensd.engine as a process, started as the daemon does: it reads and writes JSON lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import msgspec

from lensd.store.json_lines import encode
from lensd.worker import isolated
from tests.engine import asking
from tests.support.limits import PATIENCE
from tests.support.realistic import small_lora


def answer(lines: IO[bytes]) -> dict[str, Any]:
    """Return the next message that is no heartbeat and no progress."""
    while True:
        message: dict[str, Any] = json.loads(lines.readline())
        if message["type"] not in ("heartbeat", "progress"):
            return message


def test_a_worker_process_answers_requests(tmp_path: Path) -> None:
    """It says hello, analyzes, compresses, refuses with a reason, and ends at the end of input."""
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    small_lora(source)
    again = asking.output(source, tmp_path / "again")
    requests = [
        encode(asking.analysis(source)),
        encode(asking.output(source, out)),
        encode(msgspec.structs.replace(again, path=str(out), identity=None)),
        b'{"op": "unheard of"}\n',
    ]
    command = [*isolated.command("lensd.engine"), "5"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin
        assert worker.stdout
        hello = answer(worker.stdout)
        assert (hello["type"], hello["pid"]) == ("hello", worker.pid)
        answers = []
        for request in requests:
            worker.stdin.write(request)
            worker.stdin.flush()
            answers.append(answer(worker.stdout))
        niceness = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[16]
        worker.stdin.close()
        assert worker.wait(PATIENCE) == 0
    analyzed, compressed, refused, bug = answers
    assert [a["type"] for a in answers] == ["analyzed", "compressed", "refused", "bug"]
    assert compressed["measures"]["bytes_out"] == out.stat().st_size
    assert analyzed["measures"]["predicted"]["ultra"] == out.stat().st_size
    assert (refused["outcome"], refused["reason"]) == ("skipped", "already_compressed")
    assert "unheard of" in bug["traceback"]
    assert int(niceness) >= 5


def test_products_run_on_the_calling_thread() -> None:
    """numpy's BLAS starts no threads, on the command line either."""
    code = "import os; from lensd.engine import passes; import numpy; x = numpy.ones((900, 900));"
    code += "x @ x; print(len(os.listdir('/proc/self/task')))"
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    said = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    assert int(said) == 1
