"""The command line: its output on stdout and stderr, and its exit codes."""

import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import click
import dagster as dg
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from convo_pipeline.cli import main
from convo_pipeline.console.query import dot_command_sql, run_shell
from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.lake.store import Store
from convo_pipeline.query.connection import connect
from convo_pipeline.reasons import REASONS
from convo_pipeline.settings import read_settings
from tests.support.inbox_worlds import (
    TOKENS,
    Days,
    is_at_work,
    message_counts,
    small_world,
    three_days,
    write_config,
)
from tests.support.paths import PACKAGE
from tests.support.web_server import wait_for

BAKERY, BIKES = "bakery-instagram", "bikes-messenger"


@pytest.fixture(scope="module")
def days() -> Days:
    return three_days()


@pytest.fixture(scope="module")
def server(days: Days) -> Iterator[EmulatorServer]:
    with EmulatorServer(small_world(days)) as server:
        yield server


@pytest.fixture(scope="module")
def extracted(
    tmp_path_factory: pytest.TempPathFactory, server: EmulatorServer, days: Days
) -> tuple[Path, Result]:
    """A configuration whose tables hold the three days, and the output of their extraction."""
    folder = tmp_path_factory.mktemp("lake")
    file = write_config(folder, server, days.start)
    return file, invoke("--config", str(file), "extract", "--since", str(days[0]))


@pytest.fixture(scope="module")
def lake(extracted: tuple[Path, Result]) -> Path:
    """A configuration whose tables hold the three days; do not write to them."""
    file, result = extracted
    assert result.exit_code == 0, result.stderr
    return file


@pytest.fixture
def config(tmp_path: Path, server: EmulatorServer, days: Days) -> Path:
    return write_config(tmp_path, server, days.start)


def invoke(*arguments: str, **environ: str) -> Result:
    result = CliRunner().invoke(main, arguments, env={**TOKENS, **environ}, catch_exceptions=False)
    assert "Traceback" not in result.output
    return result


def invoke_and_tell_day(*arguments: str) -> tuple[Result, set[date]]:
    """Return the result and today's date (UTC): both dates if the command ran over midnight."""
    before = datetime.now(UTC).date()
    result = invoke(*arguments)
    return result, {before, datetime.now(UTC).date()}


def error_of(*arguments: str, **environ: str) -> tuple[int, str]:
    """Return the exit code and the last line of stderr."""
    result = invoke(*arguments, **environ)
    return result.exit_code, result.stderr.strip().splitlines()[-1]


def leaves() -> Iterator[tuple[str, click.Command]]:
    for name, command in main.commands.items():
        if isinstance(command, click.Group):
            yield from ((f"{name} {each}", leaf) for each, leaf in command.commands.items())
        else:
            yield name, command


def test_every_command_has_help_and_the_exit_codes_are_documented() -> None:
    """No summary is cut at 80 columns."""
    for group in ((), ("deletion",)):
        text = invoke(*group, "--help").stdout
        assert "..." not in text.replace("[ARGS]...", "")
    assert "2  wrong usage or settings" in invoke("--help").stdout


@pytest.mark.parametrize("name", [name for name, _ in leaves()])
def test_the_examples_in_the_help_of_each_command_are_valid(name: str) -> None:
    text = invoke(*name.split(), "--help").stdout
    examples = re.findall(r"^    (.*convo-pipeline .*)$", text.split("Example")[1], re.M)
    assert examples
    for line in examples:
        command = re.split(r" (?:&&|[<>|]) ", line.rpartition("| ")[2])[0]
        words = shlex.split(command)[1:]
        context = main.make_context("convo-pipeline", words)
        _, leaf, rest = main.resolve_command(context, [*context._protected_args, *context.args])
        assert leaf is not None
        with leaf.make_context(name, rest, parent=context) as inner:
            assert inner.command is leaf


