"""Options and arguments that several verbs share, and the configuration that `-c` names."""

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


def load_config(given: str | None) -> Config:
    """The configuration for a verb that looks at no folder of it. Raises ConfigError."""
    from lensd.config.load import find_config, load  # pydantic: no --help needs it

    return load(find_config(given))


class Lora(click.Path):
    """A path where a LoRA file is meant: a shell completes names in .safetensors, and folders."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Left to the shell, which knows how names are quoted (lensd.cli.completion)."""
        del ctx, param
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="lora")]


LORA = Lora(exists=True, dir_okay=False)
LORA_OR_FOLDER = Lora()
