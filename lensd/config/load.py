"""Find the configuration file and read it into a Config, or report all of its faults at once."""

from __future__ import annotations

import os
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from lensd.config.check_cluster import check_cluster
from lensd.config.check_notify import check_notify
from lensd.config.check_paths import check_folders, known_roots
from lensd.config.document import Document
from lensd.config.faults import Fault, FaultyConfigError
from lensd.config.messages import explain, section_at
from lensd.config.model import Config, resolve
from lensd.config.yaml_lines import Location, ParsedText, key_of, parse
from lensd.errors import ConfigError
from lensd.store.deadline import answers, within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LOAD_SECONDS = 30.0  # each watched folder has its own deadline; archive and state have this one
SEARCH_PATHS = ("config.yaml", "~/.config/lensd/config.yaml", "/etc/lensd/config.yaml")
_REMEDY = "`lensd init` makes one"


def find_config(explicit: str | None) -> str:
    """Return the path given with `-c`, or the first of SEARCH_PATHS that exists.

    Raises ConfigError if there is no such file.
    """
    if explicit is not None:
        if os.path.isdir(explicit):
            raise ConfigError(f"{explicit} is a folder; name the configuration file in it")
        _require_entry([explicit])
        if not os.path.isfile(explicit):
            raise ConfigError(f"there is no configuration file {explicit}; {_REMEDY}")
        return explicit
    searched = list(map(os.path.expanduser, SEARCH_PATHS))
    for path in searched:
        if os.path.isfile(path):
            return path
    _require_entry(searched)
    paths = f"{', '.join(SEARCH_PATHS[:-1])} or {SEARCH_PATHS[-1]}"
    raise ConfigError(f"there is no configuration file {paths}; {_REMEDY}")


def _require_entry(paths: Iterable[str]) -> None:
    """Raises ConfigError for a path in a folder that may not be entered: a file may be there."""
    for path in paths:
        try:
            os.stat(path)
        except PermissionError:
            raise ConfigError(
                f"whether there is a configuration file {path} cannot be seen: you may not enter "
                "its folder; use sudo, or run lensd as its own user"
            ) from None
        except OSError:
            continue


def load(path: str) -> Config:
    """Read a configuration without checking its folders. Raises FaultyConfigError."""
    config, faults = _read_config(path)
    if config is None or faults:
        raise FaultyConfigError(path, faults)
    return config


def load_for_run(path: str, *, waits: bool = False) -> Config:
    """Read a configuration and check its folders. Raises FaultyConfigError with all faults.

    `waits`: the caller waits for folders that lensd has seen before, so these may be missing.
    """
    config, faults = _read_config(path)
    if config is not None:
        faults = faults + check_folders(config, known_roots(config) if waits else ())
        faults += check_notify(config)
        faults += check_cluster(config)
    if config is None or faults:
        raise FaultyConfigError(path, faults)
    return config


def load_in_time(
    path: str, load: Callable[[], Config], give_up: Callable[[], bool] = lambda: False
) -> Config:
    """Return what `load()` returns, which reads this configuration.

    Raises StorageError, which names the folders, when some do not answer in LOAD_SECONDS, or when
    `give_up()` is true.
    """
    return within(LOAD_SECONDS, load, give_up, lambda: _name_silent_folders(path))


def _name_silent_folders(path: str) -> str:
    """Name the folders that do not answer, except watched folders: `load_for_run` asks these."""
    if not answers(os.path.dirname(os.path.abspath(path))):
        return f"the filesystem of {path}"
    config, _ = _read_config(path)
    if config is None:
        return "a filesystem"
    asked = {
        "archive.path": config.archive.path,
        "state.path": config.state.path,
        "log.path": config.log.path,
        "metrics.textfile": config.metrics.textfile,
    }
    silent = [
        f"{folder} ({key})" for key, folder in asked.items() if folder and not answers(folder)
    ]
    return f"the filesystem of {' and '.join(silent)}" if silent else "a filesystem"


def _read_config(path: str) -> tuple[Config | None, list[Fault]]:
    """Return the configuration and its faults.

    With faults, the configuration is made from the keys without a fault, so that its folders can be
    checked too; it is None if that is impossible.
    """
    text = parse(_read_bytes(path))
    if text.faults and text.data is None:
        return None, text.faults
    data = _drop_empty_sections({} if text.data is None else text.data)
    source = os.path.abspath(path)
    document, faults, indices = _validate(data, text, os.path.dirname(source))
    faults = text.faults + faults
    if document is None:
        return None, faults
    lines = {key_of(location): line for location, line in text.lines.items()}
    config, contradictions = resolve(document, indices, source, lines)
    return config, faults + contradictions


def _read_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(2_000_000)
    except OSError as error:
        message = (
            f"cannot read the configuration {path}: {error.strerror}; check the path and its "
            "access rights"
        )
        raise ConfigError(message) from error


def _validate(
    data: Any, text: ParsedText, folder: str
) -> tuple[Document | None, list[Fault], list[int]]:
    """Return the document, its faults, and the indices of the `watch` entries that it has.

    With faults, the document is made without the faulty keys.
    """
    context = {"folder": folder}
    entries = data.get("watch") if isinstance(data, dict) else None
    indices = list(range(len(entries))) if isinstance(entries, list) else []
    try:
        return Document.model_validate(data, context=context), [], indices
    except ValidationError as error:
        errors = error.errors(include_url=False)
    faults = explain(errors, text)
    try:
        rest, indices = _drop_faulty(data, (error["loc"] for error in errors))
        return Document.model_validate(rest, context=context), faults, indices
    except (ValidationError, LookupError, TypeError):
        return None, faults, []


def _drop_faulty(data: Any, locations: Iterable[Location]) -> tuple[Any, list[int]]:
    """Return the data without the keys at these locations, and the indices of the entries left."""
    rest = deepcopy(data)
    for location in locations:
        _remove_key(rest, location)
    entries = list(enumerate(rest["watch"]))
    rest["watch"] = [entry for _, entry in entries if _has_path(entry)]
    return rest, [index for index, entry in entries if _has_path(entry)]


def _has_path(entry: Any) -> bool:
    return isinstance(entry, dict) and "path" in entry


def _remove_key(data: Any, location: Location) -> None:
    """Remove the key at a location.

    For an item of a list, the key of the whole list is removed. Entries of `watch` stay, so that
    the indices of the others do not change.
    """
    keys = [index for index, part in enumerate(location) if isinstance(part, str)]
    if not keys or (location[0] == "watch" and len(keys) == 1):
        return
    for part in location[: keys[-1]]:
        data = data[part]
    if isinstance(data, dict):
        data.pop(location[keys[-1]], None)


def _drop_empty_sections(data: Any) -> Any:
    """Drop sections without keys: `defaults:` with nothing below it has only default values."""
    if not isinstance(data, dict):
        return data
    return {
        key: value
        for key, value in data.items()
        if value is not None or key == "watch" or section_at((key,)) is None
    }
