"""Decides which requests are answered, and adds the headers that limit what a page may do.

A page of another website may send requests to this server from the browser of a person who uses
both. So each request must name a host of this server (else DNS rebinding works), and each one that
changes something must come from a page of this server, with its cookie.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONGEST_BODY = 4096  # bytes: only the form with the token has one
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # `no-referrer` would hide the origin of a form
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Sessions:
    """The cookie of people who may use the page. `token`: what they enter first; None: nothing.

    With a token the cookie is computed from it: a restart keeps people signed in, and another token
    signs all of them out. `state` is the state folder, so that two servers have two cookies.
    """

    def __init__(self, token: str | None, state: str) -> None:
        self._token = token
        key = token.encode() if token else secrets.token_bytes(32)
        self.name = f"lensd-{hashlib.sha256(state.encode()).hexdigest()[:8]}"
        self.value = hmac.new(key, b"lensd web", hashlib.sha256).hexdigest()

    @property
    def needs_token(self) -> bool:
        return self._token is not None

    def accepts(self, token: str) -> bool:
        """Whether this is the token; takes the same time for each wrong one."""
        return hmac.compare_digest(token.strip().encode(), (self._token or "").encode())

    def owns(self, headers: Headers) -> bool:
        """Whether a request has the cookie."""
        found = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        return any(
            name == self.name and hmac.compare_digest(value.encode(), self.value.encode())
            for name, _, value in found
        )

    def begin(self, response: Response) -> None:
        response.set_cookie(self.name, self.value, httponly=True, samesite="strict", path="/")

    def end(self, response: Response) -> None:
        response.delete_cookie(self.name, httponly=True, samesite="strict", path="/")


class Protection:
    """ASGI middleware: refuses requests, and adds headers to all answers. `names`: of the host."""

    def __init__(self, app: ASGIApp, sessions: Sessions, names: Collection[str]) -> None:
        self._app = app
        self._sessions = sessions
        self._names = frozenset(name.lower().rstrip(".") for name in ("localhost", *names))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lifespan messages pass; anything else but HTTP ends here."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            answer: ASGIApp = self._refuse(scope) or self._app
            await answer(scope, receive, _with_headers(send))

    def _refuse(self, scope: Scope) -> Response | None:
        headers, method = Headers(scope=scope), scope["method"]
        if not self._is_host(headers.get("host", "")):
            return _refusal(421, "this server has another name; `lensd web --name` adds one")
        if method not in ("GET", "HEAD", "POST"):
            return _refusal(405, "only GET and POST are supported")
        if method == "POST" and not _is_small(headers):
            return _refusal(413, f"a request has at most {LONGEST_BODY} bytes")
        if method == "POST" and not _is_from_own_page(headers):
            return _refusal(403, "the request does not come from a page of this server")
        return self._require_session(scope, headers)

    def _require_session(self, scope: Scope, headers: Headers) -> Response | None:
        path, is_post = scope["path"], scope["method"] == "POST"
        is_open = path == "/login" or path.startswith("/static/")
        if is_open or self._sessions.owns(headers) or not (self._sessions.needs_token or is_post):
            return None
        if not is_post and "text/html" in headers.get("accept", ""):
            return RedirectResponse("/login", 303)
        return _refusal(401, "sign in first, or load the page again")

    def _is_host(self, host: str) -> bool:
        """An address is never refused: DNS rebinding needs a name."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _is_small(headers: Headers) -> bool:
    length = headers.get("content-length", "")
    return length.isdigit() and len(length) < 6 and int(length) <= LONGEST_BODY


def _is_from_own_page(headers: Headers) -> bool:
    """By Origin, which browsers send with each POST and scripts cannot change."""
    try:
        origin = urlsplit(headers.get("origin", ""))
    except ValueError:
        return False
    is_own = origin.scheme in ("http", "https") and origin.netloc == headers.get("host")
    return is_own and headers.get("sec-fetch-site", "same-origin") == "same-origin"


def _refusal(status: int, text: str) -> Response:
    return PlainTextResponse(f"refused: {text}\n", status)


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