def test_shared_options_stand_before_or_after_the_command(lake: Path) -> None:
    """Without a terminal there is no progress; `-q` leaves no notes, JSON lines have levels."""
    names = [BAKERY, BIKES]
    before = invoke("--config", str(lake), "-q", "status", "--json")
    after = invoke("status", "--json", "-q", "--config", str(lake))
    assert [each["account"] for each in json.loads(before.stdout)["accounts"]] == names
    assert [each["account"] for each in json.loads(after.stdout)["accounts"]] == names
    assert (before.stderr, after.stderr) == ("", "")
    wrong = ("status", "nobody", "--config", str(lake))
    for line in (
        invoke("--log-format", "json", *wrong).stderr,
        invoke(*wrong, "--log-format", "json", "-v").stderr.splitlines()[-1],
    ):
        record = json.loads(line)
        assert record["level"] == "error"
        assert record["message"].startswith('main: unknown account "nobody"')
    details = invoke("status", "-v", "--config", str(lake)).stderr
    assert f"settings: {lake}; tables: {lake.parent / 'lake'}" in details


def test_root_is_an_option_of_every_command_that_uses_tables(lake: Path, tmp_path: Path) -> None:
    without = {name for name, leaf in leaves() if "root" not in {each.name for each in leaf.params}}
    assert without == {"connect", "token", "init", "emulator"}
    copy = tmp_path / "copy"
    shutil.copytree(lake.parent / "lake", copy)
    told = invoke("status", "--json", "--root", str(copy), "--config", str(lake))
    assert json.loads(told.stdout)["accounts"][0]["last_complete_at"]
    empty = invoke("status", "--json", "--root", str(tmp_path / "none"), "--config", str(lake))
    assert not json.loads(empty.stdout)["accounts"][0]["last_complete_at"]


def test_nothing_is_cut_in_a_pipe_or_at_60_columns(lake: Path) -> None:
    for command in (("status",), ("query", "from account_days limit 3"), ("check",)):
        for columns in ({}, {"COLUMNS": "60"}):
            assert "…" not in invoke(*command, "--config", str(lake), **columns).stdout


def test_dates_can_be_words(config: Path) -> None:
    """`7d` is seven days ago, and `yesterday` the day before today."""
    result, todays = invoke_and_tell_day(
        "extract", BIKES, "--since", "2d", "--until", "yesterday", "--config", str(config)
    )
    assert result.exit_code == 0, result.stderr
    expected = [f"{BIKES}: {day} to {day}" for day in (today - timedelta(2) for today in todays)]
    assert any(text in result.stderr for text in expected)


def test_extract_of_a_busy_account_says_that_nothing_is_to_be_done(config: Path) -> None:
    with (
        closing(Store(read_settings(config).store)) as store,
        store.locks.account(BIKES),
    ):
        result = invoke("extract", BIKES, "--since", "2d", "--json", "--config", str(config))
    assert result.exit_code == 1
    assert f"{BIKES}: busy: {REASONS['busy'].describe()}" in result.stderr
    assert "Nothing to do: that run extracts the account" in result.stderr
    (account,) = json.loads(result.stdout)["accounts"]
    assert (account["account"], account["outcome"]) == (BIKES, "busy")


def test_the_package_is_a_command() -> None:
    text = (PACKAGE / "__main__.py").read_text()
    assert 'main(prog_name="convo-pipeline")' in text


def test_extract_stores_both_accounts_and_prints_a_summary(
    extracted: tuple[Path, Result], days: Days
) -> None:
    file, result = extracted
    assert result.exit_code == 0, result.stderr
    assert BAKERY in result.stdout
    assert "complete" in result.stdout
    rows = invoke("--config", str(file), "query", "--format", "json", KEYS)
    assert {row["key"]: row["n"] for row in json.loads(rows.stdout)} == message_counts(days)


KEYS = "select account || '|' || date as key, count(*) as n from messages group by all"


def test_extract_without_dates_reads_the_days_of_the_next_nightly_run(
    config: Path, days: Days
) -> None:
    result, todays = invoke_and_tell_day("--config", str(config), "extract", BIKES)
    assert result.exit_code == 0
    said = " ".join(result.stderr.split())
    assert any(f"{days.start} to {day - timedelta(days=1)}" in said for day in todays)


