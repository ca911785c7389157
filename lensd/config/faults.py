"""A fault of a configuration file, and the error with all faults of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lensd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Fault(NamedTuple):
    """One fault or warning: its position, what is wrong, and what to do about it."""

    line: int  # 1-based
    key: str  # the full path, e.g. watch[0].path; empty for the file as a whole
    message: str
    remedy: str

    def render(self, source: str) -> str:
        """Return `source:line: key: message` and, on the next line, the remedy."""
        key = f"{self.key}: " if self.key else ""
        return f"{source}:{self.line}: {key}{self.message}\n    {self.remedy}"


class FaultyConfigError(ConfigError):
    """All faults of one configuration file, in the order of their lines."""

    def __init__(self, source: str, faults: Iterable[Fault]) -> None:
        self.source = source
        self.faults = sorted(faults, key=lambda fault: fault.line)
        super().__init__(f"{self.summary}\n{self.details}")

    @property
    def summary(self) -> str:
        count = len(self.faults)
        return f"{self.source} has {count} {'fault' if count == 1 else 'faults'}"

    @property
    def details(self) -> str:
        return "\n".join(fault.render(self.source) for fault in self.faults)


def show_value(value: Any) -> str:
    """Return a value as YAML writes it, shortened to 60 characters, for a message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
