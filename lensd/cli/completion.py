"""`lensd completion`: print the script with which a shell completes commands."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script with which a shell completes commands, options and LoRA files.

    New shells load it from these files:

    \b
    lensd completion bash > ~/.local/share/bash-completion/completions/lensd
    lensd completion zsh > ~/.zfunc/_lensd
    lensd completion fish > ~/.config/fish/completions/lensd.fish

    This needs the package bash-completion for bash, and `fpath+=~/.zfunc` before `compinit` in
    ~/.zshrc for zsh. To load it in the current shell only:

    \b
    source <(lensd completion bash)
    """
    click.echo(script(shell).read_text(encoding="utf-8"), nl=False)


def script(shell: str) -> Traversable:
    """The script in the package."""
    return resources.files("lensd.cli") / "completions" / f"lensd.{shell}"