def test_all_prints_an_estimate_and_reads_from_the_start_date_to_today(
    config: Path, days: Days
) -> None:
    result, todays = invoke_and_tell_day("--config", str(config), "extract", "--all", BIKES)
    assert result.exit_code == 0
    said = " ".join(result.stderr.split())
    assert any(f"{BIKES}: {days.start} to {day}" in said for day in todays)
    assert f"{BIKES}: 6 conversations, about 3 calls or 1 minute" in said
    assert said.index("estimated from the newest page") < said.index("at most 20,000 calls")


@pytest.mark.slow
def test_full_reports_the_messages_that_earlier_runs_missed(lake: Path, days: Days) -> None:
    whole = invoke("--config", str(lake), "extract", "--full", BIKES)
    assert "sweep: earlier runs missed no messages" in whole.stderr
    with closing(Store(read_settings(lake).store)) as store:
        for table in ("raw_message_ids", "raw_message_details"):
            store.shrink(table, BIKES, days[1], lambda rows: rows.slice(2))
    swept = invoke("--config", str(lake), "extract", "--full", BIKES)
    assert f"{BIKES}: the last sweep found 2 messages that earlier runs had missed" in swept.stderr
    again = invoke("--config", str(lake), "extract", "--full", BIKES)
    assert "sweep: earlier runs missed no messages" in again.stderr
    assert (whole.exit_code, swept.exit_code, again.exit_code) == (0, 0, 0)
    code, line = error_of("extract", "--full", "--since", str(days[0]))
    assert (code, line) == (2, "main: --full takes neither --since nor --until")


def test_an_account_with_a_wrong_token_fails_and_the_other_one_is_stored(
    config: Path, days: Days
) -> None:
    since = ["--since", str(days[0])]
    result = invoke(
        "--config", str(config), "extract", *since, BIKES_MESSENGER_TOKEN="EAAwrongwrongwrongwrong"
    )
    assert result.exit_code == 1
    assert BIKES in result.stderr
    assert "EAAwrong" not in result.output
    rows = invoke("--config", str(config), "query", "--format", "json", KEYS)
    stored = {row["key"]: row["n"] for row in json.loads(rows.stdout)}
    assert stored == {key: n for key, n in message_counts(days).items() if BAKERY in key}


def test_the_summary_of_an_incomplete_run_does_not_contradict_itself(
    tmp_path: Path, days: Days
) -> None:
    """One conversation is unreadable. The summary counts what is stored and names one remedy."""
    choice = (BIKES, "--since", str(days[0]))
    with EmulatorServer(small_world(days)) as server:
        server.set_faults("unreadable")
        config = write_config(tmp_path, server, days.start)
        result = invoke("--config", str(config), "extract", *choice)
    assert result.exit_code == 1
    assert re.search(rf"{BIKES} +incomplete .* 15 +15 +[1-9]\d* *\n", result.stdout)
    _, _, *lines = result.stderr.splitlines()
    sentence = REASONS["conversation_failed"].describe()
    assert [line.partition(". ")[0] for line in lines] == [f"{BIKES}: incomplete: {sentence}"]
    assert "nothing was stored" not in result.output
    assert "failed: " not in result.output


def test_a_missing_token_names_its_variable(config: Path, days: Days) -> None:
    wish = ("extract", BIKES, "--since", str(days[2]))
    code, line = error_of("--config", str(config), *wish, BIKES_MESSENGER_TOKEN="")
    assert code == 1
    assert "BIKES_MESSENGER_TOKEN is not set" in line


TODAY = three_days().today


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["nobody"],
            'unknown account "nobody"; the configuration has: bakery-instagram, bikes-messenger',
        ),
        (["--since", "2026-13-01"], "2026-13-01 is not a date such as 2026-11-21"),
        (["--since", str(TODAY), "--until", str(TODAY)], "must be before --until"),
        (["--since", str(TODAY + timedelta(days=3))], "is in the future"),
        (["--since", str(TODAY), "--until", str(TODAY + timedelta(days=9))], "is in the future"),
        (["--until", "2020-01-01", "--since", "2019-01-01"], "is before the first start_date"),
        (["--all", "--since", str(TODAY)], "--all takes neither --since nor --until"),
    ],
)
def test_wrong_arguments_are_one_clear_error(
    config: Path, arguments: list[str], expected: str
) -> None:
    code, line = error_of("--config", str(config), "extract", *arguments)
    assert code == 2
    assert expected in line


