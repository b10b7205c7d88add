"""D11: a bucket whose listings are late. No write, read, check or erasure relies on them."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

import convo_pipeline
from convo_pipeline.derive.day import derive_day, stale_days
from convo_pipeline.errors import CorruptError, StoreError
from convo_pipeline.lake.compact import compact
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import read_suppression
from convo_pipeline.privacy.erasure_plan import plan_erasure
from convo_pipeline.privacy.forget import erase
from convo_pipeline.schema import RAW_CONVERSATIONS, RAW_MESSAGE_DETAILS, RAW_MESSAGE_IDS
from convo_pipeline.settings import Settings, StoreSettings
from convo_pipeline.upkeep.rebuild import rebuild_state
from convo_pipeline.upkeep.rename import rename_account
from convo_pipeline.upkeep.verify import verify
from tests.integration.lake.test_s3 import bucket, credentials, proxy, server
from tests.support.byte_grep import find_texts
from tests.support.raw_days import conversation_row, detail_row, id_row, table
from tests.support.s3_server import Proxy, S3Server, copy_bucket

__all__ = ["bucket", "credentials", "proxy", "server"]

ACCOUNT = "bakery"
FIRST, SECOND, THIRD = (date(2026, 1, day) for day in (5, 6, 7))
NOW = datetime(2026, 3, 1, tzinfo=UTC)
IDS = RAW_MESSAGE_IDS.name
ADA, TEXT = "9990000000000101", "a secret of Ada's"


@pytest.fixture
def machine(tmp_path: Path, bucket: str, proxy: Proxy) -> Iterator[Callable[..., Store]]:
    """Return a store for a machine's name. Each has its own state; all share the bucket."""
    stores: list[Store] = []

    def make(name: str = "one") -> Store:
        stores.append(Store(settings_for(bucket, proxy, tmp_path / name)))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def settings_for(bucket: str, proxy: Proxy, state: Path) -> StoreSettings:
    return StoreSettings(root=f"s3://{bucket}/tables", state_dir=str(state), endpoint_url=proxy.url)


def save(store: Store, day: date, *message_ids: str) -> None:
    at = datetime(day.year, day.month, day.day, 9, tzinfo=UTC)
    store.merge(
        IDS,
        ACCOUNT,
        day,
        table(RAW_MESSAGE_IDS, [id_row(each, created_at=at) for each in message_ids]),
    )


def stored_ids(store: Store, day: date) -> list[str]:
    return store.read(IDS, ACCOUNT, day)["message_id"].to_pylist()  # type: ignore[no-any-return]


def freeze(server: S3Server, bucket: str, proxy: Proxy) -> None:
    """Freeze the bucket's listings."""
    proxy.fault.list_from(bucket, copy_bucket(server, bucket))


def test_d11_commits_of_two_machines_make_a_union_with_late_listings(
    machine: Callable[..., Store], server: S3Server, bucket: str, proxy: Proxy
) -> None:
    one, two = machine("one"), machine("two")
    save(one, FIRST, "m1")
    freeze(server, bucket, proxy)
    save(one, FIRST, "m2")
    save(one, SECOND, "m3")
    save(two, FIRST, "m4")
    save(two, SECOND, "m5")
    assert [stored_ids(each, FIRST) for each in (one, two)] == [["m1", "m2", "m4"]] * 2
    assert [stored_ids(each, SECOND) for each in (one, two)] == [["m3", "m5"]] * 2
    assert one.days(IDS, ACCOUNT) == [FIRST, SECOND]
    for day in stale_days(one, ACCOUNT):
        derive_day(one, ACCOUNT, day)
    assert one.read("messages", ACCOUNT, SECOND).num_rows == 2
    assert stale_days(one, ACCOUNT) == []


def test_d11_queries_show_current_days_and_new_ones_after_they_are_listed(
    machine: Callable[..., Store], server: S3Server, bucket: str, proxy: Proxy, tmp_path: Path
) -> None:
    """One day is changed, one removed and one new: no error and no wrong row."""
    store = machine()
    save(store, FIRST, "m1")
    save(store, SECOND, "m2")
    freeze(server, bucket, proxy)
    save(store, FIRST, "m3")
    store.drop(IDS, ACCOUNT, SECOND)
    save(store, THIRD, "m4")
    settings = Settings(store=settings_for(bucket, proxy, tmp_path / "reader"))
    with convo_pipeline.connect(f"s3://{bucket}/tables", settings=settings) as con:
        rows = con.sql(f"select message_id from {IDS} order by all").fetchall()
    assert rows == [("m1",), ("m3",)]
    assert [stored_ids(store, day) for day in (FIRST, SECOND, THIRD)] == [["m1", "m3"], [], ["m4"]]


