"""The command line: results go to stdout, notes, progress and errors to stderr.

This module declares the commands. What they share is in `console/arguments.py`. Each command
imports what it needs when it runs, so that `--help` takes no time.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convo_pipeline.console.arguments import (
    ATTENTION_CODES,
    EXIT_CODES,
    EXIT_FAILED,
    EXIT_NOT_FOUND,
    PORT,
    CommandContext,
    Commands,
    PersonId,
    UtcDate,
    account_argument,
    accounts_argument,
    chosen_accounts,
    json_option,
    open_console,
    root_option,
)
from convo_pipeline.console.messages import LOG
from convo_pipeline.errors import ConvoError, SettingsError

if TYPE_CHECKING:
    from convo_pipeline.derive.rederive import Scope
    from convo_pipeline.extract.report import Mode


def _show_version(ctx: click.Context) -> None:
    from importlib.metadata import version

    from convo_pipeline.schema import SCHEMA_VERSION

    click.echo(f"convo-pipeline {version('convo-pipeline')}, schema version {SCHEMA_VERSION}")
    ctx.exit()


def print_json(document: object) -> None:
    """Print a document as one line of UTF-8 JSON, whatever the encoding of stdout is."""
    from convo_pipeline.base.json_text import dump_json
    from convo_pipeline.base.terminal_text import escape_controls

    click.echo(escape_controls(dump_json(document).decode()).encode())


@click.group(
    cls=Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _, is_asked: _show_version(ctx) if is_asked else None,
    help="Show the versions of the program and of the tables' schema, and exit.",
)
def main() -> None:
    """A business's Messenger and Instagram inbox as tables that can be queried.

    The options may also stand after the command. Dates are UTC days: 2026-11-21, today, yesterday,
    or 7d for seven days ago.

    \b
    First steps:
      convo-pipeline demo       try it without an account
      convo-pipeline init       write convo.toml; then edit it
      convo-pipeline check      test tokens and permissions
      convo-pipeline extract    read messages into the tables

    \b
    Tab completion for bash; also zsh_source and fish_source:
      eval "$(_CONVO_PIPELINE_COMPLETE=bash_source convo-pipeline)"
    """
    os.umask(0o077)  # libraries write files too: Dagster's runs and logs, exports


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
@click.pass_obj
def demo(context: CommandContext, root: str, ui: bool, port: int) -> None:
    """Fetch one week of two invented inboxes and query it.

    \b
    Example:
      convo-pipeline demo --ui
    """
    from convo_pipeline.console.demo import run_demo

    progress = context.progress()
    if not run_demo(Path(root), open_console(), progress, ui_port=port if ui else None):
        sys.exit(EXIT_FAILED)


@main.command()
@click.argument("token")
@click.option(
    "--start-date",
    type=UtcDate(),
    help="start_date of the new accounts, UTC. Default: one year ago.",
)
@click.option("--write", is_flag=True, help="Append the blocks to the configuration file.")
@json_option
@click.pass_obj
def connect(
    context: CommandContext, token: str, start_date: date | None, write: bool, is_json: bool
) -> None:
    """List the inboxes of a token as [[accounts]] blocks.

    TOKEN is the name of a variable, or the absolute path of a file, with the token of a user, of a
    system user or of Instagram Login. The blocks use it by `token_from`: the token of each Page is
    read from the API and held in memory only.

    \b
    Example:
      convo-pipeline connect META_TOKEN --write
    """
    from convo_pipeline.console.connect import append_blocks, find_inboxes, show_inboxes

    found = find_inboxes(context.config, token, os.environ, context.clock)
    today = context.clock.now().date()
    blocks = found.blocks(start_date or today - timedelta(days=365))
    if is_json:
        print_json({"inboxes": found.inboxes, "missing_permissions": found.missing_permissions})
    else:
        show_inboxes(found, open_console(stderr=True))
    if write and blocks:
        path = append_blocks(context.config, blocks, os.environ)
        LOG.info("%s has the new accounts; next: convo-pipeline check", path)
    elif blocks and not is_json:
        click.echo(blocks, nl=False)
    if found.missing_permissions or any(inbox.problem for inbox in found.inboxes):
        sys.exit(EXIT_FAILED)
    if not found.inboxes:
        sys.exit(EXIT_NOT_FOUND)


@main.command()
@account_argument
@click.option("--renew", is_flag=True, help="Get a token that lives longer.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the new token (mode 0600). Default: stdout, if it is a pipe.",
)
@json_option
@click.pass_obj
def token(
    context: CommandContext, account: str, renew: bool, output: Path | None, is_json: bool
) -> None:
    """Show kind, permissions and expiry of a token, or renew it.

    The token itself is never shown. With --renew, exchange a user's token for one of 60 days, or
    refresh an Instagram Login token.

    \b
    Example:
      convo-pipeline token studio-instagram --renew --output /etc/convo-pipeline/studio.token
    """
    from convo_pipeline.console.connect import describe_token, renew_token, write_token

    settings, clock = context.settings, context.clock
    if renew:
        if output is None and sys.stdout.isatty():
            raise SettingsError("a token is not printed to a terminal: add --output FILE")
        new = renew_token(settings, account, os.environ, clock)
        LOG.info("%s", write_token(new, output, sys.stdout))
        return
    report = describe_token(settings, account, os.environ, clock)
    if is_json:
        print_json(report.to_json())
    else:
        click.echo("\n".join(report.lines()))


@main.command()
@click.argument("folder", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.pass_obj
def init(context: CommandContext, folder: Path | None) -> None:
    """Write a commented convo.toml to start from.

    With FOLDER, also write what Dagster and a reader need: workspace.yaml, dagster.yaml, notebooks
    and the documentation. An existing file is never changed.

    \b
    Examples:
      convo-pipeline init
      convo-pipeline init inbox && cd inbox && dagster dev
    """
    from convo_pipeline.console.first_settings import write_first_settings, write_project
    from convo_pipeline.settings import find_settings_file

    today = context.clock.now().date()
    if folder is not None:
        for path, is_new in write_project(folder, today):
            LOG.info("%s %s", path, "written" if is_new else "exists already: it was not changed")
        LOG.info("edit the account in %s/convo.toml, then run `convo-pipeline check` there", folder)
        return
    file = find_settings_file(context.config)
    write_first_settings(file, today)
    LOG.info("%s written: edit its account, then run `convo-pipeline check`", file)


@main.command()
@accounts_argument
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
@root_option
@json_option
@click.pass_obj
def extract(
    context: CommandContext,
    accounts: Sequence[str],
    since: date | None,
    until: date | None,
    everything: bool,
    sweep: bool,
    is_json: bool,
) -> None:
    """Read messages from the API into the tables.

    Without options it reads what the next nightly run would read: everything new up to yesterday.

    \b
    Examples:
      convo-pipeline extract
      convo-pipeline extract bakery-instagram --since 7d
      convo-pipeline extract --all
    """
    if (everything or sweep) and (since or until):
        option = "--all" if everything else "--full"
        raise SettingsError(f"{option} takes neither --since nor --until")
    settings, clock = context.settings, context.clock
    names = chosen_accounts(settings, accounts)
    if everything:  # before the imports, which take a second on a busy machine
        LOG.info("accounts to estimate, with a few calls each: %d", len(names))
    from convo_pipeline.console.extraction import (
        announce_estimates,
        choose_windows,
        run_extraction,
        show_extraction,
    )

    windows = choose_windows(settings, names, clock.now().date(), since, until, everything or sweep)
    expected = None
    if everything:
        expected = announce_estimates(settings, names, clock, os.environ)
    mode: Mode = "full" if sweep else "window"
    progress = context.progress(expected)
    result = run_extraction(settings, windows, clock, os.environ, progress, mode)
    if is_json:
        print_json(result.to_json())
    show_extraction(settings, result, None if is_json else open_console())
    if not result.is_complete:
        sys.exit(EXIT_FAILED)


@main.command()
@accounts_argument
@click.option("--since", type=UtcDate(), help="First day, UTC. Default: the account's start_date.")
@click.option("--until", type=UtcDate(), help="Day after the last day, UTC. Default: tomorrow.")
@click.option("--force", is_flag=True, help="Derive every day again, not only changed days.")
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Also derive days whose raw rows were lost by damage: messages leave the derived tables.",
)
@root_option
@json_option
@click.pass_obj
def normalize(
    context: CommandContext,
    accounts: Sequence[str],
    since: date | None,
    until: date | None,
    force: bool,
    accept_loss: bool,
    is_json: bool,
) -> None:
    """Derive the other tables from the raw ones, without API calls.

    It also upgrades raw files of an older version. If it is interrupted, run it again: it resumes.

    \b
    Example:
      convo-pipeline normalize bakery-instagram --since 2026-01-01
    """
    from convo_pipeline.console.extraction import (
        accept_losses,
        choose_windows,
        describe_window,
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
    progress = context.progress()
    result = run_normalisation(settings, windows, context.clock, os.environ, scope, progress)
    if is_json:
        print_json({"accounts": names, "failures": result.failures})
    elif result.is_complete:
        click.echo(f"all tables are up to date: {describe_window(windows)}")
    for line in result.failures:
        LOG.error("%s", line)
    if not result.is_complete:
        sys.exit(EXIT_FAILED)


@main.command()
@account_argument
@click.argument("user_id", type=PersonId())
@root_option
@json_option
@click.pass_obj
def find(context: CommandContext, account: str, user_id: str, is_json: bool) -> None:
    """Read the conversation with one person and print it.

    The newest message is the last. USER_ID is the person's id in the column customer_id.

    \b
    Example:
      convo-pipeline find bakery-instagram 17841400000000001
    """
    from convo_pipeline.console.extraction import (
        describe_report,
        find_conversation,
        print_conversation,
        read_conversation,
    )

    settings = context.settings
    report, conversation_ids = find_conversation(
        settings, account, user_id, context.clock, os.environ
    )
    messages = read_conversation(settings, account, conversation_ids) if conversation_ids else []
    if is_json:
        print_json(messages)
    else:
        print_conversation(open_console(), messages)
    if report.outcome != "complete":
        raise ConvoError(describe_report(settings, report))
    if not messages:
        what = "no stored messages of the conversation" if conversation_ids else "no conversation"
        LOG.error("%s: %s with %s", account, what, user_id)
        sys.exit(EXIT_NOT_FOUND)


@main.command(epilog=ATTENTION_CODES)
@accounts_argument
@root_option
@json_option
@click.pass_obj
def check(context: CommandContext, accounts: Sequence[str], is_json: bool) -> None:
    """Check tokens, permissions, ids and folders by API calls.

    It also names why the last run of an account was not complete, and what to do about it.

    \b
    Example:
      convo-pipeline check bakery-instagram
    """
    from convo_pipeline.console.check import check_accounts, describe_check, show_check

    settings = context.settings
    names = chosen_accounts(settings, accounts)
    with open_console(stderr=True).status("calling the Graph API"):
        setups, general = check_accounts(settings, names, os.environ, context.clock)
    if is_json:
        print_json(describe_check(setups, general))
    else:
        show_check(setups, general, open_console())
    if general or not all(setup.is_fine for setup in setups):
        sys.exit(EXIT_FAILED)


@main.command(epilog=ATTENTION_CODES)
@accounts_argument
@root_option
@json_option
@click.pass_obj
def status(context: CommandContext, accounts: Sequence[str], is_json: bool) -> None:
    """Show what is stored and what needs attention.

    For each account: last complete run, share of messages with content (7 days), messages lost
    since yesterday, conversations at risk, messages still to be read, and the next scheduled runs.
    It makes no API calls.

    \b
    Example:
      convo-pipeline status --json
    """
    from convo_pipeline.console.status import describe_status, read_status, show_status

    settings = context.settings
    report = read_status(settings, chosen_accounts(settings, accounts), context.clock.now())
    if is_json:
        print_json(describe_status(report))
    else:
        show_status(report, open_console())
    if not report.is_fine:
        sys.exit(EXIT_FAILED)


@main.command()
@click.option(
    "--listen",
    metavar="ADDRESS:PORT",
    help="Serve the figures at /metrics until Ctrl-C, for example on 127.0.0.1:9464.",
)
@root_option
@click.pass_obj
def metrics(context: CommandContext, listen: str | None) -> None:
    """Print figures for Prometheus, or serve them.

    They are calls, throttling, last complete run and conversations at risk of each account. Without
    --listen the output is a file for the textfile collector of node_exporter. It makes no API
    calls.

    \b
    Example:
      convo-pipeline metrics --listen 127.0.0.1:9464
    """
    from convo_pipeline.console.metrics import format_metrics, start_metrics_server

    if listen is None:
        click.echo(format_metrics(context.settings, context.clock), nl=False)
        return
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal():
        raise click.BadParameter("use ADDRESS:PORT, such as 127.0.0.1:9464", param_hint="--listen")
    server, thread = start_metrics_server(context.settings, context.clock, host, int(port))
    click.echo(f"http://{host}:{server.server_port}/metrics")
    thread.join()


@main.command(epilog="! marks keys and values that this version does not know.")
@accounts_argument
@root_option
@json_option
@click.pass_obj
def shapes(context: CommandContext, accounts: Sequence[str], is_json: bool) -> None:
    """Show keys, types and values of the API's responses.

    It counts what runs received, by kind of call, and the payloads of the raw tables. The report
    holds no id, name, text, URL or token: paste it into a bug report. No API calls.

    \b
    Example:
      convo-pipeline shapes > shapes.txt
    """
    from convo_pipeline.console.shapes import count_shapes
    from convo_pipeline.graph.shapes import render

    settings = context.settings
    census = count_shapes(settings.store, chosen_accounts(settings, accounts))
    if is_json:
        print_json(census.to_json())
    else:
        click.echo(render(census) or "no payloads are stored yet: run `convo-pipeline extract`")


@main.command()
@click.argument("sql", required=False)
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the SQL.",
)
@root_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    help="Default: that of the file's extension, else table.",
)
@click.option("--json", "is_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write: .csv, .json or .parquet. Default: stdout.",
)
@click.option("--force", is_flag=True, help="Replace the output file if it exists.")
@click.pass_obj
def query(
    context: CommandContext,
    sql: str | None,
    file: Path | None,
    form: str | None,
    is_json: bool,
    output: Path | None,
    force: bool,
) -> None:
    """Run SQL (DuckDB) on the tables; without SQL, open a shell.

    The SQL can also come from --file or from a pipe. A table shows NULL for a null and nothing for
    an empty text. In CSV, a text that starts a formula in a spreadsheet gets a leading apostrophe.

    \b
    Examples:
      convo-pipeline query "select date, count(*) from messages group by all"
      convo-pipeline query "from account_days" --output days.csv
      echo "from accounts" | convo-pipeline query --json
    """
    from convo_pipeline.base.secrets import redact
    from convo_pipeline.base.terminal_text import printable
    from convo_pipeline.console.query import check_output, choose_format, open_shell, run_sql
    from convo_pipeline.query.connection import QueryError, connect

    def run_in_shell(statement: str) -> None:
        try:
            run_sql(con, statement, chosen_form, open_console())
        except (ConvoError, QueryError) as error:
            click.echo(printable(redact(str(error)), keep="\n"), err=True)

    chosen_form = choose_format("json" if is_json else form, output)
    lake_root, settings = context.find_lake()
    if output is not None:
        check_output(output, lake_root, settings, is_replaced=force)
    if file is not None:
        if sql is not None:
            raise click.UsageError("give the SQL or --file, not both")
        sql = file.read_text("utf-8", "replace")
    elif sql is None and not sys.stdin.isatty():
        sql = sys.stdin.read().strip() or None
        if sql is None:
            raise SettingsError('give the SQL: convo-pipeline query "select ..."')
    try:
        with connect(lake_root, settings=settings) as con:
            if sql is None:
                open_shell(con, run_in_shell)
            else:
                run_sql(con, sql, chosen_form, open_console(), output)
                if output is not None:
                    LOG.info("%s written", output)
    except QueryError as error:
        raise ConvoError(str(error)) from None


@main.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@root_option
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.pass_obj
def database(context: CommandContext, file: Path, force: bool) -> None:
    """Write a DuckDB FILE with the views, for BI tools.

    Notebooks and the DuckDB UI can open it too. It holds no rows: a view reads the tables when it
    is queried.

    \b
    Example:
      convo-pipeline database inbox.duckdb && duckdb -ui inbox.duckdb
    """
    from convo_pipeline.query.database_file import write_database

    lake_root, settings = context.find_lake()
    empty = write_database(lake_root, file, settings, is_replaced=force)
    LOG.info("%s has the views over %s", file, lake_root)
    if empty:
        names = ", ".join(empty)
        LOG.info("still empty: %s. Write the file again when they have rows.", names)


@main.command()
@root_option
@click.option("--quick", is_flag=True, help="Compare names and sizes only.")
@click.option(
    "--rebuild-state",
    is_flag=True,
    help="First rebuild the state from the files. Use it after restoring a backup.",
)
@json_option
@click.pass_obj
def verify(context: CommandContext, quick: bool, rebuild_state: bool, is_json: bool) -> None:
    """Read every file and report damage; changes no table.

    Exit code 1 if a file is damaged.

    \b
    Example:
      convo-pipeline verify --quick
    """
    from convo_pipeline.console.upkeep import show_verification, verify_lake

    result = verify_lake(
        context.store_settings, context.progress(), is_quick=quick, is_rebuilt=rebuild_state
    )
    if is_json:
        print_json(result.as_dict())
    else:
        show_verification(result, open_console())
    if not result.is_sound:
        sys.exit(EXIT_FAILED)


@main.group()
def state() -> None:
    """Work on the state: what is known beside the tables."""


@state.command("move")
@click.argument("target")
@root_option
@click.option("--dry-run", is_flag=True, help="Only check, and count the rows to copy.")
@json_option
@click.pass_obj
def move_state(context: CommandContext, target: str, dry_run: bool, is_json: bool) -> None:
    """Copy the state to TARGET: PostgreSQL or SQLite.

    TARGET is the name of a variable, or the absolute path of a file, that holds the address of the
    database, or the word sqlite. Then change [store] in the configuration. If it is interrupted,
    run it again.

    \b
    Example:
      convo-pipeline state move STATE_URL --dry-run
    """
    from convo_pipeline.console.upkeep import copy_state

    counts, place = copy_state(context.store_settings, target, is_dry_run=dry_run)
    if is_json:
        print_json({"target": place, "row_counts": counts, "is_dry_run": dry_run})
    else:
        rows = f"{sum(counts.values()):,} rows of {len(counts)} tables"
        click.echo(f"{rows} {'would be ' if dry_run else ''}copied to {place}")
        if not dry_run:
            key = "state_url_file" if os.path.isabs(target) else "state_url_env"
            to_do = f'set {key} = "{target}"'
            if target == "sqlite":
                to_do = "remove the address of PostgreSQL"
            LOG.info("now %s in [store], on every machine", to_do)


@main.command()
@click.argument("old")
@click.argument("new")
@root_option
@click.option("--dry-run", is_flag=True, help="Only list the tables that would change.")
@json_option
@click.pass_obj
def rename(context: CommandContext, old: str, new: str, dry_run: bool, is_json: bool) -> None:
    """Rename account OLD to NEW in the tables.

    Then change its name in the configuration.

    \b
    Example:
      convo-pipeline rename bakery bakery-instagram --dry-run
    """
    from convo_pipeline.console.upkeep import open_lake
    from convo_pipeline.upkeep.rename import rename_account

    with open_lake(context.store_settings) as store:
        tables = rename_account(store, old, new, is_dry_run=dry_run)
    if is_json:
        print_json({"old": old, "new": new, "tables": tables, "is_dry_run": dry_run})
    elif dry_run:
        click.echo(f"{old} would be renamed to {new} in {len(tables)} tables: {', '.join(tables)}")
    else:
        text = f"{old} is now {new} in {len(tables)} tables"
        LOG.info("%s; change its name in the configuration too", text)


@main.command()
@account_argument
@click.argument("person_id", type=PersonId(), required=False)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--dry-run", is_flag=True, help="Only count what would be erased.")
@click.option(
    "--again",
    is_flag=True,
    help="Erase again everybody who was erased before. Use it after restoring a backup.",
)
@root_option
@json_option
@click.pass_obj
def forget(
    context: CommandContext,
    account: str,
    person_id: str | None,
    yes: bool,
    dry_run: bool,
    again: bool,
    is_json: bool,
) -> None:
    """Erase a person from everything that ACCOUNT stores.

    Later runs do not store them again. PERSON_ID is the person's id in the column
    participants.participant_id. Conversations between the business and the person are erased. In
    groups, the person's messages and name are erased.

    \b
    Examples:
      convo-pipeline forget bakery-instagram 17841400000000001 --dry-run
      convo-pipeline forget bakery-instagram 17841400000000001
    """
    from convo_pipeline.console.privacy import (
        describe_plan,
        describe_receipt,
        forget_again,
        forget_person,
    )
    from convo_pipeline.privacy.erasure_plan import ErasurePlan

    plans: list[ErasurePlan] = []

    def is_agreed(plan: ErasurePlan) -> bool:
        plans.append(plan)
        question = f"{describe_plan(plan)} for good?"
        return not dry_run and (yes or click.confirm(question, err=True))

    if again and dry_run:
        raise click.UsageError("--again takes no --dry-run")
    if again:
        receipts = forget_again(context.settings, account, context.clock)
    elif person_id is None:
        raise click.UsageError("give the PERSON_ID, or --again")
    else:
        receipts = forget_person(context.settings, account, person_id, context.clock, is_agreed)
    if is_json:
        print_json(
            {
                "erased": receipts,
                "to_erase": [plan.row_counts for plan in plans if dry_run],
            }
        )
    else:
        for receipt in receipts:
            click.echo(describe_receipt(receipt))
    if dry_run and plans:
        if not is_json:
            click.echo(f"{describe_plan(plans[0])}: not done (--dry-run)")
    elif not receipts and not again:
        why = "" if plans else f": nothing of {person_id} is stored"
        LOG.error("%s: nothing was erased%s", account, why)
        sys.exit(EXIT_NOT_FOUND)


@main.group()
def deletion() -> None:
    """Answer Meta's data deletion callback; list requests."""


