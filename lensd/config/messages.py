"""What pydantic found -> faults in plain words, with the nearest name and a remedy."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from lensd.config.document import Document
from lensd.config.faults import Fault
from lensd.config.yaml_lines import key_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_core import ErrorDetails

    from lensd.config.yaml_lines import Location, Text

_EXPECTED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "model_type": "a section with keys of its own",
    "finite_number": "a finite number",
}
_START = "start from: lensd config example > config.yaml"
_RANGES = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def explain(errors: Iterable[ErrorDetails], text: Text) -> list[Fault]:
    """One fault per error; what the reading of the text already found is not told twice."""
    faults = []
    for error in errors:
        location = error["loc"]
        if key_of(location) in text.unread or (error["type"] == "too_short" and error["input"]):
            continue
        message, remedy = _words(error)
        faults.append(Fault(text.line(location), key_of(location), message, remedy))
    return faults


def section_at(location: Location) -> type[BaseModel] | None:
    """The model that a section, e.g. ('watch', 0), is read into; None for a plain value."""
    model: type[BaseModel] | None = Document
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if model else None
        model = _model_in(field.annotation) if field else None
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _words(error: ErrorDetails) -> tuple[str, str]:
    kind, location, value = error["type"], error["loc"], error["input"]
    context = error.get("ctx", {})
    if kind == "lensd_fault":
        return context["message"], context["remedy"]
    if kind == "extra_forbidden":
        return "unknown key", _nearest_key(location)
    if kind == "missing":
        return "this key is missing", _missing_remedy(location)
    if kind == "literal_error":
        return _wrong_word(value, _choices(location))
    if kind in _RANGES:
        name, words = _RANGES[kind]
        limit = f"{words} {context[name]}"
        return f"{_shown(value)} is out of range", f"write a value of {limit}"
    if kind in ("too_short", "string_too_short"):
        return "nothing is written here", _empty_remedy(location)
    if not location:
        return "the file must be made of keys, such as `watch:`", _START
    return f"{_shown(value)} is not {_EXPECTED.get(kind, error['msg'])}", _type_remedy(error)


def _nearest_key(location: Location) -> str:
    word = str(location[-1])
    known = _keys(location[:-1])
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"did you mean `{near[0]}`?"
    homes = [key_of(home) for home in _HOMES if word in _keys(home)]
    if homes:
        return f"it belongs under `{homes[0].replace('[0]', '')}:`"
    return f"remove it; the keys here are {', '.join(known)}"


def _keys(location: Location) -> list[str]:
    model = section_at(location)
    return list(model.model_fields) if model else []


_HOMES: list[Location] = [
    ("defaults",),
    ("watch", 0),
    *((name,) for name in Document.model_fields if name not in ("watch", "defaults")),
]


def _missing_remedy(location: Location) -> str:
    if location == ("watch",):
        return "add `watch:` with a line `  - path: /the/folder` under it"
    return f"add `{location[-1]}: ...`"


def _empty_remedy(location: Location) -> str:
    if location == ("watch",):
        return "add a line `  - path: /the/folder`"
    return "write a value, or remove the line for the default"


def _wrong_word(value: Any, choices: list[str]) -> tuple[str, str]:
    near = difflib.get_close_matches(str(value).lower(), choices, n=1)
    remedy = f"did you mean `{near[0]}`? " if near else ""
    return f"{_shown(value)} is not one of the choices", f"{remedy}choices: {', '.join(choices)}"


def _choices(location: Location) -> list[str]:
    keys = [part for part in location if isinstance(part, str)]
    model = section_at(location[: location.index(keys[-1])])
    field = model.model_fields[keys[-1]] if model else None
    return [word for word in _leaves(field.annotation) if isinstance(word, str)] if field else []


def _leaves(annotation: Any) -> list[Any]:
    """The values in `Literal[...]`, at whatever depth of tuples and unions."""
    inner = get_args(annotation)
    return [leaf for part in inner for leaf in _leaves(part)] if inner else [annotation]


def _type_remedy(error: ErrorDetails) -> str:
    kind, location, value = error["type"], error["loc"], error["input"]
    key = next((part for part in reversed(location) if isinstance(part, str)), "")
    if isinstance(value, str) and (number := _number(value, whole=kind == "int_type")):
        return f"write `{key}: {number}`, without quotes"
    if kind == "bool_type" and str(value).lower() in _SWITCHES:
        return f"write `{key}: {_SWITCHES[str(value).lower()]}`, without quotes"
    if kind == "string_type" and isinstance(value, int | float):
        return f'put it in quotes: "{value}"'
    if kind == "tuple_type" and isinstance(value, str):
        return f"write it as a list, `- path: {value}`" if key == "watch" else f"write `[{value}]`"
    if kind == "model_type" and isinstance(value, str):
        return f"write `- path: {value}`" if key == "watch" else f"write `{key}: {{ key: value }}`"
    if value is None and key == "watch":
        return _empty_remedy(location)
    if value is None:
        return "write a value, or remove the line for the default"
    return f"write {_EXPECTED.get(kind, 'another value')}"


_SWITCHES = {"true": "true", "yes": "true", "on": "true", "1": "true"} | dict.fromkeys(
    ("false", "no", "off", "0"), "false"
)


def _number(text: str, *, whole: bool) -> str | None:
    try:
        return str(int(text) if whole else float(text))
    except ValueError:
        return None


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
