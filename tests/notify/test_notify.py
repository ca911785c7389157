"""Messages that real servers receive from a real daemon's child, and from `lensd notify`."""

from __future__ import annotations

import contextlib
import os
import queue
import resource
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from lensd.config.load import load
from lensd.daemon import notifier
from lensd.errors import StorageError
from lensd.notify import cursor
from lensd.notify.cursor import Cursor
from lensd.notify.follow import Follower
from lensd.notify.message import Message
from lensd.notify.send import REFUSED, Recipient
from lensd.store.identity import Identity
from lensd.store.ledger import Ledger, Outcome
from tests.notify.conftest import PASSWORD, TOKEN, Mailbox, Webhook, notify
from tests.support.home_server import HomeServer, wait_until
from tests.support.limits import PATIENCE
from tests.support.running import catches

NOT_TAKEN = "notify.urls[0] (JSON): the service did not take the message"
ALL = ["failed", "quarantined", "degraded", "disk_full", "weekly"]


def break_file(home: HomeServer, name: str) -> Path:
    """A LoRA with a NaN, which fails."""
    made = home.make(name, seed=1)
    made.path.write_bytes(made.path.read_bytes()[:-2] + b"\xff\x7f")
    return home.move_in(made.path)


def record_failures(home: HomeServer, count: int) -> None:
    """As a daemon records them."""
    home.state.mkdir(exist_ok=True)
    with contextlib.closing(Ledger(str(home.state), "0.1.0")) as ledger, ledger.together():
        for number in range(count):
            ledger.files.record(
                f"job-{number}-{time.time_ns()}",
                str(home.loras),
                "loras",
                f"{number:04}.safetensors",
                Identity(1, number + 1, 100, 1, 1),
                outcome=Outcome.FAILED,
                reason="not_finite",
                message="a tensor is not finite; download it again",
            )


def test_a_failure_reaches_a_web_server(home: HomeServer, webhook: Webhook) -> None:
    """Sent by a child of the daemon; title, path and remedy are in it."""
    notify(home, urls=[webhook.url])
    with home.daemon(forked=True) as daemon:
        daemon.wait_for_event("daemon.ready")
        path = break_file(home, "broken.safetensors")
        assert daemon.wait_for_file(path)["event"] == "file.failed"
        message = webhook.next()
    assert message["title"] == "lensd: 1 file failed"
    assert f"failed: {path}: " in message["message"]
    assert "lensd retry" in message["message"]


@pytest.mark.slow
def test_a_failure_reaches_a_mail_server(home: HomeServer, mailbox: Mailbox) -> None:
    """Through apprise's mailto://."""
    url = f"mailto://127.0.0.1:{mailbox.port}?from=lensd@example.org&to=anna@example.org&mode=insecure"
    notify(home, urls=[url])
    with home.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        path = break_file(home, "broken.safetensors")
        daemon.wait_for_file(path)
        mail = mailbox.received.get(timeout=60)
    assert mail["Subject"] == "lensd: 1 file failed"
    assert mail["To"] == "anna@example.org"
    texts = [part.get_payload(decode=True) for part in mail.walk()]
    assert b"broken.safetensors" in b"".join(t for t in texts if isinstance(t, bytes))


@pytest.mark.slow
def test_a_thousand_failures_are_one_message(home: HomeServer, webhook: Webhook) -> None:
    """It counts them and names ten. The next message has only what came later."""
    notify(home, urls=[webhook.url])
    record_failures(home, 1)
    assert home.lensd("notify", "--now").returncode == 0  # the first look: nothing of the past
    record_failures(home, 1000)
    assert home.lensd("notify", "--now").returncode == 0
    message = webhook.next()
    assert message["title"] == "lensd: 1,000 files failed"
    assert message["message"].count("failed: ") == 10
    assert "... and 990 more files" in message["message"]
    record_failures(home, 2)
    assert home.lensd("notify", "--now").returncode == 0
    assert webhook.next()["title"] == "lensd: 2 files failed"
    assert webhook.received.empty()


@pytest.mark.slow
def test_a_folder_that_is_away_and_comes_back(home: HomeServer, webhook: Webhook) -> None:
    """One message says what happened, another that it is solved."""
    notify(home, urls=[webhook.url])
    with home.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        home.loras.rename(home.top / "away")
        daemon.wait_for_event("daemon.degraded")
        message = webhook.next()
        assert message["title"] == "lensd: 1 problem"
        assert message["message"].startswith(f"{home.loras}: ")
        (home.top / "away").rename(home.loras)
        daemon.wait_for_event("daemon.recovered")
        assert webhook.next()["title"] == "lensd: 1 problem solved"


