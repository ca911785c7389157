"""`lensd web`: a live page in the browser."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import click

from lensd.cli.options import config_option, load_config
from lensd.errors import UsageError


def require_packages() -> None:
    """Raises UsageError without the packages of the extra `web`."""
    for name in ("starlette", "uvicorn"):
        if find_spec(name) is None:
            raise UsageError(
                f"`lensd web` needs {name}: install lensd again in its clone, with '.[web]' in "
                "place of '.', e.g. `pip install '.[web]'` or `pipx install --force '.[web]'`"
            )


@click.command()
@config_option
@click.option(
    "--listen",
    metavar="ADDRESS:PORT",
    default="127.0.0.1:8787",
    show_default=True,
    help="Where to serve the page; other addresses than this machine's own need --token-file.",
)
@click.option(
    "--token-file",
    metavar="FILE",
    help="A file with a secret of at least 16 characters, which the page asks for.",
)
@click.option(
    "--name",
    "names",
    metavar="NAME",
    multiple=True,
    help="A name by which browsers reach this machine, such as nas.local; may be repeated.",
)
def web(config: str | None, listen: str, token_file: str | None, names: tuple[str, ...]) -> int:
    """Serve a live page: what lensd does now, all files, and buttons for them.

    It reads the ledger and sends requests to the running daemon; by itself it changes no file. It
    needs starlette and uvicorn (docs/web.md).

    \b
    lensd web                              then open http://127.0.0.1:8787/
    ssh -L 8787:127.0.0.1:8787 nas         ... from another machine
    openssl rand -hex 24 > token; chmod 600 token
    lensd web --listen 192.168.1.5:8787 --token-file token --name nas.local
    """
    from lensd.cli import say

    require_packages()
    from lensd.web.server import serve

    found = load_config(config)
    if not sys.stderr.isatty():
        return serve(found, listen, token_file, names, say)
    code = serve(found, listen, token_file, names, lambda said: say(f"{said} (^C ends it)"))
    say("stopped")
    return code
