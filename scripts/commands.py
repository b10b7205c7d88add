"""Write the reference of the commands: `python -m scripts.commands > docs/commands.md`."""

import sys
from collections.abc import Iterator

import click

from convo_pipeline.cli import main

_HELP_COLUMNS = 100
_INTRODUCTION = """\
# Commands

Written by `python -m scripts.commands`; do not edit it by hand.
`convo-pipeline COMMAND --help` prints the same texts.

```sh
convo-pipeline check
convo-pipeline --config convo.toml extract bakery-instagram --since 2026-01-01
```
"""


def write_commands() -> str:
    """Return the help texts of all commands as one Markdown page."""
    return _INTRODUCTION + "".join(_describe("convo-pipeline", main))


def _describe(path: str, command: click.Command) -> Iterator[str]:
    """Yield the section of a command, then those of its subcommands."""
    context = click.Context(
        command, info_name=path, terminal_width=_HELP_COLUMNS, **main.context_settings
    )
    yield f"\n## {path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from _describe(f"{path} {name}", command.commands[name])


if __name__ == "__main__":
    sys.stdout.write(write_commands())
