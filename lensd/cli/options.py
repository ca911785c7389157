"""Options and arguments that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from lensd.config.model import Config

config_option = click.option(
    "-c",
    "--config",
    "config",
    metavar="CONFIG",
    type=click.Path(),
    help="The configuration file. Default: ./config.yaml, then ~/.config/lensd/config.yaml, "
    "then /etc/lensd/config.yaml.",
)

verbose_option = click.option(
    "-v", "--verbose", is_flag=True, help="At a terminal, print a line for each file."
)


def load_config(given: str | None) -> Config:
    """Load the configuration without checking its folders. Raises ConfigError."""
    from lensd.config.load import find_config, load  # imports pydantic, which --help must not

    return load(find_config(given))


class Lora(click.Path):
    """The path of a LoRA file; shells complete folders and names that end in .safetensors."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Let the shell complete names, because it knows how to quote them (completions/)."""
        del ctx, param
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="lora")]


LORA = Lora(exists=True, dir_okay=False)
LORA_OR_FOLDER = Lora()