def test_a_missing_configuration_is_one_clear_error(tmp_path: Path) -> None:
    code, line = error_of("--config", str(tmp_path / "none.toml"), "extract")
    assert code == 2
    assert f"no configuration: {tmp_path / 'none.toml'} does not exist" in line


def test_the_variable_names_the_configuration(config: Path) -> None:
    code, line = error_of("extract", "nobody", CONVO_CONFIG=str(config))
    assert (code, 'unknown account "nobody"' in line) == (2, True)


def test_a_root_that_cannot_be_written_is_one_clear_error(
    tmp_path: Path, server: EmulatorServer, days: Days
) -> None:
    (tmp_path / "file").write_text("in the way")
    file = write_config(tmp_path, server, days.start, root=tmp_path / "file" / "lake")
    code, line = error_of("--config", str(file), "extract", "--since", str(days[2]))
    assert code == 2
    assert f"{tmp_path / 'file'} is a file; name a folder" in line


@pytest.mark.slow
def test_runs_are_recorded_in_dagster_home(
    config: Path, tmp_path: Path, days: Days, server: EmulatorServer
) -> None:
    home = tmp_path / "home"
    code, line = error_of("--config", str(config), "extract", DAGSTER_HOME=str(home))
    assert (code, line) == (
        2,
        f"main: DAGSTER_HOME: the folder {home} does not exist; make it: mkdir -p {home}",
    )
    code, line = error_of("--config", str(config), "extract", DAGSTER_HOME="here")
    assert (code, line) == (2, "main: DAGSTER_HOME must be an absolute path, not here")
    home.mkdir()
    assert (
        invoke(
            "--config", str(config), "extract", "--since", str(days[2]), DAGSTER_HOME=str(home)
        ).exit_code
        == 0
    )
    with dg.DagsterInstance.from_config(str(home)) as instance:
        runs = {run.job_name: run.status.value for run in instance.get_runs()}
    assert runs == {"extract_job": "SUCCESS", "normalise_job": "SUCCESS"}
    assert open_to_others(home) == open_to_others(config.parent / "lake") == set()
    people = people_of(server)
    assert len(people) > 2
    assert files_that_name(home, people) == set(), "an erasure would not reach them"


def people_of(server: EmulatorServer) -> set[str]:
    conversations = [
        each
        for account in server.world.accounts.values()
        for each in account.conversations.values()
    ]
    return {str(person["id"]) for conversation in conversations for person in conversation.people}


def files_that_name(folder: Path, names: set[str]) -> set[str]:
    contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {
        str(path)
        for path, content in contents.items()
        for name in names
        if name.encode() in content
    }


def open_to_others(folder: Path) -> set[str]:
    """Return the paths below a folder that others than the owner may use."""
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in folder.rglob("*")}
    return {
        str(path) for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)
    }


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_after_ctrl_c_or_sigterm_the_same_command_continues(
    tmp_path: Path, days: Days, number: signal.Signals
) -> None:
    """It ends within ten seconds although a response takes 20 seconds."""
    with EmulatorServer(small_world(days), latency_seconds=20) as slow:
        file = write_config(tmp_path, slow, days.start)
        command = [sys.executable, "-m", "convo_pipeline.cli", "--config", str(file), "extract"]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **TOKENS}
        )
        wait_for(lambda: is_at_work(read_settings(file).store, BAKERY), 60)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=10)
        assert process.returncode == 130
        *_, kept, line = stderr.strip().splitlines()
        assert kept.startswith("stopped. Read and kept: nothing yet. `convo-pipeline status` shows")
        assert line.endswith("stopped; run the same command again to continue")
        slow.latency_seconds = 0
        ledger = invoke(
            "--config", str(file), "query", "--format", "json", "select distinct reasons from runs"
        )
        assert json.loads(ledger.stdout) == [{"reasons": ["stopped"]}]
        assert invoke("--config", str(file), "extract").exit_code == 0
    rows = invoke("--config", str(file), "query", "--format", "json", KEYS)
    assert {row["key"]: row["n"] for row in json.loads(rows.stdout)} == message_counts(days)


