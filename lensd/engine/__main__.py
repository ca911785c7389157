"""The worker process: `lensd.engine [NICE]`, started by the daemon only."""

from __future__ import annotations

import gc
import sys

import torch

from lensd.engine import task
from lensd.engine.priority import give_way
from lensd.worker.protocol import Message, Progress, serve


def handle(request: Message, progress: Progress) -> Message:
    """Answer one request: its `op` is compress or analyze."""
    work = {"compress": task.compress, "analyze": task.analyze}[request["op"]]
    return work(request, progress)


def main() -> None:
    gc.freeze()  # what torch consists of is there to stay: no need to look through it ever again
    give_way(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    serve(handle, {"device": device, "torch": torch.__version__})


if __name__ == "__main__":
    main()
