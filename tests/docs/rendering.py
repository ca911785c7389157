"""The log's JSON Schema, and the parts of the documentation that are made from the code.

A part stands between `<!-- from the code: NAME -->` and `<!-- end -->`. The command
`python -m tests.docs.rendering` writes all of them and the schema; tests compare both.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bench import pictures_tables, scale_table, tables
from lensd.cli import COMMANDS, main
from lensd.config.document import Document
from lensd.config.installations import PROGRAMS as INSTALLATIONS
from lensd.config.messages import section_at
from lensd.config.settings import Settings, WatchEntry
from lensd.daemon import app
from lensd.errors import DegradedReason, Outcome, Reason
from lensd.logs.schema import log_schema
from lensd.lora.layout import NAMINGS, OTHER_ADAPTERS
from lensd.lora.portability import ENCODINGS, PROGRAMS, READS, cell
from lensd.metrics.exposition import Family
from tests.docs.man_page import man_page
from tests.faults import results
from tests.support import prometheus
from tests.web import refusals

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((REPOSITORY / "docs").rglob("*.md"))
PART = re.compile(r"(<!-- from the code: ([a-z ]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

MAN_PAGE = REPOSITORY / "lensd/cli/lensd.1"
LOG_SCHEMA = REPOSITORY / "lensd/logs/events.schema.json"
# Events that share fields: how the table calls them, and the pattern of their names.
SHARED_FIELDS = {
    "every line": "",
    "every line about a file": "file",
    "`file.kept`, `.skipped`, `.postponed`, `.failed`, `.quarantined`": (
        r"file\.(kept|skipped|postponed|failed|quarantined)"
    ),
    "`file.compressed`, `file.analyzed`": r"file\.(compressed|analyzed)",
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
    found = log_schema()
    names = [choice["$ref"].rpartition("/")[2] for choice in found["oneOf"]]
    own = {event: dict(found["$defs"][event]["properties"]) for event in names}
    for title, pattern in SHARED_FIELDS.items():
        members = [fields for event, fields in own.items() if re.match(pattern, event)]
        shared = {k: v for k, v in members[0].items() if all(m.get(k) == v for m in members)}
        for fields in members:
            for name in shared:
                del fields[name]
        yield f"| {title} | | {_fields(shared)} |"
    for event, fields in own.items():
        described = found["$defs"][event]["description"]
        yield f"| `{event}` | {_cell(described)} | {_fields(fields)} |"


def _fields(properties: Mapping[str, Any]) -> str:
    definitions = log_schema()["$defs"]
    shown = []
    for name, value in properties.items():
        if name == "event" or name.endswith("_b64"):
            continue
        reference = value.get("$ref", "").rpartition("/")[2]
        words = value.get("description") or definitions.get(reference, {}).get("description")
        choices = [f"`{choice}`" for choice in value.get("enum", ())]
        note = "; ".join(filter(None, (words, ", ".join(choices))))
        shown.append(f"`{name}`" + (f" ({_cell(note)})" if note else ""))
    return ", ".join(shown) or "-"


def reasons(outcome: Outcome) -> Iterator[str]:
    """Cause and remedy of each reason with which a file ends so."""
    yield "| reason | what happened | what to do |"
    yield "|---|---|---|"
    for reason in Reason:
        if reason.outcome == outcome:
            yield f"| `{reason}` | {_cell(reason.cause)} | {_cell(reason.remedy)} |"


def degraded() -> Iterator[str]:
    yield "| `reason` | what happened | effect |"
    yield "|---|---|---|"
    for reason in DegradedReason:
        yield f"| `{reason}` | {_cell(reason.text)} | {_cell(reason.effect)} |"


def metrics() -> Iterator[str]:
    yield "| metric | kind | labels | meaning |"
    yield "|---|---|---|---|"
    for family in prometheus.families():
        kind = family.kind if isinstance(family, Family) else "histogram"
        labels = family.labels if isinstance(family, Family) else (family.label,)
        shown = ", ".join(f"`{label}`" for label in labels)
        yield f"| `{family.name}` | {kind} | {shown or '-'} | {family.meaning} |"


def programs() -> Iterator[str]:
    """The two namings of most files, for the README."""
    titles = {
        "kohya: sd": "SD and SDXL, kohya naming",
        "peft transformer: flux": "FLUX, peft naming",
    }
    heads = [f"{t}: {m}" for t in titles.values() for m in ("`rank`", "`int8`, `ultra`")]
    yield f"| program | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 1) + "|"
    for program in PROGRAMS:
        cells = [word for naming in titles for word in _answers(naming, program)]
        yield f"| {program} | {' | '.join(cells)} |"


def _answers(dialect: str, program: str) -> tuple[str, str]:
    cells = {e: cell(dialect, program, e) for e in ENCODINGS}
    if not cells["int8"].may_read:
        return "-", "-"
    return "yes", next((e for e, c in cells.items() if c.kind == "exact"), "no")


def portability() -> Iterator[str]:
    """The encodings that a program loads exactly, by dialect."""
    yield f"| naming | {' | '.join(PROGRAMS)} |"
    yield "|---" * (len(PROGRAMS) + 1) + "|"
    for dialect in READS:
        yield f"| {dialect} | {' | '.join(_portable(dialect, p) for p in PROGRAMS)} |"


def _portable(dialect: str, program: str) -> str:
    cells = [cell(dialect, program, e) for e in ENCODINGS]
    exact = [e for e, c in zip(ENCODINGS, cells, strict=True) if c.kind == "exact"]
    if exact:
        return " ".join(exact)
    words = {"reads nothing": "-", "not observed": "?"}
    return words.get(cells[0].kind, "16 bits")


def evidence() -> Iterator[str]:
    """How many cells are known how, of which version and when, by program."""
    yield "| program | version | observed | tested here | run | read |"
    yield "|---|---|---|---:|---:|---:|"
    for program in PROGRAMS:
        found = [cell(d, program, e).source for d in READS for e in ENCODINGS]
        sources = [s for s in found if s is not None]
        dates, versions = ({getattr(s, f) for s in sources} for f in ("date", "version"))
        counts = [sum(s.how == how for s in sources) for how in ("test", "run", "read")]
        known = f"{', '.join(sorted(versions))} | {', '.join(sorted(dates))}"
        yield f"| `{program}` | {known} | {' | '.join(map(str, counts))} |"


def installations() -> Iterator[str]:
    """How `lensd init` recognizes a program, and where its LoRAs are."""
    yield "| program | its folder contains | LoRAs are in | `targets` |"
    yield "|---|---|---|---|"
    for layout in INSTALLATIONS:
        marks, loras = (", ".join(f"`{n}`" for n in t) for t in (layout.marks, layout.loras))
        target = f"`{layout.target}`" if layout.target else "those of its packages"
        yield f"| {layout.program} | {marks} | {loras} | {target} |"


def namings() -> Iterator[str]:
    yield "| naming | down | up | alpha |"
    yield "|---|---|---|---|"
    for n in NAMINGS:
        number = " and a number" if n.numbered else ""
        alpha = "none" if n.numbered else f"`{n.end}{n.alpha}`"
        yield f"| {n.name} | `{n.down}`{number} | `{n.up}`{number} | {alpha} |"


def adapters() -> Iterator[str]:
    yield "| adapter | recognised by |"
    yield "|---|---|"
    for kind, part in OTHER_ADAPTERS:
        yield f"| {kind} | `{part}` in a tensor's name |"


def owners() -> Iterator[str]:
    """The table of shared state at the top of lensd/daemon/app.py."""
    lines = (app.__doc__ or "").splitlines()
    rule = next(number for number, line in enumerate(lines) if line.startswith("---"))
    starts = [found.start() for found in re.finditer("-+", lines[rule])]
    for number, line in enumerate(itertools.takewhile(str.strip, lines[rule - 1 :])):
        cells = [line[a:b].strip() for a, b in itertools.pairwise([*starts, None])]
        yield f"| {' | '.join(cells)} |" if number != 1 else "|---" * len(cells) + "|"


RENDERERS: dict[str, Callable[[], Iterator[str]]] = {
    "adapters": adapters,
    "batch client": scale_table.client,
    "collections": scale_table.table,
    "commands": commands,
    "configuration": configuration,
    "degraded": degraded,
    "events": events,
    "evidence": evidence,
    "failed": partial(reasons, Outcome.FAILED),
    "faults": results.table,
    "installations": installations,
    "kept": partial(reasons, Outcome.KEPT),
    "metrics": metrics,
    "models": tables.models,
    "namings": namings,
    "one core": scale_table.one_core,
    "owners": owners,
    "portability": portability,
    "processor": tables.processor,
    "programs": programs,
    "quality": partial(pictures_tables.of_documentation, "settings"),
    "quarantined": partial(reasons, Outcome.QUARANTINED),
    "refusals": refusals.table,
    "rules": partial(pictures_tables.of_documentation, "rules"),
    "savings": tables.savings,
    "scale": tables.scale,
    "sizes": tables.sizes,
    "skipped": partial(reasons, Outcome.SKIPPED),
    "speed": tables.speed,
}


def rendered(text: str) -> str:
    """The page with every part made anew."""
    return PART.sub(lambda m: m[1] + "\n".join(RENDERERS[m[2]]()) + "\n" + m[4], text)


def log_schema_text() -> str:
    """What LOG_SCHEMA should be."""
    return json.dumps(log_schema(), indent=2) + "\n"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    LOG_SCHEMA.write_text(log_schema_text(), encoding="utf-8")
    MAN_PAGE.write_text(man_page(), encoding="utf-8")
    for page in PAGES:
        page.write_text(rendered(page.read_text(encoding="utf-8")), encoding="utf-8")
