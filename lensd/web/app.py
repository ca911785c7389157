"""The addresses of the page and what answers them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlencode

from jinja2 import Environment
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from lensd import __version__
from lensd.config.model import Config
from lensd.daemon.control_messages import Request as DaemonRequest
from lensd.errors import StorageError
from lensd.report.local_zone import LOCAL
from lensd.report.page.render import MUCH, environment
from lensd.store.ledger import Ledger
from lensd.store.ledger.catalog import HIDDEN, SORTS, Catalog, Query
from lensd.store.ledger.entry import Entry
from lensd.web import actions, file_page
from lensd.web.hub import Hub, State
from lensd.web.now import Watcher, link_of
from lensd.web.protection import Protection, Sessions
from lensd.web.shown import Shortener
from lensd.web.source import Source

PAGE = 50  # files of the table
WRONG_TOKEN_SECONDS = 1.0  # before the next try
# The files that pages load, with the package that has each: no other name is served.
STATIC = {
    "uPlot.min.css": "lensd.report.page.vendor",
    "uPlot.iife.min.js": "lensd.report.page.vendor",
    "page.css": "lensd.report.page",
    "format.js": "lensd.report.page",
    "charts.js": "lensd.report.page",
    "file.js": "lensd.report.page",
    "web.css": "lensd.web.page",
    "live.js": "lensd.web.page",
    "actions.js": "lensd.web.page",
    "one.js": "lensd.web.page",
    "icon.svg": "lensd.web.page",
}
KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
COLUMNS = (
    ("name", "File", "plain"),
    ("family", "Family", "plain extra"),
    ("mode", "Mode", "plain extra"),
    ("before", "Before", "n extra"),
    ("after", "After", "n"),
    ("ratio", "Smaller", "n"),
    ("error", "Error", "n extra"),
    ("when", "When", "n extra"),
    ("outcome", "Outcome", "plain extra"),
)


def make_app(
    config: Config,
    token: str | None = None,
    names: Collection[str] = (),
    ready: Callable[[], None] = lambda: None,
) -> Protection:
    """The page for one configuration. `ready()` is called before the first request."""
    sessions = Sessions(token, config.state.path)
    pages = Pages(config, sessions)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(pages.source.refresh)
        ready()
        yield

    app = Starlette(
        routes=pages.routes(),
        lifespan=lifespan,
        exception_handlers={StorageError: pages.show_fault},
    )
    return Protection(app, sessions, names)


class Pages:
    """One method for each address; those that are not `async` run in a thread."""

    def __init__(self, config: Config, sessions: Sessions) -> None:
        self.source = Source(config)
        self._config = config
        self._sessions = sessions
        self._shortener = Shortener(config)
        self._watcher = Watcher(self.source)
        self._hub = Hub(self._look)
        self._templates: Environment = environment(LOCAL, "lensd.web.page")
        self._choices: tuple[int, dict[str, list[str]]] = (-1, {})

    def routes(self) -> list[Route]:
        return [
            Route("/", self.show_index),
            Route("/table", self.show_table),
            Route("/savings", self.show_savings),
            Route("/events", self.follow),
            Route("/files/{job_id}", self.show_file),
            Route("/files/{job_id}/data", self.show_data),
            Route("/files/{job_id}/{verb}", self.act_on_file, methods=["POST"]),
            Route("/all/{verb}", self.act_on_all, methods=["POST"]),
            Route("/login", self.show_login),
            Route("/login", self.log_in, methods=["POST"]),
            Route("/logout", self.log_out, methods=["POST"]),
            Route("/static/{name}", self.show_static),
        ]

    def show_index(self, request: Request) -> Response:
        now = self._watcher.look()
        if now is None:
            return self._page("empty.html", why=self.source.missing)
        return self._page("index.html", now=now, **self._table(request))

    def show_table(self, request: Request) -> Response:
        return self._page("_table.html", **self._table(request))

    def show_fault(self, _: Request, fault: Exception) -> Response:
        """The ledger cannot be read: it is damaged, or its disk is away."""
        return PlainTextResponse(self._shortener.shorten(f"{fault}\n"), 503)

    def show_savings(self, _: Request) -> Response:
        return JSONResponse(self._catalog().days())

    async def follow(self, _: Request) -> Response:
        return StreamingResponse(self._hub.follow(), media_type="text/event-stream")

    def show_file(self, request: Request) -> Response:
        ledger, entry = self._find(request)
        newest = ledger.files.find(entry.root, entry.path)
        if entry.outcome in HIDDEN and newest is not None and newest.job_id != entry.job_id:
            return RedirectResponse(link_of(newest.job_id), 303)
        page = file_page.make_page(ledger, entry, self._shortener, self._config.log.path)
        return self._page("file.html", file=page)

    def show_data(self, request: Request) -> Response:
        _, entry = self._find(request)
        return Response(file_page.data_of(entry), media_type="application/json")

    def act_on_file(self, request: Request) -> Response:
        verb = request.path_params["verb"]
        _, entry = self._find(request)
        if verb not in actions.FOR_FILE:
            raise HTTPException(404)
        return self._act(actions.request_for(verb, entry))

    def act_on_all(self, request: Request) -> Response:
        wanted = actions.FOR_ALL.get(request.path_params["verb"])
        if wanted is None:
            raise HTTPException(404)
        return self._act(wanted)

    def show_login(self, _: Request) -> Response:
        return self._page("login.html", error="", start=False)

    async def log_in(self, request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            return Response(status_code=400)  # the connection is closed
        given = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
        if not (self._sessions.needs_token and self._sessions.accepts(given)):
            await asyncio.sleep(WRONG_TOKEN_SECONDS)
            return self._page("login.html", 403, error="This is not the token.", start=False)
        response = RedirectResponse("/", 303)
        self._sessions.begin(response)
        return response

    async def log_out(self, _: Request) -> Response:
        response = RedirectResponse("/login", 303)
        self._sessions.end(response)
        return response

    def show_static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            raise HTTPException(404)
        text = files(STATIC[name]).joinpath(name).read_bytes()
        headers = {"cache-control": "no-cache"}
        return Response(text, media_type=KINDS[name.rpartition(".")[2]], headers=headers)

    def _act(self, wanted: DaemonRequest) -> Response:
        done, said = actions.act(self._config.state.path, wanted, self._shortener)
        return JSONResponse({"done": done, "said": said}, 200 if done else 409)

    def _look(self) -> State:
        now = self._watcher.look()
        if now is None:
            return State("", self.source.version)
        html = self._templates.get_template("_now.html").render(now=now, MUCH=MUCH)
        return State(html, self.source.version)

    def _catalog(self) -> Catalog:
        if self.source.catalog is None:
            raise HTTPException(503, self.source.missing)
        return self.source.catalog

    def _find(self, request: Request) -> tuple[Ledger, Entry]:
        self.source.refresh()
        ledger = self.source.ledger
        entry = None if ledger is None else ledger.files.by_job(request.path_params["job_id"])
        if ledger is None or entry is None:
            raise HTTPException(404, "there is no such file in the ledger")
        return ledger, entry

    def _table(self, request: Request) -> dict[str, Any]:
        self.source.refresh()
        query = query_of(request.query_params)
        rows, total = self._catalog().page(query, PAGE)
        pages = max(1, -(-total // PAGE))
        if query.page >= pages:  # the files of that page are gone
            query = query._replace(page=pages - 1)
            rows, total = self._catalog().page(query, PAGE)
        return {
            "rows": rows,
            "total": total,
            "pages": pages,
            "query": query,
            "columns": COLUMNS,
            "choices": self._make_choices(),
            "link": lambda **changes: "/?" + address_of(query._replace(**changes)),
        }

    def _make_choices(self) -> dict[str, list[str]]:
        """The values to filter by; read again only when the ledger changed."""
        version = self.source.version
        if self._choices[0] != version:
            columns = ("folder", "family", "outcome")
            self._choices = version, {c: self._catalog().values(c) for c in columns}
        return self._choices[1]

    def _page(self, template: str, status: int = 200, **values: Any) -> Response:
        text = self._templates.get_template(template).render(
            version=__version__, needs_token=self._sessions.needs_token, MUCH=MUCH, **values
        )
        response = HTMLResponse(text, status)
        if not self._sessions.needs_token:
            self._sessions.begin(response)
        return response


def query_of(parameters: Mapping[str, str]) -> Query:
    """What an address asks the table for; a value that makes no sense counts as not given."""
    page = parameters.get("page", "0")
    sort = parameters.get("sort", "when")
    return Query(
        search=parameters.get("search", "")[:200],
        folder=parameters.get("folder", ""),
        family=parameters.get("family", ""),
        outcome=parameters.get("outcome", ""),
        sort=sort if sort in SORTS else "when",
        down=parameters.get("down", "1") == "1",
        page=int(page) if page.isascii() and page.isdigit() and len(page) < 8 else 0,
    )


def address_of(query: Query) -> str:
    """The parameters that `query_of` reads, without those that have their usual values."""
    usual = Query()._asdict()
    given = {k: v for k, v in query._asdict().items() if v != usual[k]}
    return urlencode({k: int(v) if isinstance(v, bool) else v for k, v in given.items()})
