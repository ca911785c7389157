"""The worker process: `lensd.engine [NICE]`. Only the daemon starts it."""

from __future__ import annotations

import gc
import sys

import torch

from lensd.engine import task
from lensd.engine.priority import lower_priority
from lensd.worker.protocol import Message, Progress, serve


def handle(request: Message, progress: Progress) -> Message:
    """Answer one request, whose `op` is compress or analyze."""
    work = {"compress": task.compress, "analyze": task.analyze}[request["op"]]
    return work(request, progress)


def main() -> None:
    gc.freeze()  # torch's objects live as long as the process; the collector need not visit them
    lower_priority(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    serve(handle, {"device": device, "torch": torch.__version__})


if __name__ == "__main__":
    main()
