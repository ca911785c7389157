"""The messages on the control socket: what a line may be, and what the sender of others reads."""

from __future__ import annotations

import json
import os

import pytest

from lensd.daemon.control_messages import (
    LONGEST_REQUEST,
    Message,
    PauseRequest,
    Progress,
    PruneRequest,
    Reply,
    Request,
    RestoreRequest,
    Result,
    ResumeRequest,
    RetryRequest,
    decode_reply,
    decode_request,
)
from lensd.errors import LensdError, UsageError
from lensd.store.json_lines import encode

NOT_UTF_8 = os.fsdecode(b"/srv/loras/\xff.safetensors")

REQUESTS = [
    RestoreRequest(paths=(NOT_UTF_8,), version="abc", purge=True),
    RestoreRequest(everything=True),
    RetryRequest(paths=("/srv/loras",)),
    PauseRequest(),
    ResumeRequest(paths=(NOT_UTF_8, "/srv/loras/b")),
    PruneRequest(dry_run=True),
]
REPLIES = [
    Message("paused: everything"),
    Progress("restored", path=NOT_UTF_8, done=1, of=2, method="move"),
    Progress("error", path="/srv/loras/b", done=2, of=2),
    Result(0),
    Result(2, "the file is in no watched folder"),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.verb)
def test_a_request_arrives_as_it_was_sent(request_: Request) -> None:
    """With its type, all fields, and names that are not UTF-8."""
    assert request_ == decode_request(encode(request_))


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: type(reply).__name__)
def test_a_reply_arrives_as_it_was_sent(reply: Reply) -> None:
    """Its fields tell its type; a field of a later version is ignored."""
    line = encode(reply)
    assert (type(reply), reply) == (type(decode_reply(line)), decode_reply(line))
    later = json.dumps({**json.loads(line), "later": 1}).encode()
    assert reply == decode_reply(later)


def test_other_versions_read_the_replies() -> None:
    """A text is under `say`, the result under `code` and `error`: so it was in version 0.1."""
    assert {"say": "done"} == json.loads(encode(Message("done")))
    assert {"code": 0, "error": None} == json.loads(encode(Result(0)))
    assert "restored" == json.loads(encode(REPLIES[1]))["say"]


def test_a_request_of_version_0_1_is_read() -> None:
    """It has the same verbs and keywords, and none where there is a default."""
    old = b'{"verb": "restore", "paths": ["/a"], "everything": false, "version": null, '
    assert RestoreRequest(paths=("/a",)) == decode_request(old + b'"purge": false}\n')
    assert PruneRequest() == decode_request(b'{"verb": "prune"}\n')


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"verb": "eat"}\n', "does not support this command ('eat'); restart the daemon"),
        (b'{"verb": "restore", "eat": 1}\n', "unknown field `eat`"),
        (b'{"verb": "restore", "paths": "/a"}\n', "Expected `array`, got `str`"),
        (b'{"verb": "restore", "paths": ["/a", 1]}\n', "got `int`"),
        (b'{"verb": "prune", "dry_run": 1}\n', "Expected `bool`, got `int`"),
        (b'{"verb": 7}\n', "cannot read this request"),
        (b'{"verb": "\\udcff"}\n', "does not support this command"),
        (b'{"verb": "pause", "\\udcff": 1}\n', "cannot read this request"),
        (b'{"verb": "retry", "paths": ["a"]}\n', "no absolute path"),
        (b'{"verb": "retry", "paths": ["/\\u0000"]}\n', "no absolute path"),
        (b"{}\n", "missing required field `verb`"),
        (b"[]\n", "got `array`"),
        (b"\n", "cannot read this request"),
        (b'{"verb": "pau', "cannot read this request"),
        (b"\xff\n", "cannot read this request"),
        (b"[" * 100_000, "cannot read this request"),
        (b" " * (LONGEST_REQUEST + 1), "longer than 1 MiB; name fewer files"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_a_line_that_is_no_request_is_a_usage_error(line: bytes, says: str) -> None:
    """Whose text says what is wrong and what to do."""
    with pytest.raises(UsageError) as error:
        decode_request(line)
    assert says in str(error.value)


@pytest.mark.parametrize("line", [b"\n", b"[]\n", b'{"code": "0"}\n', b'{"later": 1}\n', b"\xff"])
def test_a_line_that_is_no_reply_is_an_error(line: bytes) -> None:
    """A daemon of another version sent it."""
    with pytest.raises(LensdError, match="restart the daemon after an upgrade"):
        decode_reply(line)
