"""A lake in a bucket behaves like a lake on a disk: a real S3 API over real HTTP."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pytest
from click.testing import CliRunner

import convo_pipeline
from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.cli import main
from convo_pipeline.derive.day import derive_day, stale_days, wanted_source
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.serve import EmulatorServer
from convo_pipeline.emulator.world import World
from convo_pipeline.errors import ConflictError, CorruptError, StoreError
from convo_pipeline.lake.store import SHARED_STATE, Store
from convo_pipeline.query.bucket_source import LISTING_SECONDS, BucketSource
from convo_pipeline.query.connection import connect
from convo_pipeline.schema import RUNS, TABLES
from convo_pipeline.settings import Settings, StoreSettings
from convo_pipeline.storage.s3 import S3Bucket
from convo_pipeline.upkeep.rebuild import rebuild_state
from convo_pipeline.upkeep.verify import verify
from tests.integration.lake.test_schema_versions import RENAMED
from tests.support.certificates import write_certificate
from tests.support.inbox_worlds import PAGES, TOKENS, three_days, write_config
from tests.support.inboxes import NOW, Inboxes, serve, stopped_clock
from tests.support.paths import LAKES
from tests.support.s3_server import CREDENTIALS, Proxy, S3Server, serve_s3

ACCOUNT, DAY = "bakery", date(2026, 1, 5)
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
TABLE = "raw_message_ids"
PARTS = (TABLE, f"account={ACCOUNT}", f"date={DAY}", "data.parquet")
KEY = "/".join(("tables", *PARTS))


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with serve_s3() as server:
        yield server


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(server: S3Server, request: pytest.FixtureRequest) -> str:
    """Return the name of a new bucket."""
    name = "b" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
    server.client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def proxy(server: S3Server) -> Iterator[Proxy]:
    with closing(Proxy(server.address)) as proxy:
        yield proxy


@pytest.fixture
def machine(tmp_path: Path, bucket: str, server: S3Server) -> Iterator[Callable[..., Store]]:
    """Return a store for a machine's name. Each has its own state; all share the bucket."""
    stores: list[Store] = []

    def make(name: str = "one", url: str = server.url, clock: Clock = SYSTEM_CLOCK) -> Store:
        store = Store(store_settings(bucket, url, tmp_path / name), clock)
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


def store_settings(bucket: str, url: str, state: Path) -> StoreSettings:
    return StoreSettings(root=f"s3://{bucket}/tables", state_dir=str(state), endpoint_url=url)


def read_settings(bucket: str, server: S3Server) -> Settings:
    return Settings(store=store_settings(bucket, server.url, Path("unused")))


def ids(*message_ids: str) -> pa.Table:
    rows = [
        {
            "conversation_id": "c",
            "message_id": message_id,
            "created_at": NOON,
            "created_at_source": "message",
        }
        | {"order_in_second": 0, "first_seen_at": NOON, "missing_at": None}
        for message_id in message_ids
    ]
    return pa.Table.from_pylist(rows, schema=TABLES[TABLE].schema)


def stored_ids(store: Store, table: str = TABLE) -> list[str]:
    return store.read(table, ACCOUNT, DAY)["message_id"].to_pylist()  # type: ignore[no-any-return]


@pytest.fixture
def inboxes(tmp_path: Path) -> Iterator[Inboxes]:
    """An account with messages on two days, and a store in a local folder."""
    world = World(VirtualClock(NOW))
    account = world.add_account("insta", "1111111111", "instagram")
    for day, count in ((8, 2), (9, 3)):
        conversation = account.add_conversation(f"Ada {day}")
        conversation.add_messages(count, NOW.replace(day=day), step_seconds=10)
    with serve(tmp_path / "local", world) as inboxes:
        yield inboxes


def in_bucket(inboxes: Inboxes, store: Store, settings: StoreSettings) -> Inboxes:
    return replace(
        inboxes, settings=inboxes.settings.model_copy(update={"store": settings}), store=store
    )


