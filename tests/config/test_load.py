"""lensd.config.load: find and read the configuration file, or report all of its faults."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lensd.config import load as load_module
from lensd.config.faults import Fault, FaultyConfigError
from lensd.config.load import find_config, load
from lensd.config.model import Config
from lensd.errors import ConfigError

Read = Callable[[str], Config]
Faults = Callable[[str], dict[str, Fault]]

WATCH = "watch:\n  - path: /srv/loras\n"


def test_defaults_are_those_of_the_contract(read: Read) -> None:
    """One path is enough; all other keys have their documented default."""
    config = read(WATCH)
    (watch,) = config.watch
    assert (watch.path, watch.name, watch.existing) == ("/srv/loras", "loras", "leave")
    assert (watch.recursive, watch.include, watch.exclude) == (True, ("*.safetensors",), ())
    assert watch.settings.model_dump() == {
        "mode": "ultra",
        "energy": 0.99,
        "allocation": "module",
        "target_size": None,
        "max_rank": None,
        "constant_rank": False,
        "strict_energy": False,
        "float32": "auto",
        "targets": ("comfyui", "a1111", "forge"),
        "encodings": ("int8", "float8"),
        "max_error": None,
        "min_saving": 0.05,
        "preserve_mtime": True,
    }
    assert (config.archive.path, config.archive.keep_days) == ("/srv/lora-archive", None)
    assert config.state.path == "/var/lib/lensd"
    assert config.settle.model_dump() == {
        "quiet_seconds": 5,
        "unproven_seconds": 60,
        "rescan_seconds": 300,
    }
    assert config.worker.model_dump() == {
        "device": "auto",
        "processes": 1,
        "idle_exit": 300,
        "timeout": 1800,
        "nice": 10,
        "memory_limit": "auto",
        "schedule": None,
        "cluster": None,
        "cluster_paths": "staged",
        "cluster_tls": None,
        "cluster_insecure": False,
        "cluster_fallback": "wait",
    }
    assert (config.log.path, config.log.level, config.log.mode_bits) == (None, "info", 0o640)


def test_a_folder_overrides_any_default(read: Read) -> None:
    """A key of a folder replaces that of `defaults`, also with null; other keys are inherited."""
    config = read(
        "watch:\n"
        "  - {path: /a, mode: rank, energy: 0.9, max_rank: null}\n"
        "  - {path: /b}\n"
        "defaults: {mode: int8, max_rank: 8, targets: [diffusers]}\n"
    )
    first, second = (watch.settings for watch in config.watch)
    assert (first.mode, first.energy, first.max_rank) == ("rank", 0.9, None)
    assert (second.mode, second.energy, second.max_rank) == ("int8", 0.99, 8)
    assert first.targets == second.targets == ("diffusers",)


def test_encodings_restrict_and_do_not_order(read: Read) -> None:
    """int8 comes first for the numerics, since it has half the error of float8."""
    config = read(f"{WATCH}defaults: {{encodings: [float8, int8]}}\n")
    assert config.watch[0].settings.parameters().encodings == ("int8", "float8")
    config = read(f"{WATCH}defaults: {{encodings: [float8]}}\n")
    assert config.watch[0].settings.parameters().encodings == ("float8",)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("32MB", 32_000_000), ("32MiB", 33_554_432), ("'32 MB'", 32_000_000), ("5000", 5000)],
)
def test_a_target_size_is_bytes_and_implies_file(read: Read, written: str, expected: int) -> None:
    """It is an integer or has a unit; `allocation` becomes `file` for that folder."""
    config = read(f"watch:\n  - {{path: /a, target_size: {written}}}\n  - {{path: /b}}\n")
    first, second = (watch.settings for watch in config.watch)
    assert (expected, "file") == (first.target_size, first.allocation)
    assert (second.target_size, second.allocation) == (None, "module")


def test_a_target_size_goes_with_allocation_balanced(read: Read) -> None:
    """In the folder or in `defaults`, which then stays so for folders without a target size."""
    config = read(
        "watch:\n"
        "  - {path: /a, target_size: 3MB}\n"
        "  - {path: /b, target_size: 3MB, allocation: file}\n"
        "  - {path: /c}\n"
        "defaults: {allocation: balanced}\n"
    )
    assert [w.settings.allocation for w in config.watch] == ["balanced", "file", "balanced"]


def test_an_unknown_allocation_is_a_fault_that_names_all(faults: Faults) -> None:
    (fault,) = faults("watch:\n  - path: /a\n    allocation: balance\n").values()
    text = f"{fault.message} {fault.remedy}"
    assert all(name in text for name in ("module", "file", "balanced"))


@pytest.mark.parametrize(
    "text",
    [
        "watch:\n  - path: /a\n    target_size: 3MB\n    allocation: module\n",
        "watch:\n  - path: /a\n\n    allocation: module\ndefaults: {target_size: 3MB}\n",
        "watch:\n  - path: /a\ndefaults:\n  allocation: module\n  target_size: 3MB\n",
    ],
)
def test_allocation_module_with_a_target_size_is_a_fault(faults: Faults, text: str) -> None:
    """lensd does not silently ignore `allocation: module`."""
    (fault,) = faults(text).values()
    assert fault.key.endswith("allocation")
    assert fault.line == 4


def test_every_fault_at_once_with_line_key_and_remedy(faults: Faults) -> None:
    """All faults are reported together, in the order of their lines."""
    found = faults(
        "wach: 1\n"
        "watch:\n"
        "  - path: /a\n"
        "    enrgy: 0.9\n"
        "    mode: ultr\n"
        "    targets: [comfy, a1111]\n"
        "  - name: x\n"
        "defaults:\n"
        "  energy: '0.99'\n"
        "  min_saving: 1\n"
        "  mode: rank\n"
        "  mode: int8\n"
        "energy: 0.5\n"
    )
    assert [(fault.line, key) for key, fault in found.items()] == [
        (1, "wach"),
        (4, "watch[0].enrgy"),
        (5, "watch[0].mode"),
        (6, "watch[0].targets[0]"),
        (7, "watch[1].path"),
        (9, "defaults.energy"),
        (10, "defaults.min_saving"),
        (12, "defaults.mode"),
        (13, "energy"),
    ]
    assert "`watch`" in found["wach"].remedy
    assert "`energy`" in found["watch[0].enrgy"].remedy
    assert "`ultra`" in found["watch[0].mode"].remedy
    assert "`comfyui`" in found["watch[0].targets[0]"].remedy
    assert "`energy: 0.99`" in found["defaults.energy"].remedy
    assert "under `defaults:`" in found["energy"].remedy


def test_a_duplicate_key_does_not_hide_a_fault_of_its_value(tmp_path: Path) -> None:
    """The first value of a duplicate key is checked too."""
    file = tmp_path / "config.yaml"
    file.write_text(f"{WATCH}defaults:\n  energy: 1.5\n  energy: 0.9\n")
    with pytest.raises(FaultyConfigError) as caught:
        load(str(file))
    assert [fault.line for fault in caught.value.faults] == [4, 5]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("defaults: {energy: 0}", "defaults.energy"),
        ("defaults: {energy: 1.01}", "defaults.energy"),
        ("defaults: {energy: true}", "defaults.energy"),
        ("defaults: {energy: .nan}", "defaults.energy"),
        ("defaults: {energy: null}", "defaults.energy"),
        ("defaults: {max_rank: 0}", "defaults.max_rank"),
        ("defaults: {max_rank: 8.0}", "defaults.max_rank"),
        ("defaults: {constant_rank: 1}", "defaults.constant_rank"),
        ("defaults: {strict_energy: 1}", "defaults.strict_energy"),
        ("defaults: {constant_rank: 'yes'}", "defaults.constant_rank"),
        ("defaults: {float32: fp16}", "defaults.float32"),
        ("defaults: {targets: []}", "defaults.targets"),
        ("defaults: {targets: comfyui}", "defaults.targets"),
        ("defaults: {encodings: []}", "defaults.encodings"),
        ("defaults: {encodings: float8}", "defaults.encodings"),
        ("defaults: {max_error: 0}", "defaults.max_error"),
        ("defaults: {min_saving: -0.1}", "defaults.min_saving"),
        ("defaults: {target_size: 32 potatoes}", "defaults.target_size"),
        ("defaults: {target_size: 0}", "defaults.target_size"),
        ("defaults: [1]", "defaults"),
        ("archive: /srv/x", "archive"),
        ("archive: {path: ''}", "archive.path"),
        ("archive: {path: ~}", "archive.path"),
        ("archive: {path: ~nobody-of-that-name/x}", "archive.path"),
        ("settle: {quiet_seconds: -1}", "settle.quiet_seconds"),
        ("settle: {quiet_seconds: .inf}", "settle.quiet_seconds"),
        ("settle: {rescan_seconds: 0}", "settle.rescan_seconds"),
        ("worker: {device: gpu}", "worker.device"),
        ("worker: {device: 0}", "worker.device"),
        ("worker: {nice: 20}", "worker.nice"),
        ("worker: {timeout: 0}", "worker.timeout"),
        ("worker: {processes: -1}", "worker.processes"),
        ("log: {mode: 0640}", "log.mode"),
        ("log: {mode: '0999'}", "log.mode"),
        ("log: {mode: '0044'}", "log.mode"),
        ("archive: {keep_days: 0}", "archive.keep_days"),
        ("archive: {keep_days: 1.5}", "archive.keep_days"),
        ("archive: {keep_days: '30'}", "archive.keep_days"),
        ("worker: {memory_limit: 100MB}", "worker.memory_limit"),
        ("worker: {memory_limit: lots}", "worker.memory_limit"),
        ("worker: {memory_limit: [2GiB]}", "worker.memory_limit"),
        ("worker: {memory_limit: true}", "worker.memory_limit"),
        ("worker: {schedule: 12:30}", "worker.schedule"),
        ("worker: {schedule: '1:00-7:00'}", "worker.schedule"),
        ("worker: {schedule: '07:00-07:00'}", "worker.schedule"),
        ("log: {level: verbose}", "log.level"),
    ],
)
def test_a_value_of_a_wrong_type_or_out_of_range_is_a_fault(
    faults: Faults, line: str, key: str
) -> None:
    """It is a fault of its key, at its line."""
    found = faults(f"{WATCH}{line}\n")
    assert list(found) == [key]
    assert found[key].line == 3


def test_limits_as_people_write_them(read: Read) -> None:
    """Sizes have units; times may be without quotes and include midnight."""
    config = read(
        f"{WATCH}archive: {{keep_days: 30}}\n"
        "worker: {memory_limit: 2GiB, schedule: 22:30-06:00}\n"
    )
    assert config.archive.keep_days == 30
    assert config.worker.memory_limit == 2 << 30
    assert config.worker.hours == (22 * 60 + 30, 6 * 60)
    assert read(WATCH).worker.hours is None


@pytest.mark.parametrize("written", ["auto", "null"])
def test_a_memory_limit_of_the_machine_or_none(read: Read, written: str) -> None:
    """`auto` is the default; null, as older examples have it, means no limit as before."""
    expected = "auto" if written == "auto" else None
    assert read(f"{WATCH}worker: {{memory_limit: {written}}}\n").worker.memory_limit == expected
    assert read(WATCH).worker.memory_limit == "auto"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("worker: {memory_limit: 100MB}", "256MiB or more"),
        ("worker: {schedule: 12:30}", "in quotes"),
        ("worker: {schedule: '7-8'}", "null means always"),
    ],
)
def test_faults_of_limits_say_what_to_write(faults: Faults, line: str, says: str) -> None:
    """The remedy has an example."""
    [fault] = faults(f"{WATCH}{line}\n").values()
    assert says in fault.remedy


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "watch:\n", "watch: []\n", "defaults: {}\n", "watch: /srv/loras\n"],
)
def test_no_folder_to_watch(faults: Faults, text: str) -> None:
    """Without a folder there is nothing to do; the remedy shows how to add one."""
    found = faults(text)
    assert list(found) == ["watch"]
    assert "- path: /" in found["watch"].remedy


@pytest.mark.parametrize("text", ["hello\n", "[1, 2]\n", "3\n"])
def test_a_document_without_keys_is_one_fault(faults: Faults, text: str) -> None:
    """The remedy names the command that makes an example."""
    assert "lensd config example" in faults(text)[""].remedy


def test_sections_may_be_empty(read: Read) -> None:
    """A section without keys is the same as no section."""
    config = read(f"{WATCH}defaults:\nsettle:\n  # quiet_seconds: 3\nworker:\n")
    assert config.settle.quiet_seconds == 5


@pytest.mark.parametrize("name", ["''", "a/b", ".hidden", ".versions", "rescued", "..", '"a\\nb"'])
def test_a_name_must_be_a_folder_of_its_own_in_the_archive(faults: Faults, name: str) -> None:
    """Names that the archive uses itself, and names that no folder can have, are faults."""
    assert list(faults(f"watch:\n  - path: /a\n    name: {name}\n")) == ["watch[0].name"]


def test_a_default_name_follows_the_same_rule(faults: Faults) -> None:
    """If the last part of the path cannot be a name, the folder needs the key `name`."""
    fault = faults("watch:\n  - path: /home/x/.loras\n")["watch[0].name"]
    assert fault.line == 2
    assert "`name: loras`" in fault.remedy


def test_names_are_unique(faults: Faults) -> None:
    """Two folders of one name would share a folder in the archive."""
    found = faults("watch:\n  - path: /a/loras\n  - path: /b/loras\n")
    assert list(found) == ["watch[1].name"]
    assert "watch[0]" in found["watch[1].name"].message


@pytest.mark.parametrize("pattern", ["/srv/loras/*", "./x", "../x", "~/x"])
def test_a_pattern_that_cannot_match_is_a_fault(faults: Faults, pattern: str) -> None:
    """Patterns are relative to the folder, so other patterns would match nothing."""
    found = faults(f"watch:\n  - path: /a\n    exclude: ['*.tmp', '{pattern}']\n")
    assert list(found) == ["watch[0].exclude[1]"]


def test_paths_are_relative_to_the_file_and_may_begin_with_tilde(
    read: Read, tmp_path: Path, home: Path
) -> None:
    """`~` is the home; variables are not expanded."""
    config = read(
        "watch: [{path: loras/}, {path: ~/x}]\narchive: {path: $HOME/a}\nlog: {path: lensd.log}\n"
    )
    assert [watch.path for watch in config.watch] == [f"{tmp_path}/loras", f"{home}/x"]
    assert config.archive.path == f"{tmp_path}/$HOME/a"
    assert config.log.path == f"{tmp_path}/lensd.log"


def test_a_watch_path_may_be_a_link(read: Read, tmp_path: Path) -> None:
    """`path` is the link, `root` is its target, and the name is that of the link."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "loras").symlink_to("disk")
    (watch,) = read("watch:\n  - path: loras\n").watch
    assert watch.path == f"{tmp_path}/loras"
    assert watch.root == str((tmp_path / "disk").resolve())
    assert watch.name == "loras"