@pytest.mark.slow
def test_the_week_is_summarized(home: HomeServer, webhook: Webhook) -> None:
    """Seven days after the first start, and not again before seven more."""
    notify(home, urls=[webhook.url], on=["weekly"])
    home.drop("a.safetensors", seed=1)
    home.once("--yes")
    assert home.lensd("notify", "--now").returncode == 0
    assert webhook.received.empty()
    state = home.state / "notified.json"
    state.write_text(f'{{"until": 0, "weekly": {time.time() - 8 * 86400}}}')
    for _ in range(2):
        assert home.lensd("notify", "--now").returncode == 0
    message = webhook.next()
    assert message["title"] == "lensd: the last seven days"
    assert "1 compressed" in message["message"]
    assert " became " in message["message"]
    assert webhook.received.empty()


@pytest.mark.slow
def test_what_is_not_wanted_is_not_sent(home: HomeServer, webhook: Webhook) -> None:
    """`on` without failed."""
    notify(home, urls=[webhook.url], on=["degraded"])
    home.lensd("notify", "--now")
    record_failures(home, 3)
    assert home.lensd("notify", "--now").returncode == 0
    assert webhook.received.empty()


@pytest.mark.slow
def test_a_message_that_nobody_took_is_sent_later(home: HomeServer, webhook: Webhook) -> None:
    """A server with an error gets it again; exit code 1 until then."""
    notify(home, urls=[webhook.url])
    record_failures(home, 1)
    home.lensd("notify", "--now")
    record_failures(home, 5)
    webhook.code = 500
    done = home.lensd("notify", "--now")
    assert done.returncode == 1
    assert NOT_TAKEN in done.stderr
    webhook.code = 200
    assert home.lensd("notify", "--now").returncode == 0
    titles = {webhook.next()["title"], webhook.next()["title"]}
    assert titles == {"lensd: 5 files failed"}


def test_a_full_disk_sends_no_message_again(home: HomeServer) -> None:
    """What was sent cannot be noted then; it is noted when there is room."""
    notify(home, command=["true"])
    sent: list[str] = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def deliver(message: Message) -> None:
        sent.append(message.title)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))

    record_failures(home, 1)
    with cursor.locked(str(home.state)) as file:
        file.write(Cursor(until=0.0, weekly=time.time()))
    follower = Follower(load(str(home.config)), [Recipient("test", deliver)], lambda _: None)
    try:
        with pytest.raises(StorageError, match=r"notified\.json"):
            follower.send_now()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert follower.send_now()
    assert sent == ["lensd: 1 file failed"]
    with cursor.locked(str(home.state)) as file:
        assert file.read().until > 0.0


def test_a_command_gets_title_and_text(home: HomeServer, tmp_path: Path) -> None:
    """A program without network: it reads stdin and LENSD_TITLE; no shell sees the text."""
    program = tmp_path / "tell me"
    program.write_text(f'#!/bin/sh\n{{ echo "$LENSD_TITLE $1"; cat; }} > "{tmp_path}/got"\n')
    program.chmod(0o755)
    notify(home, command=[str(program), "$(touch x)"])
    done = home.lensd("notify", "--test")
    assert (done.returncode, done.stdout) == (0, "notify.command: sent\n")
    assert (tmp_path / "got").read_text().startswith("lensd: a test $(touch x)\nThis message")


def test_the_test_message_names_each_recipient(home: HomeServer, webhook: Webhook) -> None:
    """One line each, without its address; 1 if one of them failed."""
    notify(home, urls=[webhook.url, "json://127.0.0.1:1"], command=["false"])
    done = home.lensd("notify", "--test")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "notify.urls[0] (JSON): sent",
        f"notify.urls[1] (JSON): {REFUSED}",
        "notify.command: the program ended with 1",
    ]
    assert webhook.next()["title"] == "lensd: a test"


def test_a_redirect_is_no_delivery(home: HomeServer, webhook: Webhook) -> None:
    """E.g. from http to https: the message would become a GET, which says that all is well."""
    webhook.code = 301
    notify(home, urls=[webhook.url])
    done = home.lensd("notify", "--test")
    assert (done.returncode, done.stdout) == (1, f"notify.urls[0] (JSON): {REFUSED}\n")


