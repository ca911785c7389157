"""What is wrong in a configuration file, and the error that carries all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lensd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Fault(NamedTuple):
    """One fault (or one warning): where it is, what it is, what to do about it."""

    line: int  # 1-based
    key: str  # the full path, e.g. watch[0].path; empty for the file as a whole
    message: str
    remedy: str

    def render(self, source: str) -> str:
        """`file:line: key: message`, then the remedy on a line of its own."""
        key = f"{self.key}: " if self.key else ""
        return f"{source}:{self.line}: {key}{self.message}\n    {self.remedy}"


class FaultyConfigError(ConfigError):
    """Every fault of one configuration file, in the order of its lines."""

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
