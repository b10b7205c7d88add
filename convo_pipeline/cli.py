"""The command line: results go to stdout, progress and errors to stderr.

This module parses arguments and sets exit codes. The commands are in `console/`. Each command
imports what it needs when it runs, so that `--help` takes no time.
"""

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.errors import ConvoError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from convo_pipeline.derive.rederive import Scope
    from convo_pipeline.extract.report import Mode
    from convo_pipeline.settings import Settings, StoreSettings

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_CODES = """\b
Exit codes:
  0  done; every account is complete
  1  an account failed or is incomplete, or the storage or the query failed
  2  wrong usage or settings
  3  not found
  130  stopped by Ctrl-C or SIGTERM"""
LINE_BREAK = "\n"
EXIT_FAILED, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_STOPPED = 1, 2, 3, 130
ATTENTION_CODES = """\b
Exit codes:
  0  no account has a problem or a warning
  1  an account has one; the output names what to do
  2  wrong usage or settings"""


class ArrowCommand(click.Command):
    """A command that loads PyArrow without pandas before it runs; `--help` loads neither."""

    def invoke(self, ctx: click.Context) -> Any:
        import_pandas_later()
        return super().invoke(ctx)


class Commands(click.Group):
    """A command group that prints an error as one line and sets the exit code."""

    command_class = ArrowCommand

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            self._fail(ctx, EXIT_STOPPED, "stopped; run the same command again to continue")
        except SettingsError as error:
            self._fail(ctx, EXIT_USAGE, str(error))
        except ConvoError as error:
            self._fail(ctx, EXIT_FAILED, str(error))

    def _fail(self, ctx: click.Context, exit_code: int, text: str) -> None:
        from convo_pipeline.base.secrets import redact
        from convo_pipeline.base.terminal_text import printable

        click.echo(f"{ctx.info_name}: {printable(redact(text), keep=LINE_BREAK)}", err=True)
        ctx.exit(exit_code)


class UtcDate(click.ParamType["date"]):
    """A date such as 2026-11-21."""

    name = "date"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        if isinstance(value, date):
            return value
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value} is not a date such as 2026-11-21", param, ctx)


@dataclass(frozen=True)
class CommandContext:
    """What all commands share: the configuration file and the clock."""

    config: str | None = None
    clock: Clock = SYSTEM_CLOCK

    @property
    def settings(self) -> "Settings":
        """The configuration; SettingsError if it has no account."""
        from convo_pipeline.settings import find_settings_file, read_settings

        settings = read_settings(self.config)
        if not settings.accounts:
            raise SettingsError(f"{find_settings_file(self.config)}: no [[accounts]] yet")
        return settings

    def find_lake(self, root: str | None) -> "tuple[str, Settings | None]":
        """Return the root of the tables and their configuration, if there is one.

        Without `root` it is the configuration's, or ./data if there is no configuration.
        """
        from convo_pipeline.settings import CONFIG_FILE, find_settings_file, read_settings

        has_config = self.config is not None or find_settings_file().exists()
        if root is None:
            settings = read_settings(self.config) if has_config else None
            return (settings.store.root if settings else "data"), settings
        file = Path(root) / CONFIG_FILE
        if file.is_file():
            return root, read_settings(file)
        settings = read_settings(self.config) if has_config else None
        return root, settings if settings and is_same_root(settings.store.root, root) else None

    def store_settings(self, root: str | None) -> "StoreSettings":
        """Return the `[store]` settings of the tables at `root`, found as in `find_lake`."""
        from convo_pipeline.settings import StoreSettings

        found_root, settings = self.find_lake(root)
        if settings and is_same_root(settings.store.root, found_root):
            return settings.store
        if found_root.startswith("s3://"):
            raise SettingsError(
                f"{found_root}: a bucket needs a local state_dir; use --config with its settings"
            )
        return StoreSettings(root=found_root)


def open_console(stderr: bool = False) -> "Console":
    """Return a console on stdout or stderr."""
    from rich.console import Console

    return Console(stderr=stderr)


def is_same_root(root: str, other: str) -> bool:
    """Return whether two texts name the same folder or bucket prefix."""
    if "://" in root or "://" in other:
        return root.rstrip("/") == other.rstrip("/")
    return os.path.realpath(root) == os.path.realpath(other)