@pytest.mark.slow
def test_d11_verify_reports_late_listings_as_a_notice(
    machine: Callable[..., Store], server: S3Server, bucket: str, proxy: Proxy
) -> None:
    store = machine()
    freeze(server, bucket, proxy)
    save(store, FIRST, "m1")
    derive_day(store, ACCOUNT, FIRST)
    found = verify(store, stale_days=stale_days)
    assert ({finding.kind for finding in found.findings}, found.is_sound) == ({"unlisted"}, True)
    rebuild_state(store)
    assert (store.state.suspect_files(), stored_ids(store, FIRST)) == ([], ["m1"])
    proxy.fault.listed = None
    assert verify(machine(), is_quick=True).findings == ()


def test_d11_a_rename_with_unlisted_files_fails_and_the_next_finishes_it(
    machine: Callable[..., Store], server: S3Server, bucket: str, proxy: Proxy
) -> None:
    store = machine()
    save(store, FIRST, "m1")
    freeze(server, bucket, proxy)
    save(store, SECOND, "m2")
    with pytest.raises(
        StoreError, match=rf"date={SECOND}/data.parquet exists, but the bucket did not list it"
    ):
        rename_account(store, ACCOUNT, "cafe")
    proxy.fault.listed = None
    assert rename_account(store, ACCOUNT, "cafe") == [IDS]
    assert [store.read(IDS, "cafe", day)["message_id"].to_pylist() for day in (FIRST, SECOND)] == [
        ["m1"],
        ["m2"],
    ]
    assert [key for key in server.objects(bucket) if ACCOUNT in key] == []


def test_d11_an_unlisted_file_that_was_set_aside_is_found(
    machine: Callable[..., Store], server: S3Server, bucket: str, proxy: Proxy
) -> None:
    """An erasure removes such files, because they may contain the person."""
    store = machine()
    save(store, FIRST, "m1")
    freeze(server, bucket, proxy)
    key = f"tables/{IDS}/account={ACCOUNT}/date={FIRST}/data.parquet"
    server.client.put_object(Bucket=bucket, Key=key, Body=b"no Parquet")
    with pytest.raises(CorruptError):
        stored_ids(store, FIRST)
    ((_, account, day, parts),) = store.set_aside_files(ACCOUNT)
    assert (account, day, "/".join(("tables", *parts)) in server.objects(bucket)) == (
        ACCOUNT,
        FIRST,
        True,
    )


@pytest.mark.slow
def test_d11_an_erased_person_leaves_unlisted_objects_too(
    machine: Callable[..., Store], server: S3Server, bucket: str, proxy: Proxy, tmp_path: Path
) -> None:
    """The listing has neither the new versions of the erased days nor the receipt."""
    store = machine()
    people = {"participants": {"data": [{"id": ADA}, {"id": "17841499990000001"}]}}
    payload = {"from": {"id": ADA}, "message": TEXT}
    for day in (FIRST, SECOND):
        at = datetime(day.year, day.month, day.day, 9, tzinfo=UTC)
        rows = [
            conversation_row("instagram", people, "ada"),
            conversation_row("instagram", None, "bob"),
        ]
        store.merge(
            "raw_conversations",
            ACCOUNT,
            day,
            table(RAW_CONVERSATIONS, rows[: 1 if day == SECOND else 2]),
        )
        names = [("ada", f"a{day.day}"), ("bob", f"b{day.day}")][: 1 if day == SECOND else 2]
        ids = [id_row(name, conversation, created_at=at) for conversation, name in names]
        store.merge(IDS, ACCOUNT, day, table(RAW_MESSAGE_IDS, ids))
        details = [detail_row(names[0][1], payload, "ada", created_at=at)]
        store.merge("raw_message_details", ACCOUNT, day, table(RAW_MESSAGE_DETAILS, details))
        derive_day(store, ACCOUNT, day)
    compact(store, NOW.date())
    freeze(server, bucket, proxy)
    with store.lock_account(ACCOUNT), store.lock_derivation(ACCOUNT):
        erase(store, plan_erasure(store, ACCOUNT, ADA), NOW)
    for key in server.objects(bucket):
        path = tmp_path / "objects" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        server.client.download_file(bucket, key, str(path))
    assert find_texts(tmp_path / "objects", [TEXT, ADA], ACCOUNT) == []
    assert read_suppression(store, ACCOUNT).contains(ADA)
    assert stored_ids(store, FIRST) == ["b5"]
