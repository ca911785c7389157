"""Requests that `lensd web` refuses: for its tests, and for the table in docs/web.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Refusal(NamedTuple):
    """A request and the status that answers it. Empty headers are not sent. `{own}`: the server."""

    what: str
    method: str
    path: str
    headers: dict[str, str]
    status: int
    with_token: bool = False  # the server has a token


OWN = {"origin": "{own}", "cookie": "{cookie}"}
PAUSE = "/all/pause"
EVIL = "http://evil.example"
REFUSALS = [
    Refusal("another name as `Host` (DNS rebinding)", "GET", "/", {"host": "evil.example"}, 421),
    Refusal("another name, also for a change", "POST", PAUSE, OWN | {"host": "evil.example"}, 421),
    Refusal("no `Host`", "GET", "/", {"host": ""}, 400),
    Refusal("a change with a foreign `Origin`", "POST", PAUSE, OWN | {"origin": EVIL}, 403),
    Refusal("a change with `Origin: null`", "POST", PAUSE, OWN | {"origin": "null"}, 403),
    Refusal("a change without `Origin`", "POST", PAUSE, OWN | {"origin": ""}, 403),
    Refusal(
        "a change from another port of this machine",
        "POST",
        PAUSE,
        OWN | {"origin": "http://127.0.0.1:1"},
        403,
    ),
    Refusal(
        "a change that the browser calls cross-site",
        "POST",
        PAUSE,
        OWN | {"sec-fetch-site": "cross-site"},
        403,
    ),
    Refusal("a change without the cookie", "POST", PAUSE, OWN | {"cookie": ""}, 401),
    Refusal("a change with a wrong cookie", "POST", PAUSE, OWN | {"cookie": "lensd=1"}, 401),
    Refusal("a change by GET", "GET", PAUSE, {}, 405),
    Refusal("another method", "DELETE", "/", {}, 405),
    Refusal("more than 4 KiB", "POST", "/login", OWN | {"content-length": "5000"}, 413),
    Refusal("a path with `..`", "GET", "/static/../../config.yaml", {}, 404),
    Refusal("a path with an escaped `..`", "GET", "/static/%2e%2e%2fetc%2fpasswd", {}, 404),
    Refusal("an absolute path", "GET", "/static/%2Fetc%2Fpasswd", {}, 404),
    Refusal("a file by its path", "GET", "/files/..%2f..%2fetc%2fpasswd", {}, 404),
    Refusal("a job that does not exist", "POST", "/files/0000000000000000/restore", OWN, 404),
    Refusal("a command that is no button", "POST", "/all/prune", OWN, 404),
    Refusal("the page without the token", "GET", "/", {}, 401, with_token=True),
    Refusal("the events without the token", "GET", "/events", {}, 401, with_token=True),
    Refusal("a file's numbers without the token", "GET", "/files/0/data", {}, 401, with_token=True),
    Refusal(
        "a change without the token", "POST", PAUSE, OWN | {"cookie": ""}, 401, with_token=True
    ),
]


def table() -> Iterator[str]:
    """The lines of the table in docs/web.md."""
    yield "| request | answer |"
    yield "|---|---|"
    for refusal in REFUSALS:
        yield f"| {refusal.what} | {refusal.status} |"
