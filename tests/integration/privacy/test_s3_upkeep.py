"""Upkeep of a lake in a bucket, over HTTP: compaction, rename, erasure, retention."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import convo_pipeline
from convo_pipeline.derive.day import derive_day
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.world import World
from convo_pipeline.errors import CorruptError, StoreError
from convo_pipeline.lake.compact import compact, drop_outdated
from convo_pipeline.lake.segments import read_index
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.upkeep import run_upkeep
from convo_pipeline.privacy.forget import forget
from convo_pipeline.privacy.retention import expire
from convo_pipeline.privacy.unsent import remove_unsent
from convo_pipeline.query.bucket_source import REQUEST_BYTES
from convo_pipeline.schema import NORMALISED, RAW
from convo_pipeline.settings import Settings, StoreSettings
from convo_pipeline.storage.backend import write_file
from convo_pipeline.upkeep.rename import rename_account
from convo_pipeline.upkeep.verify import check_side_files
from tests.integration.lake.test_s3 import (
    TABLE,
    bucket,
    credentials,
    ids,
    machine,
    proxy,
    server,
    store_settings,
)
from tests.support.inboxes import NOW, Inboxes, serve, stopped_clock
from tests.support.raw_days import AT, day_of, read_sample
from tests.support.s3_server import Proxy, S3Server

pytestmark = pytest.mark.slow

__all__ = ["bucket", "credentials", "machine", "proxy", "server"]
FIRST, TODAY = date(2026, 1, 30), date(2026, 3, 5)
DAYS = [FIRST + timedelta(days=index) for index in (0, 1, 2, 3, 20, 33)]
"""Two days in January, three in February, one in March."""
SQL = f"SELECT account, date, message_id FROM {TABLE} WHERE {{}} ORDER BY ALL"
ADA, SECRET = "9990000000000101", "a secret of Ada's"


def filled(store: Store, accounts: tuple[str, ...] = ("bakery", "florist")) -> Store:
    for account in accounts:
        for day in DAYS:
            store.merge(TABLE, account, day, ids(f"m{day:%d}"))
    return store


def answers(bucket: str, url: str, where: str = "true") -> list[tuple[object, ...]]:
    settings = Settings(store=store_settings(bucket, url, Path("unused")))
    with convo_pipeline.connect(f"s3://{bucket}/tables", settings=settings) as con:
        rows: list[tuple[object, ...]] = con.execute(SQL.format(where)).fetchall()
        return rows


def expected(accounts: tuple[str, ...] = ("bakery", "florist")) -> list[tuple[object, ...]]:
    return [(account, day, f"m{day:%d}") for account in accounts for day in DAYS]


def fetched(proxy: Proxy) -> list[str]:
    """Return the data files that were read since the last call."""
    paths = [
        path.split("/tables/")[1]
        for method, path in proxy.fault.seen
        if method == "GET" and ".parquet" in path
    ]
    proxy.fault.seen.clear()
    return paths


def test_compacted_year_is_one_request_and_changed_days_are_read_alone(
    machine: Callable[..., Store], proxy: Proxy, bucket: str
) -> None:
    store = filled(machine())
    assert len(compact(store, TODAY)) == 4
    assert compact(store, TODAY) == []
    (segment,) = read_index(store.backend, TABLE)[0]
    fetched(proxy)
    assert answers(bucket, proxy.url) == expected()
    march = [
        f"{TABLE}/account={account}/date={DAYS[-1]}/data.parquet"
        for account in ("bakery", "florist")
    ]
    assert sorted(fetched(proxy)) == [f".compact/{TABLE}/{segment.name}", *march]
    machine("another").merge(TABLE, "florist", DAYS[2], ids("late"))
    late = sorted([*expected(), ("florist", DAYS[2], "late")], key=str)
    assert sorted(answers(bucket, proxy.url), key=str) == late
    february = [f"{TABLE}/account=florist/date={day}/data.parquet" for day in DAYS[2:5]]
    assert sorted(fetched(proxy)) == [
        f".compact/{TABLE}/{segment.name}",
        march[0],
        *february,
        march[1],
    ]
    assert [(month.account, month.month) for month in compact(store, TODAY)] == [
        ("florist", "2026-02")
    ]
    assert sorted(answers(bucket, proxy.url), key=str) == late


def test_nightly_upkeep_compacts_a_bucket(
    machine: Callable[..., Store], proxy: Proxy, bucket: str, tmp_path: Path
) -> None:
    filled(machine())
    clock = stopped_clock(VirtualClock(datetime.combine(TODAY, time(3, 30), UTC)))
    log: list[str] = []
    settings = Settings(store=store_settings(bucket, proxy.url, tmp_path / "state"))
    assert run_upkeep(Deployment(settings, clock=clock), log.append) == []
    assert "months compacted: 4" in log
    fetched(proxy)
    assert answers(bucket, proxy.url) == expected()
    assert len(fetched(proxy)) == 1 + 2


def test_few_days_are_read_alone_if_that_is_cheaper(
    machine: Callable[..., Store], proxy: Proxy, bucket: str
) -> None:
    store = machine()
    large = ids(*(hashlib.sha256(str(index).encode()).hexdigest() for index in range(20_000)))
    store.merge(TABLE, "bakery", DAYS[0], large)
    filled(store, ("florist",))
    compact(store, TODAY)
    assert read_index(store.backend, TABLE)[0][0].byte_count > 2 * REQUEST_BYTES
    fetched(proxy)
    assert (
        answers(bucket, proxy.url, "account = 'florist' AND date < '2026-02-01'")
        == expected(("florist",))[:2]
    )
    assert [path.split("/")[1] for path in fetched(proxy)] == ["account=florist"] * 2


@pytest.mark.parametrize("damage", ["gone", "damaged", "index", "no index"])
def test_lost_or_damaged_compaction_loses_no_rows(
    machine: Callable[..., Store], server: S3Server, bucket: str, damage: str
) -> None:
    store = filled(machine())
    compact(store, TODAY)
    (segment,) = read_index(store.backend, TABLE)[0]
    assert list(check_side_files(store, is_quick=False)) == []
    key = f"tables/.compact/{TABLE}/{'index.json' if 'index' in damage else segment.name}"
    if damage in ("gone", "no index"):
        server.client.delete_object(Bucket=bucket, Key=key)
    else:
        server.client.put_object(Bucket=bucket, Key=key, Body=b"x" * segment.byte_count)
    assert answers(bucket, server.url) == expected()
    assert [
        (finding.kind, finding.where) for finding in check_side_files(store, is_quick=False)
    ] == [("compaction", key.removeprefix("tables/"))]
    compact(store, TODAY)
    drop_outdated(store)
    assert answers(bucket, server.url) == expected()


def test_second_machine_sees_the_renamed_account(
    machine: Callable[..., Store], server: S3Server, bucket: str
) -> None:
    store, other = filled(machine()), machine("another")
    other.merge(TABLE, "bakery", DAYS[0], ids(f"m{DAYS[0]:%d}"))
    compact(store, TODAY)
    assert rename_account(store, "bakery", "cafe") == [TABLE]
    assert not [key for key in server.objects(bucket) if "account=bakery" in key]
    assert {
        piece.account for segment in read_index(store.backend, TABLE)[0] for piece in segment.pieces
    } == {"florist"}
    assert answers(bucket, server.url) == expected(("cafe", "florist"))
    assert store.read(TABLE, "cafe", DAYS[1])["message_id"].to_pylist() == [f"m{DAYS[1]:%d}"]
    assert rename_account(other, "bakery", "cafe") == []
    assert not other.merge(TABLE, "cafe", DAYS[0], ids(f"m{DAYS[0]:%d}")).is_changed


def test_interrupted_rename_resumes_and_overwrites_no_rows(
    machine: Callable[..., Store], server: S3Server, bucket: str
) -> None:
    store = filled(machine(), ("bakery",))
    place = store.backend
    for day in DAYS[:2]:  # what a killed rename leaves: one object copied, one moved
        source = (TABLE, "account=bakery", f"date={day}", "data.parquet")
        copy = place.read(source)
        assert copy is not None
        write_file(place, (TABLE, "account=cafe", *source[2:]), copy[0])
    place.remove(source, copy[1])
    with pytest.raises(StoreError, match='"cafe" already has rows of its own'):
        rename_account(store, "bakery", "cafe")
    note = machine("one").state_path / "rename"
    note.mkdir()
    (note / "bakery.cafe").touch()
    assert rename_account(store, "bakery", "cafe") == [TABLE]
    assert answers(bucket, server.url) == expected(("cafe",))
    assert not note.exists()


@pytest.fixture
def inboxes(tmp_path: Path) -> Iterator[Inboxes]:
    world = World(VirtualClock(NOW))
    account = world.add_account("insta", "1111111111", "instagram")
    account.add_conversation("Ada Lovelace", ADA).add_message(SECRET, NOW.replace(day=8))
    account.add_conversation("Bob").add_messages(3, NOW.replace(day=8), step_seconds=10)
    account.add_conversation("Eve").add_messages(2, NOW.replace(day=9), step_seconds=10)
    with serve(tmp_path / "local", world) as inboxes:
        yield inboxes


@pytest.fixture
def remote(inboxes: Inboxes, bucket: str, server: S3Server, tmp_path: Path) -> Iterator[Inboxes]:
    """Compacted tables of one account in a bucket that keeps every version."""
    server.client.put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    settings = store_settings(bucket, server.url, tmp_path / "state")
    with closing(Store(settings, stopped_clock(inboxes.clock))) as store:
        remote = in_bucket(inboxes, store, settings)
        remote.extract_whole()
        compact(store, remote.clock.now().date() + timedelta(days=62))
        yield remote


def in_bucket(inboxes: Inboxes, store: Store, settings: StoreSettings) -> Inboxes:
    return replace(
        inboxes, settings=inboxes.settings.model_copy(update={"store": settings}), store=store
    )


def versions(server: S3Server, bucket: str) -> list[tuple[str, bytes]]:
    """Return each version of each object: its bytes, and the rows of Parquet files."""
    listed = server.client.list_object_versions(Bucket=bucket).get("Versions", [])
    contents = []
    for each in listed:
        body = server.client.get_object(
            Bucket=bucket, Key=each["Key"], VersionId=each["VersionId"]
        )["Body"].read()
        rows = (
            pq.read_table(pa.BufferReader(body)).to_pylist()
            if each["Key"].endswith(".parquet")
            else []
        )
        contents.append((each["Key"], body + json.dumps(rows, default=str).encode()))
    return contents


def test_no_byte_of_an_erased_person_is_left_in_any_version(
    remote: Inboxes, server: S3Server, bucket: str
) -> None:
    traces = [ADA.encode(), SECRET.encode(), b"Ada Lovelace"]
    keys = {
        key
        for key, content in versions(server, bucket)
        if any(trace in content for trace in traces)
    }
    assert {key.split("/")[1] for key in keys} > {
        "raw_message_details",
        "messages",
        "participant_days",
        ".compact",
    }
    receipt = forget(remote.settings, remote.store, "insta", ADA, remote.clock.now())
    assert receipt is not None
    assert receipt.row_counts["messages"] == 1
    remains = [
        key
        for key, content in versions(server, bucket)
        if any(trace in content for trace in traces)
    ]
    assert remains == []
    assert len(remote.rows("messages")) == 5
    remote.extract_whole()
    assert len(remote.rows("messages")) == 5


def test_rename_leaves_no_version_under_the_old_name(
    remote: Inboxes, server: S3Server, bucket: str
) -> None:
    rename_account(remote.store, "insta", "cafe")
    assert [key for key, _ in versions(server, bucket) if "account=insta" in key] == []
    forget(remote.settings, remote.store, "cafe", ADA, remote.clock.now())
    assert [key for key, content in versions(server, bucket) if SECRET.encode() in content] == []


def test_unsent_content_is_left_in_no_version(
    remote: Inboxes, server: S3Server, bucket: str
) -> None:
    conversation = remote.world.accounts["insta"].add_conversation("Carol", "9990000000000505")
    conversation.add_messages(2, NOW.replace(day=7), step_seconds=60)
    taken_back = conversation.add_message("taken back", NOW.replace(day=8))
    conversation.add_message("newer", NOW.replace(day=9))
    remote.extract_whole()
    taken_back.unsend()
    for _ in range(2):
        remote.clock.advance(7200)
        remote.extract(mode="full")
    assert [key for key, content in versions(server, bucket) if b"taken back" in content]
    [unsent] = remove_unsent(remote.settings, remote.store, remote.clock.now())
    assert list(unsent.messages) == [(conversation.conversation_id, taken_back.message_id)]
    assert [key for key, content in versions(server, bucket) if b"taken back" in content] == []
    assert len(remote.rows("messages")) == 6 + 4


def test_derived_objects_outlive_a_damaged_raw_object(
    machine: Callable[..., Store], server: S3Server, bucket: str
) -> None:
    """The second machine first reports the file that the first one set aside."""
    day, stores = AT.date(), [machine("one"), machine("two")]
    raw = day_of(*(read_sample(number) for number in (5, 6, 7)))
    for table in ("conversations", "message_ids", "message_details"):
        stores[0].merge(f"raw_{table}", "insta", day, getattr(raw, table))
    derive_day(stores[0], "insta", day)
    before = {table.name: stores[1].read(table.name, "insta", day) for table in NORMALISED}
    stores[1].read("raw_message_details", "insta", day)
    key = f"tables/raw_message_details/account=insta/date={day}/data.parquet"
    response = server.client.get_object(Bucket=bucket, Key=key)
    body = response["Body"].read()[:-100]
    server.client.put_object(Bucket=bucket, Key=key, Body=body, Metadata=response["Metadata"])
    with pytest.raises(CorruptError):
        stores[0].read("raw_message_details", "insta", day)
    for store in stores:
        if store is stores[1]:
            with pytest.raises(CorruptError, match="is missing although it held 3 rows"):
                derive_day(store, "insta", day, is_forced=True)
        derive_day(store, "insta", day, is_forced=True)
        assert {table.name: store.read(table.name, "insta", day) for table in NORMALISED} == before


def test_expired_days_leave_no_version(remote: Inboxes, server: S3Server, bucket: str) -> None:
    today = NOW.date().replace(day=10)
    assert {
        each.date.day
        for each in expire(remote.store, dict.fromkeys((table.name for table in RAW), 2), today)
    } == {8}
    assert [key for key, content in versions(server, bucket) if SECRET.encode() in content] == []
    assert not [key for key, _ in versions(server, bucket) if "date=2026-03-08" in key]
    assert {row["date"].day for row in remote.rows("messages")} == {9}  # type: ignore[attr-defined]