def test_a_bucket_of_version_4_is_read_and_upgraded(
    machine: Callable[..., Store], bucket: str, server: S3Server
) -> None:
    for path in (LAKES / "version_4").rglob("*.parquet"):
        key = f"tables/{path.relative_to(LAKES / 'version_4').as_posix()}"
        server.client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())

    def read() -> list[list[tuple[object, ...]]]:
        settings = read_settings(bucket, server)
        with closing(connect(settings.store.root, settings=settings)) as con:
            return [con.execute(query).fetchall() for query in RENAMED]

    assert read() == list(RENAMED.values())
    store = machine()
    store.preflight()
    assert read() == list(RENAMED.values())
    names = {key.split("/")[1] for key in server.objects(bucket)}
    assert names - {table.name for table in (*TABLES.values(), RUNS)} == {SHARED_STATE}
    assert {"conversation_days", "participant_days"} < names
    rebuild_state(store)
    assert verify(store, is_quick=True).findings == ()


@pytest.mark.slow
def test_a_bucket_gets_the_same_tables_as_a_folder(
    inboxes: Inboxes, bucket: str, server: S3Server, tmp_path: Path
) -> None:
    settings = store_settings(bucket, server.url, tmp_path / "state")
    inboxes.extract_whole()
    with closing(Store(settings, stopped_clock(inboxes.clock))) as store:
        remote = in_bucket(inboxes, store, settings)
        remote.extract_whole()
        for table in TABLES:
            assert without_times(remote.rows(table)) == without_times(inboxes.rows(table)), table
        found = verify(store, stale_days=stale_days)
        assert (found.findings, found.is_sound) == ((), True)
        assert verify(store, is_quick=True).findings == ()
        assert store.foreign_files() == []
        before = tables_of(server, bucket)
        remote.extract_whole()
        assert (tables_of(server, bucket), len(before) > 10) == (before, True)
    sql = "select account, date, conversation_id, message_id, text from messages order by all"
    with convo_pipeline.connect(settings.root, settings=remote.settings) as there:
        with convo_pipeline.connect(inboxes.store.root, settings=inboxes.settings) as here:
            rows = here.execute(sql).fetchall()
            assert there.execute(sql).fetchall() == rows
            assert len(rows) == 5
            for view in ("inbox", "sessions", "response_turns", "coverage"):
                count = f"select count(*) from {view}"
                assert there.sql(count).fetchall() == here.sql(count).fetchall(), view
            assert there.sql("select outcome from runs").fetchall() == [("complete",)] * 2


def tables_of(server: S3Server, bucket: str) -> dict[str, str]:
    """Return every object, without the ledger's, which each run changes."""
    return {key: tag for key, tag in server.objects(bucket).items() if "/runs/" not in key}


