"""The real unit under a real systemd, with the drop-in of `lensd service`."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.support.booted import needs_systemd
from tests.support.home_server import wait_until
from tests.systemd.conftest import CONFIG, DISK, OTHER, Service

pytestmark = [pytest.mark.slow, needs_systemd]


def test_it_runs_as_its_user_without_capabilities(service: Service) -> None:
    """The user is lensd, and the unit is active after lensd's notification."""
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
    """On one disk no data are copied, under the hardened unit too."""
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
def test_the_worker_needs_no_writable_and_executable_memory(
    service: Service, dtype: str, mode: str
) -> None:
    """MemoryDenyWriteExecute is set, and every mode compresses every precision under it."""
    assert service.machine.show("lensd", "MemoryDenyWriteExecute") == "yes"
    path = service.drop(f"{DISK}/{mode}/{dtype}.safetensors", 2, dtype=dtype)
    line = service.wait_for_file(path)
    assert line["event"] == "file.compressed", line
    assert (line["mode"], line["dtype_in"]) == (mode, dtype)


def test_only_user_and_group_can_read_state_and_log(service: Service) -> None:
    """Another user can neither list nor read them."""
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
    """`systemctl kill -s KILL` ends daemon and worker; systemd restarts lensd, nothing is lost."""
    machine = service.machine
    before = machine.show("lensd", "MainPID")
    machine.shell(f"kill -STOP {service.worker()}")  # otherwise it would finish too soon
    path = service.drop(f"{DISK}/loras/killed.safetensors", 3)
    service.wait_for(lambda line: line["event"] == "file.settled", "job")
    machine.shell("systemctl kill -s KILL lensd")
    service.wait_for_event("daemon.ready")
    assert machine.show("lensd", "MainPID") != before
    assert int(machine.show("lensd", "NRestarts")) >= 1
    line = service.wait_for_file(path)
    assert (line["event"], line["archive_method"]) == ("file.compressed", "link")


def test_a_killed_worker_costs_one_attempt(service: Service) -> None:
    """The unit stays active and compresses the file, also if the kernel killed for memory."""
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
    """After `systemctl reload` the same process has another mode; a faulty file changes nothing."""
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
    """After SIGSTOP it sends no WATCHDOG=1. Before that it did, or the unit would have ended."""
    machine = service.machine
    assert machine.show("lensd", "WatchdogUSec") == "10s"
    pid = machine.show("lensd", "MainPID")
    machine.shell(f"kill -STOP {pid}")
    path = service.drop(f"{DISK}/loras/stopped.safetensors", 15)
    service.wait_for_event("daemon.ready", 60)
    assert machine.show("lensd", "MainPID") != pid
    assert "watchdog" in machine.shell("journalctl -b -u lensd -o cat").lower()
    assert service.wait_for_file(path)["event"] == "file.compressed"


def test_check_finds_no_fault_with_its_own_drop_in(service: Service) -> None:
    """The running unit can write to the folders that `lensd service` opened."""
    assert "no faults" in service.lensd("check", "-c", CONFIG)


def test_check_names_what_the_running_unit_cannot_write(service: Service) -> None:
    """Folders that are new, hidden, read-only or another user's are named with their remedies."""
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
    assert "can only read /opt/loras" in said[0]
    assert "lensd service -c /etc/lensd/late.yaml" in said[0]
    assert "cannot see /home/loras" in said[1] or "can only read /home/loras" in said[1]
    assert f"has no right to write to {DISK}/roots" in said[2]


def test_no_socket_of_the_internet_can_be_made(service: Service) -> None:
    """With the unit's settings AF_INET is refused, AF_UNIX is allowed, and only lo exists."""
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
    """Without the disk its folder is degraded, and the unit runs on."""
    machine = service.machine
    pid = machine.show("lensd", "MainPID")
    path = service.drop(f"{OTHER}/loras2/before.safetensors", 5)
    assert service.wait_for_file(path)["event"] == "file.compressed"
    service.unmount(OTHER)
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
    """With the capabilities of its drop-in it leases, links and chowns files of other users."""
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
            status = machine.path(name).stat()
            assert (status.st_uid, status.st_gid) == owner
    assert "no faults" in service.lensd("check", "-c", CONFIG)


def test_without_the_archives_disk_the_unit_stops(service: Service) -> None:
    """No file goes to the folder below the mount point; the unit starts again with the disk."""
    machine = service.machine
    mount = "srv-disk\\x2d1.mount"
    assert mount in shlex.split(machine.show("lensd", "BindsTo"))
    service.unmount(DISK)
    wait_until(lambda: machine.show("lensd", "ActiveState") == "inactive", "stopped", 40)
    assert [] == list(machine.path(DISK).iterdir())
    machine.shell(f"mount '{DISK}'")
    service.make_folders()  # perhaps after a first start without them, which systemd repeats
    service.wait_for_event("daemon.ready")
    path = service.drop(f"{DISK}/loras/again.safetensors", 12)
    assert service.wait_for_file(path)["archive_method"] == "link"
