"""The options that say how to compress, and the settings that they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lensd.errors import UsageError

if TYPE_CHECKING:
    from lensd.config.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--mode",
        type=click.Choice(["rank", "int8", "ultra"]),
        default="ultra",
        show_default=True,
        help="rank: lower ranks. int8: 8-bit numbers. ultra: both.",
    ),
    click.option(
        "--energy", type=float, help="The share of squared singular values to keep, e.g. 0.999."
    ),
    click.option(
        "--allocation",
        type=click.Choice(["module", "file", "balanced"]),
        help="What keeps that energy: each module, the whole file in fewer bytes, or (balanced) "
        "the file with more weight on weak modules.",
    ),
    click.option(
        "--strict-energy",
        is_flag=True,
        default=None,
        help="Keep the measured error below sqrt(1 - energy), with that of 8-bit numbers.",
    ),
    click.option(
        "--target-size", metavar="SIZE", help="Keep the most energy that fits, e.g. in 32MB."
    ),
    click.option("--max-rank", type=int, metavar="RANK", help="The highest rank of any module."),
    click.option("--targets", metavar="T,...", help="The programs that must load the output."),
    click.option("--encodings", metavar="E,...", help="The 8-bit formats to use: int8, float8."),
    click.option(
        "--min-saving",
        type=float,
        metavar="SHARE",
        help="Write nothing if less than this share is saved (default 0.05; 0: any saving).",
    ),
    click.option(
        "--device",
        default="cpu",
        show_default=True,
        callback=lambda _context, _option, value: _check_device(value),
        help="cpu, cuda, cuda:N or auto.",
    ),
)


def _check_device(value: str) -> str:
    """Raises UsageError for another word, which would mean the CPU."""
    from lensd.config.types import is_device

    if not is_device(value):
        raise UsageError(f"--device: {value!r} is not a device; write auto, cpu, cuda or cuda:N")
    return value


def settings_options(command: F) -> F:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_settings(
    *, target_size: str | None, targets: str | None, encodings: str | None, **options: Any
) -> Settings:
    """Validate the given options as the configuration is. Raises UsageError."""
    from pydantic import ValidationError

    from lensd.config.messages import explain_options
    from lensd.config.settings import Settings
    from lensd.config.sizes import parse_size

    given: dict[str, Any] = {name: v for name, v in options.items() if v is not None}
    try:
        if target_size:
            given["target_size"] = parse_size(target_size)
        if targets:
            given["targets"] = tuple(targets.split(","))
        if encodings:
            given["encodings"] = tuple(encodings.split(","))
        return Settings(**given).with_allocation_of_size()
    except ValidationError as error:
        raise UsageError("\n".join(explain_options(error.errors(include_url=False)))) from None
    except ValueError as error:
        raise UsageError(f"an option has an invalid value: {error}") from None
