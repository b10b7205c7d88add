"""The command line. Results go to stdout, progress and errors to stderr, what happened to the exit code.

It knows how to ask and how to show; what is done is done by the orchestration, the lake and the emulator.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.base.secrets import redact
from convo_pipeline.console.results import WRITERS, show
from convo_pipeline.errors import ConvoError, SettingsError
from convo_pipeline.query.connection import Connection, QueryError, connect
from convo_pipeline.settings import (
    CONFIG_VARIABLE,
    Settings,
    StoreSettings,
    find_settings_file,
    read_settings,
)
from convo_pipeline.storage.local import PRIVATE_UMASK

EXIT_CODES = """\b
Exit codes:
  0  done; every account is complete
  1  an account failed or is incomplete, or the store or the query failed
  2  wrong usage or settings
  3  not found
  130  stopped by Ctrl-C or SIGTERM"""
EXIT_FAILED, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_STOPPED = 1, 2, 3, 130


class Commands(click.Group):
    """A group that turns this package's errors into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo(
                f"{ctx.info_name}: stopped; what came is kept, the same command goes on from there",
                err=True,
            )
            ctx.exit(EXIT_STOPPED)
        except SettingsError as error:
            _complain(error, ctx)
            ctx.exit(EXIT_USAGE)
        except (ConvoError, QueryError) as error:
            _complain(error, ctx)
            ctx.exit(EXIT_FAILED)


def _complain(error: Exception, ctx: click.Context) -> None:
    click.echo(f"{ctx.info_name}: {redact(str(error))}", err=True)


class Day(click.ParamType["date"]):
    """A UTC date such as 2026-11-21."""

    name = "date"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        if isinstance(value, date):
            return value
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value} is not a date such as 2026-11-21", param, ctx)


@dataclass(frozen=True)
class Surroundings:
    """What the commands share: which configuration, what time it is, where to print."""

    config: str | None = None
    clock: Clock = SYSTEM_CLOCK

    @property
    def settings(self) -> Settings:
        settings = read_settings(self.config)
        if not settings.accounts:
            raise SettingsError(f"{find_settings_file(self.config)}: no [[accounts]] yet")
        return settings

    def lake_root(self, root: str | None) -> tuple[str, Settings | None]:
        """Choose the lake to read: --root, else the configuration's, else ./data where there is no configuration."""
        if root is not None:
            file = Path(root) / "convo.toml"
            configured = read_settings(file) if file.is_file() else self._configured()
            return root, configured if file.is_file() or (
                configured and configured.store.root == root
            ) else None
        if self.config is None and not find_settings_file().exists():
            return "data", None
        settings = read_settings(self.config)
        return settings.store.root, settings

    def lake_settings(self, root: str | None) -> StoreSettings:
        """Return where the lake to work on is, chosen like the one to read."""
        place, settings = self.lake_root(root)
        if settings and settings.store.root == place:
            return settings.store
        if place.startswith("s3://"):
            raise SettingsError(
                f"{place}: a bucket needs a local state_dir: name the configuration of this lake by --config"
            )
        return StoreSettings(root=place)

    def _configured(self) -> Settings | None:
        """Return the configuration, if there is one."""
        return read_settings(self.config) if self.config or find_settings_file().exists() else None