def chosen_accounts(settings: "Settings", accounts: Sequence[str]) -> list[str]:
    """Return the named accounts in the order of the configuration, or all."""
    chosen = {settings.account(name).name for name in accounts}
    return [each.name for each in settings.accounts if not chosen or each.name in chosen]


def _show_version(ctx: click.Context) -> None:
    from importlib.metadata import version

    from convo_pipeline.schema import SCHEMA_VERSION

    click.echo(f"convo-pipeline {version('convo-pipeline')}, schema version {SCHEMA_VERSION}")
    ctx.exit()


ACCOUNT_OPTION = click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="NAME",
    help="Only this account; may be repeated.",
)
ROOT_OPTION = click.option(
    "--root", help="Folder of the tables. Default: the configuration's, else ./data."
)


PORT = click.IntRange(0, 65535)


def format_option(*formats: str) -> Callable[[Command], Command]:
    """Add `--format`; the first format is the default."""
    choice = click.Choice(formats)
    return click.option("--format", "form", type=choice, default=formats[0], show_default=True)


@click.group(
    cls=Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option(
    "--config",
    metavar="FILE",
    help="Configuration file. Default: $CONVO_CONFIG, else ./convo.toml.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _, is_asked: _show_version(ctx) if is_asked else None,
    help="Show the versions of the program and of the tables' schema, and exit.",
)
@click.pass_context
def main(ctx: click.Context, config: str | None) -> None:
    """A business's Messenger and Instagram inbox as tables that can be queried."""
    os.umask(0o077)  # libraries write files too: Dagster's runs and logs, exports
    if not isinstance(ctx.obj, CommandContext):
        ctx.obj = CommandContext(config)


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


@main.command()
@click.option(
    "--root", default="data/demo", show_default=True, help="Folder for the demo's tables and runs."
)
@click.option("--ui", is_flag=True, help="Then serve Dagster's UI and the emulator until Ctrl-C.")
@click.option(
    "--port",
    type=PORT,
    default=3000,
    show_default=True,
    help="Port of the UI; if it is taken, a free one.",
)
def demo(root: str, ui: bool, port: int) -> None:
    """Fetch one week of two invented inboxes and answer questions about it."""
    from convo_pipeline.console.demo import run_demo

    if not run_demo(Path(root), open_console(), ui_port=port if ui else None):
        sys.exit(EXIT_FAILED)


@main.command()
@click.argument("token")
@click.option(
    "--start-date",
    type=UtcDate(),
    help="start_date of the new accounts, UTC. Default: one year ago.",
)
@click.option("--write", is_flag=True, help="Append the blocks to the configuration file.")
@click.pass_obj
def connect(context: CommandContext, token: str, start_date: date | None, write: bool) -> None:
    """List the inboxes that one token opens, and print their [[accounts]] blocks.

    TOKEN is the name of a variable, or the absolute path of a file, with the token of a user, of a
    system user or of Instagram Login. The blocks use it by `token_from`: the token of each Page is
    read from the API and held in memory only.

    \b
    Example:
      convo-pipeline connect META_TOKEN --write
    """
    from convo_pipeline.console.connect import append_blocks, find_inboxes, show_inboxes

    found = find_inboxes(context.config, token, os.environ, context.clock)
    show_inboxes(found, open_console(stderr=True))
    today = context.clock.now().date()
    blocks = found.blocks(start_date or today - timedelta(days=365))
    if write and blocks:
        path = append_blocks(context.config, blocks, os.environ)
        click.echo(f"{path} has the new accounts; next: convo-pipeline check", err=True)
    elif blocks:
        click.echo(blocks, nl=False)
    if found.missing_permissions or any(inbox.problem for inbox in found.inboxes):
        sys.exit(EXIT_FAILED)
    if not found.inboxes:
        sys.exit(EXIT_NOT_FOUND)


@main.command()
@click.argument("account")
@click.option("--renew", is_flag=True, help="Get a token that lives longer.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the new token (mode 0600). Default: stdout, if it is a pipe.",
)
@format_option("text", "json")
@click.pass_obj
def token(
    context: CommandContext, account: str, renew: bool, output: Path | None, form: str
) -> None:
    """Show kind, owner, permissions and expiry of ACCOUNT's token; never the token itself.

    With --renew, exchange a user's token for one of 60 days, or refresh an Instagram Login token.

    \b
    Example:
      convo-pipeline token studio-instagram --renew --output /etc/convo-pipeline/studio.token
    """
    from convo_pipeline.base.json_text import dump_json
    from convo_pipeline.console.connect import describe_token, renew_token, write_token

    settings, clock = context.settings, context.clock
    if renew:
        if output is None and sys.stdout.isatty():
            raise SettingsError("a token is not printed to a terminal: add --output FILE")
        new = renew_token(settings, account, os.environ, clock)
        click.echo(write_token(new, output, sys.stdout), err=True)
        return
    report = describe_token(settings, account, os.environ, clock)
    text = dump_json(report.to_json()).decode() if form == "json" else "\n".join(report.lines())
    click.echo(text)


@main.command()
@click.pass_obj
def init(context: CommandContext) -> None:
    """Write a commented convo.toml to start from. An existing file is never changed."""
    from convo_pipeline.console.first_settings import write_first_settings
    from convo_pipeline.settings import find_settings_file

    file = find_settings_file(context.config)
    write_first_settings(file, context.clock.now().date())
    click.echo(f"{file} written: edit its account, then run `convo-pipeline check`", err=True)


@main.command()
@ACCOUNT_OPTION
@click.option(
    "--since", type=UtcDate(), help="First day, UTC. Default: that of the next nightly run."
)
@click.option(
    "--until",
    type=UtcDate(),
    help="Day after the last day, UTC. Default: today; with --since, tomorrow.",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Read everything from each account's start_date to now; print an estimate first.",
)
@click.option(
    "--full",
    "sweep",
    is_flag=True,
    help="Read everything again and report the messages that earlier runs missed.",
)
@click.pass_obj
def extract(
    context: CommandContext,
    accounts: Sequence[str],
    since: date | None,
    until: date | None,
    everything: bool,
    sweep: bool,
) -> None:
    """Read messages from the API into the raw tables, then update all other tables.

    Without options it reads what the next nightly run would read: everything new up to yesterday.
    """
    from convo_pipeline.console.extraction import announce_estimates, choose_windows, run_extraction

    if (everything or sweep) and (since or until):
        option = "--all" if everything else "--full"
        raise SettingsError(f"{option} takes neither --since nor --until")
    settings, clock = context.settings, context.clock
    names = chosen_accounts(settings, accounts)
    windows = choose_windows(settings, names, clock.now().date(), since, until, everything or sweep)
    expected = None
    if everything:
        console = open_console(stderr=True)
        expected = announce_estimates(settings, names, clock, os.environ, console)
    mode: Mode = "full" if sweep else "window"
    if not run_extraction(settings, windows, clock, os.environ, mode, expected):
        sys.exit(EXIT_FAILED)


@main.command()
@ACCOUNT_OPTION
@click.option("--since", type=UtcDate(), help="First day, UTC. Default: the account's start_date.")
@click.option("--until", type=UtcDate(), help="Day after the last day, UTC. Default: tomorrow.")
@click.option("--force", is_flag=True, help="Derive every day again, not only changed days.")
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Also derive days whose raw rows were lost by damage: messages leave the derived tables.",
)
@click.pass_obj
def normalize(
    context: CommandContext,
    accounts: Sequence[str],
    since: date | None,
    until: date | None,
    force: bool,
    accept_loss: bool,
) -> None:
    """Derive the other tables again from the raw tables; makes no API calls.

    It also upgrades raw files of an older version. If it is interrupted, run it again: it resumes.
    """
    from convo_pipeline.console.extraction import (
        accept_losses,
        choose_windows,
        normalise_unconfigured,
        run_normalisation,
    )

    settings, today = context.settings, context.clock.now().date()
    names = chosen_accounts(settings, accounts)
    everything = since is None and until is None
    scope: Scope = "all" if force else "stale"
    if accept_loss:
        accept_losses(settings, names)
    if everything and not accounts:
        normalise_unconfigured(settings, scope)
    windows = choose_windows(settings, names, today, since, until, everything)
    if not run_normalisation(settings, windows, context.clock, os.environ, scope):
        sys.exit(EXIT_FAILED)