@deletion.command()
@click.argument("signed_request", required=False)
@root_option
@click.pass_obj
def answer(context: CommandContext, signed_request: str | None) -> None:
    """Erase the person of a SIGNED_REQUEST; print the answer.

    Without an argument, the request of Meta is read from stdin. The answer for Meta is JSON.

    \b
    Example:
      convo-pipeline deletion answer < request.txt
    """
    from convo_pipeline.console.privacy import answer_request

    text = signed_request if signed_request is not None else sys.stdin.read()
    reply, result = answer_request(context.settings, text, os.environ, context.clock)
    click.echo(reply)
    LOG.info("%s", result)


@deletion.command("status")
@click.argument("code", required=False)
@root_option
@json_option
@click.pass_obj
def deletion_status(context: CommandContext, code: str | None, is_json: bool) -> None:
    """Show the request with this CODE, or list all requests.

    \b
    Example:
      convo-pipeline deletion status
    """
    from convo_pipeline.console.privacy import find_requests
    from convo_pipeline.privacy.deletion import describe_request

    requests = find_requests(context.settings, code)
    if code is not None and not requests:
        LOG.error("there is no request with this code")
        sys.exit(EXIT_NOT_FOUND)
    if is_json:
        print_json([replace(each, person_id=None) for each in requests])
    elif code is not None:
        click.echo(describe_request(requests[0]), nl=False)
    else:
        for each in requests:
            text = f"{each.code}  {each.received_at:%Y-%m-%d %H:%M}  {each.outcome}"
            click.echo(f"{text}  {', '.join(each.accounts)}".rstrip())


