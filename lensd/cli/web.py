"""`lensd web`: a live page in the browser."""

from __future__ import annotations

import click

from lensd.cli.options import config_option, load_config
from lensd.errors import UsageError


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
    needs the extra `web` (pip install 'lensd[web]').

    \b
    lensd web                              then open http://127.0.0.1:8787/
    ssh -L 8787:127.0.0.1:8787 nas         ... from another machine
    openssl rand -hex 24 > token; chmod 600 token
    lensd web --listen 192.168.1.5:8787 --token-file token --name nas.local
    """
    from lensd.cli import say

    try:
        from lensd.web.server import serve
    except ModuleNotFoundError as missing:
        if missing.name not in ("starlette", "uvicorn", "anyio"):
            raise
        raise UsageError(
            f"`lensd web` needs {missing.name}: run `pip install '.[web]'` in a clone, or "
            "`pip install starlette uvicorn` in lensd's environment"
        ) from None
    return serve(load_config(config), listen, token_file, names, say)