def test_normalize_derives_a_missing_file_without_api_calls(
    lake: Path, server: EmulatorServer, days: Days
) -> None:
    root = lake.parent / "lake"
    removed = root / "messages" / f"account={BAKERY}" / f"date={days[0]}" / "data.parquet"
    removed.unlink()
    calls = len(server.log)
    assert invoke("--config", str(lake), "normalize").exit_code == 0
    assert removed.exists()
    assert len(server.log) == calls


def test_normalize_derives_removed_accounts_and_fails_on_missing_raw_files(
    lake: Path, tmp_path: Path
) -> None:
    """One account is no longer configured. A raw file of the other account is missing."""
    root = tmp_path / "lake"
    shutil.copytree(lake.parent / "lake", root)
    file = tmp_path / "convo.toml"
    before, bakery, bikes = (
        lake.read_text().replace(str(lake.parent), str(tmp_path)).split("[[accounts]]")
    )
    file.write_text("[[accounts]]".join([before, bakery if BAKERY in bakery else bikes]))
    removed = next((root / "messages" / f"account={BIKES}").glob("*/data.parquet"))
    removed.unlink()
    next((root / "raw_message_ids" / f"account={BAKERY}").glob("*/data.parquet")).unlink()
    result = invoke("--config", str(file), "normalize")
    assert (
        result.exit_code,
        "up to date" in result.stdout,
        "is missing although it held" in result.stderr,
    ) == (
        1,
        False,
        True,
    )
    assert removed.exists()


def test_query_prints_a_table_without_control_characters(lake: Path) -> None:
    result = invoke(
        "--config", str(lake), "query", "select 'a' || chr(27) || '[31mb' as danger, 7 as n"
    )
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert re.search(r"a\[31mb\s+7", result.stdout)


def test_s8_csv_escapes_formulas(lake: Path) -> None:
    sql = (
        "select '=cmd()' as a, '-5' as b, -5 as c, '  @x' as d, 'plain' as e, null as f,"
        " ['=1'] as g, date '2026-01-02' as h"
    )
    result = invoke("--config", str(lake), "query", "--format", "csv", sql)
    assert list(csv.reader(io.StringIO(result.stdout))) == [
        ["a", "b", "c", "d", "e", "f", "g", "h"],
        ["'=cmd()", "'-5", "-5", "'  @x", "plain", "", '["=1"]', "2026-01-02"],
    ]


def test_parquet_is_written_to_a_file(lake: Path, tmp_path: Path, days: Days) -> None:
    file = tmp_path / "out.parquet"
    sql = "select * from messages"
    assert (
        invoke(
            "--config", str(lake), "query", "--format", "parquet", "--output", str(file), sql
        ).exit_code
        == 0
    )
    assert pq.read_table(file).num_rows == sum(message_counts(days).values())


def test_query_takes_format_and_sql_from_where_a_shell_has_them(
    lake: Path, tmp_path: Path, days: Days
) -> None:
    """The format is that of the extension; a file is kept without `--force`."""
    sql, rows = tmp_path / "count.sql", tmp_path / "rows.json"
    sql.write_text("select count(*) as n from messages")
    config = ("--config", str(lake))
    count = [{"n": sum(message_counts(days).values())}]
    assert invoke("query", "--file", str(sql), "--output", str(rows), *config).exit_code == 0
    assert json.loads(rows.read_text()) == count
    code, line = error_of("query", "select 1 as n", "--output", str(rows), *config)
    assert (code, line) == (2, f"main: --output {rows} exists: add --force to replace it")
    assert json.loads(rows.read_text()) == count
    forced = ("query", "select 1 as n", "--output", str(rows), "--force", *config)
    assert invoke(*forced).exit_code == 0
    assert json.loads(rows.read_text()) == [{"n": 1}]
    piped = CliRunner().invoke(main, ["query", "--json", *config], input=sql.read_text())
    assert json.loads(piped.stdout) == count