@click.group(
    cls=Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option(
    "--config",
    metavar="FILE",
    help=f"Configuration; default: ${CONFIG_VARIABLE}, else ./convo.toml.",
)
@click.version_option(package_name="convo-pipeline")
@click.pass_context
def main(ctx: click.Context, config: str | None) -> None:
    """A business's Messenger and Instagram inbox as tables that can be queried."""
    os.umask(PRIVATE_UMASK)
    if not isinstance(ctx.obj, Surroundings):
        ctx.obj = Surroundings(config)


@main.command()
@click.option(
    "--root", default="data/demo", show_default=True, help="Folder of the demo's tables and runs."
)
@click.option("--ui", is_flag=True, help="Then keep the emulator and Dagster's UI until Ctrl-C.")
@click.option(
    "--port",
    default=3000,
    show_default=True,
    help="Port of the UI; another free one if it is taken.",
)
def demo(root: str, ui: bool, port: int) -> None:
    """Fetch a week of two invented inboxes and answer questions about it."""
    from convo_pipeline.console.demo import run_demo

    if not run_demo(Path(root), Console(), ui_port=port if ui else None):
        sys.exit(EXIT_FAILED)


@main.command()
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="NAME",
    help="Only this account; may be repeated.",
)
@click.option("--since", type=Day(), help="First day, UTC. Default: where a night would start.")
@click.option(
    "--until", type=Day(), help="Day after the last, UTC. Default: today; with --since, tomorrow."
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="From each account's start_date to now, after an estimate.",
)
@click.option(
    "--full",
    "sweep",
    is_flag=True,
    help="The same as if nothing were held; count what runs had missed.",
)
@click.pass_obj
def extract(
    surroundings: Surroundings,
    accounts: Sequence[str],
    since: date | None,
    until: date | None,
    everything: bool,
    sweep: bool,
) -> None:
    """Fetch accounts × days into the raw tables, then make all others from them."""
    from convo_pipeline.console.extraction import announce_estimates, choose_window, run_extraction

    if (everything or sweep) and (since or until):
        raise SettingsError(
            f"--{'all' if everything else 'full'} takes neither --since nor --until"
        )
    settings, clock = surroundings.settings, surroundings.clock
    names = _chosen(settings, accounts)
    window = choose_window(settings, names, clock.now().date(), since, until, everything or sweep)
    if everything:
        announce_estimates(settings, names, clock, os.environ, Console(stderr=True))
    if not run_extraction(
        settings, names, window, clock, os.environ, "full" if sweep else "window"
    ):
        sys.exit(EXIT_FAILED)


@main.command()
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="NAME",
    help="Only this account; may be repeated.",
)
@click.option("--since", type=Day(), help="First day, UTC. Default: the account's start_date.")
@click.option("--until", type=Day(), help="Day after the last, UTC. Default: tomorrow.")
@click.option("--force", is_flag=True, help="Make every day again, also those that agree already.")
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Also derive days whose raw rows were lost by damage: messages leave the derived tables.",
)
@click.pass_obj
def normalize(
    surroundings: Surroundings,
    accounts: Sequence[str],
    since: date | None,
    until: date | None,
    force: bool,
    accept_loss: bool,
) -> None:
    """Make every table agree with the raw ones again; asks nobody.

    After an upgrade, raw files of an earlier schema are written in today's. Cut off anywhere, also with --force, the same
    command goes on where it was.
    """
    from convo_pipeline.console.extraction import (
        accept_losses,
        choose_window,
        normalise_unconfigured,
        run_normalisation,
        wished_scope,
    )

    settings = surroundings.settings
    names = _chosen(settings, accounts)
    everything = since is None and until is None
    scope = wished_scope(force)
    if accept_loss:
        accept_losses(settings, names)
    if everything and not accounts:
        normalise_unconfigured(settings, scope)
    window = choose_window(
        settings, names, surroundings.clock.now().date(), since, until, everything
    )
    if not run_normalisation(settings, names, window, surroundings.clock, os.environ, scope):
        sys.exit(EXIT_FAILED)


def _chosen(settings: Settings, accounts: Sequence[str]) -> list[str]:
    """Return the named accounts in the order of the configuration, or all."""
    wanted = {settings.account(name).name for name in accounts}
    return [account.name for account in settings.accounts if not wanted or account.name in wanted]


