"""Each finding of `check`, caused by an emulated inbox in that state; no output has the token."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import date, timedelta
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from convo_pipeline.base.json_text import dump_json
from convo_pipeline.console.check import (
    SCOPES,
    AccountSetup,
    SetupFinding,
    check_accounts,
    describe_check,
    show_check,
)
from convo_pipeline.console.status import read_status
from convo_pipeline.emulator.fault import Fault, FaultKind
from convo_pipeline.emulator.refusals import Refusal
from convo_pipeline.emulator.serve import EMULATOR_TOKEN
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.graph.codes import CODES
from convo_pipeline.graph.rate_limit import LimitKey, SqliteLimiter
from convo_pipeline.reasons import REASONS
from convo_pipeline.settings import AccountSettings
from convo_pipeline.state.records import AccountIdentity, Run
from tests.support.inboxes import TOKEN_VARIABLE, Inboxes, serve, small_world, stopped_clock


@pytest.fixture
def inboxes(tmp_path: Path) -> Iterator[Inboxes]:
    with serve_full(tmp_path) as inboxes:
        yield inboxes


def serve_full(root: Path, switches: Switches | None = None) -> AbstractContextManager[Inboxes]:
    world = small_world()
    for account in world.accounts.values():
        account.add_conversation("Anna").add_messages(2, world.clock.now() - timedelta(hours=3))
    return serve(root, world, switches)


def check(inboxes: Inboxes) -> tuple[dict[str, AccountSetup], list[SetupFinding]]:
    clock = stopped_clock(inboxes.clock)
    found, general = check_accounts(inboxes.settings, inboxes.names, inboxes.environ, clock)
    for form in ("table", "json"):
        assert EMULATOR_TOKEN not in shown(found, general, form)
    return {each.account: each for each in found}, general


def shown(found: list[AccountSetup], general: list[SetupFinding], form: str) -> str:
    if form == "json":
        return dump_json(describe_check(found, general)).decode()
    console = Console(file=StringIO(), width=80)
    show_check(found, general, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def names(inboxes: Inboxes) -> dict[str, list[str]]:
    return {
        name: [finding.name for finding in each.findings]
        for name, each in check(inboxes)[0].items()
    }


def change(inboxes: Inboxes, name: str, **values: object) -> None:
    """Change the settings of one account."""
    accounts = tuple(
        AccountSettings.model_validate(
            account.model_dump() | (values if account.name == name else {})
        )
        for account in inboxes.settings.accounts
    )
    inboxes.settings = inboxes.settings.model_copy(update={"accounts": accounts})


def refuse_token(code: int, subcode: int | None = None) -> Fault:
    """Refuse debug_token only."""

    def refuse(context: object) -> Refusal | None:
        path = context.call.path  # type: ignore[attr-defined]
        return Refusal(code, "x", subcode) if path.endswith("debug_token") else None

    return Fault(FaultKind("debug_token_refused", "B30", "debug_token is refused", refuse=refuse))


def refuse_all(code: int, subcode: int | None = None) -> Fault:
    return Fault(
        FaultKind(
            "refused", "B30", "everything is refused", refuse=lambda _: Refusal(code, "x", subcode)
        )
    )


def test_a_correct_setup_is_fine_and_costs_few_calls(inboxes: Inboxes) -> None:
    found, general = check(inboxes)
    assert general == []
    insta, mess = found["insta"], found["mess"]
    assert (insta.findings, insta.token_kind, insta.expires, insta.folders) == (
        [],
        "page",
        "never",
        [""],
    )
    assert insta.own_id == inboxes.world.accounts["insta"].own_id
    assert (mess.findings, mess.own_id, insta.call_count, mess.call_count) == (
        [],
        "2222222222",
        3,
        6,
    )
    assert len(inboxes.server.log) == 9


Change = Callable[[Inboxes], None]


def facts(**values: object) -> Change:
    return lambda inboxes: inboxes.world.accounts["mess"].token_facts.update(values)


def fault(*faults: Fault | str) -> Change:
    return lambda inboxes: inboxes.server.set_faults(*faults)


def at(inboxes: Inboxes, days: int) -> int:
    return int((inboxes.clock.now() + timedelta(days=days)).timestamp())


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda inboxes: inboxes.environ.clear(), ["token_missing"]),
        (
            lambda inboxes: inboxes.environ.update({TOKEN_VARIABLE: "EAAwrongwrongwrong"}),
            ["token_invalid"],
        ),
        (fault("token_revoked"), ["token_password"]),
        (fault("token_dies:0"), ["token_expired"]),
        (fault(refuse_all(190, 458)), ["app_removed"]),
        (fault(refuse_all(190, 459)), ["token_checkpoint"]),
        (fault(refuse_all(190, 464)), ["token_unconfirmed"]),
        (facts(is_valid=False), ["token_invalid"]),
        (lambda inboxes: facts(expires_at=at(inboxes, -1))(inboxes), ["token_expired"]),
        (lambda inboxes: facts(expires_at=at(inboxes, 5))(inboxes), ["token_expiring"]),
        (
            lambda inboxes: facts(data_access_expires_at=at(inboxes, 5))(inboxes),
            ["data_access_expiring"],
        ),
        (facts(type="USER"), ["token_kind"]),
        (facts(granular_scopes=[], profile_id="77"), ["other_page"]),
        (facts(scopes=["pages_messaging", "pages_manage_metadata"]), ["scope_missing"]),
        (fault(refuse_token(100)), ["token_unknown"]),
        (fault(refuse_token(10)), ["token_unknown"]),
        (
            lambda inboxes: change(inboxes, "mess", base_url="https://graph.instagram.com"),
            ["wrong_host"],
        ),
        (lambda inboxes: change(inboxes, "mess", page_id="7"), ["other_page"]),
        (fault("permission_10"), ["permission"]),
        (fault("permission_230"), ["permission"]),
        (fault("permission_200"), ["advanced_access"]),
        (fault("access_switched_off"), ["switched_off"]),
        (fault(refuse_all(368)), ["policy"]),
        (fault("version_upgraded:v27.0"), ["version_changed"]),
        (fault("retired_version"), ["version"]),
        (fault(refuse_all(613)), ["throttled"]),
        (fault(refuse_all(2)), ["token_unknown", "answer"]),
        (lambda inboxes: change(inboxes, "mess", folders=["", "other", "page_done", "spam"]), []),
        (lambda inboxes: change(inboxes, "mess", folders=["done"]), ["inbox_empty"]),
    ],
)
def test_each_mistake_of_a_messenger_account_has_its_finding(
    inboxes: Inboxes, make: Change, expected: list[str]
) -> None:
    make(inboxes)
    assert names(inboxes)["mess"] == expected


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda inboxes: change(
                inboxes, "insta", page_id=inboxes.world.accounts["insta"].own_id
            ),
            ["wrong_id_kind"],
        ),
        (lambda inboxes: change(inboxes, "insta", page_id="2222222222"), ["not_linked"]),
        (lambda inboxes: change(inboxes, "insta", page_id="77"), ["missing"]),
        (lambda inboxes: change(inboxes, "insta", folders=["", "general"]), ["folder_useless"]),
        (
            lambda inboxes: change(
                inboxes, "insta", base_url="https://graph.facebook.com", page_id="me"
            ),
            ["wrong_host"],
        ),
        (
            lambda inboxes: change(
                inboxes, "insta", base_url="https://graph.instagram.com", page_id="me"
            ),
            ["wrong_host"],
        ),
        (fault("access_switched_off"), ["switched_off"]),
        (fault(refuse_all(36103)), ["token_unknown", "not_eligible"]),
    ],
)
def test_each_mistake_of_an_instagram_account_has_its_finding(
    inboxes: Inboxes, make: Change, expected: list[str]
) -> None:
    for account in inboxes.world.accounts.values():
        account.token_facts["granular_scopes"] = []
        account.token_facts["profile_id"] = None
    make(inboxes)
    assert names(inboxes)["insta"] == expected


def test_an_unknown_own_id_is_a_note(tmp_path: Path) -> None:
    with serve_full(tmp_path, Switches(own_id="refused")) as inboxes:
        found, _ = check(inboxes)
        assert [finding.name for finding in found["insta"].findings] == ["own_id_unknown"]
        assert found["insta"].is_fine


def test_instagram_login_needs_its_own_permissions(inboxes: Inboxes) -> None:
    change(inboxes, "insta", page_id="me")
    (finding,) = check(inboxes)[0]["insta"].findings
    assert (
        finding.sentence
        == "the token lacks instagram_business_basic, instagram_business_manage_messages"
    )


@pytest.mark.parametrize(
    ("fault_name", "words"),
    [
        ("token_dies:0", "with the account's login"),
        ("token_revoked", "with the account's login"),
        ("permission_10", "check instagram_business_manage_messages"),
        ("permission_200", "Advanced Access to instagram_business_manage_messages"),
    ],
)
def test_instagram_login_has_its_own_remedies(
    inboxes: Inboxes, fault_name: str, words: str
) -> None:
    inboxes.world.accounts["insta"].token_facts["scopes"] = list(SCOPES["instagram_login"])
    change(inboxes, "insta", page_id="me")
    inboxes.server.set_faults(fault_name)
    (finding,) = check(inboxes)[0]["insta"].findings
    assert words in finding.remedy
    assert "Page" not in finding.remedy


def test_no_remedy_sends_instagram_login_to_a_page() -> None:
    of_pages = {"wrong_host", "token_kind", "other_page", "wrong_id_kind", "not_linked"}
    found = {
        name for name, reason in REASONS.items() if "Page" in reason.remedy_for("instagram_login")
    }
    assert found <= of_pages


def test_an_unconfigured_folder_with_conversations_is_a_note(inboxes: Inboxes) -> None:
    inboxes.world.accounts["mess"].add_conversation("Ben", folder="spam").add_message("hello")
    (finding,) = check(inboxes)[0]["mess"].findings
    assert (finding.level, finding.sentence) == (
        "note",
        "the folder spam holds conversations and is not in `folders`",
    )


def test_a_blocked_account_is_not_called(inboxes: Inboxes) -> None:
    inboxes.store.state.identities()
    key = LimitKey(inboxes.server.base_url.removeprefix("http://"), "2222222222", "messenger")
    limiter = SqliteLimiter(inboxes.store.state.path, key, clock=stopped_clock(inboxes.clock))
    limiter.block(3600)
    limiter.close()
    mess = check(inboxes)[0]["mess"]
    assert [finding.sentence for finding in mess.findings] == [
        "Meta's rate limit blocks this account until 2026-03-10 13:00 UTC"
    ]
    assert mess.call_count == 0


def test_an_account_name_of_another_inbox_is_a_problem(inboxes: Inboxes) -> None:
    inboxes.store.state.set_identity(AccountIdentity("mess", "99", "messenger"))
    (finding,) = check(inboxes)[0]["mess"].findings
    assert finding.sentence.startswith(
        'this account name belongs to another inbox (the account name "mess" already stands for'
        " messenger page 99"
    )


def test_an_unreachable_server_is_a_problem(inboxes: Inboxes) -> None:
    inboxes.server.stop()
    assert names(inboxes) == {"insta": ["unreachable"], "mess": ["unreachable"]}


def test_too_many_partitions_are_one_general_warning(inboxes: Inboxes) -> None:
    many = [
        AccountSettings.model_validate(
            inboxes.settings.accounts[1].model_dump() | {"name": f"m{number}"}
        )
        for number in range(20)
    ]
    old = many[0].model_copy(update={"start_date": date(2011, 1, 1)})
    inboxes.settings = inboxes.settings.model_copy(update={"accounts": (old, *many[1:])})
    clock = stopped_clock(inboxes.clock)
    _, general = check_accounts(inboxes.settings, ["m0"], inboxes.environ, clock)
    assert [(finding.name, finding.sentence) for finding in general] == [
        ("many_partitions", "110,960 partitions per asset: Dagster advises at most 100,000")
    ]


def test_the_table_and_json_have_the_same_findings(inboxes: Inboxes) -> None:
    inboxes.server.set_faults("access_switched_off")
    found, general = check_accounts(
        inboxes.settings, ["insta"], inboxes.environ, stopped_clock(inboxes.clock)
    )
    text = shown(found, general, "table")
    assert max(map(len, text.splitlines())) <= 80
    assert "Connected tools" in " ".join(text.split())
    (account,) = json.loads(shown(found, general, "json"))["accounts"]
    assert account["is_fine"] is False
    assert account["findings"][0]["name"] == "switched_off"


def test_every_reason_of_a_code_has_a_row() -> None:
    assert {meaning.reason for meaning in CODES.values()} - {None} <= set(REASONS)


def end_run(inboxes: Inboxes, outcome: str, *reasons: str, error: str | None = None) -> None:
    """Store that the last run of `mess` ended with these reasons."""
    at = inboxes.clock.now() - timedelta(hours=1)
    run = Run(
        "r_1", "mess", "nightly", at, ended_at=at, outcome=outcome, reasons=reasons, error=error
    )
    inboxes.store.state.save_run(run)


def test_stored_reasons_that_the_check_cannot_see_keep_sentence_and_remedy(
    inboxes: Inboxes,
) -> None:
    end_run(inboxes, "failed", "store", error="cannot write messages: disk full.")
    mess = check(inboxes)[0]["mess"]
    (finding,) = mess.findings
    assert not mess.is_fine
    assert (finding.level, finding.remedy) == ("problem", REASONS["store"].remedy_for())
    assert finding.sentence == (
        "last run, 2026-03-10 11:00 UTC, failed: a file could not be read or written"
        " (cannot write messages: disk full)"
    )


def test_stored_reasons_that_the_next_run_repairs_are_notes(inboxes: Inboxes) -> None:
    end_run(inboxes, "incomplete", "conversation_failed", "of_a_later_version")
    mess = check(inboxes)[0]["mess"]
    assert [(finding.name, finding.level) for finding in mess.findings] == [
        ("conversation_failed", "note")
    ]
    assert mess.is_fine


def test_a_stored_token_error_is_a_note_once_the_token_works(inboxes: Inboxes) -> None:
    end_run(inboxes, "failed", "token")
    (finding,) = check(inboxes)[0]["mess"].findings
    assert finding.level == "note"
    assert finding.sentence.endswith("this check does not find it any more")
    assert finding.remedy == "run `convo-pipeline extract` again"


def test_a_stored_token_error_is_left_out_while_the_token_fails(inboxes: Inboxes) -> None:
    """The finding of the check itself is more precise."""
    end_run(inboxes, "failed", "token")
    inboxes.server.set_faults("token_revoked")
    assert names(inboxes)["mess"] == ["token_password"]


def test_complete_and_busy_runs_add_nothing(inboxes: Inboxes) -> None:
    end_run(inboxes, "busy", "busy")
    assert names(inboxes)["mess"] == []
    end_run(inboxes, "complete")
    assert names(inboxes)["mess"] == []


def test_status_warns_two_weeks_before_a_token_ends(inboxes: Inboxes) -> None:
    """`check` learns the date, `status` shows it without a call, and the next check forgets it."""

    def warnings(days: int) -> list[str]:
        facts(expires_at=at(inboxes, days))(inboxes)
        check(inboxes)
        count = len(inboxes.server.log)
        status = read_status(inboxes.settings, ["mess"], inboxes.clock.now())
        assert len(inboxes.server.log) == count
        return [line for line in status.accounts[0].attention if "token" in line]

    assert warnings(15) == []
    day = (inboxes.clock.now() + timedelta(days=14)).date()
    (line,) = warnings(14)
    assert line.startswith(f"the token expires on {day}. To do: create a new one")
    assert line.endswith("; then run `convo-pipeline check`, which reads the new date")
    assert warnings(60) == []