@pytest.mark.parametrize("form", ["table", "csv"])
def test_a_reader_that_closes_the_pipe_is_no_failure(
    form: str, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit) as exit_:
            main(["query", "from messages", "--format", form, "--config", str(lake)])
    assert exit_.value.code == 0


def test_output_between_the_tables_is_refused(lake: Path) -> None:
    root = Path(read_settings(lake).store.root)
    for file in (next(root.glob("messages/*/*/data.parquet")), root / ".state" / "new.csv"):
        before = file.read_bytes() if file.exists() else None
        code, line = error_of("--config", str(lake), "query", "--output", str(file), "select 1")
        assert (code, "choose another folder" in line) == (2, True)
        assert (file.read_bytes() if file.exists() else None) == before


def test_wrong_sql_is_one_error(lake: Path) -> None:
    code, line = error_of("--config", str(lake), "query", "select nothing from nowhere")
    assert code == 1
    assert line


def test_query_needs_tables_and_a_terminal_or_sql(tmp_path: Path, lake: Path) -> None:
    code, line = error_of("query", "--root", str(tmp_path / "none"), "select 1")
    assert code == 1
    assert str(tmp_path / "none") in line
    code, line = error_of("--config", str(lake), "query")
    assert code == 2
    assert "give the SQL" in line


def test_find_prints_the_conversation_newest_last(config: Path, server: EmulatorServer) -> None:
    account = server.world.accounts[BIKES]
    conversation = next(iter(account.conversations.values()))
    result = invoke("--config", str(config), "find", BIKES, str(conversation.people[0]["id"]))
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.strip().splitlines()
    assert [re.split(r"[→←] ", line)[1] for line in lines] == [
        "Ada 00: message 1",
        f"{account.title}: message 2",
        "Ada 00: message 3",
    ]


def test_find_of_an_unknown_person_is_exit_code_3(config: Path) -> None:
    code, line = error_of("--config", str(config), "find", BIKES, "1")
    assert (code, line) == (3, f"{BIKES}: no conversation with 1")


def test_find_of_an_erased_person_stores_nothing(config: Path, server: EmulatorServer) -> None:
    person = str(next(iter(server.world.accounts[BIKES].conversations.values())).people[0]["id"])
    assert invoke("--config", str(config), "find", BIKES, person).exit_code == 0
    assert invoke("--config", str(config), "forget", BIKES, person, "--yes").exit_code == 0
    code, line = error_of("--config", str(config), "find", BIKES, person)
    assert (code, line) == (3, f"{BIKES}: no stored messages of the conversation with {person}")


def test_the_shell_keeps_a_history_and_runs_each_statement(tmp_path: Path) -> None:
    asked: list[str] = []
    history = tmp_path / "state" / "history"
    with create_pipe_input() as keys:
        keys.send_text("select 1\n;\n.tables\n.columns messages\n.quit\n")
        run_shell(
            Console(file=io.StringIO()),
            asked.append,
            {"messages": ["text"]},
            history,
            keys,
            DummyOutput(),
        )
    assert asked == ["select 1\n;", dot_command_sql(".tables"), 'describe "messages"']
    assert "+select 1" in history.read_text()


def test_the_shell_ends_a_statement_before_a_comment_and_explains_unknown_commands(
    tmp_path: Path,
) -> None:
    asked: list[str] = []
    shown = io.StringIO()
    with create_pipe_input() as keys:
        keys.send_text("select 1; -- comment\nselect ';\n';\n.nothing\n.quit\n")
        run_shell(Console(file=shown), asked.append, {}, tmp_path / "history", keys, DummyOutput())
    assert asked == ["select 1; -- comment", "select ';\n';"]
    assert "unknown command .nothing" in shown.getvalue()


def test_query_shows_the_rows_of_each_statement(lake: Path) -> None:
    shown = invoke("--config", str(lake), "query", "select 7 as a; select 8 as b").stdout
    assert ("7" in shown, "8" in shown) == (True, True)
    code, line = error_of("--config", str(lake), "query", "--format", "csv", "select 7; select 8")
    assert (code, "one statement" in line) == (2, True)


