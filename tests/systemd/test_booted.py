"""The real unit under a real systemd, with the drop-in that `lensd service` prints."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.support.booted import needs_systemd
from tests.support.home_server import wait_until
from tests.systemd.conftest import CONFIG, DISK, OTHER, Service

pytestmark = [pytest.mark.slow, needs_systemd]


def test_it_runs_as_its_user_with_nothing_more(service: Service) -> None:
    """User lensd without a capability; ready by notification."""
    machine = service.machine
    assert machine.show("lensd", "ActiveState") == "active"
    pid = machine.show("lensd", "MainPID")
    status = dict(
        line.split(":\t", 1)
        for line in machine.shell(f"cat /proc/{pid}/status").splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == [machine.shell("id -u lensd").strip()] * 4
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_a_dropped_file_is_compressed_and_its_original_linked(service: Service) -> None:
    """On one disk no byte is copied, under the hardened unit as well."""
    path = service.drop(f"{DISK}/loras/a.safetensors", 1)
    line = service.wait_for_file(path)
    assert (line["event"], line["archive_method"], line["lease"]) == (
        "file.compressed",
        "link",
        True,
    )
    assert service.machine.path(line["archive_path"]).exists()


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("mode", ["rank", "int8", "ultra"])
def test_the_worker_needs_no_memory_that_is_written_and_run(
    service: Service, dtype: str, mode: str
) -> None:
    """MemoryDenyWriteExecute holds, and every mode compresses every precision under it."""
    assert service.machine.show("lensd", "MemoryDenyWriteExecute") == "yes"
    path = service.drop(f"{DISK}/{mode}/{dtype}.safetensors", 2, dtype=dtype)
    line = service.wait_for_file(path)
    assert line["event"] == "file.compressed", line
    assert (line["mode"], line["dtype_in"]) == (mode, dtype)


def test_state_and_log_are_not_for_everybody(service: Service) -> None:
    """Another user can neither list nor read them; the group can."""
    machine = service.machine
    for folder in ("/var/lib/lensd", "/var/log/lensd"):
        assert machine.shell(f"stat -c '%a %U %G' {folder}").split() == ["750", "lensd", "lensd"]
        found = machine.shell(f"find {folder} -mindepth 1 -perm /o=rwx").split()
        assert [] == found
        refused = machine.run(
            "setpriv", "--reuid=65534", "--clear-groups", "ls", folder, check=False
        )
        assert refused.returncode != 0
        assert "Permission denied" in refused.stderr


@pytest.mark.fault("killed")
def test_a_killed_daemon_comes_back_and_goes_on(service: Service) -> None:
    """`systemctl kill -s KILL` ends daemon and worker; systemd starts it anew, nothing is lost."""
    machine = service.machine
    before = machine.show("lensd", "MainPID")
    machine.shell(f"kill -STOP {service.worker()}")  # or it would be done too soon
    path = service.drop(f"{DISK}/loras/killed.safetensors", 3)
    service.wait_for(lambda line: line["event"] == "file.settled", "job")
    machine.shell("systemctl kill -s KILL lensd")
    service.wait_for_event("daemon.ready")
    assert machine.show("lensd", "MainPID") != before
    assert int(machine.show("lensd", "NRestarts")) >= 1
    line = service.wait_for_file(path)
    assert (line["event"], line["archive_method"]) == ("file.compressed", "link")


def test_a_killed_worker_costs_one_attempt(service: Service) -> None:
    """The unit stays up and does the file after all, also where the kernel killed for memory."""
    machine = service.machine
    assert machine.show("lensd", "OOMPolicy") == "continue"
    daemon, worker = machine.show("lensd", "MainPID"), service.worker()
    machine.shell(f"kill -STOP {worker}")
    path = service.drop(f"{DISK}/loras/worker.safetensors", 4)
    service.wait_for(lambda line: line["event"] == "file.settled", "job")
    machine.shell(f"kill -KILL {worker}")
    assert service.wait_for_event("worker.crashed")["exit"] == -9
    assert service.wait_for_file(path)["event"] == "file.compressed"
    assert machine.show("lensd", "MainPID") == daemon


def test_a_reload_takes_the_new_configuration(service: Service) -> None:
    """`systemctl reload`: same process, another mode. A faulty file changes nothing."""
    machine = service.machine
    pid = machine.show("lensd", "MainPID")
    service.configure(defaults={"mode": "analyze"})
    machine.shell("systemctl reload lensd")
    service.wait_for_event("daemon.reloaded")
    path = service.drop(f"{DISK}/loras/reloaded.safetensors", 13)
    assert service.wait_for_file(path)["event"] == "file.analyzed"
    service.configure(defaults={"mode": "nonsense"})
    machine.shell("systemctl reload lensd")
    service.wait_for_event("daemon.refused")
    service.configure()
    machine.shell("systemctl reload lensd")
    service.wait_for_event("daemon.reloaded")
    path = service.drop(f"{DISK}/loras/back.safetensors", 14)
    assert service.wait_for_file(path)["event"] == "file.compressed"
    assert machine.show("lensd", "MainPID") == pid


@pytest.mark.fault("stuck")
def test_a_stopped_main_loop_is_restarted_by_the_watchdog(service: Service) -> None:
    """SIGSTOP: no more WATCHDOG=1. Before, they came, or the unit were not that old."""
    machine = service.machine
    assert machine.show("lensd", "WatchdogUSec") == "10s"
    pid = machine.show("lensd", "MainPID")
    machine.shell(f"kill -STOP {pid}")
    path = service.drop(f"{DISK}/loras/stopped.safetensors", 15)
    service.wait_for_event("daemon.ready", 60)
    assert machine.show("lensd", "MainPID") != pid
    assert "watchdog" in machine.shell("journalctl -b -u lensd -o cat").lower()
    assert service.wait_for_file(path)["event"] == "file.compressed"


def test_check_finds_nothing_against_its_own_drop_in(service: Service) -> None:
    """What `lensd service` opened, the running unit can write."""
    assert "no faults" in service.lensd("check", "-c", CONFIG)


def test_check_names_what_the_running_unit_cannot_write(service: Service) -> None:
    """A folder that came later, hidden, closed, or another user's: each named, with its remedy."""
    machine = service.machine
    machine.shell("install -d -o lensd -g lensd /opt/loras /home/loras")
    machine.shell(f"install -d -m 0755 {DISK}/roots")
    late = ("/opt/loras", "/home/loras", f"{DISK}/roots")
    names = ("closed", "hidden", "foreign")
    watch = [{"path": p, "name": n} for p, n in zip(late, names, strict=True)]
    machine.path("/etc/lensd/late.yaml").write_text(
        json.dumps({"watch": watch, "archive": {"path": f"{DISK}/lora-archive"}})
    )
    done = machine.run(*service.command("check", "-c", "/etc/lensd/late.yaml"), check=False)
    assert done.returncode == 4, done.stdout + done.stderr
    said = done.stdout.split("/etc/lensd/late.yaml:1: ")[1:]
    assert ["watch[0].path", "watch[1].path", "watch[2].path"] == [
        s.partition(":")[0] for s in said
    ]
    assert "sees only read-only /opt/loras" in said[0]
    assert "lensd service -c /etc/lensd/late.yaml" in said[0]
    assert "does not see /home/loras" in said[1] or "only read-only /home/loras" in said[1]
    assert f"has no right to write {DISK}/roots" in said[2]


