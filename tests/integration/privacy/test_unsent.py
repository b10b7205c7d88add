"""Unsent messages leave as `on_deleted` says, after two observations, completely."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from convo_pipeline.base.clock import Clock
from convo_pipeline.console.status import find_lost
from convo_pipeline.console.upkeep import expire_rows
from convo_pipeline.derive.day import stale_days
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.world import Conversation, Message
from convo_pipeline.errors import BusyError, SettingsError, StoreError
from convo_pipeline.extract.missing import page_span
from convo_pipeline.extract.observations import MessageObservation, Reject
from convo_pipeline.extract.spool import Spool, left_spools
from convo_pipeline.lake.compact import compact
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.upkeep import run_upkeep
from convo_pipeline.privacy import unsent
from convo_pipeline.privacy.unsent import find_all_unsent, remove_unsent
from convo_pipeline.schema import TABLES
from convo_pipeline.settings import RetentionSettings, StoreSettings, parse_settings
from convo_pipeline.upkeep.rebuild import rebuild_state
from convo_pipeline.upkeep.verify import verify
from tests.support.byte_grep import find_texts
from tests.support.inboxes import NOW, Inboxes, serve, small_world
from tests.support.kills import kill_everywhere
from tests.support.simulation import Scenario
from tests.support.spools import append_json

SECRET, PICTURE = "a word that was taken back, örtlich", "a picture that was taken back"
HOUR = timedelta(hours=1).total_seconds()
UNSENT_DAY = date(2026, 3, 4)


def at(day: int, hour: int = 9) -> datetime:
    return datetime(2026, 3, day, hour, tzinfo=NOW.tzinfo)


@pytest.fixture
def inboxes(tmp_path: Path) -> Iterator[Inboxes]:
    """An inbox after a complete extraction; no message is unsent yet."""
    with serve(tmp_path / "lake", small_world()) as inboxes:
        conversation = inboxes.world.accounts["insta"].add_conversation()
        conversation.add_messages(3, at(2))
        conversation.add_message(SECRET, at(4), attachments=[{"id": "5", "name": PICTURE}])
        conversation.add_messages(3, at(6))
        inboxes.extract_whole()
        yield inboxes


def chat(inboxes: Inboxes) -> Conversation:
    return next(iter(inboxes.world.accounts["insta"].conversations.values()))


def secret_of(inboxes: Inboxes) -> Message:
    return next(
        message for message in chat(inboxes).messages if message.payload.get("message") == SECRET
    )


def unsend(inboxes: Inboxes, run_count: int = 2, mode: str = "full") -> Message:
    """Unsend the message, then extract the account several times, two hours apart."""
    message = secret_of(inboxes)
    message.unsend()
    for _ in range(run_count):
        extract_later(inboxes, mode)
    return message


def extract_later(inboxes: Inboxes, mode: str = "full") -> None:
    inboxes.clock.advance(2 * HOUR)
    assert [report.outcome for report in inboxes.extract(accounts=["insta"], mode=mode)] == [
        "complete"
    ]
    inboxes.derive()


def remove(inboxes: Inboxes, on_deleted: str = "redact") -> int:
    return sum(
        len(unsent.messages)
        for unsent in remove_unsent(
            with_policy(inboxes, on_deleted), inboxes.store, inboxes.clock.now()
        )
    )


def with_policy(inboxes: Inboxes, on_deleted: str):  # type: ignore[no-untyped-def]
    retention = inboxes.settings.retention.model_copy(update={"on_deleted": on_deleted})
    return inboxes.settings.model_copy(update={"retention": retention})


def hits(inboxes: Inboxes) -> list[tuple[str, str]]:
    return find_texts(inboxes.store.root, (SECRET, PICTURE))


def row_of(inboxes: Inboxes, table: str, message: Message) -> dict[str, object]:
    [row] = [row for row in inboxes.rows(table, "insta") if row["message_id"] == message.message_id]
    return row


def test_s18_unsent_content_leaves_completely_and_id_and_time_stay(
    inboxes: Inboxes,
) -> None:
    compact(inboxes.store, date(2026, 5, 2))
    message = unsend(inboxes)
    compact(inboxes.store, date(2026, 5, 2))
    before = {row["message_id"]: row for row in inboxes.rows("messages", "insta")}
    assert {text for _, text in hits(inboxes)} == {SECRET, PICTURE}
    assert remove(inboxes) == 1
    assert hits(inboxes) == []
    after = {row["message_id"]: row for row in inboxes.rows("messages", "insta")}
    row, row_before = after.pop(message.message_id), before.pop(message.message_id)
    assert after == before
    kept = (
        "conversation_id",
        "message_id",
        "created_at",
        "direction",
        "sender_id",
        "recipient_ids",
        "first_seen_at",
    )
    assert {name: row[name] for name in kept} == {name: row_before[name] for name in kept}
    assert (
        row["text"],
        row["sender_username"],
        row["content_type"],
        row["attachment_count"],
        row["problem"],
    ) == (None, None, "unavailable", None, None)
    assert (row["detail_status"], row["deleted_at"]) == (
        "gone",
        row_of(inboxes, "raw_message_ids", message)["deleted_at"],
    )
    assert inboxes.rows("attachments", "insta") == []
    assert verify(inboxes.store, stale_days=stale_days).findings == ()


def test_rerun_spool_and_old_response_do_not_restore_unsent_content(
    inboxes: Inboxes,
) -> None:
    message = secret_of(inboxes)
    details = inboxes.store.read("raw_message_details", "insta", UNSENT_DAY)
    unsend(inboxes)
    leave_spool(inboxes, message)
    assert remove(inboxes) == 1
    assert (hits(inboxes), left_spools(inboxes.store.state_path, "insta")) == ([], [])
    files = inboxes.files()
    leave_spool(inboxes, message)
    extract_later(inboxes)
    inboxes.store.merge("raw_message_details", "insta", UNSENT_DAY, details)
    inboxes.derive()
    assert hits(inboxes) == []
    assert {
        path: content for path, (content, _) in inboxes.files().items() if "raw_message_d" in path
    } == {path: content for path, (content, _) in files.items() if "raw_message_d" in path}
    assert remove(inboxes) == 0


def leave_spool(inboxes: Inboxes, message: Message) -> None:
    """Leave the spool of a killed run that has the content of the message."""
    spool = Spool.create(inboxes.store.state_path, "insta", "killed")
    row = {
        "id": message.message_id,
        "created_time": "2026-03-04T09:00:00+0000",
        "message": SECRET,
        "from": {"id": "7"},
    }
    append_json(
        spool,
        {
            "kind": "edge",
            "at_us": int(NOW.timestamp() * 1_000_000),
            "conversation_id": chat(inboxes).conversation_id,
            "updated_us": None,
            "first_rank": 4,
            "fields": ["message", "from"],
            "rows": [row],
        },
    )


def test_deletion_needs_two_observations_an_hour_apart(inboxes: Inboxes) -> None:
    message = unsend(inboxes, run_count=1)
    inboxes.clock.advance(0.5 * HOUR)
    inboxes.extract(mode="full")
    row = row_of(inboxes, "raw_message_ids", message)
    assert (row["missing_at"] is not None, row["deleted_at"], remove(inboxes)) == (True, None, 0)
    extract_later(inboxes)
    assert (
        row_of(inboxes, "raw_message_ids", message)["deleted_at"] is not None,
        remove(inboxes),
    ) == (True, 1)


def test_message_listed_again_is_not_deleted(inboxes: Inboxes) -> None:
    message = unsend(inboxes)
    message.unsent_us = None
    extract_later(inboxes)
    assert row_of(inboxes, "messages", message)["deleted_at"] is None
    assert remove(inboxes) == 0
    assert row_of(inboxes, "messages", message)["text"] == SECRET


def test_newest_message_is_deleted_only_after_a_newer_one(inboxes: Inboxes) -> None:
    newest = chat(inboxes).add_message(SECRET, at(10, 11))
    extract_later(inboxes)
    newest.unsend()
    extract_later(inboxes)
    extract_later(inboxes)
    assert remove(inboxes) == 0
    chat(inboxes).add_message("newer", inboxes.clock.now())
    extract_later(inboxes)
    assert remove(inboxes) == 1


@pytest.mark.parametrize("refused_as", ["9000001", "100/33"])
def test_error_is_no_proof_of_deletion(tmp_path: Path, refused_as: str) -> None:
    with serve(
        tmp_path / "lake", small_world(), Switches(refused_as=refused_as, unsent_rows="kept")
    ) as inboxes:  # type: ignore[arg-type]
        conversation = inboxes.world.accounts["insta"].add_conversation()
        conversation.add_message(SECRET, at(3))
        conversation.add_messages(9, at(4))
        inboxes.extract_whole()
        conversation.messages[5].unsend()
        conversation.add_messages(25, at(9))
        extract_later(inboxes)
        extract_later(inboxes)
        assert remove(inboxes) == 0
        assert row_of(inboxes, "messages", conversation.messages[0])["text"] == SECRET


def test_nightly_run_finds_an_unsent_message_on_an_older_day(inboxes: Inboxes) -> None:
    secret_of(inboxes).unsend()
    for _ in range(2):
        inboxes.clock.advance(2 * HOUR)
        chat(inboxes).add_message("we talk on", inboxes.clock.now() - timedelta(minutes=5))
        extract_later(inboxes, mode="nightly")
    assert remove(inboxes) == 1


def test_drop_removes_rows_and_keep_keeps_them(inboxes: Inboxes) -> None:
    message = unsend(inboxes)
    files = inboxes.files()
    assert (remove(inboxes, "keep"), inboxes.files()) == (0, files)
    assert remove(inboxes, "drop") == 1
    for table in ("raw_message_ids", "raw_message_details", "messages"):
        assert message.message_id not in [row["message_id"] for row in inboxes.rows(table, "insta")]
    assert hits(inboxes) == []
    extract_later(inboxes)
    assert message.message_id not in [
        row["message_id"] for row in inboxes.rows("messages", "insta")
    ]
    assert verify(inboxes.store, stale_days=stale_days).findings == ()


def test_unsent_message_that_was_read_is_not_lost(inboxes: Inboxes) -> None:
    inboxes.clock.advance(HOUR)
    late = chat(inboxes).add_message("read in time", inboxes.clock.now())
    chat(inboxes).add_message("newer", inboxes.clock.now() + timedelta(minutes=1))
    extract_later(inboxes)
    late.unsend()
    for _ in range(2):
        extract_later(inboxes)
    assert remove(inboxes) == 1
    today = inboxes.clock.now().date()
    [coverage] = [row for row in inboxes.rows("coverage", "insta") if row["date"] == today]
    assert coverage["gone"] == 1
    assert find_lost(inboxes.store, "insta", today, {today: coverage}) == []


def test_damaged_staged_and_rejected_copies_leave(inboxes: Inboxes) -> None:
    message = unsend(inboxes)
    store = inboxes.store
    path = store.path("messages", "insta", UNSENT_DAY)
    path.with_name("data.parquet.corrupt-00000001").write_bytes(SECRET.encode())
    other = store.path("messages", "insta", date(2026, 3, 2)).with_name(
        "data.parquet.corrupt-00000002"
    )
    other.write_bytes(b"another day's")
    staged, _ = store.folder.stage(
        ("messages", "account=insta", f"date={UNSENT_DAY}", "data.parquet"), SECRET.encode()
    )
    entry = json.dumps({"quoted": message.message_id, "message": SECRET}, ensure_ascii=False)
    row = {"digest": "1", "reason": "no id", "payload": entry, "first_seen_at": NOW}
    schema = TABLES["raw_rejects"].schema
    store.merge(
        "raw_rejects", "insta", date(2026, 3, 9), pa.Table.from_pylist([row], schema=schema)
    )
    assert remove(inboxes) == 1
    assert (hits(inboxes), staged.exists(), other.exists()) == ([], False, True)


def test_interrupted_removal_is_finished_by_the_next(inboxes: Inboxes) -> None:
    unsend(inboxes)
    compact(inboxes.store, date(2026, 5, 2))
    with inboxes.store.lock_account("insta"), inboxes.store.lock_derivation("insta"):
        unsent.remove_content(
            inboxes.store, "insta", unsent.find_unsent(inboxes.store, "insta", "redact"), "redact"
        )
    assert (find_all_unsent(inboxes.settings, inboxes.store), hits(inboxes) != []) == ([], True)
    assert (remove(inboxes), hits(inboxes)) == (0, [])
    assert unsent.read_pending_days(inboxes.store, "insta") == set()


def test_unsent_content_leaves_in_the_night_when_its_raw_rows_expire(
    inboxes: Inboxes,
) -> None:
    unsend(inboxes)
    limits = {
        "raw_message_ids": 3,
        **dict.fromkeys(("messages", "attachments", "coverage", "account_days"), 400),
    }
    retention = RetentionSettings.model_validate(limits)
    settings = inboxes.settings.model_copy(update={"retention": retention})
    removal = expire_rows(settings, Clock(now=inboxes.clock.now), is_dry_run=False)
    assert (len(removal.unsent), hits(inboxes)) == (1, [])
    assert {each.table for each in removal.expired} >= {"raw_message_details"}


def test_locked_account_is_done_by_the_next_removal(inboxes: Inboxes) -> None:
    unsend(inboxes)
    with inboxes.store.lock_account("insta"), pytest.raises(BusyError):
        remove(inboxes)
    assert remove(inboxes) == 1


def test_nightly_upkeep_removes_unsent_content(inboxes: Inboxes) -> None:
    unsend(inboxes)
    log: list[str] = []
    deployment = Deployment(
        inboxes.settings, environ=inboxes.environ, clock=Clock(now=inboxes.clock.now)
    )
    assert run_upkeep(deployment, log.append) == []
    assert ("unsent messages removed: 1" in log, hits(inboxes)) == (True, [])


def test_divided_upkeep_removes_the_content_of_its_own_accounts(inboxes: Inboxes) -> None:
    unsend(inboxes)
    deployment = Deployment(
        inboxes.settings, environ=inboxes.environ, clock=Clock(now=inboxes.clock.now)
    )
    logs: dict[str, list[str]] = {"other": [], "shared": [], "own": []}
    assert run_upkeep(deployment, logs["other"].append, ["mess"]) == []
    assert run_upkeep(deployment, logs["shared"].append, is_shared_part=True) == []
    removed = "unsent messages removed: 1"
    assert (removed in logs["other"], removed in logs["shared"]) == (False, False)
    assert hits(inboxes) != []
    assert run_upkeep(deployment, logs["own"].append, ["insta"]) == []
    assert (removed in logs["own"], hits(inboxes)) == (True, [])
    steps = {name: [line.split(":")[0] for line in lines] for name, lines in logs.items()}
    assert steps["other"] == steps["own"]
    assert {"months compacted", "partitions expired"} <= set(steps["shared"]) - set(steps["own"])


def test_restored_content_is_removed_after_new_proof(inboxes: Inboxes, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    for table in ("raw_message_ids", "raw_message_details"):
        shutil.copytree(inboxes.store.root / table, backup / table)
    unsend(inboxes)
    remove(inboxes)
    shutil.copytree(backup, inboxes.store.root, dirs_exist_ok=True)
    rebuild_state(inboxes.store)
    extract_later(inboxes)
    extract_later(inboxes)
    assert (remove(inboxes), hits(inboxes)) == (1, [])


def sighted(seconds: int, source: str = "message") -> MessageObservation:
    return MessageObservation(
        "c", str(seconds), seconds * 1_000_000, source, 1, 0, "detailed", None, None, None, None
    )


@pytest.mark.parametrize(
    "observations",
    [
        [],
        [sighted(9)],
        [sighted(9), sighted(7, "listing")],
        [sighted(7), sighted(9)],
        [sighted(9), Reject("digest", "no id", "{}", 0), sighted(7)],
    ],
)
def test_uncertain_page_spans_nothing(
    observations: list[MessageObservation | Reject],
) -> None:
    assert page_span(observations, 0) is None
    assert page_span([sighted(9), sighted(7)], 5) == (7_000_000, 9_000_000, 5)


def test_unusually_many_unsent_messages_need_a_higher_limit(inboxes: Inboxes) -> None:
    """An API that hides messages looks like customers who unsend them."""
    other = next(
        message for message in chat(inboxes).messages[1:] if message is not secret_of(inboxes)
    )
    other.unsend()
    unsend(inboxes)

    def remove_at_most(most: int) -> int:
        retention = inboxes.settings.retention.model_copy(update={"most_unsent_at_once": most})
        settings = inboxes.settings.model_copy(update={"retention": retention})
        return sum(
            len(unsent.messages)
            for unsent in remove_unsent(settings, inboxes.store, inboxes.clock.now())
        )

    before = inboxes.rows("messages", "insta")
    with pytest.raises(
        StoreError,
        match=r"2 messages of insta would leave as unsent at once.* most_unsent_at_once is 1",
    ):
        remove_at_most(1)
    assert inboxes.rows("messages", "insta") == before
    assert remove_at_most(2) == 2
    assert hits(inboxes) == []


def test_policy_comes_from_the_configuration() -> None:
    assert parse_settings(b"").retention.on_deleted == "redact"
    settings = parse_settings(b'[retention]\non_deleted = "drop"\nmessages = 30')
    assert (settings.retention.on_deleted, settings.retention.limits) == ("drop", {"messages": 30})
    with pytest.raises(
        SettingsError, match=r'retention\.on_deleted: must be "redact", "keep" or "drop"'
    ):
        parse_settings(b'[retention]\non_deleted = "forget"')


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_removal_killed_at_any_call_is_finished_by_the_next(
    inboxes: Inboxes, long_run: bool
) -> None:
    unsend(inboxes)
    compact(inboxes.store, date(2026, 5, 2))

    def attempt() -> None:
        fresh = Store(inboxes.settings.store)
        remove_unsent(inboxes.settings, fresh, inboxes.clock.now())

    inboxes.store.close()
    kill_everywhere(attempt, long_run=long_run)
    remove(inboxes)
    assert hits(inboxes) == []
    assert verify(inboxes.store, stale_days=stale_days).findings == ()


@pytest.mark.hunt
@pytest.mark.timeout(36_000)
def test_random_scenarios_never_delete_an_existing_message(
    memory_path: Path, long_run: bool
) -> None:
    """Faults that hide rows make messages missing, never deleted; unsent ones are found."""
    tally: Counter[str] = Counter()
    for seed in range(1_000 if long_run else 25):
        scenario = Scenario(seed, memory_path / str(seed))
        scenario.plans = [scenario._plan_run(number) for number in range(8)]
        scenario.run_all()
        now_us = scenario.world.clock.now_us()
        unsent = {key for key, message in scenario.messages() if message.is_unsent(now_us)}
        store = Store(StoreSettings(root=str(scenario.folder)))
        for day in store.days("raw_message_ids", "shop"):
            for row in store.read("raw_message_ids", "shop", day).to_pylist():
                is_unsent = (row["conversation_id"], row["message_id"]) in unsent
                tally["missing and there"] += row["missing_at"] is not None and not is_unsent
                is_deleted = row["deleted_at"] is not None and row["returned_at"] is None
                tally["deleted and unsent" if is_unsent else "deleted and there"] += is_deleted
        store.close()
        shutil.rmtree(scenario.folder)
    print(dict(tally))
    assert tally["deleted and there"] == 0
    assert min(tally["deleted and unsent"], tally["missing and there"]) > 0


def test_search_reads_only_days_that_changed(inboxes: Inboxes) -> None:
    """A message's second absence changes its day. Each policy searches for itself."""
    settings, store = with_policy(inboxes, "redact"), inboxes.store
    days = store.days("raw_message_ids", "insta")
    with opened_files() as opened:
        assert find_all_unsent(settings, store) == []
        assert {path.parent.name for path in opened} == {f"date={day}" for day in days}
        opened.clear()
        assert find_all_unsent(settings, store) == []
        assert opened == []
        unsend(inboxes)
        opened.clear()
        (unsent_day,) = find_all_unsent(settings, store)
        assert (unsent_day.date, {path.parent.name for path in opened}) == (
            UNSENT_DAY,
            {f"date={UNSENT_DAY}"},
        )
        assert len(find_all_unsent(with_policy(inboxes, "drop"), store)) == 1
    assert remove(inboxes) == 1
    assert (hits(inboxes), find_all_unsent(settings, store)) == ([], [])


def test_damaged_day_does_not_count_as_checked(inboxes: Inboxes) -> None:
    store, settings = inboxes.store, with_policy(inboxes, "redact")
    path = store.path("raw_message_ids", "insta", UNSENT_DAY)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    assert find_all_unsent(settings, store) == []
    assert UNSENT_DAY not in store.state.days_done("unsent redact", "insta")


@contextmanager
def opened_files() -> Iterator[list[Path]]:
    """Collect the data files that are opened in the block."""
    opened: list[Path] = []
    is_listening = True

    def listen(event: str, arguments: tuple[object, ...]) -> None:
        if is_listening and event == "open" and str(arguments[0]).endswith("data.parquet"):
            opened.append(Path(str(arguments[0])))

    sys.addaudithook(listen)
    yield opened
    is_listening = False
