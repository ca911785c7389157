"""The worker process: `python -m lensd.engine [NICE]`, started by the daemon only."""

from __future__ import annotations

import gc
import sys

import torch

from lensd.engine import task
from lensd.engine.priority import give_way
from lensd.worker.protocol import ReportProgress, serve
from lensd.worker.request import (
    AnalyzeResult,
    AnyRequest,
    CompressRequest,
    CompressResult,
    Result,
)


def handle(request: AnyRequest, progress: ReportProgress) -> Result:
    """Answer one request."""
    if isinstance(request, CompressRequest):
        return CompressResult(measures=task.compress(request, progress))
    return AnalyzeResult(measures=task.analyze(request, progress))


def main() -> None:
    gc.freeze()  # torch's objects stay until the end: no collection has to look at them
    give_way(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    serve(handle, "cuda" if torch.cuda.is_available() else "cpu", str(torch.__version__))


if __name__ == "__main__":
    main()
