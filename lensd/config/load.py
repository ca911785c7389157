"""Find the configuration file and read it: a Config, or every fault at once."""

from __future__ import annotations

import os
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from lensd.config.check_paths import check_folders, known_roots
from lensd.config.document import Document
from lensd.config.faults import Fault, FaultyConfigError
from lensd.config.messages import explain, section_at
from lensd.config.model import Config, resolve
from lensd.config.yaml_lines import Location, Text, key_of, parse
from lensd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

PLACES = ("config.yaml", "~/.config/lensd/config.yaml", "/etc/lensd/config.yaml")
_MAKE_ONE = "make one with: lensd config example > config.yaml"


def find_config(explicit: str | None) -> str:
    """The path given with `-c`, or the first of PLACES that is there. Raises ConfigError."""
    if explicit is not None:
        if not os.path.isfile(explicit):
            raise ConfigError(f"there is no configuration file {explicit}; {_MAKE_ONE}")
        return explicit
    for place in map(os.path.expanduser, PLACES):
        if os.path.isfile(place):
            return place
    raise ConfigError(f"no configuration file at {', '.join(PLACES)}; {_MAKE_ONE}")


def load(path: str) -> Config:
    """Read a configuration without looking at its folders. Raises FaultyConfigError."""
    config, faults = _examine(path)
    if config is None or faults:
        raise FaultyConfigError(path, faults)
    return config


def load_for_run(path: str, *, waits: bool = False) -> Config:
    """`load`, and its folders must be fit for use: faults of both kinds come together.

    `waits`: a folder that lensd has seen before may be away for now.
    """
    config, faults = _examine(path)
    if config is not None:
        faults = faults + check_folders(config, known_roots(config) if waits else ())
    if config is None or faults:
        raise FaultyConfigError(path, faults)
    return config


def _examine(path: str) -> tuple[Config | None, list[Fault]]:
    """Faults, and the configuration that the keys without a fault make (None: they make none)."""
    text = parse(_read(path))
    if text.faults and text.data is None:
        return None, text.faults
    data = _without_empty_sections({} if text.data is None else text.data)
    source = os.path.abspath(path)
    document, faults, places = _validated(data, text, os.path.dirname(source))
    faults = text.faults + faults
    if document is None:
        return None, faults
    lines = {key_of(location): line for location, line in text.lines.items()}
    config, contradictions = resolve(document, places, source, lines)
    return config, faults + contradictions


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(2_000_000)
    except OSError as error:
        message = f"cannot read the configuration {path}: {error.strerror}; check path and rights"
        raise ConfigError(message) from error


def _validated(
    data: Any, text: Text, folder: str
) -> tuple[Document | None, list[Fault], list[int]]:
    """The document, its faults, and which of the file's `watch` entries it holds.

    With faults the second try goes without the faulty keys, so that the folders can be checked too.
    """
    context = {"folder": folder}
    entries = data.get("watch") if isinstance(data, dict) else None
    places = list(range(len(entries))) if isinstance(entries, list) else []
    try:
        return Document.model_validate(data, context=context), [], places
    except ValidationError as error:
        errors = error.errors(include_url=False)
    faults = explain(errors, text)
    try:
        rest, places = _pruned(data, (error["loc"] for error in errors))
        return Document.model_validate(rest, context=context), faults, places
    except (ValidationError, LookupError, TypeError):
        return None, faults, []


def _pruned(data: Any, locations: Iterable[Location]) -> tuple[Any, list[int]]:
    rest = deepcopy(data)
    for location in locations:
        _cut(rest, location)
    entries = list(enumerate(rest["watch"]))
    rest["watch"] = [entry for _, entry in entries if _usable(entry)]
    return rest, [place for place, entry in entries if _usable(entry)]


def _usable(entry: Any) -> bool:
    return isinstance(entry, dict) and "path" in entry


def _cut(data: Any, location: Location) -> None:
    """Remove the key at a location: of a faulty list item the whole list, to keep positions."""
    keys = [place for place, part in enumerate(location) if isinstance(part, str)]
    if not keys or (location[0] == "watch" and len(keys) == 1):
        return
    for part in location[: keys[-1]]:
        data = data[part]
    if isinstance(data, dict):
        data.pop(location[keys[-1]], None)


def _without_empty_sections(data: Any) -> Any:
    """`defaults:` with nothing under it is a section whose keys are all left out."""
    if not isinstance(data, dict):
        return data
    return {
        key: value
        for key, value in data.items()
        if value is not None or key == "watch" or section_at((key,)) is None
    }