@main.command()
@click.argument("account")
@click.argument("user_id")
@click.pass_obj
def find(context: CommandContext, account: str, user_id: str) -> None:
    """Read the conversation with one person into the tables and print it, newest last."""
    from convo_pipeline.console.extraction import (
        describe_report,
        find_conversation,
        print_conversation,
    )

    if not re.fullmatch(r"[0-9A-Za-z_.-]+", user_id):
        raise click.BadParameter("give the person's id, as in the column customer_id")
    settings = context.settings
    report, conversation_ids = find_conversation(
        settings, account, user_id, context.clock, os.environ
    )
    message_count = 0
    if conversation_ids:
        message_count = print_conversation(open_console(), settings, account, conversation_ids)
    if report.outcome != "complete":
        raise ConvoError(describe_report(settings, report))
    if not message_count:
        what = "no stored messages of the conversation" if conversation_ids else "no conversation"
        click.echo(f"{account}: {what} with {user_id}", err=True)
        sys.exit(EXIT_NOT_FOUND)


@main.command(epilog=ATTENTION_CODES)
@ACCOUNT_OPTION
@format_option("table", "json")
@click.pass_obj
def check(context: CommandContext, accounts: Sequence[str], form: str) -> None:
    """Check each account's token, permissions, ids and folders with a few API calls.

    It also names why the last run of an account was not complete, and what to do about it.
    """
    from convo_pipeline.console.check import check_accounts, show_check

    settings = context.settings
    names = chosen_accounts(settings, accounts)
    with open_console(stderr=True).status("calling the Graph API"):
        setups, general = check_accounts(settings, names, os.environ, context.clock)
    show_check(setups, general, form, open_console())
    if general or not all(setup.is_fine for setup in setups):
        sys.exit(EXIT_FAILED)


