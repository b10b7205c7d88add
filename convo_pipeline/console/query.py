"""Run SQL on the tables: one statement, or an interactive shell with history and completion."""

import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from convo_pipeline.base.terminal_text import printable
from convo_pipeline.console.results import WRITERS, print_rows
from convo_pipeline.errors import SettingsError
from convo_pipeline.query.connection import Connection
from convo_pipeline.query.read_only import is_complete
from convo_pipeline.settings import Settings, is_bucket

if TYPE_CHECKING:
    import pyarrow as pa
    from prompt_toolkit.input import Input
    from prompt_toolkit.output import Output

HELP = """End each SQL statement with ; (it may have several lines).
  .tables  list the tables    .columns TABLE  list its columns    .quit  or Ctrl-D: leave"""
LEAVE = (".quit", ".exit", "quit", "exit")
"""These lines leave the shell even inside a statement."""
KEYWORDS = [
    "select", "from", "where", "group", "by", "order", "limit", "count", "distinct", "join",
    "using", "on", "as", "desc", "asc", "having", "between", "and", "or", "not", "null",
    "is", "like", "ilike", "in", "case", "when", "then", "else", "end", "date_trunc",
    "median", "quantile_cont", "interval", "cast",
]  # fmt: skip
COLUMNS = (
    "select table_name, column_name from information_schema.columns where table_schema = 'main'"
)
TABLES = (
    "select table_name as name from information_schema.tables"
    " where table_schema = 'main' order by name"
)


def choose_format(form: str | None, output: Path | None) -> str:
    """Return the output format: the given one, else that of the file's extension, else table."""
    if output is None or form not in (None, "table"):
        return form or "table"
    extension = output.suffix.lower().removeprefix(".")
    if extension not in WRITERS:
        formats = ", ".join(f".{name}" for name in WRITERS)
        raise SettingsError(f"--output {output}: end the name with {formats}, or add --format")
    return extension


def check_output(output: Path, root: str, settings: Settings | None, *, is_replaced: bool) -> None:
    """Raise SettingsError if the file must not or cannot be written; nothing was queried yet."""
    folders = [] if is_bucket(root) else [Path(root)]
    folders += [settings.store.state_path] if settings else []
    for folder in folders:
        if output.resolve().is_relative_to(folder.resolve()):
            raise SettingsError(
                f"--output {output} lies in {folder}, with the tables: choose another folder"
            )
    if not output.parent.is_dir():
        raise SettingsError(f"--output {output}: the folder {output.parent} does not exist")
    if output.is_file() and not is_replaced:
        raise SettingsError(f"--output {output} exists: add --force to replace it")


def run_sql(
    con: Connection, sql: str, form: str, console: Console, output: Path | None = None
) -> None:
    """Run the statements and print their rows, or write them to stdout or to the file `output`."""
    results = [
        relation.to_arrow_table()
        for statement in con.split(sql)
        if (relation := con.sql(statement)) is not None
    ]
    if len(results) > 1 and (output is not None or form != "table"):
        raise SettingsError(
            f"{len(results)} statements return rows; --format and --output need one statement"
        )
    for result in results:
        _show(result, form, console, output)


def _show(result: "pa.Table", form: str, console: Console, output: Path | None) -> None:
    if output is not None:
        with output.open("wb") as file:
            WRITERS[form](result, file)
    elif form == "table":
        print_rows(result, console)
    elif form == "parquet" and sys.stdout.isatty():
        raise SettingsError("parquet is not for a terminal: add --output FILE or redirect stdout")
    elif form == "csv" and sys.stdout.isatty():
        content = io.BytesIO()
        WRITERS[form](result, content)
        sys.stdout.write(printable(content.getvalue().decode(), keep="\n"))
    else:
        WRITERS[form](result, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def open_shell(con: Connection, run: Callable[[str], None]) -> None:
    """Open the SQL shell on a terminal; `run` gets each statement."""
    columns: dict[str, list[str]] = {}
    for table, column in con.execute(COLUMNS).fetchall():
        columns.setdefault(table, []).append(column)
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    run_shell(Console(), run, columns, state / "convo-pipeline" / "history")


def run_shell(
    console: Console,
    run: Callable[[str], None],
    columns: dict[str, list[str]],
    history: Path,
    input: "Input | None" = None,
    output: "Output | None" = None,
) -> None:
    """Read statements until the end and pass each to `run`; `columns` completes names."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory

    history.parent.mkdir(parents=True, exist_ok=True)
    words = {*columns, *(name for names in columns.values() for name in names), *KEYWORDS}
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(history)),
        completer=WordCompleter(sorted(words)),
        complete_while_typing=False,
        input=input,
        output=output,
    )
    console.print(HELP, style="dim", highlight=False)
    statement = ""
    while True:
        try:
            line = session.prompt("   ...> " if statement else "convo> ")
        except KeyboardInterrupt:
            statement = ""
            continue
        except EOFError:
            return
        if line.strip() in LEAVE:
            return
        statement = f"{statement}\n{line}".strip()
        if statement.startswith("."):
            sql = dot_command_sql(statement)
            if sql:
                run(sql)
            else:
                console.print(f"unknown command {statement}\n{HELP}", markup=False, highlight=False)
        elif is_complete(statement):
            run(statement)
        else:
            continue
        statement = ""


def dot_command_sql(command: str) -> str | None:
    """Return the SQL of a dot command; None for an unknown one.

    >>> dot_command_sql(".columns messages"), dot_command_sql(".nothing")
    ('describe "messages"', None)
    """
    words = command.split()
    if words[0] == ".columns" and len(words) == 2 and re.fullmatch(r"\w+", words[1]):
        return f'describe "{words[1]}"'
    return TABLES if words == [".tables"] else None
