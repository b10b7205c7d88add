"""What all commands share: options, argument types, and how an error becomes an exit code.

Only `click` is imported when this module is imported, so that `--help` takes no time.
"""

import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.console.messages import LOG, LogFormat, messages_on_stderr
from convo_pipeline.errors import ConvoError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from convo_pipeline.console.progress import ProgressLines
    from convo_pipeline.settings import Settings, StoreSettings

Function = TypeVar("Function", bound=Callable[..., Any])

EXIT_FAILED, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_STOPPED = 1, 2, 3, 130
EXIT_CODES = """\b
Exit codes:
  0  done; every account is complete
  1  an account failed or is incomplete, or the storage or the query failed
  2  wrong usage or settings
  3  not found
  130  stopped by Ctrl-C or SIGTERM"""
ATTENTION_CODES = """\b
Exit codes:
  0  no account has a problem or a warning
  1  an account has one; the output names what to do
  2  wrong usage or settings"""
WIDE = 1000
"""Columns of a text that goes to a file or a pipe: nothing is cut or folded there."""
PORT = click.IntRange(0, 65535)


@dataclass(frozen=True)
class CommandContext:
    """What all commands share: the options that stand before or after a command, and the clock."""

    config: str | None = None
    clock: Clock = SYSTEM_CLOCK
    root: str | None = None
    is_verbose: bool = False
    is_quiet: bool = False
    has_progress: bool = True
    log_format: LogFormat = "text"

    @property
    def settings(self) -> "Settings":
        """The configuration; SettingsError if it has no account.

        With `--root` its tables are those of the option.
        """
        from convo_pipeline.settings import CONFIG_FILE, find_settings_file, read_settings

        file = Path(self.root or "") / CONFIG_FILE
        has_own = self.root is not None and file.is_file()
        config = file if has_own else find_settings_file(self.config)
        settings = read_settings(config)
        LOG.debug("settings: %s; tables: %s", config, self.root or settings.store.root)
        if not settings.accounts:
            raise SettingsError(f"{config}: no [[accounts]] yet")
        check_root(self.root or settings.store.root)
        if self.root is not None and not is_same_root(settings.store.root, self.root):
            return settings.model_copy(update={"store": self.store_settings})
        return settings

    def find_lake(self) -> "tuple[str, Settings | None]":
        """Return the root of the tables and their configuration, if there is one.

        Without `--root` it is the configuration's, or ./data if there is no configuration.
        """
        from convo_pipeline.settings import CONFIG_FILE, find_settings_file, read_settings

        has_config = self.config is not None or find_settings_file().exists()
        if self.root is None:
            settings = read_settings(self.config) if has_config else None
            return (settings.store.root if settings else "data"), settings
        file = Path(self.root) / CONFIG_FILE
        if file.is_file():
            return self.root, read_settings(file)
        settings = read_settings(self.config) if has_config else None
        is_same = settings is not None and is_same_root(settings.store.root, self.root)
        return self.root, settings if is_same else None

    @property
    def store_settings(self) -> "StoreSettings":
        """The `[store]` settings of the tables, found as in `find_lake`."""
        from convo_pipeline.settings import StoreSettings, is_bucket

        root, settings = self.find_lake()
        check_root(root)
        if settings and is_same_root(settings.store.root, root):
            return settings.store
        if is_bucket(root):
            raise SettingsError(
                f"{root}: a bucket needs a local state_dir; use --config with its settings"
            )
        return StoreSettings(root=root)

    def progress(self, expected: Mapping[str, int] | None = None) -> "ProgressLines":
        """Return the progress of a run; `expected` is the number of conversations by account."""
        from convo_pipeline.console.progress import ProgressLines

        console, is_shown = open_console(stderr=True), self.has_progress and not self.is_quiet
        has_bars = is_shown and console.is_terminal and self.log_format == "text"
        return ProgressLines(console, expected, has_bars=has_bars, has_lines=is_shown)


def check_root(root: str) -> None:
    """Raise SettingsError if the tables cannot be in this place, because a file is there."""
    if "://" in root:
        return
    place = next((it for it in (Path(root), *Path(root).parents) if it.exists()), Path())
    if not place.is_dir():
        raise SettingsError(f"root {root}: {place} is a file; name a folder")