def test_the_message_shows_every_fault_as_editors_expect_it(tmp_path: Path) -> None:
    """A fault is `file:line: key: message`, then the remedy on the next line."""
    file = tmp_path / "config.yaml"
    file.write_text("watch:\n  - path: /a\n    mode: ultr\n")
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    assert str(caught.value) == (
        f"{file} has 1 fault\n"
        f"{file}:3: watch[0].mode: 'ultr' is not one of the choices\n"
        "    did you mean `ultra`? choices: analyze, rank, int8, ultra"
    )


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    """Here the path is that of a folder."""
    with pytest.raises(ConfigError, match="cannot read"):
        load(str(tmp_path))


def test_configuration_files_are_searched_in_order(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An explicit path is first, then the working folder, then the home."""
    monkeypatch.chdir(tmp_path)
    if not Path("/etc/lensd/config.yaml").exists():
        with pytest.raises(ConfigError, match=r"config\.yaml.*lensd init"):
            find_config(None)
    mine = home / ".config/lensd/config.yaml"
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert find_config(None) == str(mine)
    (tmp_path / "config.yaml").touch()
    assert find_config(None) == "config.yaml"
    assert find_config(str(mine)) == str(mine)
    with pytest.raises(ConfigError, match=r"no configuration file other\.yaml"):
        find_config("other.yaml")


@pytest.mark.parametrize("value", ["/x.txt", "1", "''"])
def test_a_textfile_has_the_name_that_node_exporter_reads(faults: Faults, value: str) -> None:
    """node_exporter would not read a file with another name."""
    [(key, fault)] = faults(f"{WATCH}metrics: {{textfile: {value}}}\n").items()
    assert key == "metrics.textfile"
    assert fault.line == 3


def test_a_folder_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """E.g. /etc/lensd of the service: its configuration may be there, so that no other is made."""
    closed = tmp_path / "closed"
    closed.mkdir()
    monkeypatch.chdir(closed)
    (tmp_path / "config.yaml").write_text("watch: [{path: x}]")
    tmp_path.chmod(0)
    was_root = os.geteuid() == 0
    try:
        if was_root:
            os.seteuid(65534)
        with pytest.raises(ConfigError, match=r"you may not enter its folder; use sudo"):
            find_config(str(tmp_path / "config.yaml"))
        monkeypatch.setattr(load_module, "SEARCH_PATHS", ("nowhere", str(tmp_path / "config.yaml")))
        with pytest.raises(ConfigError, match=r"you may not enter its folder; use sudo"):
            find_config(None)
    finally:
        if was_root:
            os.seteuid(0)
        tmp_path.chmod(0o700)


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    """The message does not send the person to `lensd init`."""
    with pytest.raises(ConfigError, match="is a folder; name the configuration file in it"):
        find_config(str(tmp_path))
