"""One message for all that happened: a title and a text, however many files it is about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from lensd.errors import Outcome
from lensd.notify.news import Ended, News
from lensd.report.documents import Report
from lensd.text import outcomes, plural, size, visible

SHOWN = 10  # files of a message; the others are counted
_LONGEST = 300  # characters about one file


@dataclass(frozen=True, slots=True)
class Message:
    """A title of one line, and a text of some."""

    title: str
    body: str


TEST = Message("lensd: a test", "This message is from `lensd notify --test`.")


def compose(news: News) -> Message:
    """Return the message of news, which are not empty."""
    parts = [*_count_files(news.ended)]
    if news.fresh:
        parts.append(plural(len(news.fresh), "problem"))
    if news.solved and not parts:
        parts.append(plural(len(news.solved), "problem") + " solved")
    if news.week is not None and not parts:
        parts.append("the last seven days")
    return Message(f"lensd: {', '.join(parts)}", "\n".join(_write_body(news)))


def _write_body(news: News) -> Iterator[str]:
    for text in news.fresh:
        yield _one_line(text)
    for key in news.solved:
        yield f"Solved: {'a disk that jobs waited for' if key == 'disk' else _one_line(key)}"
    for ended in news.ended[:SHOWN]:
        yield _one_line(f"{ended.outcome}: {ended.path}: {ended.message}")
    if len(news.ended) > SHOWN:
        yield f"... and {plural(len(news.ended) - SHOWN, 'more file')}"
    if news.ended:
        yield "`lensd report --since 7d` lists all; `lensd retry` tries them again."
    if news.week is not None:
        yield from _write_week(news.week)


def _write_week(week: Report) -> Iterator[str]:
    yield f"The last seven days: {outcomes(week.outcomes) or 'no files'}"
    if week.bytes.before:
        yield f"{size(week.bytes.before)} became {size(week.bytes.after)}"


def _count_files(ended: list[Ended]) -> Iterator[str]:
    words = {Outcome.FAILED: "failed", Outcome.QUARANTINED: "quarantined"}
    counts = Counter(e.outcome for e in ended)
    for outcome, word in words.items():
        if counts[outcome]:
            yield f"{plural(counts[outcome])} {word}"


def _one_line(text: str) -> str:
    line = visible(" ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