def test_a_child_that_cannot_be_started_is_started_later(
    home: HomeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon has no descriptor left for a moment."""
    notify(home, command=["true"])
    home.state.mkdir(exist_ok=True)
    monkeypatch.setattr(notifier, "RESTART_SECONDS", 0.01)
    child = notifier.Notifier(str(home.config))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        child.start()
        child.join(0.2)
        assert child.is_alive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    me = psutil.Process()
    wait_until(lambda: any("lensd.notify" in p.cmdline() for p in me.children()), "it runs")
    child.finish(PATIENCE)
    child.join(PATIENCE)
    assert not child.is_alive()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({}, "names no recipient"),
        ({"urls": ["nonsense://x"]}, "notify.urls[0] is no address that apprise knows"),
    ],
)
def test_wrong_recipients(home: HomeServer, section: dict[str, Any], words: str) -> None:
    """Exit code 4; the address is not shown."""
    notify(home, **section)
    done = home.lensd("notify", "--test")
    assert done.returncode == 4
    assert words in done.stderr
    assert "nonsense" not in done.stderr


def test_check_counts_the_recipients(home: HomeServer, webhook: Webhook) -> None:
    """It warns while all users may read the file."""
    notify(home, urls=[webhook.url], on=ALL)
    done = home.lensd("check")
    assert "notify   1 address, on failed, quarantined, degraded, disk_full, weekly" in done.stdout
    assert "passwords" not in done.stdout
    home.config.chmod(0o644)
    warning, remedy = home.lensd("check").stdout.splitlines()[-2:]
    assert "can read these addresses and their passwords" in warning
    assert remedy == f"    chgrp it to the group of lensd, then chmod 640 '{home.config}'"
    notify(home, command=["/does/not/exist"])
    assert "there is no program /does/not/exist" in home.lensd("check").stdout


@pytest.mark.parametrize("command", ["check", "status", "notify"])
@pytest.mark.parametrize(
    "urls",
    [
        f"json://u:{PASSWORD}@h/{TOKEN}",
        [f"{PASSWORD}{TOKEN}"],
        [f"none://u:{PASSWORD}@h/{TOKEN}"],
        {"x": f"{PASSWORD}{TOKEN}"},
    ],
)
def test_faults_do_not_show_addresses(home: HomeServer, urls: Any, command: str) -> None:
    """Neither as a text instead of a list, nor unknown ones, nor other values."""
    notify(home, urls=urls)
    done = home.lensd(command)
    text = done.stdout + done.stderr
    assert PASSWORD not in text
    assert TOKEN not in text


def test_a_line_that_is_no_yaml_is_not_shown(home: HomeServer) -> None:
    """A quote that is missing, in the middle of an address."""
    home.config.write_text(
        f'watch: [{{path: x}}]\nnotify:\n  urls: ["json://{PASSWORD}, {TOKEN}]\n'
    )
    done = home.lensd("check")
    assert done.returncode == 4
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.slow
def test_no_process_and_no_log_shows_the_addresses(home: HomeServer, webhook: Webhook) -> None:
    """Command lines, environments, the log with level debug, stderr: also when sending fails."""
    webhook.code = 500
    home.configure(log={"level": "debug"})
    notify(home, urls=[webhook.url, f"json://u:{PASSWORD}@127.0.0.1:1/{TOKEN}"])
    with home.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        daemon.wait_for_file(break_file(home, "broken.safetensors"))
        webhook.next()
        processes = [psutil.Process(daemon.process.pid)]
        processes += processes[0].children(recursive=True)
        assert any("lensd.notify" in process.cmdline() for process in processes)
        seen = [word for p in processes for word in (*p.cmdline(), *p.environ().values())]
        wait_until(lambda: NOT_TAKEN in home.stderr.read_text(), "the child has the answer")
        home.config.write_text("{")  # a reload that is refused logs its faults
        os.kill(daemon.process.pid, signal.SIGHUP)
        daemon.wait_for_event("daemon.refused")
    text = " ".join([*seen, *map(str, daemon.lines), home.stderr.read_text()])
    assert PASSWORD not in text
    assert TOKEN not in text


@pytest.mark.slow
def test_the_child_ends_with_a_killed_daemon(home: HomeServer, webhook: Webhook) -> None:
    """The pipe that is its stdin closes."""
    notify(home, urls=[webhook.url])
    with home.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        found: list[psutil.Process] = []

        def has_child() -> bool:
            found[:] = psutil.Process(daemon.process.pid).children()
            return bool(found)

        wait_until(has_child, "the child runs")
        daemon.kill()
    psutil.wait_procs(found, timeout=60)
    assert not any(p.is_running() for p in found)


@pytest.mark.slow
def test_two_processes_send_one_message(home: HomeServer, webhook: Webhook) -> None:
    """A daemon's child and `lensd notify` beside it, as with a container that has a network."""
    notify(home, urls=[webhook.url])
    with home.daemon() as daemon:
        daemon.wait_for_event("daemon.ready")
        beside = home.begin("notify")
        try:
            wait_until(lambda: catches(beside.pid, signal.SIGTERM), "it follows the ledger, too")
            daemon.wait_for_file(break_file(home, "broken.safetensors"))
            assert webhook.next()["title"] == "lensd: 1 file failed"
        finally:
            beside.send_signal(signal.SIGTERM)
            assert beside.wait(60) == 0
            beside.communicate()
    with pytest.raises(queue.Empty):
        webhook.next(seconds=0)


def test_without_recipients_the_daemon_starts_no_child(home: HomeServer) -> None:
    """Its only child is the worker."""
    with home.daemon(forked=True) as daemon:
        daemon.wait_for_event("daemon.ready")
        children = psutil.Process(daemon.process.pid).children()
    assert not [p for p in children if "lensd.notify" in p.cmdline()]
