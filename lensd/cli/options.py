"""Options and arguments that several commands share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable

    from click.shell_completion import CompletionItem

    from lensd.config.model import Config

config_option = click.option(
    "-c",
    "--config",
    "config",
    metavar="CONFIG",
    type=click.Path(),
    help="The configuration file. Default: ./config.yaml, then ~/.config/lensd/config.yaml, "
    "then /etc/lensd/config.yaml.",
)

verbose_option = click.option(
    "-v", "--verbose", is_flag=True, help="At a terminal, print a line for each file."
)


def load_config(given: str | None) -> Config:
    """Load the configuration without checking its folders. Raises ConfigError."""
    from lensd.config.load import find_config, load  # imports pydantic, which --help must not

    return load(find_config(given))


def find_named(config: Config, paths: Iterable[str]) -> tuple[str, ...]:
    """The paths that a person gave; a name like `loras/style.safetensors`, as terminals show it,
    becomes the path in the watched folder `loras`, unless the name is that of another file here.
    A name as messages show it, such as `latin\\xe9`, becomes the one that it stands for.
    """
    from lensd.store.paths import is_below, resolve_path
    from lensd.text import visible

    def find(path: str) -> str:
        name, _, inside = path.partition("/")
        shown = visible(name)
        watch = next((watch for watch in config.watch if visible(watch.name) == shown), None)
        if watch is None or os.path.lexists(path):
            return path
        here = resolve_path(path)
        is_watched = any(is_below(here, other.root) for other in config.watch)
        return path if is_watched else os.path.join(watch.root, inside)

    return tuple(_unescape(config, find(path)) for path in paths)


def _unescape(config: Config, path: str) -> str:
    """The name that is there, or else in the archive, among those that messages show so."""
    from lensd.store.paths import is_below, resolve_path
    from lensd.text import names_shown_as

    def is_archived(name: str) -> bool:
        here = resolve_path(name)
        watch = next((watch for watch in config.watch if is_below(here, watch.root)), None)
        return watch is not None and os.path.lexists(
            os.path.join(config.archive.path, watch.name, os.path.relpath(here, watch.root))
        )

    if "\\" not in path:
        return path
    names = (path, *names_shown_as(path))
    return next(
        (name for has in (os.path.lexists, is_archived) for name in names if has(name)), path
    )


def load_named(given: str | None, paths: Iterable[str]) -> tuple[Config, tuple[str, ...]]:
    """The configuration, and `find_named` paths as the ledger writes them. Raises ConfigError."""
    from lensd.store.paths import resolve_path

    config = load_config(given)
    return config, tuple(map(resolve_path, find_named(config, paths)))


class Lora(click.Path):
    """The path of a LoRA file; shells complete folders and names that end in .safetensors."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Let the shell complete names, because it knows how to quote them (completions/)."""
        del ctx, param
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="lora")]


LORA = Lora(exists=True, dir_okay=False)
LORA_OR_FOLDER = Lora()
