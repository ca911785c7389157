"""`lensd init`: write a first configuration from a few answers or options."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from lensd.cli import fold, say, show_line
from lensd.errors import ConfigError, UsageError
from lensd.text import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lensd.config.first import Answers, Places
    from lensd.config.installations import Installation

_EXISTING = ("leave", "compress")


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(), metavar="[FOLDER]...")
@click.option(
    "-c",
    "--config",
    metavar="CONFIG",
    type=click.Path(),
    help="The file to write. Default: /etc/lensd/config.yaml for root, else "
    "~/.config/lensd/config.yaml.",
)
@click.option("--search", multiple=True, metavar="DIR", help="Search for programs here too.")
@click.option("--targets", metavar="T,...", help="The programs that load the LoRAs.")
@click.option("--archive", metavar="DIR", help="Where to keep the originals.")
@click.option("--state", metavar="DIR", help="Where to keep the ledger.")
@click.option(
    "--existing",
    type=click.Choice(_EXISTING),
    help="What to do with the files that are there already. Default: leave.",
)
@click.option("--yes", is_flag=True, help="Ask nothing; take what was found, and the defaults.")
@click.option("--force", is_flag=True, help="Replace a configuration; keep it as CONFIG.old.")
@click.pass_context
def init(context: click.Context, /, folders: tuple[str, ...], **options: Any) -> int:
    """Write a first configuration, and check it.

    Finds the LoRA folders of ComfyUI, AUTOMATIC1111, Forge, SD.Next, InvokeAI and Stability Matrix
    below your home, /opt and /srv. At a terminal, it asks for what no option says; it changes
    nothing but the new configuration.

    \b
    lensd init                                    ask
    lensd init --search /mnt/ai                   search there too
    lensd init /srv/loras --archive /mnt/archive  ask only for the rest
    lensd init /srv/loras --yes                   ask nothing
    """
    from lensd.cli.check import check
    from lensd.cli.views import setup as view
    from lensd.config import first
    from lensd.config.installations import SEARCHED, find_installations

    places = first.Places.of_user(os.geteuid())
    path = os.path.abspath(os.path.expanduser(options["config"] or places.config))
    first.require_place(path, force=options["force"])
    asks = sys.stdin.isatty() and not options["yes"]
    found = find_installations((*SEARCHED, *options["search"], *folders))
    answers = _collect(folders, options, places, found, asks=asks)
    kept = first.write(path, first.render(answers), force=options["force"])
    show_line(f"wrote {path}" + (f"; the old one is {kept}" if kept else ""))
    code: int = context.invoke(check, config=path)
    if code == 0:
        view.show_next_steps(path, answers.existing)
        _offer_service(context, path, asks=asks)
    return code


def _collect(
    folders: Sequence[str],
    options: dict[str, Any],
    places: Places,
    found: Sequence[Installation],
    *,
    asks: bool,
) -> Answers:
    """Return the answers: those of the options, those that a person gives, and the defaults."""
    from lensd.cli.views import setup as view
    from lensd.config.first import Answers

    watched = _choose_folders(folders, found, asks=asks)
    targets = _choose_targets(options["targets"], found, watched, asks=asks)
    archive = options["archive"]
    if archive is None and asks:
        archive = _ask_archive(places.archive, watched)
    archive = _absolute(archive or places.archive)
    view.warn_same_disk(archive, watched)
    state = options["state"]
    log = places.log if state is None or places.log is None else os.path.join(state, "lensd.log")
    return Answers(
        folders=watched,
        targets=targets,
        existing=options["existing"] or _choose_existing(watched, asks=asks),
        archive=archive,
        state=_absolute(state or places.state),
        log=None if log is None else _absolute(log),
    )


def _choose_folders(
    given: Sequence[str], found: Sequence[Installation], *, asks: bool
) -> tuple[str, ...]:
    """Return the folders to watch. Raises ConfigError for one that does not exist, UsageError."""
    from lensd.cli.views import setup as view

    chosen = [_require_folder(folder) for folder in given]
    if not given:
        view.show_installations(found)
        offered = _without_nested(path for program in found for path in program.loras)
        chosen = _ask_folders(offered) if asks else offered
    if not chosen:
        raise UsageError("no folder with LoRAs was found; name one: lensd init /path/of/loras")
    return tuple(_without_nested(chosen))


def _ask_folders(offered: list[str]) -> list[str]:
    """Ask which of the folders to watch, and for others."""
    if offered and click.confirm("Watch all of these folders?", default=True, err=True):
        chosen = offered
    else:
        chosen = [p for p in offered if click.confirm(f"Watch {visible(p)}?", err=True)]
    return chosen + _ask_further(chosen)


def _ask_further(chosen: Sequence[str]) -> list[str]:
    """Ask for folders until an empty answer; without `chosen`, for at least one."""
    further: list[str] = []
    while True:
        needed = not (chosen or further)
        question = "Folder with your LoRAs" if needed else "Another folder (Enter: no more)"
        answer = _ask(question, None if needed else "", _require_folder_or_nothing)
        if not answer:
            return further
        further.append(answer)


def _choose_targets(
    given: str | None, found: Sequence[Installation], watched: Sequence[str], *, asks: bool
) -> Any:
    """Return names for `targets`: by default of the programs that use the watched folders."""
    from lensd.lora.portability import DEFAULT_TARGETS, PROGRAMS

    users = [p.target for p in found if p.target and set(p.loras) & set(watched)]
    default = tuple(dict.fromkeys(users)) or DEFAULT_TARGETS
    if given is not None:
        return _parse_targets(given)
    if not asks:
        return default
    show_line(f"Programs: {', '.join(PROGRAMS)}", err=True)
    return _ask("Which of them load these LoRAs?", ", ".join(default), _parse_targets)


def _parse_targets(text: str) -> tuple[str, ...]:
    """Raises UsageError for a name that is no program."""
    from difflib import get_close_matches

    from lensd.lora.portability import PROGRAMS

    names = tuple(dict.fromkeys(filter(None, text.replace(",", " ").split())))
    for name in names:
        if name not in PROGRAMS:
            close = get_close_matches(name, PROGRAMS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose of {', '.join(PROGRAMS)}"
            raise UsageError(f"{name!r} is no program that lensd knows; {hint}")
    if not names:
        raise UsageError(f"no program is named; choose of {', '.join(PROGRAMS)}")
    return names


def _ask_archive(default: str, watched: Sequence[str]) -> str:
    """Ask for the archive; a folder inside a watched one is refused."""
    from lensd.config.check_paths import is_inside

    def check(text: str) -> str:
        path = _absolute(text)
        for folder in watched:
            if is_inside(path, folder):
                raise UsageError(f"{path} is inside the watched folder {folder}")
        return path

    click.echo("The archive keeps the originals; best on another disk.", err=True)
    return str(_ask("Folder for the archive", default, check))


def _choose_existing(watched: Sequence[str], *, asks: bool) -> Any:
    from lensd.cli.views import setup as view
    from lensd.store.space import count_files

    files, total = count_files(watched)
    if not (asks and files):
        return _EXISTING[0]
    question = f"{view.describe_files(files, total)} there now. Compress them too?"
    return _EXISTING[click.confirm(question, default=False, err=True)]


def _offer_service(context: click.Context, path: str, *, asks: bool) -> None:
    """Where systemd runs: start the service, or say how."""
    from lensd.cli.service import service
    from lensd.cli.views import setup as view
    from lensd.systemd.install import is_booted

    if not is_booted():
        return
    if asks and os.geteuid() == 0 and _wants_service():
        context.invoke(service, config=path, unit="lensd", install=True)
    else:
        view.show_service_command(path)


def _wants_service() -> bool:
    """^C means no: the configuration is written already."""
    try:
        return click.confirm("Start lensd now and at each boot, as a service?", err=True)
    except click.Abort:
        click.echo(err=True)
        return False


def _ask(question: str, default: str | None, parse: Callable[[str], Any]) -> Any:
    """Ask until `parse` takes the answer."""
    while True:
        text = fold(f"{question} [{default}]" if default else question)
        answer = click.prompt(text, default=default, show_default=False, err=True, type=str)
        try:
            return parse(answer)
        except (UsageError, ConfigError) as error:
            say(str(error))


def _require_folder_or_nothing(text: str) -> str:
    return _require_folder(text) if text.strip() else ""


def _require_folder(text: str) -> str:
    path = _absolute(text)
    if not os.path.isdir(path):
        raise ConfigError(
            f"there is no folder {path}; correct the path, or create it: mkdir -p '{path}'"
        )
    return path


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path.strip()))


def _without_nested(paths: Iterable[str]) -> list[str]:
    """Leave out folders that are the same as, or inside, another one."""
    from lensd.config.check_paths import is_inside

    chosen: list[str] = []
    for path in sorted(set(paths), key=lambda path: (len(path), path)):
        if not any(is_inside(path, outer) for outer in chosen):
            chosen.append(path)
    return sorted(chosen)
