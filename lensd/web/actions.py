"""What the buttons do: each sends one request to the daemon, which alone changes files."""

from __future__ import annotations

from lensd.daemon.control import send_request
from lensd.daemon.control_messages import (
    Message,
    OnceRequest,
    PauseRequest,
    Progress,
    Request,
    RestoreRequest,
    ResumeRequest,
    RetryRequest,
)
from lensd.errors import EXIT_OK, LensdError, LockedError
from lensd.store.ledger.entry import Entry
from lensd.web.shown import Shortener

FOR_ALL: dict[str, Request] = {
    "pause": PauseRequest(),
    "resume": ResumeRequest(),
    "retry": RetryRequest(),
}
FOR_FILE = ("restore", "redo", "retry")


def request_for(verb: str, entry: Entry) -> Request:
    """Raises KeyError for another verb."""
    paths = (entry.full_path,)
    requests: dict[str, Request] = {
        "restore": RestoreRequest(paths=paths),
        "redo": OnceRequest(paths=paths, redo=True),
        "retry": RetryRequest(paths=paths),
    }
    return requests[verb]


def act(state: str, request: Request, shortener: Shortener) -> tuple[bool, str]:
    """Whether it is done, and a sentence for the person."""
    said: list[str] = []

    def receive(message: Message) -> None:
        done = isinstance(message, Progress) and message.method is not None
        said.append("The original is back." if done else message.say)

    try:
        code = send_request(state, request, receive, patience=0.5)
    except LockedError:
        return False, "The daemon is not running, so nothing was changed. Start it, then try again."
    except (LensdError, OSError) as error:
        return False, shortener.shorten(str(error))
    return code == EXIT_OK, shortener.shorten("\n".join(said))
