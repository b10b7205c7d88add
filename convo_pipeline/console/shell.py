"""The interactive SQL shell: history, completion of table and column names, nothing else to learn."""

import re
from collections.abc import Callable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory
from prompt_toolkit.input import Input
from prompt_toolkit.output import Output
from rich.console import Console

HELP = """Write SQL and end it with ; (several lines are fine).
  .tables  what there is      .columns TABLE  its columns      .quit  or Ctrl-D: leave"""
LEAVE = (".quit", ".exit", "quit", "exit")
"""Also in the middle of a statement: who forgot the ; is not kept."""
KEYWORDS = [
    "select",
    "from",
    "where",
    "group",
    "by",
    "order",
    "limit",
    "count",
    "distinct",
    "join",
    "using",
    "on",
    "as",
    "desc",
    "asc",
    "having",
    "between",
    "and",
    "or",
    "not",
    "null",
    "is",
    "like",
    "ilike",
    "in",
    "case",
    "when",
    "then",
    "else",
    "end",
    "date_trunc",
    "median",
    "quantile_cont",
    "interval",
    "cast",
]


def run_shell(
    console: Console,
    answer: Callable[[str], None],
    words: dict[str, list[str]],
    history: Path,
    input: Input | None = None,
    output: Output | None = None,
) -> None:
    """Read statements until the end and pass each to `answer`; `words` are the tables with their columns."""
    history.parent.mkdir(parents=True, exist_ok=True)
    completer = WordCompleter(
        [*words, *{name for names in words.values() for name in names}, *KEYWORDS]
    )
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(history)),
        completer=completer,
        complete_while_typing=False,
        input=input,
        output=output,
    )
    console.print(HELP, style="dim", highlight=False)
    pending = ""
    while True:
        try:
            line = session.prompt("   ...> " if pending else "convo> ")
        except KeyboardInterrupt:
            pending = ""
            continue
        except EOFError:
            return
        if line.strip() in LEAVE:
            return
        pending = f"{pending}\n{line}".strip()
        if pending.startswith("."):
            answer(dotted(pending))
        elif not pending.endswith(";"):
            continue
        else:
            answer(pending)
        pending = ""


def dotted(command: str) -> str:
    """Turn a dot command into SQL.

    >>> dotted(".columns messages")
    'describe "messages"'
    """
    words = command.split()
    if words[0] == ".columns" and len(words) == 2 and re.fullmatch(r"\w+", words[1]):
        return f'describe "{words[1]}"'
    return "select table_name as name from information_schema.tables where table_schema = 'main' order by name"
