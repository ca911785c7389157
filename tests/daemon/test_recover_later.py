"""What a start could not recover is recovered while the daemon runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensd import __version__
from lensd.store.fs import temporary_name
from lensd.store.identity import Identity
from lensd.store.ledger import JobState, Ledger
from tests.support.home_server import HomeServer

NEWER = b"what a user program wrote to the file while lensd replaced it"


@pytest.mark.slow
def test_what_a_start_could_not_recover_is_tried_again(server: HomeServer) -> None:
    """A file stands where `rescued/` has to be. When it is gone, the job continues."""
    made = server.drop("style.safetensors")
    server.state.mkdir()
    ledger = Ledger(str(server.state), __version__)
    ledger.roots.add(str(server.loras), "loras")
    identity = Identity.of(made.path.lstat())
    ledger.jobs.enqueue("cut", str(server.loras), "loras", made.path.name, identity)
    temporary = server.loras / temporary_name("cut")
    temporary.write_bytes(NEWER)
    ledger.jobs.update("cut", state=JobState.PUBLISHING, temporary=temporary.name)
    ledger.close()
    in_the_way = server.archive / "rescued"
    in_the_way.touch()
    with server.daemon() as daemon:
        line = daemon.wait_for_file(made.path, "file.skipped")
        assert line["job_id"] == "cut"
        assert line["message"].endswith("Nothing was deleted; lensd tries again")
        daemon.wait_for_event("daemon.ready")
        assert temporary.read_bytes() == NEWER
        in_the_way.unlink()
        rescued = daemon.wait_for_file(made.path, "file.rescued")["rescued_path"]
        assert daemon.wait_for_file(made.path, "file.compressed")["job_id"] == "cut"
    assert Path(rescued).read_bytes() == NEWER
    assert server.temporaries() == []
    assert daemon.of(made.path).count("file.skipped") == 1
