"""`lensd completion`: the script that makes a shell complete commands, options and LoRA files."""

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
    """Print the script that makes a shell complete commands, options and LoRA files.

    New shells know it once it lies where they look:

    \b
    lensd completion bash > ~/.local/share/bash-completion/completions/lensd
    lensd completion zsh > ~/.zfunc/_lensd
    lensd completion fish > ~/.config/fish/completions/lensd.fish

    bash needs the package bash-completion for that, and zsh `fpath+=~/.zfunc` before `compinit` in
    ~/.zshrc. For this shell alone:

    \b
    source <(lensd completion bash)
    """
    click.echo(script(shell).read_text(encoding="utf-8"), nl=False)


def script(shell: str) -> Traversable:
    """The script, as it ships in the package."""
    return resources.files("lensd.cli") / "completions" / f"lensd.{shell}"
