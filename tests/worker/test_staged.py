"""Bytes through a real worker process: the same output as from the file itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lensd.errors import Reason, StorageError
from lensd.worker import isolated
from lensd.worker.request import AnalyzeRequest, AnalyzeResult, CompressRequest, CompressResult
from lensd.worker.staged import request_bytes
from lensd.worker.supervisor import Worker
from tests.support.limits import PATIENCE
from tests.support.requests import compress_small_lora

pytestmark = pytest.mark.lengthy  # each starts a process


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(isolated.command("lensd.engine"), lambda _: None, PATIENCE, idle_exit=60)
    yield worker
    worker.stop("shutdown")


@pytest.fixture
def request_for_file(tmp_path: Path) -> CompressRequest:
    """For a LoRA in a folder of its own, with a temporary."""
    return compress_small_lora(tmp_path, "style")


def _analysis(request: CompressRequest) -> AnalyzeRequest:
    return AnalyzeRequest(
        path=request.path, name=request.name, parameters=request.parameters, device="cpu"
    )


@pytest.mark.parametrize("by_path", [False, True])
def test_the_output_is_that_of_the_file(
    worker: Worker, request_for_file: CompressRequest, tmp_path: Path, *, by_path: bool
) -> None:
    """Also where the worker reads the file by its path; nothing stays in the folder."""
    staging = tmp_path / "staging"
    staging.mkdir()
    data = None if by_path else Path(request_for_file.path).read_bytes()
    end, output = request_bytes(worker, request_for_file, data, str(staging))
    direct = worker.request(request_for_file, lambda: False)
    assert isinstance(end, CompressResult)
    assert isinstance(direct, CompressResult)
    assert output == Path(request_for_file.temporary).read_bytes()
    assert end.measures.sha256_out == direct.measures.sha256_out
    assert end.measures.sha256_in == direct.measures.sha256_in
    assert [] == list(staging.iterdir())


def test_an_analysis_has_no_output(worker: Worker, request_for_file: CompressRequest) -> None:
    """Only measures."""
    data = Path(request_for_file.path).read_bytes()
    end, output = request_bytes(worker, _analysis(request_for_file), data)
    assert isinstance(end, AnalyzeResult)
    assert output == b""


def test_bytes_that_are_no_lora_are_refused(
    worker: Worker, request_for_file: CompressRequest
) -> None:
    """As the file would be."""
    end, output = request_bytes(worker, request_for_file, b"<html>")
    assert getattr(end, "reason", None) == Reason.NOT_SAFETENSORS
    assert output == b""


def test_a_folder_that_takes_no_files_is_no_fault_of_the_file(
    worker: Worker, request_for_file: CompressRequest, tmp_path: Path
) -> None:
    """The error names the folder."""
    with pytest.raises(StorageError, match="nowhere"):
        request_bytes(worker, request_for_file, b"", str(tmp_path / "nowhere"))