@main.command(epilog=ATTENTION_CODES)
@ACCOUNT_OPTION
@format_option("table", "json")
@click.pass_obj
def status(context: CommandContext, accounts: Sequence[str], form: str) -> None:
    """Show the state of each account from the stored tables; makes no API calls.

    For each account: last complete run, share of messages with content (7 days), messages lost
    since yesterday, conversations at risk, messages still to be read, and the next scheduled runs.
    """
    from convo_pipeline.console.status import read_status, show_status

    settings = context.settings
    report = read_status(settings, chosen_accounts(settings, accounts), context.clock.now())
    show_status(report, form, open_console())
    if not report.is_fine:
        sys.exit(EXIT_FAILED)


@main.command(epilog="! marks keys and values that this version does not know.")
@ACCOUNT_OPTION
@format_option("text", "json")
@click.pass_obj
def shapes(context: CommandContext, accounts: Sequence[str], form: str) -> None:
    """Show which keys, types and values the API's responses have.

    It counts what runs received, by kind of call, and the payloads of the raw tables. The report
    holds no id, name, text, URL or token: paste it into a bug report. No API calls.
    """
    from convo_pipeline.base.json_text import dump_json
    from convo_pipeline.console.shapes import count_shapes
    from convo_pipeline.graph.shapes import render

    settings = context.settings
    census = count_shapes(settings.store, chosen_accounts(settings, accounts))
    text = dump_json(census.to_json()).decode() if form == "json" else render(census)
    click.echo(text or "no payloads are stored yet: run `convo-pipeline extract`")


@main.command()
@click.argument("sql", required=False)
@ROOT_OPTION
@format_option("table", "csv", "json", "parquet")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True),
    help="File to write. Default: stdout.",
)
@click.pass_obj
def query(
    context: CommandContext, sql: str | None, root: str | None, form: str, output: str | None
) -> None:
    """Run SQL (DuckDB) on the tables; without SQL, open a shell.

    In CSV, a text that starts a formula in a spreadsheet gets a leading apostrophe.
    """
    from convo_pipeline.base.secrets import redact
    from convo_pipeline.base.terminal_text import printable
    from convo_pipeline.console.query import check_output, open_shell, run_sql
    from convo_pipeline.query.connection import QueryError, connect

    def run_in_shell(statement: str) -> None:
        try:
            run_sql(con, statement, form)
        except (ConvoError, QueryError) as error:
            click.echo(printable(redact(str(error)), keep=LINE_BREAK), err=True)

    lake_root, settings = context.find_lake(root)
    if output is not None:
        check_output(Path(output), lake_root, settings)
    try:
        with connect(lake_root, settings=settings) as con:
            if sql is None:
                open_shell(con, run_in_shell)
            else:
                run_sql(con, sql, form, output)
    except QueryError as error:
        raise ConvoError(str(error)) from None


