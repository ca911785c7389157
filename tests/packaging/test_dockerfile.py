"""The Dockerfile, without a container engine: what it says, and its steps on other roots."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.packaging import dockerfile
from tests.packaging.building import REPOSITORY
from tests.packaging.image import Image, needs_namespaces
from tests.support.realistic import small_lora

INSTRUCTIONS = dockerfile.read(REPOSITORY / "Dockerfile")
STAGES = dockerfile.stages(INSTRUCTIONS)
KNOWN = {
    *("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "HEALTHCHECK", "RUN", "STOPSIGNAL"),
    *("USER", "VOLUME"),
}


CONFIG = """
watch: [{path: /srv/loras}]
archive: {path: /srv/lora-archive}
settle: {quiet_seconds: 0.3}
"""


def _copied() -> Iterator[str]:
    for instruction in INSTRUCTIONS:
        if instruction.word == "COPY" and not instruction.text.startswith("--from"):
            yield from instruction.words[:-1]


def test_instructions_are_known() -> None:
    """Nothing is misspelled, and none is of those that this project does without, such as ADD."""
    assert {instruction.word for instruction in INSTRUCTIONS} <= KNOWN


def test_what_is_copied_is_there_and_reaches_the_build() -> None:
    """Each source is a file of the tree that .dockerignore lets in, and it lets in no other."""
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert set(_copied()) == allowed
    assert all((REPOSITORY / name).exists() for name in allowed)


def test_what_the_wheel_is_built_from_is_copied() -> None:
    """pyproject.toml names the files that a build reads."""
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    for name in ("README.md", "LICENSE", "lensd"):
        assert f'"{name}"' in text
    assert {"README.md", "LICENSE", "lensd", "hatch_build.py", "pyproject.toml"} <= set(_copied())


def test_stages_that_are_copied_from_exist() -> None:
    """`--from` names a stage above."""
    final = STAGES["final"]
    named = [re.match(r"--from=(\S+)", i.text) for i in final if i.word == "COPY"]
    assert named
    assert all(match is not None and match[1] in STAGES for match in named)


def test_it_does_not_run_as_root() -> None:
    """A number, so that Kubernetes and others can prove it; and nothing is run behind it."""
    final = STAGES["final"]
    assert int(dockerfile.value(final, "USER").text) > 0
    last = [i.word for i in final].index("USER")
    assert not {"RUN", "COPY", "USER"} & {i.word for i in final[last + 1 :]}


def test_it_starts_the_daemon_and_looks_after_it() -> None:
    """`docker run lensd` is `lensd run`, and any other verb may follow instead."""
    final = STAGES["final"]
    assert dockerfile.value(final, "ENTRYPOINT").words == ["lensd"]
    assert dockerfile.value(final, "CMD").words == ["run"]
    assert dockerfile.value(final, "STOPSIGNAL").text == "SIGTERM"
    assert dockerfile.value(final, "HEALTHCHECK").text.endswith('CMD ["lensd", "check"]')


def test_no_host_of_a_registry_is_named() -> None:
    """Images by name, packages from where pip looks by itself, or where the builder says."""
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    assert not re.search(r"https?://|\b[a-z0-9-]+\.(io|org|com|dev)\b", text)
    for stage in STAGES.values():
        assert fnmatch.fnmatch(stage[0].text, "python:*-slim")


def test_the_compose_example_is_valid() -> None:
    """By the schema of the Compose Specification; no container engine runs in the tests."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, REPOSITORY / "compose.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_compose_example_fits_the_image() -> None:
    """It fills the image's volumes, and gives the container no more than the test below does."""
    services = yaml.safe_load((REPOSITORY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    service = services["lensd"]
    targets = [volume.split(":")[1] for volume in service["volumes"]]
    assert {*dockerfile.value(STAGES["final"], "VOLUME").words, "/etc/lensd/config.yaml"} == {
        *targets
    }
    assert (service["network_mode"], service["read_only"]) == ("none", True)
    assert service["cap_drop"] == ["ALL"]
    assert not service["user"].startswith("0")
    assert service["healthcheck"]["test"] == ["CMD", "lensd", "check"]
    declared = {i.text.partition("=")[0] for i in INSTRUCTIONS if i.word == "ARG"}
    assert set(service["build"]["args"]) <= declared


def test_the_service_for_messages_differs_by_its_network_alone() -> None:
    """It sees configuration and state, but neither LoRAs nor archive, and starts only if asked."""
    services = yaml.safe_load((REPOSITORY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    daemon, notify = services["lensd"], services["notify"]
    differing = {key for key in notify if notify[key] != daemon.get(key)}
    assert differing == {"profiles", "command", "volumes", "network_mode", "healthcheck"}
    assert set(notify["volumes"]) < set(daemon["volumes"])
    assert not any(":/srv" in volume for volume in notify["volumes"])


@pytest.mark.slow
@needs_namespaces
def test_its_steps_make_a_lensd_that_works(wheelhouse: Path, tmp_path: Path) -> None:
    """Each RUN and COPY on a root of its own, and the daemon on it as the Dockerfile's user.

    The root is then read-only and without a network, and the user has no capability. The machine's
    own system stands for the base image, and the wheels lend what is installed here.
    """
    with Image(tmp_path, wheelhouse) as image:
        for name, stage in STAGES.items():
            image.build(name, stage)
        volume = tmp_path / "srv"
        for folder in (volume / "loras", volume / "lora-archive"):
            folder.mkdir(parents=True)
        _give_away(volume)
        image.write("/etc/lensd/config.yaml", CONFIG)
        image.start({"/srv": volume})
        assert image.next_event("daemon.ready")["watches"] == ["loras"]
        made = small_lora(tmp_path / "style.safetensors")
        os.chown(made.path, 10001, 10001)
        made.path.rename(volume / "loras/style.safetensors")
        line = image.next_event("file.compressed")
        assert (line["archive_method"], line["lease"]) == ("link", True)
        assert "no faults" in image.execute("lensd", "check")
        assert json.loads(image.execute("lensd", "status", "--json"))["daemon"] == 1
        image.execute("lensd", "restore", "/srv/loras/style.safetensors")
        assert image.stop() == 0


def _give_away(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 10001, 10001)
