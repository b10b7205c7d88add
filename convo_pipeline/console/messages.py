"""Write notes, problems and details to stderr, as text or as JSON lines.

Each line is a log record of this package. Tokens and control characters are removed here.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

import click

from convo_pipeline.base.terminal_text import printable

LogFormat = Literal["text", "json"]
PACKAGE_LOG = logging.getLogger("convo_pipeline")
LOG = logging.getLogger("convo_pipeline.console")
"""info: notes, error: problems, debug: details for `-v`."""
STYLES: dict[int, dict[str, Any]] = {
    logging.DEBUG: {"dim": True},
    logging.INFO: {"dim": True},
    logging.WARNING: {"fg": "yellow"},
    logging.ERROR: {"fg": "red"},
}


class StderrHandler(logging.Handler):
    """Write each record to the current `sys.stderr`; a JSON line has time, level and message."""

    def __init__(self, form: LogFormat) -> None:
        super().__init__()
        self._form = form

    def emit(self, record: logging.LogRecord) -> None:
        from convo_pipeline.base.secrets import redact  # it imports a large library

        text = printable(redact(record.getMessage()), keep="\n")
        if self._form == "json":
            at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
            line = {"at": at, "level": record.levelname.lower(), "message": text}
            click.echo(json.dumps(line), err=True)
        else:
            click.secho(text, err=True, **STYLES.get(record.levelno, {}))


@contextmanager
def messages_on_stderr(form: LogFormat, *, is_verbose: bool, is_quiet: bool) -> Iterator[None]:
    """Write the package's log records to stderr: notes and warnings, or all, or problems only."""
    handler = StderrHandler(form)
    former = PACKAGE_LOG.level, LOG.level
    PACKAGE_LOG.addHandler(handler)
    if is_quiet:
        PACKAGE_LOG.setLevel(logging.ERROR)
        LOG.setLevel(logging.ERROR)
    else:
        PACKAGE_LOG.setLevel(logging.DEBUG if is_verbose else logging.WARNING)
        LOG.setLevel(logging.DEBUG if is_verbose else logging.INFO)
    try:
        yield
    finally:
        PACKAGE_LOG.removeHandler(handler)
        PACKAGE_LOG.setLevel(former[0])
        LOG.setLevel(former[1])
