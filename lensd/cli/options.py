"""Options that several verbs share."""

from __future__ import annotations

import click

config_option = click.option(
    "-c",
    "--config",
    "config",
    metavar="CONFIG",
    help="The configuration file. Default: ./config.yaml, then ~/.config/lensd/config.yaml, "
    "then /etc/lensd/config.yaml.",
)
