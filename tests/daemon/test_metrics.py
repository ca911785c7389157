"""The textfile for Prometheus, written by a real daemon."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path

import pytest

from bench.memory import resident
from tests.daemon.conftest import OWN_MEBIBYTES
from tests.support.home_server import HomeServer, wait_until
from tests.support.prometheus import Textfile

AWKWARD = 'my "LoRAs" \\ n'


@pytest.fixture
def textfile(server: HomeServer) -> Path:
    """The home server with metrics, in a folder for them; its folder has an awkward name."""
    path = server.top / "node-exporter/lensd.prom"
    path.parent.mkdir()
    watch = [{"path": str(server.loras), "name": AWKWARD}]
    server.configure(watch=watch, metrics={"textfile": str(path)})
    return path


@pytest.mark.slow
def test_it_says_what_log_and_ledger_say(server: HomeServer, textfile: Path) -> None:
    """Counters since the start, gauges of now; small, readable for all, and 0 when it has ended."""
    before = time.time()
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        wait_until(textfile.exists, "it is there from the start")
        path = server.drop("style.safetensors", seed=1).path
        line = daemon.wait_for_file(path, "file.compressed")
        page = server.loras / "page.safetensors"
        page.write_text("<html>not found</html>")
        daemon.wait_for_file(page, "file.skipped")
        (server.loras / "later.safetensors.part").touch()
        server.drop("later.safetensors", seed=2)
        wait_until(lambda: Textfile(textfile).get("lensd_waiting_files") == 1, "it is written")
        found = Textfile(textfile)
        labels = {"watch": AWKWARD, "mode": "ultra", "family": line["family"]}
        assert found.get("lensd_compressed_files_total", **labels) == 1
        assert found.get("lensd_input_bytes_total", **labels) == line["bytes_in"]
        assert found.get("lensd_output_bytes_total", **labels) == line["bytes_out"]
        assert found.get("lensd_files_total", watch=AWKWARD, outcome="compressed") == 1
        assert found.get("lensd_files_total", watch=AWKWARD, outcome="skipped") == 1
        assert found.get("lensd_left_files_total", outcome="skipped", reason="not_safetensors") == 1
        assert found.get("lensd_delta_error_ratio_count", mode="ultra") == 1
        assert found.get("lensd_delta_error_ratio_sum", mode="ultra") == line["delta_error"]
        for stage in ("wait", "read", "compute", "write", "verify", "archive"):
            assert found.get("lensd_stage_seconds_total", stage=stage) == line["seconds"][stage]
        totals = server.status()["totals"]
        assert found.get("lensd_saved_bytes") == totals["saved_in_folders"]
        assert found.get("lensd_archive_bytes") == totals["held_by_archive"]
        for outcome, count in totals["outcomes"].items():
            assert found.get("lensd_ledger_files", outcome=outcome) == count
        last = found.get("lensd_last_outcome_timestamp_seconds", outcome="compressed")
        assert before < found.get("lensd_start_time_seconds") < last < time.time()
        assert found.get("lensd_up") == 1
        assert found.sum("lensd_build_info") == 1
        for still in ("queue_files", "paused", "held_up", "problem_files"):
            assert f"lensd_{still}" in found.names
            assert found.get(f"lensd_{still}") == 0
        assert stat.S_IMODE(textfile.stat().st_mode) == 0o644
        assert resident(daemon.process.pid, "RssAnon") < OWN_MEBIBYTES
        assert daemon.stop() == 0
    assert Textfile(textfile).get("lensd_up") == 0
    assert os.listdir(textfile.parent) == ["lensd.prom"]


@pytest.mark.slow
def test_a_folder_that_goes_is_told_once(server: HomeServer, textfile: Path) -> None:
    """Files are compressed as before; when the folder is back, so is the textfile."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        wait_until(textfile.exists, "it is there")
        textfile.parent.rename(server.top / "away")
        for number in range(2):
            path = server.drop(f"{number}.safetensors", seed=number).path
            daemon.wait_for_file(path, "file.compressed")
        told = [line for line in daemon.lines if line["event"] == "daemon.degraded"]
        told = told or [daemon.wait_for_event("daemon.degraded")]  # it may come between the files
        assert [(line["watch"], line["path"]) for line in told] == [(None, str(textfile))]
        assert "metrics.textfile" in told[0]["message"]
        textfile.parent.mkdir()
        assert server.lensd("restore", path).returncode == 0
        assert daemon.wait_for_event("daemon.recovered")["path"] == str(textfile)
        # it may be written once more, since outcomes are gathered for a while
        wait_until(
            lambda: Textfile(textfile).sum("lensd_files_total", outcome="restored") == 1, "counted"
        )
        assert daemon.stop() == 0
    assert [line["event"] for line in daemon.lines].count("daemon.degraded") == 1


@pytest.mark.slow
def test_once_leaves_its_numbers(server: HomeServer, textfile: Path) -> None:
    """A run from cron is seen by Prometheus, too: a folder that is paused, a job that failed."""
    bad = server.drop("bad.safetensors", seed=1).path
    bad.write_bytes(bad.read_bytes()[:-2] + b"\xff\x7f")
    server.lensd("pause")
    server.once(code=1)
    found = Textfile(textfile)
    assert found.get("lensd_left_files_total", outcome="failed", reason="not_finite") == 1
    assert found.get("lensd_problem_files") == 1
    assert found.get("lensd_paused") == 1
    assert found.get("lensd_up") == 0


@pytest.mark.slow
def test_a_reload_may_move_it_or_end_it(server: HomeServer, textfile: Path) -> None:
    """SIGHUP: the old file says that nobody writes it any more; counters begin anew in the new."""
    with server.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        path = server.drop("style.safetensors", seed=1).path
        daemon.wait_for_file(path, "file.compressed")
        other = textfile.with_name("other.prom")
        for metrics in ({"textfile": str(other)}, {}):
            server.configure(metrics=metrics)
            daemon.process.send_signal(signal.SIGHUP)
            daemon.wait_for_event("daemon.reloaded")
            daemon.wait_for_event("daemon.ready")
            if metrics:
                wait_until(other.exists, "the new one is there")
                assert Textfile(textfile).get("lensd_up") == 0
                assert Textfile(textfile).sum("lensd_compressed_files_total") == 1
                assert Textfile(other).sum("lensd_compressed_files_total") == 0
                assert Textfile(other).get("lensd_ledger_files", outcome="compressed") == 1
        assert Textfile(other).get("lensd_up") == 0
        assert daemon.stop() == 0
