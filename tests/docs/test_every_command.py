"""No command in the documentation is there that nothing runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from lensd.cli import main
from tests.docs import markdown, shell
from tests.docs.rendering import REPOSITORY
from tests.docs.test_operations import Server

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

# Who runs the blocks below a heading ("": above the first one), all of them.
RUN = {
    ("README.md", ""): "tests/docs/test_first_steps.py",
    ("README.md", "Install"): "tests/packaging/test_installing.py",
    ("README.md", "A first configuration"): "tests/docs/test_first_steps.py",
    ("README.md", "One file"): "tests/docs/test_first_steps.py",
    ("README.md", "Undo"): "tests/docs/test_first_steps.py",
    **{
        ("docs/operations.md", heading): f"tests/{test}.py"
        for heading, test in {
            "As a service, in five lines": "packaging/test_service_life",
            "Other ways to install": "packaging/test_installing",
            "Shell completion and man page": "docs/test_operations",
            "Getting originals back": "docs/test_operations",
            "Checking that all is well": "docs/test_operations",
            "Deleting old originals": "docs/test_operations",
            "Upgrading": "packaging/test_service_life",
            "Uninstalling, with all originals back": "packaging/test_service_life",
        }.items()
    },
}
# Pages whose own test runs them.
OWN = {
    f"docs/{name}.md": f"tests/docs/test_{name}.py"
    for name in ("cluster", "companions", "monitoring", "report", "scale", "syncing", "web")
}
# What nothing can run here, and why.
NOT_RUN = {
    "docker build -t lensd --build-arg TORCH_INDEX=URL .": "no engine in a test's machine; "
    "tests/packaging/test_dockerfile.py takes the steps of the Dockerfile",
    "docker compose up -d": "the same; that test starts what they make as compose.yaml says",
    "docker compose exec lensd lensd status": "the same; that test runs it in there",
}
# In sentences these are names: they want paths or answers, or go on until a signal ends them.
NAMES = {"lensd init", "lensd notify", "lensd restore", "lensd run"}
# These need a recipient in the configuration.
NAMES |= {"lensd notify --now", "lensd notify --test"}
# It changes the machine; tests/systemd/test_install.py runs it under a systemd of its own.
NAMES |= {"lensd service --install"}


class Block(NamedTuple):
    """Command lines below a heading of a page."""

    page: str
    heading: str
    lines: list[str]


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        top, *sections = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for heading, text in [("", top), *(section.split("\n", 1) for section in sections)]:
            for block in markdown.blocks(text):
                if block.language in shell.LANGUAGES:
                    lines = shell.plain(block.text).splitlines()
                    yield Block(str(page.relative_to(REPOSITORY)), heading, lines)


BLOCKS = list(_blocks())


def test_every_block_is_run_by_a_test() -> None:
    """By one that names its heading, or each of its lines is among those that cannot be run."""
    assert len(BLOCKS) > 15
    for page, heading, lines in BLOCKS:
        if set(lines) <= set(NOT_RUN):
            continue
        if page in OWN:
            assert page in (REPOSITORY / OWN[page]).read_text(encoding="utf-8")
            continue
        assert (page, heading) in RUN, f"{page}, {heading!r}: {lines}"
        text = (REPOSITORY / RUN[page, heading]).read_text(encoding="utf-8")
        assert f'"{heading}"' in text if heading else page in text


def test_nothing_is_named_that_is_not_there_any_more() -> None:
    """Each entry of the tables above is needed."""
    run = [block for block in BLOCKS if not set(block.lines) <= set(NOT_RUN)]
    assert set(RUN) == {(b.page, b.heading) for b in run if b.page not in OWN}
    assert set(OWN) <= {b.page for b in run}
    assert set(NOT_RUN) <= {line for block in BLOCKS for line in block.lines}


def _in_sentences() -> list[str]:
    """Commands in backticks that no block has, but for placeholders (`FILE`) and names of verbs."""
    in_blocks = {line.partition(" #")[0].strip() for block in BLOCKS for line in block.lines}
    pages = [page for page in PAGES if str(page.relative_to(REPOSITORY)) not in OWN]
    found = {c.replace("\\|", "|").replace("sudo ", "") for page in pages for c in _commands(page)}
    return sorted(found - in_blocks - NAMES)


def _commands(page: Path) -> Iterator[str]:
    for command in markdown.command_lines(page):
        if not re.search(r"\b[A-Z]{2,}\b", command) and not _is_name(command):
            yield command


def _is_name(command: str) -> bool:
    """A verb alone that wants more behind it."""
    verb = main.get_command(click.Context(main), command.removeprefix("lensd "))
    if verb is None:
        return False
    return isinstance(verb, click.Group) or any(param.required for param in verb.params)


@pytest.mark.slow
def test_commands_in_sentences_can_be_typed(tmp_path: Path) -> None:
    """Each of them ends well at a home server with the files that it names."""
    server = Server(tmp_path)
    commands = _in_sentences()
    assert len(commands) > 10
    (server.loras / "style").mkdir()
    for command in sorted(commands, key=lambda command: "restore" in command):
        _lay_out(server, command)
        server.follow(command)


def _lay_out(server: Server, command: str) -> None:
    """A compressed LoRA under each relative name; what an earlier command made is gone."""
    for made in server.top.glob("*.safetensors"):
        made.unlink()
    for word in shlex.split(command):
        if re.fullmatch(r"[a-z]+\.safetensors", word):
            (server.top / word).write_bytes(server.lora.read_bytes())