@deletion.command()
@click.option(
    "--port", type=PORT, default=8080, show_default=True, help="Port on 127.0.0.1; 0: a free one."
)
@root_option
@click.pass_obj
def serve(context: CommandContext, port: int) -> None:
    """Serve the callback on 127.0.0.1 until Ctrl-C.

    It needs a TLS proxy in front of it.

    \b
    Example:
      convo-pipeline deletion serve --port 8080
    """
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
@root_option
@json_option
@click.pass_obj
def expire(context: CommandContext, dry_run: bool, trust_clock: bool, is_json: bool) -> None:
    """Remove rows older than [retention], and unsent messages.

    The nightly upkeep does the same.

    \b
    Example:
      convo-pipeline expire --dry-run
    """
    from convo_pipeline.console.upkeep import expire_rows, show_removal

    removal = expire_rows(context.settings, context.clock, dry_run, is_clock_trusted=trust_clock)
    if is_json:
        print_json(removal)
    else:
        show_removal(removal, open_console())


@main.command()
@accounts_argument
@click.option(
    "--to",
    required=True,
    type=click.Path(path_type=Path),
    help="A new folder outside the tables, or that of an earlier export to update.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["parquet", "csv", "duckdb", "delta", "iceberg"]),
    default="parquet",
    show_default=True,
    help="Format of the files.",
)
@click.option(
    "--by-day",
    is_flag=True,
    help="Write a parquet or csv file for each account and day, so that it can be updated.",
)
@click.option(
    "--with-text",
    is_flag=True,
    help="Include texts, links, file names and e-mail addresses.",
)
@root_option
@click.option("--json", "is_json", is_flag=True, help="Print the row counts as JSON.")
@click.pass_obj
def export(
    context: CommandContext,
    accounts: Sequence[str],
    to: Path,
    form: str,
    by_day: bool,
    with_text: bool,
    is_json: bool,
) -> None:
    """Write tables to a folder, with codes instead of people.

    One person has the same code in every table and in every export with the same secret ([export]
    secret_env). Texts, links, file names and e-mail addresses are left out. The result is still
    personal data.

    An export as duckdb, delta or iceberg, or with --by-day, into the folder of an earlier one
    replaces only the days that changed.

    \b
    Examples:
      convo-pipeline export bakery-instagram --to bakery-export --format csv
      convo-pipeline export --to inbox-export --format delta
      convo-pipeline export --to inbox-export --by-day
    """
    from convo_pipeline.console.upkeep import open_lake
    from convo_pipeline.privacy.export import export_tables
    from convo_pipeline.privacy.export_update import update_export

    settings = context.settings
    names = chosen_accounts(settings, accounts)
    with open_lake(settings.store) as store:
        is_update = by_day or form not in ("parquet", "csv")
        write = update_export if is_update else export_tables
        counts = write(settings, store, names, to, form, os.environ, with_text=with_text)
    if is_json:
        print_json(counts)
    else:
        click.echo(f"{to}: " + ", ".join(f"{table} {count:,}" for table, count in counts.items()))


@main.command()
@root_option
@click.option("--dry-run", is_flag=True, help="Only count the months that would be compacted.")
@json_option
@click.pass_obj
def compact(context: CommandContext, dry_run: bool, is_json: bool) -> None:
    """Store each closed month in one file, for faster queries.

    The nightly upkeep does the same.

    \b
    Example:
      convo-pipeline compact --dry-run
    """
    from convo_pipeline.console.upkeep import compact_lake

    console = open_console(stderr=True)
    count = compact_lake(context.store_settings, context.clock, console, is_dry_run=dry_run)
    if is_json:
        print_json({"month_count": count, "is_dry_run": dry_run})
    else:
        click.echo(f"months {'to be ' if dry_run else ''}compacted: {count}")


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
    """Serve an emulated Graph API until Ctrl-C.

    It prints a configuration for it.

    \b
    Example:
      convo-pipeline emulator --fault slow_loris:0.1
    """
    from convo_pipeline.orchestration.sandbox import serve_emulator

    serve_emulator(port, seed, click.echo, faults)


if __name__ == "__main__":
    main()
