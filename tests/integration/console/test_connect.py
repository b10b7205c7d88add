"""`connect`, `token`, `token_from` and `token_file` against emulated users, Pages and tokens."""

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from convo_pipeline.base.clock import Clock
from convo_pipeline.cli import main
from convo_pipeline.console.arguments import CommandContext
from convo_pipeline.console.connect import append_blocks
from convo_pipeline.emulator.serve import EmulatorServer
from convo_pipeline.emulator.user_tokens import PageUser
from convo_pipeline.emulator.world import World
from convo_pipeline.errors import SettingsError
from convo_pipeline.settings import parse_settings, read_settings
from tests.support.inboxes import NOW, Inboxes, serve, small_world, stopped_clock

USER_TOKEN = "EAAinventedUserToken0000000000"
APP_SECRET = "invented0123456789abcdef01234567"
ALL_TASKS = ("ADVERTISE", "ANALYZE", "MESSAGING", "MODERATE")


@pytest.fixture
def inboxes(tmp_path: Path) -> Iterator[Inboxes]:
    """Two inboxes with a message each, read with the token of one user."""
    world = small_world()
    for account in world.accounts.values():
        account.tokens = {f"EAAinventedPage{account.page_id}0000000000000000"}
        account.add_conversation("Anna").add_messages(2, NOW - timedelta(hours=3))
    pages = {account.page_id: ALL_TASKS for account in world.accounts.values()}
    world.add_user(USER_TOKEN, page_tasks=pages, app_secret=APP_SECRET)
    with serve(tmp_path, world) as inboxes:
        yield replace(
            inboxes, settings=_with_source(inboxes, token_from="AGENCY_TOKEN"),
            environ={"AGENCY_TOKEN": USER_TOKEN},
        )  # fmt: skip


def _with_source(inboxes: Inboxes, **source: str):  # type: ignore[no-untyped-def]
    fields = {"token_env": None, "token_file": None, "token_from": None, **source}
    accounts = tuple(each.model_copy(update=fields) for each in inboxes.settings.accounts)
    return inboxes.settings.model_copy(update={"accounts": accounts})


def _user(inboxes: Inboxes) -> PageUser:
    return next(iter(inboxes.world.users.values()))


def test_one_token_reads_many_pages_and_reaches_no_file(inboxes: Inboxes, tmp_path: Path) -> None:
    inboxes.extract_whole()
    assert len(inboxes.rows("messages")) == 4
    assert [(call.kind, call.status) for call in inboxes.server.log if call.kind == "token"] == [
        ("token", 200)
    ] * 2
    secrets = [USER_TOKEN, *(min(each.tokens) for each in inboxes.world.accounts.values())]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert not [secret for secret in secrets if secret.encode() in path.read_bytes()], path


def test_a_page_token_that_ends_during_a_run_is_read_again(inboxes: Inboxes) -> None:
    account = inboxes.world.accounts["insta"]
    for number in range(60):
        account.add_conversation(f"Berta {number}").add_messages(1, NOW - timedelta(hours=4))
    ended = False

    def end_token(progress: object) -> None:
        nonlocal ended
        if not ended:
            ended = True
            account.tokens = {"EAAinventedSecond00000000000000"}

    (report,) = inboxes.extract(accounts=["insta"], on_progress=end_token)
    assert ended
    assert (report.outcome, report.error) == ("complete", None)
    refused = [call for call in inboxes.server.log if call.code == 190]
    read_again = [call for call in inboxes.server.log if call.kind == "token"]
    assert refused
    assert len(read_again) == 2


def test_a_dead_user_token_stops_the_account_after_two_calls(inboxes: Inboxes) -> None:
    _user(inboxes).expires_at = 1
    reports = inboxes.extract()
    assert [(each.outcome, each.reasons) for each in reports] == [("failed", ("token",))] * 2
    assert len(list(inboxes.server.log)) == 2
    assert all(USER_TOKEN not in str(report) for report in reports)


