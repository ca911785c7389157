"""The parts of the documentation that are made from the code: `python -m tests.docs.rendering`.

A part stands between `<!-- from the code: NAME -->` and `<!-- end -->`. The command writes all of
them anew; a test holds them equal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bench import tables
from lensd.cli import COMMANDS, main
from lensd.config.document import Document, Settings, WatchEntry
from lensd.config.messages import section_at
from lensd.lora.layout import NAMINGS, OTHER_ADAPTERS
from lensd.lora.portability import PROGRAMS, READS
from lensd.metrics.exposition import Family
from lensd.report import schema
from tests.faults import results
from tests.support import prometheus

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((REPOSITORY / "docs").rglob("*.md"))
PART = re.compile(r"(<!-- from the code: ([a-z ]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

# $defs of the log's schema that several events share, and how the table calls them.
SHARED_FIELDS = {
    "line": "every line",
    "file": "every line about a file",
    "file_end": "`file.kept`, `.skipped`, `.failed`, `.quarantined`",
    "measures": "`file.compressed`, `file.analyzed`",
}


def commands() -> Iterator[str]:
    yield "| command | does | options |"
    yield "|---|---|---|"
    for verb, (_, line) in COMMANDS.items():
        command = main.get_command(click.Context(main), verb)
        yield f"| `lensd {verb}` | {line} | {', '.join(_options(command)) or '-'} |"
        if isinstance(command, click.Group):
            for name, sub in command.commands.items():
                yield f"| `lensd {verb} {name}` | {sub.get_short_help_str(120)} | - |"


def _options(command: click.Command | None) -> Iterator[str]:
    for parameter in command.params if command else ():
        if isinstance(parameter, click.Option):
            yield " ".join(f"`{name}`" for name in parameter.opts)


def configuration() -> Iterator[str]:
    yield "| key | default | meaning |"
    yield "|---|---|---|"
    for name, field in WatchEntry.model_fields.items():
        if name not in Settings.model_fields:
            yield _key(f"watch[].{name}", field)
    for section in list(Document.model_fields)[1:]:
        model: type[BaseModel] | None = section_at((section,))
        for name, field in model.model_fields.items() if model else ():
            yield _key(f"{section}.{name}", field)


def _key(key: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else f"`{json.dumps(field.get_default())}`"
    return f"| `{key}` | {default} | {_cell(field.description)} |"


def events() -> Iterator[str]:
    yield "| event | when | fields |"
    yield "|---|---|---|"
    definitions = schema.load()["$defs"]
    for name, title in SHARED_FIELDS.items():
        yield f"| {title} | | {_fields(definitions[name])} |"
    for event in schema.events():
        described = definitions[event]["description"]
        yield f"| `{event}` | {_cell(described)} | {_fields(definitions[event])} |"


def _fields(definition: Mapping[str, Any]) -> str:
    shown = []
    for name, value in definition["properties"].items():
        if name == "event" or name.endswith("_b64"):
            continue
        reference = value.get("$ref", "").rpartition("/")[2]
        words = value.get("description") or schema.load()["$defs"].get(reference, {}).get(
            "description"
        )
        choices = [f"`{choice}`" for choice in value.get("enum", ())]
        note = "; ".join(filter(None, (words, ", ".join(choices))))
        shown.append(f"`{name}`" + (f" ({_cell(note)})" if note else ""))
    return ", ".join(shown) or "-"


def metrics() -> Iterator[str]:
    yield "| metric | kind | labels | meaning |"
    yield "|---|---|---|---|"
    for family in prometheus.families():
        kind = family.kind if isinstance(family, Family) else "histogram"
        labels = family.labels if isinstance(family, Family) else (family.label,)
        shown = ", ".join(f"`{label}`" for label in labels)
        yield f"| `{family.name}` | {kind} | {shown or '-'} | {family.meaning} |"


def programs() -> Iterator[str]:
    """The two namings of most files, mode by mode, for the README."""
    titles = {"kohya": "kohya naming", "peft transformer": "FLUX, peft naming"}
    heads = [f"{t}: {m}" for t in titles.values() for m in ("`rank`", "`int8`, `ultra`")]
    yield f"| program | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 1) + "|"
    words = {True: ("yes", "yes"), False: ("yes", "no"), None: ("-", "-")}
    for program in PROGRAMS:
        cells = [word for naming in titles for word in words[READS[naming].get(program)]]
        yield f"| {program} | {' | '.join(cells)} |"


def portability() -> Iterator[str]:
    """`int8`: loads exactly. `floats`: the program reads the dialect, but not its int8.

    `-`: it does not read the dialect. `?`: it was not tried.
    """
    yield f"| program | {' | '.join(READS)} |"
    yield "|---" * (len(READS) + 1) + "|"
    for program in PROGRAMS:
        cells = [_portable(readers, program) for readers in READS.values()]
        yield f"| `{program}` | {' | '.join(cells)} |"


def _portable(readers: Mapping[str, bool | None], program: str) -> str:
    words = {True: "int8", False: "floats", None: "-"}
    return words[readers[program]] if program in readers else "?"


def namings() -> Iterator[str]:
    yield "| naming | down | up | alpha |"
    yield "|---|---|---|---|"
    for n in NAMINGS:
        yield f"| {n.name} | `{n.down}` | `{n.up}` | `{n.end}{n.alpha}` |"


def adapters() -> Iterator[str]:
    yield "| adapter | recognised by |"
    yield "|---|---|"
    for kind, part in OTHER_ADAPTERS:
        yield f"| {kind} | `{part}` in a tensor's name |"


RENDERERS: dict[str, Callable[[], Iterator[str]]] = {
    "adapters": adapters,
    "commands": commands,
    "configuration": configuration,
    "events": events,
    "faults": results.table,
    "metrics": metrics,
    "namings": namings,
    "portability": portability,
    "programs": programs,
    "savings": tables.savings,
    "scale": tables.scale,
    "sizes": tables.sizes,
    "speed": tables.speed,
}


def rendered(text: str) -> str:
    """The page with every part made anew."""
    return PART.sub(lambda m: m[1] + "\n".join(RENDERERS[m[2]]()) + "\n" + m[4], text)


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(rendered(page.read_text(encoding="utf-8")), encoding="utf-8")
