"""`lensd batch`: compress a collection of LoRAs to a second folder or bucket."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from lensd.cli import say
from lensd.cli.settings import read_settings, settings_options
from lensd.errors import EXIT_OK, EXIT_SOME_FAILED, UsageError
from lensd.text import plural

if TYPE_CHECKING:
    from lensd.collection.estimate import Estimate, Prices
    from lensd.collection.rows import Row
    from lensd.collection.run import Run, Submit
    from lensd.collection.task import Job

MANIFEST = "lensd-manifest.jsonl"
PRICE = click.FloatRange(min=0.0)
LEAVE_SECONDS = 5.0  # a transfer that a store does not answer is left after a stop


@click.command()
@click.argument("source")
@click.argument("dest")
@click.option(
    "--manifest",
    metavar="M",
    default=MANIFEST,
    show_default=True,
    type=click.Path(dir_okay=False),
    help="The list of all objects with their outcomes: .jsonl or .parquet.",
)
@settings_options
@click.option(
    "--only-smaller", is_flag=True, help="Do not copy LoRAs that cannot become smaller to DEST."
)
@click.option("--force", is_flag=True, help="Replace objects in DEST that are not in the manifest.")
@click.option(
    "--processes",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Files to compute at the same time; 0: by cores and memory.",
)
@click.option(
    "--inflight",
    type=click.IntRange(min=1),
    metavar="N",
    help="Files that are fetched, computed or written at the same time (default: twice that).",
)
@click.option(
    "--cluster", metavar="ADDRESS", help="Compute on a Dask cluster: tls://HOST:8786 or tcp://."
)
@click.option(
    "--cluster-tls",
    nargs=3,
    metavar="CA CERT KEY",
    type=click.Path(exists=True, dir_okay=False),
    help="The certificates for tls://, in PEM format.",
)
@click.option("--cluster-insecure", is_flag=True, help="Use tcp:// to another machine as well.")
@click.option("--dry-run", is_flag=True, help="Measure 1 % of the objects; write nothing.")
@click.option(
    "--core-hour", type=PRICE, metavar="PRICE", help="With --dry-run: of one core for one hour."
)
@click.option(
    "--egress", type=PRICE, metavar="PRICE", help="With --dry-run: of 1 GB read from SOURCE."
)
def batch(
    source: str,
    dest: str,
    manifest: str,
    only_smaller: bool,
    force: bool,
    processes: int,
    inflight: int | None,
    cluster: str | None,
    cluster_tls: tuple[str, str, str] | None,
    cluster_insecure: bool,
    dry_run: bool,
    core_hour: float | None,
    egress: float | None,
    device: str,
    **settings: Any,
) -> int:
    """Compress the LoRAs in SOURCE to objects of the same names in DEST.

    SOURCE and DEST are folders, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or sftp://HOST/FOLDER.
    SOURCE does not change. LoRAs that cannot become smaller are copied. A second run does only
    what is new or changed, also after a run that was killed.

    \b
    lensd batch loras small                       a folder to a folder
    lensd batch s3://hub/loras s3://hub/small     a bucket; needs s3fs
    lensd batch loras small --dry-run             how small, how long
    lensd report --manifest lensd-manifest.jsonl  what became of the files
    """
    from lensd.collection.estimate import Prices
    from lensd.collection.manifest import require_kind
    from lensd.worker.memory import count_processes

    require_kind(manifest)
    prices = Prices(core_hour, egress)
    _check_options(cluster, cluster_tls, prices, is_insecure=cluster_insecure, is_dry=dry_run)
    job = _job(source, dest, device, settings, copies=not only_smaller, replaces=force)
    if cluster is None:
        machines = Machines(count_processes(processes, "auto"), inflight)
    else:
        _check_cluster(cluster, cluster_tls, job, is_insecure=cluster_insecure)
        machines = Machines(0, inflight, cluster, cluster_tls)
    if dry_run:
        return _estimate(job, manifest, machines, prices)
    return _run(job, manifest, machines)


class Machines(NamedTuple):
    """Where to compute: in `processes` of this machine, or on a cluster."""

    processes: int
    inflight: int | None
    cluster: str | None = None
    tls: tuple[str, str, str] | None = None


class Started(NamedTuple):
    """`inflight` tasks at most are to be submitted at a time."""

    submit: Submit
    processes: int
    inflight: int


def _check_options(
    cluster: str | None,
    tls: tuple[str, str, str] | None,
    prices: Prices,
    *,
    is_insecure: bool,
    is_dry: bool,
) -> None:
    """Raises UsageError for options that would have no effect, or no sense."""
    if cluster is None and (tls is not None or is_insecure):
        raise UsageError(
            "--cluster-tls and --cluster-insecure say how to reach a cluster: add --cluster "
            "ADDRESS, or omit them"
        )
    given = [price for price in prices if price is not None]
    if given and not is_dry:
        raise UsageError("--core-hour and --egress are prices for --dry-run: add it, or omit them")
    if not all(map(math.isfinite, given)):
        raise UsageError("--core-hour and --egress are prices: give numbers")


def _check_cluster(
    address: str, tls: tuple[str, str, str] | None, job: Job, *, is_insecure: bool
) -> None:
    """Raises UsageError."""
    from lensd.collection.place import is_folder
    from lensd.config.addresses import is_exposed

    if is_folder(job.source) or is_folder(job.destination):
        raise UsageError(
            "the workers of a cluster may have other folders than this machine: give s3://, gs:// "
            "or sftp:// as SOURCE and DEST, or let the daemon use the cluster (`worker.cluster`)"
        )
    if address.startswith("tls://") != (tls is not None):
        raise UsageError("--cluster tls://HOST:PORT and --cluster-tls go together")
    if is_exposed(address) and not is_insecure:
        raise UsageError(
            "tcp:// to another machine is not encrypted, so that others could read files and run "
            "code: use tls://, or --cluster-insecure in a safe network"
        )


def _job(
    source: str, dest: str, device: str, given: dict[str, Any], *, copies: bool, replaces: bool
) -> Job:
    from dataclasses import asdict

    from lensd.collection.task import Job

    chosen = read_settings(**given)
    parameters = chosen.parameters()
    text = json.dumps(
        asdict(parameters) | {"min_saving": chosen.min_saving, "copies": copies}, sort_keys=True
    )
    return Job(
        source, dest, parameters, chosen.min_saving, device, text, copies=copies, replaces=replaces
    )


def _run(job: Job, manifest: str, machines: Machines) -> int:
    """Returns the exit code."""
    from lensd.cli.views.collection_bar import CollectionBar
    from lensd.collection.index import Index
    from lensd.collection.manifest import Journal
    from lensd.collection.run import Recorder, Run, do_all, work_folder

    with ExitStack() as stack:
        work = stack.enter_context(work_folder(manifest))
        index = Index(work)
        stack.callback(index.close)
        run = Run(job, manifest, index)
        journal = Journal(manifest, work)
        stack.callback(journal.close)
        run.know(journal.rows())
        _list(run)
        run.prepare_destination()
        bar = CollectionBar(index.left())
        recorder = Recorder(journal, index, bar.note)
        with _start(machines, job, work, bar.say) as (submit, _, inflight), bar:
            do_all(run.tasks(), submit, inflight, recorder.record)
        journal.complete(index.places())
    for line in bar.summary():
        say(line)
    say(f"manifest: {manifest}")
    _say_left_out(run)
    return EXIT_SOME_FAILED if recorder.failed or run.left_out else EXIT_OK


def _estimate(job: Job, manifest: str, machines: Machines, prices: Prices) -> int:
    """Print what a run would do. Returns the exit code."""
    from dataclasses import replace
    from tempfile import TemporaryDirectory

    from lensd.collection import estimate
    from lensd.collection.index import Index
    from lensd.collection.manifest import read
    from lensd.collection.run import Run, do_all

    with TemporaryDirectory(prefix="lensd-") as folder:
        index = Index(folder)
        run = Run(replace(job, publishes=False), manifest, index)
        run.know((0, row) for row in read(manifest))
        _list(run)
        left = index.left()
        sample = run.sample(estimate.sample_size(left.files))
        first: list[Row] = []
        found: list[Row] = []
        with _start(machines, job, folder, say) as (submit, processes, inflight):
            warm = min(processes, len(sample) // 2)  # these start the processes
            do_all(iter(sample[:warm]), submit, inflight, first.extend)
            began = time.monotonic()
            do_all(iter(sample[warm:]), submit, inflight, found.extend)
            seconds = time.monotonic() - began
        _print(estimate.extrapolate(first, found, left, seconds), processes, prices)
        _say_left_out(run)
        index.close()
    return EXIT_OK


def _list(run: Run) -> None:
    totals = run.list_source()
    say(f"{plural(totals.files, 'object')} in the source")


def _say_left_out(run: Run) -> None:
    """The manifest has no rows of their objects."""
    for folder in run.left_out:
        say(f"{folder}; its objects are left out. Give the user of lensd access, and run it again")


@contextmanager
def _start(
    machines: Machines, job: Job, folder: str, report: Callable[[str], None]
) -> Iterator[Started]:
    """Threads that hand objects to worker processes of this machine, or a cluster.

    `report` gets messages about the cluster during the run.
    """
    if machines.cluster is not None:
        try:
            from lensd.collection.on_cluster import connect
            from lensd.worker.cluster.messages import Tls
        except ImportError:
            raise UsageError(
                "--cluster needs distributed: `pip install distributed` in lensd's environment"
            ) from None
        with connect(machines.cluster, machines.tls and Tls(*machines.tls), job, report) as cluster:
            threads = plural(cluster.threads, "thread")
            say(f"{threads} of the cluster; dashboard: {cluster.dashboard}")
            inflight = machines.inflight or 2 * cluster.threads
            yield Started(cluster.submit, cluster.threads, inflight)
        return
    from lensd.collection.engines import Engines
    from lensd.collection.task import run as run_task
    from lensd.collection.threads import Threads

    inflight = machines.inflight or 2 * machines.processes
    engines = Engines(machines.processes, folder)
    pool = Threads(inflight)
    try:
        yield Started(
            lambda task: pool.submit(lambda: run_task(task, engines)),
            machines.processes,
            inflight,
        )
    except BaseException:
        engines.stop()
        raise
    finally:
        pool.close(LEAVE_SECONDS)
        engines.close()


def _print(found: Estimate, processes: int, prices: Prices) -> None:
    from lensd.text import outcomes, size

    click.echo(f"files to do: {found.files:,}, {size(found.bytes_in)}")
    if not found.sampled:
        return
    click.echo(f"sample: {outcomes(found.outcomes)}")
    ratio = found.bytes_before / max(1, found.bytes_out)
    smaller = f", {ratio:.1f} times smaller" if found.bytes_out else ""
    click.echo(f"destination: {size(found.bytes_before)} -> {size(found.bytes_out)}{smaller}")
    click.echo(
        f"time: {found.seconds / 3600:.2f} hours with "
        f"{plural(processes, 'process', 'processes')}, "
        f"{found.files / max(found.seconds, 1e-9):.2f} files/s"
    )
    hours = found.core_hours_per_million(processes)
    read = size(found.bytes_in / found.files * 10**6)
    click.echo(f"per million files: {hours:,.0f} process hours, {read} read from the source")
    cost = found.cost_per_million(prices, processes)
    if cost is not None:
        click.echo(f"cost per million files: {cost:,.2f}")