def test_a_page_without_a_task_is_named(inboxes: Inboxes) -> None:
    _user(inboxes).page_tasks["1111111111"] = ()
    report = inboxes.extract(accounts=["insta"])[0]
    assert report.outcome == "failed"
    assert "the user of token_from has no task on this Page" in str(report.error)


def test_a_refused_token_that_no_other_replaces_is_sent_once(inboxes: Inboxes) -> None:
    account = inboxes.world.accounts["insta"]
    page_token = min(account.tokens)
    account.tokens = {"EAAinventedOther0000000000000"}
    inboxes = replace(
        inboxes, settings=_with_source(inboxes, token_env="OLD"), environ={"OLD": page_token}
    )
    (report,) = inboxes.extract(accounts=["insta"])
    assert report.outcome == "failed"
    assert len(list(inboxes.server.log)) == 1


def test_a_token_file_is_read_again_when_it_changes(inboxes: Inboxes, tmp_path: Path) -> None:
    account = inboxes.world.accounts["insta"]
    file = tmp_path / "token"
    file.write_text(min(account.tokens) + "\n")
    inboxes = replace(inboxes, settings=_with_source(inboxes, token_file=str(file)), environ={})
    assert inboxes.extract(accounts=["insta"])[0].outcome == "complete"

    def rotate(progress: object) -> None:
        account.tokens = {"EAAinventedRotated000000000000000000"}
        file.write_text("EAAinventedRotated000000000000000000\n")

    account.add_conversation("Cora").add_messages(30, NOW - timedelta(hours=1))
    inboxes.world.clock.advance(60)
    assert inboxes.extract(accounts=["insta"], on_progress=rotate)[0].outcome == "complete"
    file.unlink()
    (report,) = inboxes.extract(accounts=["insta"])
    assert report.reasons == ("settings",)
    assert f"cannot read {file}: No such file or directory" in str(report.error)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "is empty"), (b"a b", "has characters that no secret has"), (b"x" * 5000, "is longer")],
)
def test_a_token_file_without_a_token_is_refused(
    inboxes: Inboxes, tmp_path: Path, content: bytes, problem: str
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    inboxes = replace(inboxes, settings=_with_source(inboxes, token_file=str(file)))
    (report,) = inboxes.extract(accounts=["insta"])
    assert problem in str(report.error)
    assert str(file) in str(report.error)


# The commands


@pytest.fixture
def server() -> Iterator[EmulatorServer]:
    """Three Pages of an agency, one with Instagram, one without a task."""
    world = World(small_world().clock)
    world.add_account("one", "1001", "messenger", title="Café Zürich", tokens=["EAAone"])
    world.add_account("two", "1001", "instagram", title="Café Zürich", tokens=["EAAone"])
    world.add_account("three", "1002", "messenger", title="日本", tokens=["EAAthree"])
    world.add_account("four", "1003", "messenger", title="Locked", tokens=["EAAfour"])
    for account in world.accounts.values():
        account.add_conversation("Anna").add_messages(2, NOW - timedelta(hours=3))
    pages = {"1001": ALL_TASKS, "1002": ("MODERATE",), "1003": ("ANALYZE",)}
    world.add_user(USER_TOKEN, page_tasks=pages, app_secret=APP_SECRET)
    with EmulatorServer(world) as server:
        yield server


def run(server: EmulatorServer, folder: Path, *arguments: str, **environ: str) -> Result:
    """Run a command with the configuration in `folder`; the output never has the token."""
    config = folder / "convo.toml"
    if not config.exists():
        config.write_text(
            f'[graph]\nbase_url = "{server.base_url}"\ncalls_per_second = 1000\n'
            f'[store]\nroot = "{folder / "data"}"\n'
        )
    clock: Clock = stopped_clock(server.world.clock)
    result = CliRunner().invoke(
        main,
        arguments,
        obj=CommandContext(str(config), clock),
        env={"META_TOKEN": USER_TOKEN, **environ},
        catch_exceptions=False,
    )
    assert USER_TOKEN not in result.output
    return result


def test_connect_prints_a_block_for_each_inbox(server: EmulatorServer, tmp_path: Path) -> None:
    result = run(server, tmp_path, "connect", "META_TOKEN", "--start-date", "2026-01-01")
    assert result.exit_code == 1  # one Page lacks a task
    accounts = parse_settings(result.stdout.encode()).accounts
    assert [(each.name, each.page_id, each.platform, each.token_from) for each in accounts] == [
        ("cafe-zurich-messenger", "1001", "messenger", "META_TOKEN"),
        ("cafe-zurich-instagram", "1001", "instagram", "META_TOKEN"),
        ("page-1002-messenger", "1002", "messenger", "META_TOKEN"),
    ]
    assert {each.start_date for each in accounts} == {date(2026, 1, 1)}
    assert "# the user lacks the task MESSAGING on this Page" in result.stdout
    assert '# name = "locked-messenger"' in result.stdout


def test_connect_appends_only_new_accounts(server: EmulatorServer, tmp_path: Path) -> None:
    server.world.users[USER_TOKEN].page_tasks["1003"] = ALL_TASKS
    first = run(server, tmp_path, "connect", "META_TOKEN", "--write", "--start-date", "2026-01-01")
    assert first.exit_code == 0
    config = tmp_path / "convo.toml"
    before = config.read_bytes()
    assert len(read_settings(config).accounts) == 4
    assert run(server, tmp_path, "connect", "META_TOKEN", "--write").exit_code == 0
    assert config.read_bytes() == before
    check = run(server, tmp_path, "check", "--json")
    assert check.exit_code == 0, check.output
    assert [each["own_id"] for each in json.loads(check.stdout)["accounts"]] == [
        "1001", "17841400000001001", "1003", "1002",
    ]  # fmt: skip


def test_connect_reads_every_response_of_a_long_list(
    server: EmulatorServer, tmp_path: Path
) -> None:
    for number in range(2000, 2070):
        server.world.add_account(f"page-{number}", f"{number}", "messenger", tokens=["EAAx"])
        server.world.users[USER_TOKEN].page_tasks[f"{number}"] = ALL_TASKS
    result = run(server, tmp_path, "connect", "META_TOKEN")
    assert len(parse_settings(result.stdout.encode()).accounts) == 3 + 70


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("EAAone", "holds the token of one Page"),
        ("EAAunknown", "code 190"),
        ("", "META_TOKEN is not set"),
    ],
)
def test_connect_names_a_token_that_it_cannot_use(
    server: EmulatorServer, tmp_path: Path, token: str, problem: str
) -> None:
    result = run(server, tmp_path, "connect", "META_TOKEN", META_TOKEN=token)
    assert result.exit_code in (1, 2)
    assert problem in result.output


