"""Turn pydantic's errors into faults with a message and a remedy in plain words."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from lensd.config.document import Document
from lensd.config.faults import Fault, show_value
from lensd.config.yaml_lines import key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic_core import ErrorDetails

    from lensd.config.yaml_lines import Location, ParsedText

_EXPECTED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "model_type": "a section with keys of its own",
    "finite_number": "a finite number",
}
_EXAMPLE_REMEDY = "start with an example: lensd config example > config.yaml"
_VALUE_REMEDY = "write a value, or remove the line to get the default"
_RANGES = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def explain(errors: Iterable[ErrorDetails], text: ParsedText) -> list[Fault]:
    """Return a fault for each error, except for values that parsing has already reported."""
    faults = []
    for error in errors:
        location = error["loc"]
        if key_of(location) in text.unread or (error["type"] == "too_short" and error["input"]):
            continue
        message, remedy = _describe(error)
        faults.append(Fault(text.line(location), key_of(location), message, remedy))
    return faults


def explain_options(errors: Iterable[ErrorDetails]) -> Iterator[str]:
    """Yield a sentence for each error in the settings that a command has as options."""
    for error in errors:
        if error["type"] == "too_short" and error["input"]:
            continue  # its parts have errors of their own
        option = str(error["loc"][0]).replace("_", "-")
        error["loc"] = ("defaults", *error["loc"])
        message, remedy = _describe(error)
        yield f"--{option}: {message}; {remedy}"


def section_at(location: Location) -> type[BaseModel] | None:
    """Return the model of a section, e.g. of ('watch', 0); None for a plain value."""
    model: type[BaseModel] | None = Document
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if model else None
        model = _find_model(field.annotation) if field else None
    return model


def _find_model(annotation: Any) -> type[BaseModel] | None:
    for type_ in (annotation, *get_args(annotation)):
        if isinstance(type_, type) and issubclass(type_, BaseModel):
            return type_
    return None


def _describe(error: ErrorDetails) -> tuple[str, str]:
    """Return the message and the remedy for an error."""
    error_type, location, value = error["type"], error["loc"], error["input"]
    context = error.get("ctx", {})
    if error_type == "lensd_fault":
        return context["message"], context["remedy"]
    if error_type == "extra_forbidden":
        return "unknown key", _unknown_key_remedy(location)
    if error_type == "missing":
        return "this key is missing", _missing_remedy(location)
    if error_type == "literal_error":
        return _describe_wrong_choice(value, _choices(location))
    if error_type in _RANGES:
        name, words = _RANGES[error_type]
        limit = f"{words} {context[name]}"
        return f"{show_value(value)} is out of range", f"write a value of {limit}"
    if error_type in ("too_short", "string_too_short"):
        return "there is no value", _empty_remedy(location)
    if not location:
        return "the file must have keys, such as `watch:`", _EXAMPLE_REMEDY
    expected = _EXPECTED.get(error_type, error["msg"])
    return f"{show_value(value)} is not {expected}", _type_remedy(error)


def _unknown_key_remedy(location: Location) -> str:
    word = str(location[-1])
    known = _keys_of(location[:-1])
    similar = difflib.get_close_matches(word, known, n=1)
    if similar:
        return f"did you mean `{similar[0]}`?"
    sections = [key_of(section) for section in _SECTIONS if word in _keys_of(section)]
    if sections:
        return f"it belongs under `{sections[0].replace('[0]', '')}:`"
    return f"remove it; the keys of this section are {', '.join(known)}"


def _keys_of(location: Location) -> list[str]:
    model = section_at(location)
    return list(model.model_fields) if model else []


_SECTIONS: list[Location] = [
    ("defaults",),
    ("watch", 0),
    *((name,) for name in Document.model_fields if name not in ("watch", "defaults")),
]


def _missing_remedy(location: Location) -> str:
    if location == ("watch",):
        return "add `watch:` and below it a line `  - path: /the/folder`"
    return f"add `{location[-1]}: ...`"


def _empty_remedy(location: Location) -> str:
    if location == ("watch",):
        return "add a line `  - path: /the/folder`"
    return _VALUE_REMEDY


def _describe_wrong_choice(value: Any, choices: list[str]) -> tuple[str, str]:
    similar = difflib.get_close_matches(str(value).lower(), choices, n=1)
    hint = f"did you mean `{similar[0]}`? " if similar else ""
    message = f"{show_value(value)} is not one of the choices"
    return message, f"{hint}choices: {', '.join(choices)}"


def _choices(location: Location) -> list[str]:
    """Return the words that the key at a location allows."""
    keys = [part for part in location if isinstance(part, str)]
    model = section_at(location[: location.index(keys[-1])])
    field = model.model_fields[keys[-1]] if model else None
    words = _literal_values(field.annotation) if field else []
    return [word for word in words if isinstance(word, str)]


def _literal_values(annotation: Any) -> list[Any]:
    """Return the values in all `Literal[...]` of an annotation, also inside tuples and unions."""
    inner = get_args(annotation)
    return [value for part in inner for value in _literal_values(part)] if inner else [annotation]


def _type_remedy(error: ErrorDetails) -> str:
    """Return how to write the value in the type that the key needs."""
    error_type, location, value = error["type"], error["loc"], error["input"]
    key = next((part for part in reversed(location) if isinstance(part, str)), "")
    if isinstance(value, str) and (number := _parse_number(value, whole=error_type == "int_type")):
        return f"write `{key}: {number}`, without quotes"
    if error_type == "bool_type" and str(value).lower() in _BOOLEANS:
        return f"write `{key}: {_BOOLEANS[str(value).lower()]}`, without quotes"
    if error_type == "string_type" and isinstance(value, int | float):
        return f'put it in quotes: "{value}"'
    if error_type == "tuple_type" and isinstance(value, str):
        return f"write it as a list, `- path: {value}`" if key == "watch" else f"write `[{value}]`"
    if error_type == "model_type" and isinstance(value, str):
        return f"write `- path: {value}`" if key == "watch" else f"write `{key}: {{ key: value }}`"
    if value is None and key == "watch":
        return _empty_remedy(location)
    if value is None:
        return _VALUE_REMEDY
    return f"write {_EXPECTED.get(error_type, 'another value')}"


_BOOLEANS = {"true": "true", "yes": "true", "on": "true", "1": "true"} | dict.fromkeys(
    ("false", "no", "off", "0"), "false"
)


def _parse_number(text: str, *, whole: bool) -> str | None:
    try:
        return str(int(text) if whole else float(text))
    except ValueError:
        return None
