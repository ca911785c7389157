"""`lensd check`: list all faults of the configuration, or print a summary of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lensd.cli import say
from lensd.cli.options import config_option
from lensd.text import plural, size, visible_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lensd.cli.views.facts import Fact, Found, Sentence
    from lensd.config.document import Archive, Notify
    from lensd.config.model import Config, Watch


@click.command()
@config_option
def check(config: str | None) -> int:
    """List all faults of the configuration.

    Prints FILE:LINE: KEY: FAULT and a remedy for each fault, and exits with code 4. Without
    faults, it prints the watched folders and where the originals go. If lensd is running, a path
    that its systemd unit or its user may not write is a fault, too. With `worker.cluster` it
    connects to the cluster, and exits with code 5 if no worker there can do jobs.

    \b
    lensd check                check ./config.yaml or the first other default
    lensd check -c nas.yaml    check this file
    sudo lensd check           also check what the running service may write
    """
    from lensd.cli.views.facts import show_found
    from lensd.config.faults import FaultyConfigError
    from lensd.config.load import find_config, load_for_run
    from lensd.notify.send import recipients

    path = find_config(config)
    try:
        found = load_for_run(path)
        notes = _check_running_service(path, found)
    except FaultyConfigError as error:
        click.echo(visible_lines(error.details))
        say(f"error: {error.summary}")
        return error.exit_code
    recipients(found.notify)
    cluster: list[Found] = []
    if found.worker.cluster is not None:
        from lensd.cli.check_cluster import describe_cluster

        cluster = describe_cluster(found.worker)
    facts = (*_summarize(path, found), *_filesystems(found))
    for each in (*facts, *notes, *_check_program(found), *cluster):
        show_found(each)
    return 0


def _check_running_service(path: str, config: Config) -> list[Sentence]:
    """Notes on what could not be checked.

    Raises FaultyConfigError for paths that a running lensd may not write.
    """
    from lensd.cli.views.facts import Sentence
    from lensd.config.faults import FaultyConfigError
    from lensd.systemd.access import NotAllowed
    from lensd.systemd.unwritable import unwritable

    try:
        faults = unwritable(config)
    except NotAllowed:
        return [Sentence("note: `sudo lensd check` also checks what a running lensd may write")]
    if faults:
        raise FaultyConfigError(path, faults)
    return []


def _check_program(config: Config) -> list[Sentence]:
    """A warning where a service of systemd could not start this lensd (203/EXEC)."""
    from lensd.cli.views.facts import Sentence
    from lensd.systemd.dropin import unreachable
    from lensd.systemd.facts import find_private_folder, probe
    from lensd.systemd.install import is_booted

    if not is_booted() or find_private_folder() is None:
        return []
    warning = unreachable(probe(config))
    if warning is None:
        return []
    text = f"warning: as a service, lensd would not start: {warning}"
    return [Sentence(text, is_exact=True)]


def _summarize(path: str, config: Config) -> Iterator[Found]:
    from lensd.cli.views.facts import Fact, Sentence
    from lensd.config.check_notify import secrets_warning
    from lensd.config.check_paths import folder_warnings

    yield Sentence(f"{path}: no faults")
    for watch in config.watch:
        yield Fact("watch", _watch_line(watch))
    yield Fact("archive", f"{config.archive.path}, {_retention(config.archive)}")
    yield Fact("state", config.state.path)
    if config.worker.processes != 1:
        yield Fact("worker", _describe_workers(config))
    yield Fact("log", f"{config.log.path or 'stdout'}, level {config.log.level}")
    if config.metrics.textfile is not None:
        yield Fact("metrics", config.metrics.textfile)
    if config.notify.is_wanted:
        yield Fact("notify", _describe_notify(config.notify))
    for warning in (*folder_warnings(config), *filter(None, [secrets_warning(config)])):
        yield Sentence(f"warning: {warning.render(path)}", is_exact=True)


def _filesystems(config: Config) -> Iterator[Fact]:
    """What the last start of lensd proved; nothing before the first one."""
    from lensd.cli.views.facts import Fact
    from lensd.cli.views.status import describe_filesystem
    from lensd.errors import StorageError
    from lensd.store.ledger import Ledger

    try:
        with Ledger.read_only(config.state.path) as ledger:
            proofs = ledger.state.filesystems.get() or ()
    except StorageError:
        return
    for proof in proofs:
        yield Fact("disk", describe_filesystem(proof))


def _describe_notify(notify: Notify) -> str:
    """Without any address."""
    command = " and a command" if notify.command else ""
    return f"{plural(len(notify.urls), 'address', 'addresses')}{command}, on {', '.join(notify.on)}"


def _retention(archive: Archive) -> str:
    days, most = archive.keep_days, archive.max_size
    kept = "originals are kept" if days is None else f"originals are kept {days} days"
    return kept if most is None else f"{kept}, at most {size(most)} of them"


def _describe_workers(config: Config) -> str:
    from lensd.worker import memory

    worker = config.worker
    count = memory.count_processes(worker.processes, worker.memory_limit)
    limit = memory.limit(worker.memory_limit, count)
    of_memory = "any amount of memory" if limit is None else f"at most {size(limit)} of memory"
    return f"{plural(count, 'process', 'processes')}, {of_memory} each"


def _watch_line(watch: Watch) -> str:
    folder = watch.path if watch.root == watch.path else f"{watch.path} -> {watch.root}"
    old = {"leave": "left alone", "compress": "compressed too"}[watch.existing]
    return f"{watch.name}: {folder}, mode {watch.settings.mode}; existing files are {old}"