def test_no_socket_of_the_internet_can_be_made(service: Service) -> None:
    """With the unit's own settings AF_INET is refused, AF_UNIX is not, and lo is all there is."""
    code = (
        "import socket, os\n"
        "socket.socket(socket.AF_UNIX).close()\n"
        "for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET):\n"
        "    try: socket.socket(family, socket.SOCK_DGRAM)\n"
        "    except OSError as error: print(error.errno)\n"
        "print(os.listdir('/proc/self/net/dev_snmp6'))\n"
    )
    names = ("RestrictAddressFamilies", "PrivateNetwork", "SystemCallFilter", "IPAddressDeny")
    assert service.machine.show("lensd", "PrivateNetwork") == "yes"
    said = service.under_the_unit(code, names)
    assert said.splitlines() == ["97"] * 4 + ["['lo']"]


@pytest.mark.fault("folder gone")
def test_an_unmount_and_a_remount_are_seen(service: Service) -> None:
    """One disk goes: degraded, the unit runs on. It is back: its files are taken."""
    machine = service.machine
    pid = machine.show("lensd", "MainPID")
    path = service.drop(f"{OTHER}/loras2/before.safetensors", 5)
    assert service.wait_for_file(path)["event"] == "file.compressed"
    machine.shell(f"umount '{OTHER}'")
    gone = service.wait_for_event("daemon.degraded", 40)
    assert gone["watch"] == "loras2"
    here = service.drop(f"{DISK}/loras/meanwhile.safetensors", 6)
    assert service.wait_for_file(here)["event"] == "file.compressed"
    machine.shell(f"mount '{OTHER}'; install -d -o lensd -g lensd '{OTHER}/loras2'")
    path = service.drop(f"{OTHER}/loras2/after.safetensors", 7)
    service.wait_for(
        lambda line: line["event"] == "daemon.recovered" and line["watch"] == "loras2", "return", 60
    )
    line = service.wait_for_file(path)
    assert line["event"] == "file.compressed"
    assert machine.show("lensd", "MainPID") == pid


def test_files_of_several_owners(service: Service) -> None:
    """With its drop-in's capabilities it leases, links and chowns what is not its own."""
    machine = service.machine
    service.drop(f"{DISK}/loras/owned.safetensors", 8, owner=(4321, 4321))
    service.wait_for_file(f"{DISK}/loras/owned.safetensors")
    service.use_drop_in()
    assert "cap_lease" in machine.show("lensd", "AmbientCapabilities")
    machine.shell("systemctl restart lensd")
    service.wait_for_event("daemon.ready")
    for seed, owner in ((9, (4321, 4321)), (10, (0, 0)), (11, (4321, 1234))):
        path = service.drop(f"{DISK}/loras/{seed}.safetensors", seed, owner=owner)
        line = service.wait_for_file(path)
        assert (line["event"], line["archive_method"]) == ("file.compressed", "link")
        assert line["lease"]
        for name in (path, line["archive_path"]):
            there = machine.path(name).stat()
            assert (there.st_uid, there.st_gid) == owner
    assert "no faults" in service.lensd("check", "-c", CONFIG)


def test_the_archives_disk_goes(service: Service) -> None:
    """The unit is stopped, nothing goes to the folder below; it comes back with the disk."""
    machine = service.machine
    mount = "srv-disk\\x2d1.mount"
    assert mount in shlex.split(machine.show("lensd", "BindsTo"))
    machine.shell(f"umount '{DISK}'")
    wait_until(lambda: machine.show("lensd", "ActiveState") == "inactive", "stopped", 40)
    assert [] == list(machine.path(DISK).iterdir())
    machine.shell(f"mount '{DISK}'")
    service.make_folders()  # perhaps after a first start without them, which is tried again
    service.wait_for_event("daemon.ready")
    path = service.drop(f"{DISK}/loras/again.safetensors", 12)
    assert service.wait_for_file(path)["archive_method"] == "link"
