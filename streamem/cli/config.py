"""Options from a TOML file: ``-c FILE``. Names are those of the command line, which has the last word."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click

__all__ = ["configurable"]


def configurable(command: Any) -> Any:
    """Add ``-c``; goes next to the command's own options."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="A TOML file with any of these options, and DATA, by their long names.",
    )(command)


def _read(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Make the file's values the defaults of the command."""
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise click.BadParameter(f"{path}: cannot be read ({error}). Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path}: is not TOML ({error}). Correct it there.") from error
    names = _names(context.command, parameter)
    unknown = [key for key in values if key.replace("_", "-") not in names]
    if unknown:
        raise click.BadParameter(
            f"{path}: unknown option {', '.join(map(repr, unknown))}. Known are {', '.join(sorted(names))}."
        )
    defaults = {names[key.replace("_", "-")]: value for key, value in values.items()}
    context.default_map = {**(context.default_map or {}), **defaults}


def _names(command: click.Command, config: click.Parameter) -> dict[str, str]:
    """Return the parameters of a command by the names that people use."""
    names = {}
    for parameter in command.params:
        if parameter is config or parameter.name is None:
            continue
        longest = max(parameter.opts, key=len)
        names[longest.lstrip("-").replace("_", "-")] = parameter.name
    return names
