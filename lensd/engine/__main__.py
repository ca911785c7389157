"""The worker process: `lensd.engine [NICE]`. Only the daemon starts it."""

from __future__ import annotations

import sys

from lensd.engine.uncollected import uncollected

with uncollected():
    import torch

    from lensd.engine import task
    from lensd.engine.priority import lower_priority
    from lensd.lora._kernels import loading
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
    lower_priority(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    serve(
        handle,
        "cuda" if torch.cuda.is_available() else "cpu",
        str(torch.__version__),
        loading.described(),
    )


if __name__ == "__main__":
    main()