@main.command()
@click.argument("account")
@click.argument("user_id")
@click.pass_obj
def find(surroundings: Surroundings, account: str, user_id: str) -> None:
    """Fetch the conversation with one person into the tables and print it, newest last."""
    from convo_pipeline.console.find import find_conversation, print_conversation

    settings = surroundings.settings
    report, conversation_ids = find_conversation(
        settings, account, user_id, surroundings.clock, os.environ
    )
    count = (
        print_conversation(Console(), settings, account, conversation_ids)
        if conversation_ids
        else 0
    )
    if report.outcome != "complete":
        raise ConvoError(
            f"{account}: {report.outcome}: {report.error or ', '.join(report.reasons)}"
        )
    if not count:
        what = (
            "nothing of the conversation with {} is kept"
            if conversation_ids
            else "no conversation with {}"
        )
        click.echo(f"{account}: {what.format(user_id)}", err=True)
        sys.exit(EXIT_NOT_FOUND)


@main.command(
    epilog="""\b
Exit codes:
  0  every account is fine (notes do not count)
  1  something is wrong or soon will be; the output says what to do
  2  wrong usage or settings"""
)
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="NAME",
    help="Only this account; may be repeated.",
)
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)
@click.pass_obj
def check(surroundings: Surroundings, accounts: Sequence[str], form: str) -> None:
    """Try each account's token, permissions, ids and folders with a few calls; say what to do about each finding."""
    from convo_pipeline.console.check import check_accounts, show_check

    settings = surroundings.settings
    names = _chosen(settings, accounts)
    with Console(stderr=True).status("asking the Graph API"):
        diagnoses, general = check_accounts(settings, names, os.environ, surroundings.clock)
    show_check(diagnoses, general, form, Console())
    if general or not all(each.is_fine for each in diagnoses):
        sys.exit(EXIT_FAILED)


@main.command(
    epilog="""\b
Exit codes:
  0  every account is complete and nothing needs a look
  1  something needs a look; the output says what
  2  wrong usage or settings"""
)
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="NAME",
    help="Only this account; may be repeated.",
)
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)
@click.pass_obj
def status(surroundings: Surroundings, accounts: Sequence[str], form: str) -> None:
    """Say how each account is, from the stored tables alone; asks nobody.

    The last complete run, the share of messages whose content is held (7 days), what was lost since yesterday and what
    is about to be, what is still to be read, and when the schedules run next.
    """
    from convo_pipeline.console.status import read_status, show_status

    settings = surroundings.settings
    found = read_status(settings, _chosen(settings, accounts), surroundings.clock.now())
    show_status(found, form, Console())
    if not found.is_fine:
        sys.exit(EXIT_FAILED)


@main.command()
@click.argument("sql", required=False)
@click.option("--root", help="The lake's folder. Default: the configuration's, else ./data.")
@click.option(
    "--format", "form", type=click.Choice(["table", *WRITERS]), default="table", show_default=True
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True),
    help="File to write; default: stdout.",
)
@click.pass_obj
def query(
    surroundings: Surroundings, sql: str | None, root: str | None, form: str, output: str | None
) -> None:
    """Ask the tables in SQL (DuckDB); without SQL, open a shell.

    CSV is written so that no cell starts a formula in a spreadsheet: such texts get a leading apostrophe.
    """
    place, settings = surroundings.lake_root(root)
    with connect(place, settings=settings) as con:
        if sql is None:
            _open_shell(con, form)
        else:
            _answer(con, sql, form, output)