def test_connect_names_missing_permissions(server: EmulatorServer, tmp_path: Path) -> None:
    user = server.world.users[USER_TOKEN]
    user.scopes, user.declined_scopes = ("pages_show_list", "pages_messaging"), ("instagram_basic",)
    result = run(server, tmp_path, "connect", "META_TOKEN")
    assert result.exit_code == 1
    assert "instagram_manage_messages" in result.stderr
    assert "pages_messaging," not in result.stderr


def test_token_shows_kind_owner_permissions_and_expiry(
    server: EmulatorServer, tmp_path: Path
) -> None:
    server.world.users[USER_TOKEN].expires_at = 1_780_000_000
    run(server, tmp_path, "connect", "META_TOKEN", "--write")
    result = run(server, tmp_path, "token", "cafe-zurich-messenger")
    assert "kind: user" in result.stdout
    assert "expires: 2026-05-28 20:26 UTC" in result.stdout
    assert "pages_messaging" in result.stdout
    shown = json.loads(run(server, tmp_path, "token", "cafe-zurich-messenger", "--json").stdout)
    assert shown["expires_at"] == datetime.fromtimestamp(1_780_000_000, UTC).isoformat()
    assert shown["page_ids"] == ["1001", "1002", "1003"]


def test_token_renew_writes_a_longer_token_to_a_private_file(
    server: EmulatorServer, tmp_path: Path
) -> None:
    run(server, tmp_path, "connect", "META_TOKEN", "--write")
    name, output = "cafe-zurich-messenger", tmp_path / "new.token"
    arguments = ("token", name, "--renew", "--output", str(output))
    refused = run(server, tmp_path, *arguments)
    assert refused.exit_code == 2
    assert "set app_secret_env" in refused.output
    config = tmp_path / "convo.toml"
    key = '\ntoken_from = "META_TOKEN"'
    config.write_text(config.read_text().replace(key, f'{key}\napp_secret_env = "SECRET"'))
    result = run(server, tmp_path, *arguments, SECRET=APP_SECRET)
    assert result.exit_code == 0, result.output
    assert "it expires 2026-05-09" in result.stderr
    assert output.read_text().strip() in server.world.users
    assert stat.S_IMODE(os.stat(output).st_mode) == 0o600
    assert APP_SECRET not in result.output