def test_csv_keeps_null_and_empty_text_apart(lake: Path) -> None:
    sql = "select null as a, '' as b, 'x,y' as c"
    rows = invoke("--config", str(lake), "query", "--format", "csv", sql).stdout
    assert rows == 'a,b,c\n,"","x,y"\n'


def test_quit_leaves_the_shell_inside_a_statement(tmp_path: Path) -> None:
    asked: list[str] = []
    with create_pipe_input() as keys:
        keys.send_text("select 1\n.quit\nselect 2;\n")
        run_shell(
            Console(file=io.StringIO()), asked.append, {}, tmp_path / "history", keys, DummyOutput()
        )
    assert asked == []


def test_every_table_that_the_shell_lists_can_be_queried(lake: Path) -> None:
    listed = invoke(
        "--config", str(lake), "query", "--format", "csv", dot_command_sql(".tables")
    ).stdout.split()[1:]
    assert {"messages", "sessions", "inbox", "runs"} <= set(listed)
    assert {"followed", "known", "account_rules"}.isdisjoint(listed)
    with connect(lake.parent / "lake") as connection:
        for name in listed:
            assert connection.execute(f"describe {name}").fetchall()


@pytest.mark.parametrize(
    "name", ["account_days", "inbox", "messages", "sessions", "response_turns"]
)
def test_a_table_that_is_too_wide_is_printed_row_by_row(lake: Path, name: str) -> None:
    shown = invoke("--config", str(lake), "query", f"from {name} limit 2", COLUMNS="80").stdout
    assert shown.startswith("row 1 ─")
    names = invoke(
        "--config",
        str(lake),
        "query",
        "--format",
        "csv",
        f"select column_name from (describe {name})",
    )
    lines = [line.split()[:2] for line in shown.splitlines() if line.strip()]
    assert [
        name for name in names.stdout.split()[1:] if name not in {line[0] for line in lines}
    ] == []
    assert ["account", "bakery-instagram"] in lines or ["account", "bikes-messenger"] in lines
    assert max(map(len, shown.splitlines())) <= 80


def test_emulator_prints_a_configuration_that_works(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "convo_pipeline.cli", "emulator"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout is not None
    try:
        lines: list[str] = []
        while sum(line.startswith("start_date") for line in lines) < 2:
            lines.append(process.stdout.readline())
            assert lines[-1], "the emulator ended"
        file = tmp_path / "convo.toml"
        file.write_text("".join(lines) + f'[store]\nroot = "{tmp_path / "data"}"\n')
        result = invoke("--config", str(file), "find", BIKES, "1", EMULATOR_TOKEN=EMULATOR_TOKEN)
        assert (result.exit_code, result.stderr.strip()) == (3, f"{BIKES}: no conversation with 1")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        process.stdout.close()


def test_status_and_check_print_json_and_exit_with_1_for_a_problem(
    lake: Path, config: Path, server: EmulatorServer
) -> None:
    result = invoke("--config", str(lake), "status", "--json")
    assert result.exit_code == 0, result.stdout
    assert [account["account"] for account in json.loads(result.stdout)["accounts"]] == [
        BAKERY,
        BIKES,
    ]
    never = invoke("--config", str(config), "status", BIKES)
    assert (
        never.exit_code,
        f"{BIKES}: never extracted. To do: run" in never.stdout,
    ) == (1, True)
    fine = invoke("--config", str(lake), "check", "--json")
    assert (fine.exit_code, json.loads(fine.stdout)["general"]) == (0, [])
    wrong = invoke("--config", str(lake), "check", BIKES_MESSENGER_TOKEN="EAAwrongwrongwrongwrong")
    assert wrong.exit_code == 1
    assert f"{BIKES}: the token is not valid" in wrong.stdout
    assert "export it in BIKES_MESSENGER_TOKEN" in " ".join(wrong.stdout.split())
    assert "EAAwrong" not in wrong.output