def is_same_root(root: str, other: str) -> bool:
    """Return whether two texts name the same folder or bucket prefix."""
    if "://" in root or "://" in other:
        return root.rstrip("/") == other.rstrip("/")
    return os.path.realpath(root) == os.path.realpath(other)


def chosen_accounts(settings: "Settings", accounts: Sequence[str]) -> list[str]:
    """Return the named accounts in the order of the configuration, or all."""
    chosen = {settings.account(name).name for name in accounts}
    return [each.name for each in settings.accounts if not chosen or each.name in chosen]


# exit codes


@contextmanager
def exit_codes(ctx: click.Context) -> Iterator[None]:
    """Print an error as one sentence and end with its exit code.

    A reader that closes the pipe, such as `head`, is no error.
    """
    name = ctx.find_root().info_name
    try:
        yield
        sys.stdout.flush()
        return
    except KeyboardInterrupt:
        code, text = EXIT_STOPPED, "stopped; run the same command again to continue"
    except click.Abort as error:
        is_end = isinstance(error.__context__, EOFError)
        code = EXIT_USAGE if is_end else EXIT_STOPPED
        text = "no answer; without a terminal add --yes" if is_end else "stopped"
    except BrokenPipeError:
        _discard_stdout()
        ctx.exit(0)
    except SettingsError as error:
        code, text = EXIT_USAGE, str(error)
    except ConvoError as error:
        code, text = EXIT_FAILED, str(error)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else "cannot write the output: "
        code, text = EXIT_FAILED, f"{place}{error.strerror or type(error).__name__}"
        _discard_stdout()
    except (click.ClickException, click.exceptions.Exit):
        raise
    except Exception as error:
        from convo_pipeline.reasons import REASONS, locate_error

        code, text = EXIT_FAILED, f"{locate_error(error)}: {REASONS['defect'].explain()}"
    LOG.error("%s", f"{name}: {text}")
    ctx.exit(code)


def _discard_stdout() -> None:
    """Send what is still buffered for stdout to nowhere: Python writes it at its end."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):  # stdout is no file of the system
        return


class Command(click.Command):
    """A command with the shared options, which are hidden in its own help.

    PyArrow is loaded without pandas before the command runs; `--help` loads neither.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        *own, help_option = super().get_params(ctx)
        names = {each.name for each in own}
        return [*own, *(each for each in HIDDEN_OPTIONS if each.name not in names), help_option]

    def invoke(self, ctx: click.Context) -> Any:
        shared: CommandContext = ctx.obj
        _write_any_text()
        with (
            messages_on_stderr(
                shared.log_format, is_verbose=shared.is_verbose, is_quiet=shared.is_quiet
            ),
            exit_codes(ctx),
        ):
            import_pandas_later()
            return super().invoke(ctx)


class Commands(click.Group):
    """A group of commands that accept the shared options before and after their names."""

    command_class = Command
    group_class = type

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run a command; a help text that cannot be written is one sentence."""
        try:
            return super().main(*arguments, **options)
        except OSError as error:
            _discard_stdout()
            click.echo(f"convo-pipeline: cannot write the output: {error.strerror}", err=True)
            sys.exit(EXIT_FAILED)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        *own, help_option = super().get_params(ctx)
        shared = HIDDEN_OPTIONS if ctx.parent else SHARED_OPTIONS
        return [*own, *shared, help_option]


def _write_any_text() -> None:
    """Escape the characters that the encoding of stdout lacks, instead of an error."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def import_pandas_later() -> None:
    """Make PyArrow import pandas only for a conversion, and not for its first array.

    PyArrow imports pandas to recognise its objects, which takes half a second. It tries this once
    and goes on without pandas if the import fails. A later conversion to pandas imports it again.
    PyArrow also uses `numpy.ma`, which NumPy cannot import in two threads at once.
    """
    import numpy.ma  # noqa: F401
    import pyarrow as pa

    sys.meta_path.insert(0, _NoPandas())
    try:
        pa.array([0])
    finally:
        del sys.meta_path[0]