def test_token_renew_refreshes_an_instagram_login_token_into_a_pipe(
    server: EmulatorServer, tmp_path: Path
) -> None:
    server.world.add_account(
        "studio", "5005", "instagram", username="studio", tokens=["IGAAinventedStudio00000000"]
    )
    environ = {"STUDIO": "IGAAinventedStudio00000000"}
    connected = run(server, tmp_path, "connect", "STUDIO", "--write", **environ)
    assert connected.exit_code == 0, connected.output
    (account,) = read_settings(tmp_path / "convo.toml").accounts
    assert (account.name, account.page_id, account.token_env) == (
        "studio-instagram", "me", "STUDIO",
    )  # fmt: skip
    result = run(server, tmp_path, "token", "studio-instagram", "--renew", **environ)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() in server.world.accounts["studio"].tokens


def test_a_page_token_cannot_be_renewed(server: EmulatorServer, tmp_path: Path) -> None:
    config = tmp_path / "convo.toml"
    run(server, tmp_path, "connect", "META_TOKEN")
    block = '[[accounts]]\nname = "one"\npage_id = "1001"\nplatform = "messenger"\n'
    config.write_text(config.read_text() + block + 'token_env = "T"\nstart_date = "2026-01-01"\n')
    result = run(server, tmp_path, "token", "one", "--renew", T="EAAone")
    assert result.exit_code == 2
    assert "holds a Page's token, which cannot be renewed" in result.output


def test_appending_keeps_the_text_mode_owner_and_link_of_the_file(tmp_path: Path) -> None:
    file, link = tmp_path / "shared.toml", tmp_path / "convo.toml"
    before = '[store]\nroot = "data"   # without a line break at the end'
    file.write_text(before)
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 1234, 1234)
    link.symlink_to(file)
    status = file.stat()
    block = (
        '[[accounts]]\nname = "a"\npage_id = "1"\nplatform = "messenger"\ntoken_env = "T"\n'
        'start_date = "2026-01-01"\n'
    )
    assert append_blocks(str(link), block, {}) == link
    after = file.stat()
    assert link.is_symlink()
    assert (after.st_ino, after.st_mode, after.st_uid) == (
        status.st_ino,
        status.st_mode,
        status.st_uid,
    )
    assert file.read_text() == f"{before}\n\n{block}"
    with pytest.raises(SettingsError, match="used twice"):
        append_blocks(str(link), block, {})
    assert file.read_text() == f"{before}\n\n{block}"
    new = tmp_path / "new.toml"
    append_blocks(str(new), block, {})
    assert new.stat().st_mode & 0o777 == 0o600