@main.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@ROOT_OPTION
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.pass_obj
def database(context: CommandContext, file: Path, root: str | None, force: bool) -> None:
    """Write a DuckDB FILE with the views, for BI tools, notebooks and the DuckDB UI.

    It holds no rows: a view reads the tables when it is queried.

    \b
    Example:
      convo-pipeline database inbox.duckdb && duckdb -ui inbox.duckdb
    """
    from convo_pipeline.query.database_file import write_database

    lake_root, settings = context.find_lake(root)
    empty = write_database(lake_root, file, settings, is_replaced=force)
    click.echo(f"{file} has the views over {lake_root}", err=True)
    if empty:
        names = ", ".join(empty)
        click.echo(f"still empty: {names}. Write the file again when they have rows.", err=True)


@main.command()
@ROOT_OPTION
@click.option("--quick", is_flag=True, help="Compare names and sizes only.")
@click.option(
    "--rebuild-state",
    is_flag=True,
    help="First rebuild the state from the files. Use it after restoring a backup.",
)
@format_option("table", "json")
@click.pass_obj
def verify(
    context: CommandContext, root: str | None, quick: bool, rebuild_state: bool, form: str
) -> None:
    """Read every file and report damage; changes no table. Exit code 1 if a file is damaged."""
    from convo_pipeline.console.upkeep import show_verification, verify_lake

    store = context.store_settings(root)
    progress = open_console(stderr=True)
    result = verify_lake(store, progress, is_quick=quick, is_rebuilt=rebuild_state)
    show_verification(result, form, open_console())
    if not result.is_sound:
        sys.exit(EXIT_FAILED)


@main.command()
@click.argument("old")
@click.argument("new")
@ROOT_OPTION
@click.pass_obj
def rename(context: CommandContext, old: str, new: str, root: str | None) -> None:
    """Rename account OLD to NEW in the tables. Then change its name in the configuration."""
    from convo_pipeline.console.upkeep import open_lake
    from convo_pipeline.upkeep.rename import rename_account

    with open_lake(context.store_settings(root)) as store:
        tables = rename_account(store, old, new)
    text = f"{old} is now {new} in {len(tables)} tables"
    click.echo(f"{text}; change its name in the configuration too", err=True)


@main.command()
@click.argument("account")
@click.argument("person_id", required=False)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option(
    "--again",
    is_flag=True,
    help="Erase again everybody who was erased before. Use it after restoring a backup.",
)
@click.pass_obj
def forget(
    context: CommandContext, account: str, person_id: str | None, yes: bool, again: bool
) -> None:
    """Erase a person from everything that ACCOUNT stores; later runs do not store them again.

    PERSON_ID is the person's id in the column participants.participant_id. Conversations between
    the business and the person are erased. In groups, the person's messages and name are erased.
    """
    from convo_pipeline.console.privacy import forget_again, forget_person

    if again:
        for line in forget_again(context.settings, account, context.clock):
            click.echo(line)
        return
    if person_id is None:
        raise click.UsageError("give the PERSON_ID, or --again")
    receipt = forget_person(
        context.settings,
        account,
        person_id,
        context.clock,
        lambda question: yes or click.confirm(question, err=True),
    )
    if receipt is None:
        click.echo(f"{account}: nothing was erased", err=True)
        sys.exit(EXIT_NOT_FOUND)
    click.echo(receipt)


@main.group()
def deletion() -> None:
    """Answer Meta's data deletion callback, and show the status of each request."""