def without_times(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return rows without the columns that depend on the time of the run."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


TIMES = (
    "fields",
    "first_seen_at",
    "changed_at",
    "missing_at",
    "gone_at",
    "checked_at",
    "payload",
    "url_expires_at",
)


def test_d9_an_object_is_one_put_without_parts(machine: Callable[..., Store], proxy: Proxy) -> None:
    store = machine(url=proxy.url)
    commit = store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    writes = [
        (method, path.split("?")[0])
        for method, path in proxy.fault.seen
        if method not in ("GET", "HEAD")
    ]
    assert writes == [("PUT", f"/{store.backend.name}/{KEY}")]  # type: ignore[attr-defined]
    assert (commit.row_count, commit.is_changed, stored_ids(store)) == (1, True, ["m1"])


def check_union(stores: Sequence[Store], turn_count: int) -> None:
    """Write one partition from all stores at once: each has all rows, after conflicts."""

    def write(number: int) -> None:
        for turn in range(turn_count):
            stores[number].merge(TABLE, ACCOUNT, DAY, ids(f"m{number}-{turn}"))

    numbers = range(len(stores))
    threads = [threading.Thread(target=write, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = sorted(f"m{number}-{turn}" for number in numbers for turn in range(turn_count))
    assert [stored_ids(store) for store in stores] == [everything] * len(stores)
    assert sum(store.partitions.conflict_count for store in stores) > 0


def test_d10_machines_that_write_one_partition_make_a_union(machine: Callable[..., Store]) -> None:
    stores = [machine(f"machine-{number}") for number in range(3)]
    check_union(stores, turn_count=4)
    assert [verify(store).findings for store in stores] == [()] * 3


def test_a_stale_version_is_never_overwritten_or_removed(machine: Callable[..., Store]) -> None:
    place = machine().backend
    first = place.replace(PARTS, b"one", None, lambda content, name: None)
    second = place.replace(PARTS, b"two", first, lambda content, name: None)
    for held_mark in (first, None):
        with pytest.raises(ConflictError, match="changed by another writer"):
            place.replace(PARTS, b"three", held_mark, lambda content, name: None)
    with pytest.raises(ConflictError):
        place.remove(PARTS, first)
    assert place.read(PARTS) == (b"two", second)
    place.remove(PARTS, second)
    with pytest.raises(ConflictError):
        place.replace(PARTS, b"four", second, lambda content, name: None)
    assert place.version(PARTS) is None


def test_a_conflict_with_another_machine_is_merged_and_counted(
    machine: Callable[..., Store], proxy: Proxy
) -> None:
    one, two = machine("one", proxy.url), machine("two")
    proxy.fault.do_before(
        "data.parquet", lambda: two.merge(TABLE, ACCOUNT, DAY, ids("m2")) and None
    )
    assert one.merge(TABLE, ACCOUNT, DAY, ids("m1")).row_count == 2
    assert (stored_ids(one), stored_ids(two), one.partitions.conflict_count) == (
        ["m1", "m2"],
        ["m1", "m2"],
        1,
    )


@pytest.mark.parametrize("lost", [1, 4], ids=["one answer", "every answer"])
def test_a_put_without_a_response_is_done_once(
    machine: Callable[..., Store], proxy: Proxy, lost: int
) -> None:
    store = machine(url=proxy.url)
    proxy.fault.lose_answers(lost)
    commit = store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    assert (
        commit.is_changed,
        commit.row_count,
        store.partitions.conflict_count,
        stored_ids(store),
    ) == (
        True,
        1,
        0,
        ["m1"],
    )
    assert store.merge(TABLE, ACCOUNT, DAY, ids("m1")).is_changed is False


def test_d12_a_put_that_timed_out_is_checked_by_its_hash(bucket: str, proxy: Proxy) -> None:
    place = S3Bucket(f"s3://{bucket}/tables", proxy.url, timeout_seconds=0.3)
    proxy.fault.lose_answers(1, wait_seconds=1)
    mark = place.replace(PARTS, b"one", None, lambda content, name: None)
    assert place.read(PARTS) == (b"one", mark)
    place.close()


def test_a_removal_without_a_response_succeeds(machine: Callable[..., Store], proxy: Proxy) -> None:
    place = machine(url=proxy.url).backend
    mark = place.replace(PARTS, b"one", None, lambda content, name: None)
    proxy.fault.lose_answers(1, method="DELETE")
    place.remove(PARTS, mark)
    assert place.version(PARTS) is None


def test_a_truncated_response_is_read_again(machine: Callable[..., Store], proxy: Proxy) -> None:
    store = machine(url=proxy.url)
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    proxy.fault.lose_answers(2, method="GET")
    assert stored_ids(store) == ["m1"]


def test_d9_a_response_that_is_cut_in_its_body_is_read_again(
    machine: Callable[..., Store], proxy: Proxy
) -> None:
    store = machine(url=proxy.url)
    store.merge(TABLE, ACCOUNT, DAY, ids("m1", "m2"))
    proxy.fault.is_cut = True
    proxy.fault.lose_answers(2, "GET")
    assert store.read(TABLE, ACCOUNT, DAY).num_rows == 2
    assert proxy.fault.left == 0
    proxy.fault.lose_answers(99, "GET")
    with pytest.raises(StoreError, match="the store does not answer"):
        store.read(TABLE, ACCOUNT, DAY)


def test_d9_a_tls_error_in_the_body_of_a_response_is_read_again(
    machine: Callable[..., Store],
    server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certificate = write_certificate(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", certificate[0])
    with closing(Proxy(server.address, certificate)) as proxy:
        store = machine(url=proxy.url)
        store.merge(TABLE, ACCOUNT, DAY, ids("m1", "m2"))
        proxy.fault.is_garbled = True
        proxy.fault.lose_answers(2, "GET")
        assert store.read(TABLE, ACCOUNT, DAY).num_rows == 2
        assert proxy.fault.left == 0
        proxy.fault.lose_answers(99, "GET")
        with pytest.raises(StoreError, match=r"the store does not answer \(SSLError\)"):
            store.read(TABLE, ACCOUNT, DAY)


def test_a_corrupt_object_is_named_and_set_aside(
    machine: Callable[..., Store], server: S3Server, bucket: str
) -> None:
    store = machine()
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    damage(server, bucket, KEY)
    assert [finding.kind for finding in verify(store).findings] == ["damaged"]
    with pytest.raises(
        CorruptError,
        match=rf"s3://{bucket}/{KEY} is damaged and was set aside as \.quarantine/.*\.corrupt-",
    ):
        store.read(TABLE, ACCOUNT, DAY)
    (kept,) = [key for key in server.objects(bucket) if TABLE in key]
    assert kept.startswith(f"{KEY.replace('tables/', 'tables/.quarantine/', 1)}.corrupt-")
    assert store.state.suspect_files()[0][:3] == (TABLE, ACCOUNT, DAY)
    assert (store.days(TABLE, ACCOUNT), store.foreign_files()) == ([], [])
    assert store.merge(TABLE, ACCOUNT, DAY, ids("m1")).row_count == 1


def damage(server: S3Server, bucket: str, key: str) -> None:
    """Flip a bit of an object; keep its metadata."""
    found = server.client.get_object(Bucket=bucket, Key=key)
    content = bytearray(found["Body"].read())
    content[len(content) // 2] ^= 1
    server.client.put_object(
        Bucket=bucket, Key=key, Body=bytes(content), Metadata=found["Metadata"]
    )


def test_a_lost_raw_object_is_named_and_read_again(
    machine: Callable[..., Store], server: S3Server, bucket: str
) -> None:
    store = machine()
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    server.client.delete_object(Bucket=bucket, Key=KEY)
    assert [finding.kind for finding in verify(store).findings] == ["missing"]
    with pytest.raises(StoreError, match=r"is missing although it held 1 rows"):
        store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    assert store.merge(TABLE, ACCOUNT, DAY, ids("m1")).is_changed


def test_a_commit_of_another_machine_is_no_damage(machine: Callable[..., Store]) -> None:
    one, two = machine("one"), machine("two")
    one.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    derive_day(one, ACCOUNT, DAY)
    two.merge(TABLE, ACCOUNT, DAY, ids("m2"))
    assert {finding.kind for finding in verify(one, stale_days=stale_days).findings} == {"stale"}
    derive_day(two, ACCOUNT, DAY)
    for store in (one, two):
        assert stale_days(store, ACCOUNT) == []
        assert verify(store, stale_days=stale_days).findings == ()
        assert stored_ids(store, "messages") == ["m1", "m2"]


def test_an_unlisted_partition_costs_no_request(
    machine: Callable[..., Store], proxy: Proxy
) -> None:
    store = machine(url=proxy.url)
    assert store.days(TABLE, ACCOUNT) == []
    proxy.fault.seen.clear()
    assert store.source(TABLE, ACCOUNT, DAY) is None
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    assert [method for method, _ in proxy.fault.seen] == ["PUT"]


def test_days_include_those_of_other_machines(machine: Callable[..., Store]) -> None:
    one, two = machine("one"), machine("two")
    later = date(2026, 1, 6)
    one.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    two.merge(TABLE, ACCOUNT, later, ids("m2"))
    assert [store.days(TABLE, ACCOUNT) for store in (one, two)] == [[DAY, later]] * 2
    assert [store.accounts(TABLE) for store in (one, two)] == [[ACCOUNT]] * 2
    assert [stale_days(store, ACCOUNT) for store in (one, two)] == [[DAY, later]] * 2


def test_tables_derived_from_outdated_rows_are_derived_again(
    machine: Callable[..., Store], proxy: Proxy
) -> None:
    one, two = machine("one", proxy.url), machine("two")
    one.merge(TABLE, ACCOUNT, DAY, ids("m1"))

    def overtake() -> None:
        two.merge(TABLE, ACCOUNT, DAY, ids("m2"))
        derive_day(two, ACCOUNT, DAY)

    proxy.fault.do_before(f"messages/account={ACCOUNT}/date={DAY}/data.parquet", overtake)
    derive_day(one, ACCOUNT, DAY)
    assert stored_ids(one, "messages") == ["m1", "m2"]
    assert one.source("messages", ACCOUNT, DAY) == wanted_source(two, ACCOUNT, DAY)
    assert verify(two, stale_days=stale_days).findings == ()


def test_state_is_rebuilt_from_the_bucket(machine: Callable[..., Store]) -> None:
    one, two = machine("one"), machine("two")
    one.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    derive_day(one, ACCOUNT, DAY)
    rebuild_state(two)
    assert two.state.partitions() == one.state.partitions()


def test_an_empty_derived_partition_has_no_object(
    machine: Callable[..., Store], server: S3Server, bucket: str
) -> None:
    store = machine()
    rows = dict.fromkeys(TABLES["reactions"].column_names)
    row = rows | {
        "conversation_id": "c",
        "message_id": "m",
        "reactor_id": "7",
        "reaction": "love",
        "created_at": NOON,
    }
    content = pa.Table.from_pylist([row], schema=TABLES["reactions"].schema)
    store.replace("reactions", ACCOUNT, DAY, content, "digest-1")
    store.replace("reactions", ACCOUNT, DAY, content.slice(1), "digest-2")
    assert [key for key in server.objects(bucket) if "reactions" in key] == []
    assert store.days("reactions", ACCOUNT) == []


def test_the_preflight_can_be_repeated_and_leaves_no_data_file(
    machine: Callable[..., Store], server: S3Server, bucket: str
) -> None:
    for _ in range(2):
        machine().preflight()
    keys = [each["Key"] for each in server.client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert keys == ["tables/.preflight", "tables/.shared-state"]


def test_a_second_machine_with_a_state_of_its_own_is_refused(
    machine: Callable[..., Store],
) -> None:
    """For an hour after the first one was seen, or until the state is rebuilt."""
    seconds = [0.0]
    clock = Clock(now=lambda: NOON + timedelta(seconds=seconds[0]))
    one, two = machine("one", clock=clock), machine("two", clock=clock)
    one.preflight()
    seconds[0] = 3000
    one.preflight()
    with pytest.raises(StoreError, match="used by another machine with a state of its own"):
        two.preflight()
    seconds[0] = 6601  # an hour after the first machine was last seen
    two.preflight()
    with pytest.raises(StoreError, match=r"last seen at 2026-01-05T13:50:01\+00:00"):
        one.preflight()
    rebuild_state(one)
    one.preflight()
    with pytest.raises(StoreError, match="verify --rebuild-state"):
        two.preflight()


def test_a_store_that_ignores_conditions_is_refused(
    machine: Callable[..., Store], proxy: Proxy
) -> None:
    proxy.fault.drops_conditions = True
    with pytest.raises(StoreError, match="this S3 store ignores conditional writes"):
        machine(url=proxy.url).preflight()


def refusal(settings: StoreSettings) -> str:
    with closing(Store(settings)) as store, pytest.raises(StoreError) as caught:
        store.preflight()
    for secret in CREDENTIALS.values():
        assert secret not in str(caught.value) or secret == "true"
    return str(caught.value)


def test_the_preflight_names_the_problem_without_secrets(
    server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = refusal(store_settings("no-such-bucket", server.url, tmp_path))
    assert missing.endswith("there is no such bucket: create it, or correct store.root")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "no AWS credentials: set AWS_ACCESS_KEY_ID" in refusal(
        store_settings(bucket, server.url, tmp_path)
    )


def test_an_unreachable_store_is_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError, match="the store does not answer"):
        S3Bucket(f"s3://{bucket}", "http://127.0.0.1:9").check_readable()


def test_a_bucket_has_no_path(machine: Callable[..., Store], bucket: str) -> None:
    with pytest.raises(
        StoreError, match=rf"s3://{bucket}/tables: this works in a local folder only"
    ):
        assert machine().root


# reading


def test_connect_names_a_damaged_object_and_reads_the_others(
    machine: Callable[..., Store], server: S3Server, bucket: str
) -> None:
    store = machine()
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    store.merge(TABLE, "other", DAY, ids("m2"))
    damage(server, bucket, KEY)
    with convo_pipeline.connect(
        f"s3://{bucket}/tables", settings=read_settings(bucket, server)
    ) as con:
        with pytest.raises(CorruptError, match=rf"^s3://{bucket}/{KEY} is damaged"):
            con.execute(f"select * from {TABLE}").fetchall()
        others = con.execute(f"select message_id from {TABLE} where account = 'other'").fetchall()
    assert others == [("m2",)]


def test_an_open_connection_sees_commits_and_its_cursors_too(
    machine: Callable[..., Store], server: S3Server, bucket: str
) -> None:
    store = machine()
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    count = f"select count(*) from {TABLE}"
    with convo_pipeline.connect(
        f"s3://{bucket}/tables", settings=read_settings(bucket, server)
    ) as con:
        relation = con.sql(f"select * from {TABLE}")
        assert con.execute(count).fetchall() == [(1,)]
        store.merge(TABLE, ACCOUNT, DAY, ids("m2"))
        assert [each.execute(count).fetchall() for each in (con, con.cursor())] == [[(2,)], [(2,)]]
        assert len(relation) == 2
        assert con.sql("select * from messages").fetchall() == []


def test_readers_beside_a_writer_see_only_whole_commits(
    machine: Callable[..., Store], server: S3Server, bucket: str
) -> None:
    store = machine()
    seen = []
    store.merge(TABLE, ACCOUNT, DAY, ids("m0"))

    def write() -> None:
        for number in range(1, 15):
            store.merge(TABLE, ACCOUNT, DAY, ids(f"m{number}"))
            time.sleep(0.2)  # no error is expected at five commits a second

    writer = threading.Thread(target=write)
    with convo_pipeline.connect(
        f"s3://{bucket}/tables", settings=read_settings(bucket, server)
    ) as con:
        writer.start()
        while writer.is_alive() or not seen:
            (row,) = con.execute(
                f"select count(*), count(distinct message_id), count(order_in_second) from {TABLE}"
            ).fetchall()
            seen.append(row)
    writer.join()
    assert all(len(set(row)) == 1 for row in seen)
    assert seen == sorted(seen)


def test_a_filter_fetches_only_the_partitions_it_needs(
    machine: Callable[..., Store], proxy: Proxy, bucket: str
) -> None:
    store = machine()
    for day in range(1, 9):
        store.merge(TABLE, ACCOUNT, date(2026, 1, day), ids("m1"))
    settings = Settings(store=store_settings(bucket, proxy.url, Path("unused")))
    with convo_pipeline.connect(f"s3://{bucket}/tables", settings=settings) as con:
        proxy.fault.seen.clear()
        sql = f"select count(*) from {TABLE} where account = ? and date between ? and ?"
        assert con.execute(sql, [ACCOUNT, date(2026, 1, 3), date(2026, 1, 4)]).fetchone() == (2,)
    fetched = [path for _, path in proxy.fault.seen if "data.parquet" in path]
    assert len(fetched) == 2
    assert listings_of(proxy, TABLE) == [f"tables/{TABLE}/account={ACCOUNT}/date=2026-01"]


def test_a_filter_lists_only_the_account_that_it_needs(
    machine: Callable[..., Store], proxy: Proxy, bucket: str
) -> None:
    store = machine()
    for account in (ACCOUNT, "other"):
        store.merge(TABLE, account, DAY, ids("m1"))
    settings = Settings(store=store_settings(bucket, proxy.url, Path("unused")))
    with convo_pipeline.connect(f"s3://{bucket}/tables", settings=settings) as con:
        proxy.fault.seen.clear()
        sql = f"select count(*) from {TABLE} where account = ?"
        assert con.execute(sql, [ACCOUNT]).fetchone() == (1,)
        assert listings_of(proxy, TABLE) == [f"tables/{TABLE}/account={ACCOUNT}/"]
        assert con.execute(f"select count(*) from {TABLE}").fetchone() == (2,)


def listings_of(proxy: Proxy, table: str) -> list[str]:
    """Return the prefixes of the listed files of a table, one for each request."""
    queries = (parse_qs(urlsplit(path).query) for _, path in proxy.fault.seen)
    prefixes = (query["prefix"][0] for query in queries if "list-type" in query)
    listed = [prefix for prefix in prefixes if f"/{table}/" in prefix]
    return listed[1:]  # the first request lists the accounts


@pytest.mark.slow
def test_a_date_filter_lists_one_page_per_account(
    machine: Callable[..., Store], proxy: Proxy, server: S3Server, bucket: str
) -> None:
    """The files of 3 accounts x 700 days fill three pages of 1,000 files."""
    store = machine()
    accounts, first = [ACCOUNT, "beta", "gamma"], date(2025, 1, 1)
    for account in accounts:
        store.merge(TABLE, account, first, ids("m1"))
    keys = [
        f"tables/{TABLE}/account={account}/date={first + timedelta(days=number)}/data.parquet"
        for account in accounts
        for number in range(700)
    ]
    content = {
        account: server.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        for account, key in zip(accounts, keys[::700], strict=True)
    }
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda key: server.client.put_object(
                    Bucket=bucket, Key=key, Body=content[key.split("/account=")[1].split("/")[0]]
                ),
                keys,
            )
        )
    settings = Settings(store=store_settings(bucket, proxy.url, Path("unused")))
    counts = {
        "date between '2025-12-30' and '2026-01-02'": 12,
        "date >= '2026-11-29'": 9,
        "date < '2025-01-04'": 9,
        "date in ('2025-03-01', '2026-03-01')": 6,
        "date = '2025-06-05' and account <> 'beta'": 2,
        "date = '2031-01-01'": 0,
    }
    for condition, count in counts.items():
        with convo_pipeline.connect(f"s3://{bucket}/tables", settings=settings) as con:
            proxy.fault.seen.clear()
            sql = f"select count(*) from {TABLE} where {condition}"
            assert con.execute(sql).fetchone() == (count,), condition
        # the accounts are listed in the first request, all files begin in the second one
        assert len(listings_of(proxy, TABLE)) <= 1 + len(accounts), condition


def test_d11_new_objects_are_listed_after_a_while_and_foreign_ones_never(
    machine: Callable[..., Store], server: S3Server, bucket: str
) -> None:
    store, now = machine(), [0.0]
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    for name in ("copy of data.parquet", "data.parquet.corrupt-12345678", "deeper/data.parquet"):
        server.client.put_object(
            Bucket=bucket, Key=f"tables/{TABLE}/account={ACCOUNT}/date={DAY}/{name}", Body=b"x"
        )
    source = BucketSource(f"s3://{bucket}/tables", server.url, lambda: now[0])
    table = TABLES[TABLE]
    assert source.files(table) == [f"s3://{bucket}/{KEY}"]
    store.merge(TABLE, ACCOUNT, date(2026, 1, 6), ids("m2"))
    assert len(source.files(table)) == 1
    now[0] += LISTING_SECONDS + 1
    assert len(source.files(table)) == 2
    assert len(store.foreign_files()) == 2
    source.close()


def test_a_prefix_without_tables_is_no_lake(server: S3Server, bucket: str) -> None:
    with pytest.raises(StoreError, match=rf"no lake at s3://{bucket}/tables"):
        convo_pipeline.connect(f"s3://{bucket}/tables", settings=read_settings(bucket, server))


@pytest.mark.slow
def test_the_commands_work_on_a_bucket(tmp_path: Path, server: S3Server, bucket: str) -> None:
    days, world = three_days(), World()
    name, page_id, platform = PAGES[1]
    noon = datetime.combine(days[2], NOON.timetz())
    world.add_account(name, page_id, platform).add_conversation("Ada").add_messages(3, noon)
    with EmulatorServer(world) as emulator:
        file = write_config(tmp_path, emulator, days.start)
        store = f'root = "s3://{bucket}/tables"\nstate_dir = "{tmp_path}/state"\n'
        store += f'endpoint_url = "{server.url}"'
        file.write_text(file.read_text().replace(f'root = "{tmp_path}/lake"', store))

        def invoke(*arguments: str) -> str:
            result = CliRunner().invoke(
                main, ["--config", str(file), *arguments], env=TOKENS, catch_exceptions=False
            )
            assert result.exit_code == 0, result.output
            return result.stdout

        invoke("extract", "--since", str(days[2]), name)
        assert invoke(
            "query", "select date, count(*) from messages group by 1", "--format", "csv"
        ).splitlines()[1:] == [f"{days[2]},3"]
        assert invoke("query", "select distinct outcome from runs", "--format", "csv").split() == [
            "outcome",
            "complete",
        ]
        before = server.objects(bucket)
        invoke("normalize", "--since", str(days[2]), name)
        assert server.objects(bucket) == before
        invoke("verify")