def _answer(con: Connection, sql: str, form: str, output: str | None = None) -> None:
    relation: Any = con.sql(sql)
    if relation is None:
        return
    result = relation.to_arrow_table()
    if form == "table" and output is None:
        show(result, Console())
        return
    writer = WRITERS["csv" if form == "table" else form]
    if output is not None:
        with Path(output).open("wb") as file:
            writer(result, file)
        return
    if form == "parquet" and sys.stdout.isatty():
        raise SettingsError("parquet is not for a terminal: add --output FILE or redirect stdout")
    writer(result, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def _open_shell(con: Connection, form: str) -> None:
    from convo_pipeline.console.shell import run_shell

    if not sys.stdin.isatty():
        raise SettingsError(
            'no SQL was given and there is no terminal: convo-pipeline query "select ..."'
        )
    columns: dict[str, list[str]] = {}
    sql = (
        "select table_name, column_name from information_schema.columns where table_schema = 'main'"
    )
    rows = con.execute(sql).fetchall()
    for table, column in rows:
        columns.setdefault(table, []).append(column)
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    run_shell(
        Console(), lambda sql: _try(con, sql, form), columns, state / "convo-pipeline" / "history"
    )


def _try(con: Connection, sql: str, form: str) -> None:
    try:
        _answer(con, sql, form)
    except (ConvoError, QueryError) as error:
        click.echo(redact(str(error)), err=True)


@main.command()
@click.option("--root", help="The lake's folder. Default: the configuration's, else ./data.")
@click.option("--quick", is_flag=True, help="Compare names and sizes only.")
@click.option(
    "--rebuild-state",
    is_flag=True,
    help="First take the files for the truth: after a backup was put back.",
)
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)
@click.pass_obj
def verify(
    surroundings: Surroundings, root: str | None, quick: bool, rebuild_state: bool, form: str
) -> None:
    """Re-read every file and say what is off; touches no file of the lake. Exit 1 if anything is damaged."""
    from convo_pipeline.console.upkeep import show_verification, verify_lake

    found = verify_lake(
        surroundings.lake_settings(root),
        Console(stderr=True),
        is_quick=quick,
        is_rebuilt=rebuild_state,
    )
    show_verification(found, form, Console())
    if not found.is_sound:
        sys.exit(EXIT_FAILED)


@main.command()
@click.argument("old")
@click.argument("new")
@click.option("--root", help="The lake's folder. Default: the configuration's, else ./data.")
@click.pass_obj
def rename(surroundings: Surroundings, old: str, new: str, root: str | None) -> None:
    """Give account OLD the name NEW in the lake; then change its name in the configuration."""
    from convo_pipeline.console.upkeep import rename as rename_in_lake

    tables = rename_in_lake(surroundings.lake_settings(root), old, new)
    click.echo(
        f"{old} is now {new} in {len(tables)} tables; change its name in the configuration too",
        err=True,
    )


@main.command()
@click.argument("account")
@click.argument("person_id", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--again", is_flag=True, help="After a backup was put back: everybody who was forgotten before."
)
@click.pass_obj
def forget(
    surroundings: Surroundings, account: str, person_id: str | None, yes: bool, again: bool
) -> None:
    """Erase a person from everything ACCOUNT holds, for good; later runs do not store them again.

    PERSON_ID is the id by which this account knows them: participants.participant_id. Conversations between
    you and them leave whole; in groups what they sent leaves, and who they are.
    """
    from convo_pipeline.console.upkeep import forget_again, forget_person

    if again:
        for line in forget_again(surroundings.settings, account, surroundings.clock):
            click.echo(line)
        return
    if person_id is None:
        raise click.UsageError("name the PERSON_ID, or --again")
    is_agreed = (
        (lambda text: True) if yes else (lambda text: click.confirm(f"{text} Go on?", err=True))
    )
    told = forget_person(surroundings.settings, account, person_id, surroundings.clock, is_agreed)
    if told is None:
        click.echo(f"{account}: nothing was erased", err=True)
        sys.exit(EXIT_NOT_FOUND)
    click.echo(told)


@main.group()
def deletion() -> None:
    """Answer Meta's data deletion callback, and tell what became of each request."""


@deletion.command()
@click.argument("signed_request", required=False)
@click.pass_obj
def answer(surroundings: Surroundings, signed_request: str | None) -> None:
    """Forget whom Meta's SIGNED_REQUEST names (default: what stdin holds) and print the answer for Meta."""
    from convo_pipeline.console.deletions import answer_request

    text = signed_request if signed_request is not None else sys.stdin.read()
    reply, told = answer_request(surroundings.settings, text, os.environ, surroundings.clock)
    click.echo(reply)
    click.echo(told, err=True)