@deletion.command()
@click.argument("signed_request", required=False)
@click.pass_obj
def answer(context: CommandContext, signed_request: str | None) -> None:
    """Erase the person that Meta's SIGNED_REQUEST names and print the answer for Meta.

    Without an argument, the request is read from stdin.
    """
    from convo_pipeline.console.privacy import answer_request

    text = signed_request if signed_request is not None else sys.stdin.read()
    reply, result = answer_request(context.settings, text, os.environ, context.clock)
    click.echo(reply)
    click.echo(result, err=True)


@deletion.command("status")
@click.argument("code", required=False)
@click.pass_obj
def deletion_status(context: CommandContext, code: str | None) -> None:
    """Show the request with this confirmation CODE, or list all requests."""
    from convo_pipeline.console.privacy import describe_requests

    text = describe_requests(context.settings, code)
    if code is not None and not text:
        click.echo("there is no request with this code", err=True)
        sys.exit(EXIT_NOT_FOUND)
    click.echo(text, nl=False)


@deletion.command()
@click.option(
    "--port", type=PORT, default=8080, show_default=True, help="Port on 127.0.0.1; 0: a free one."
)
@click.pass_obj
def serve(context: CommandContext, port: int) -> None:
    """Serve the callback on 127.0.0.1 until Ctrl-C. It needs a TLS proxy in front of it."""
    from convo_pipeline.privacy.deletion_callback import make_application, make_callback_server

    application = make_application(context.settings, os.environ, context.clock)
    with make_callback_server(application, port) as server:
        click.echo(f"http://127.0.0.1:{server.server_port}")
        server.serve_forever()


@main.command()
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@click.option(
    "--trust-clock",
    is_flag=True,
    help="Trust this machine's clock although nothing stored confirms it.",
)
@click.pass_obj
def expire(context: CommandContext, dry_run: bool, trust_clock: bool) -> None:
    """Remove rows older than [retention] allows, and unsent messages.

    The nightly upkeep does the same.
    """
    from convo_pipeline.console.upkeep import expire_rows, show_removal

    removal = expire_rows(context.settings, context.clock, dry_run, is_clock_trusted=trust_clock)
    show_removal(removal, open_console())


@main.command()
@click.argument("accounts", nargs=-1)
@click.option(
    "--to", required=True, type=click.Path(path_type=Path), help="A new folder outside the tables."
)
@format_option("parquet", "csv")
@click.option(
    "--with-text",
    is_flag=True,
    help="Include texts, links, file names and e-mail addresses.",
)
@click.pass_obj
def export(
    context: CommandContext, accounts: tuple[str, ...], to: Path, form: str, with_text: bool
) -> None:
    """Write the tables of ACCOUNTS (default: all) to a folder, with codes instead of people.

    One person has the same code in every table and in every export with the same secret ([export]
    secret_env). Texts, links, file names and e-mail addresses are left out. The result is still
    personal data.
    """
    from convo_pipeline.console.upkeep import open_lake
    from convo_pipeline.privacy.export import export_tables

    settings = context.settings
    names = chosen_accounts(settings, accounts)
    with open_lake(settings.store) as store:
        counts = export_tables(settings, store, names, to, form, os.environ, with_text=with_text)
    click.echo(f"{to}: " + ", ".join(f"{table} {count:,}" for table, count in counts.items()))


@main.command()
@ROOT_OPTION
@click.pass_obj
def compact(context: CommandContext, root: str | None) -> None:
    """Store each closed month in one file, for faster queries.

    The nightly upkeep does the same.
    """
    from convo_pipeline.console.upkeep import compact_lake

    store = context.store_settings(root)
    count = compact_lake(store, context.clock, open_console(stderr=True))
    click.echo(f"months compacted: {count}")


@main.command()
@click.option(
    "--port", type=PORT, default=0, show_default=True, help="Port on 127.0.0.1; 0: a free one."
)
@click.option("--seed", default=7, show_default=True, help="The same seed gives the same data.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="NAME[:ARGUMENT|:PROBABILITY]",
    help="Inject a fault such as slow_loris:0.1; see docs/emulator.md. May be repeated.",
)
def emulator(port: int, seed: int, faults: tuple[str, ...]) -> None:
    """Serve an emulated Graph API until Ctrl-C; prints a configuration for it."""
    from convo_pipeline.sandbox import serve_emulator

    serve_emulator(port, seed, click.echo, faults)


if __name__ == "__main__":
    main()