class _NoPandas:
    """An import finder that finds no pandas."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ImportError(name)


# output


def open_console(stderr: bool = False) -> "Console":
    """Return a console on stdout or stderr. A file or a pipe gets lines of any length."""
    from rich.console import Console

    class PipeConsole(Console):
        """Continue without output if the reader has closed the pipe."""

        def on_broken_pipe(self) -> None:
            self.quiet = True
            _discard_stdout()

    console = PipeConsole(stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    return console


# options and arguments


def _store(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    shared = ctx.obj if isinstance(ctx.obj, CommandContext) else CommandContext()
    if param.name and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE:
        shared = replace(shared, **{param.name: value})
        if param.name == "root":
            shared = replace(shared, root=os.path.expanduser(value))
    ctx.obj = shared


def _shared_options(*, hidden: bool) -> list[click.Parameter]:
    """Return the options that may stand before or after a command."""
    option = functools.partial(
        click.Option, expose_value=False, callback=_store, hidden=hidden, show_default=False
    )
    return [
        option(
            ["--config"],
            metavar="FILE",
            help="Configuration file. Default: $CONVO_CONFIG, else ./convo.toml.",
        ),
        option(["-v", "--verbose", "is_verbose"], is_flag=True, help="Show details on stderr."),
        option(
            ["-q", "--quiet", "is_quiet"],
            is_flag=True,
            help="Show results and problems only: no notes, no progress.",
        ),
        option(
            ["--no-progress", "has_progress"],
            is_flag=True,
            flag_value=False,
            default=True,
            help="Show no progress.",
        ),
        option(
            ["--log-format"],
            type=click.Choice(["text", "json"]),
            help="Lines on stderr: text, or JSON with time, level and message.",
        ),
    ]


SHARED_OPTIONS = _shared_options(hidden=False)
HIDDEN_OPTIONS = _shared_options(hidden=True)
root_option = click.option(
    "--root",
    metavar="FOLDER",
    expose_value=False,
    callback=_store,
    help="Folder of the tables. Default: the configuration's, else ./data.",
)


class PersonId(click.ParamType["str"]):
    """The id of a person, as the API and the tables have it."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"[0-9A-Za-z_.-]+", str(value)):
            self.fail("give the person's id, as in the column customer_id", param, ctx)
        return str(value)


class UtcDate(click.ParamType["date"]):
    """A UTC date: 2026-11-21, today, yesterday, or 7d for seven days ago."""

    name = "date"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        if isinstance(value, date):
            return value
        shared = ctx.obj if ctx and isinstance(ctx.obj, CommandContext) else CommandContext()
        today = shared.clock.now().date()
        days_ago = re.fullmatch(r"(\d{1,4})d", value)
        try:
            if value in ("today", "yesterday"):
                return today - timedelta(days=value == "yesterday")
            return (
                today - timedelta(days=int(days_ago[1])) if days_ago else date.fromisoformat(value)
            )
        except ValueError:
            self.fail(f"{value} is not a date such as 2026-11-21, yesterday or 7d", param, ctx)


def complete_account(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the configured accounts that begin with `incomplete`, for the shell."""
    from convo_pipeline.settings import read_settings

    root = ctx.find_root()
    try:
        settings = read_settings(ctx.params.get("config") or root.params.get("config"))
    except SettingsError:
        return []
    names = (account.name for account in settings.accounts)
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def accounts_argument(function: Function) -> Function:
    """Add the argument ACCOUNT, which may be repeated or left out; `--account` is its old form."""

    @click.argument("accounts", nargs=-1, metavar="[ACCOUNT]...", shell_complete=complete_account)
    @click.option("--account", "named_accounts", multiple=True, hidden=True)
    @functools.wraps(function)
    def command(
        *values: Any, accounts: tuple[str, ...], named_accounts: tuple[str, ...], **options: Any
    ) -> Any:
        return function(*values, accounts=(*accounts, *named_accounts), **options)

    return command  # type: ignore[return-value]


account_argument = click.argument("account", shell_complete=complete_account)


def json_option(function: Function) -> Function:
    """Add `--json`; `--format` is its old form."""

    @click.option("--json", "is_json", is_flag=True, help="Print JSON instead of text.")
    @click.option("--format", "form", type=click.Choice(["table", "text", "json"]), hidden=True)
    @functools.wraps(function)
    def command(*values: Any, is_json: bool, form: str | None, **options: Any) -> Any:
        return function(*values, is_json=is_json or form == "json", **options)

    return command  # type: ignore[return-value]