@deletion.command("status")
@click.argument("code", required=False)
@click.pass_obj
def deletion_status(surroundings: Surroundings, code: str | None) -> None:
    """Tell what became of the request with this confirmation CODE; without one, list all."""
    from convo_pipeline.console.deletions import describe_requests

    told = describe_requests(surroundings.settings, code)
    if code is not None and not told:
        click.echo("there is no request with this code", err=True)
        sys.exit(EXIT_NOT_FOUND)
    click.echo(told, nl=False)


@deletion.command()
@click.option("--port", default=8080, show_default=True, help="Port on 127.0.0.1; 0: a free one.")
@click.pass_obj
def serve(surroundings: Surroundings, port: int) -> None:
    """Serve the callback on this machine until Ctrl-C; put your own TLS in front of it."""
    from convo_pipeline.privacy.deletion_callback import make_application, make_callback_server

    application = make_application(surroundings.settings, os.environ, surroundings.clock)
    with make_callback_server(application, port) as server:
        click.echo(f"http://127.0.0.1:{server.server_port}")
        server.serve_forever()


@main.command()
@click.option("--dry-run", is_flag=True, help="Only list what would go.")
@click.option(
    "--trust-clock",
    is_flag=True,
    help="This machine's clock is right, although no server told such a time lately.",
)
@click.pass_obj
def expire(surroundings: Surroundings, dry_run: bool, trust_clock: bool) -> None:
    """Remove what is older than [retention] allows and what was unsent. The nightly upkeep does the same."""
    from convo_pipeline.console.upkeep import expire_rows, show_expired

    leaving = expire_rows(
        surroundings.settings, surroundings.clock, dry_run, is_clock_trusted=trust_clock
    )
    show_expired(leaving, Console())


@main.command()
@click.argument("accounts", nargs=-1)
@click.option(
    "--to", required=True, type=click.Path(path_type=Path), help="A new folder, outside the lake."
)
@click.option(
    "--format", "form", type=click.Choice(["parquet", "csv"]), default="parquet", show_default=True
)
@click.option(
    "--with-text", is_flag=True, help="With texts, links, file names and e-mail addresses."
)
@click.pass_obj
def export(
    surroundings: Surroundings, accounts: tuple[str, ...], to: Path, form: str, with_text: bool
) -> None:
    """Write the tables of ACCOUNTS (default: all) elsewhere, with codes in the place of people.

    The same person has the same code in every table and export under one secret ([export] secret_env). What people
    wrote, links, file names and e-mail addresses are left out. It stays personal data.
    """
    from convo_pipeline.console.export import export_tables

    settings = surroundings.settings
    counts = export_tables(
        settings, _chosen(settings, accounts), to, form, os.environ, with_text=with_text
    )
    click.echo(f"{to}: " + ", ".join(f"{count:,} of {table}" for table, count in counts.items()))


@main.command()
@click.option("--root", help="The lake's folder. Default: the configuration's, else ./data.")
@click.pass_obj
def compact(surroundings: Surroundings, root: str | None) -> None:
    """Keep closed months as one file each, for faster queries. The nightly upkeep does the same."""
    from convo_pipeline.console.upkeep import compact_lake

    count = compact_lake(surroundings.lake_settings(root), surroundings.clock, Console(stderr=True))
    click.echo(f"{count} months compacted")


@main.command()
@click.option("--port", default=0, show_default=True, help="Port on 127.0.0.1; 0: a free one.")
@click.option("--seed", default=7, show_default=True, help="The same seed gives the same world.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="NAME[:ARGUMENT|:PROBABILITY]",
    help="Let something go wrong, such as slow_loris:0.1; see docs/emulator.md. Repeatable.",
)
def emulator(port: int, seed: int, faults: tuple[str, ...]) -> None:
    """Serve an invented Graph API on this machine until Ctrl-C; prints a configuration for it."""
    from convo_pipeline.sandbox import serve_emulator

    serve_emulator(port, seed, lambda text: click.echo(text), faults)


if __name__ == "__main__":
    main()
