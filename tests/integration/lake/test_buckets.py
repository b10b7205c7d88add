"""A lake in Azure Blob Storage or Google Cloud Storage keeps the promises of a bucket."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest

import convo_pipeline
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.world import World
from convo_pipeline.errors import ConflictError, CorruptError, StoreError
from convo_pipeline.lake.compact import compact
from convo_pipeline.lake.store import Store
from convo_pipeline.privacy.forget import forget
from convo_pipeline.schema import TABLES
from convo_pipeline.settings import StoreSettings
from convo_pipeline.storage.buckets import open_bucket
from convo_pipeline.upkeep.rename import rename_account
from convo_pipeline.upkeep.verify import verify
from tests.integration.lake.test_s3 import check_union, ids, in_bucket, stored_ids, without_times
from tests.support.bucket_servers import KEY as SECRET
from tests.support.bucket_servers import BucketServer, serve_bucket
from tests.support.inboxes import NOW, serve, stopped_clock
from tests.support.s3_server import Proxy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ImportWarning"),  # Google's library looks for a package
]

ACCOUNT, DAY, TABLE = "bakery", date(2026, 1, 5), "raw_message_ids"
PARTS = (TABLE, f"account={ACCOUNT}", f"date={DAY}", "data.parquet")
VARIABLES = ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT", "STORAGE_EMULATOR_HOST")


@pytest.fixture(scope="module", params=["az", "gs"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BucketServer]:
    with serve_bucket(request.param, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def proxy(server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy through which the client reaches the server."""
    with closing(Proxy(server.address, handler_class=server.handler)) as proxy:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in server.environ(proxy.address).items():
            monkeypatch.setenv(name, value)
        proxy.fault.method = server.upload
        proxy.fault.ending = ""
        yield proxy


@pytest.fixture
def bucket(server: BucketServer, proxy: Proxy, request: pytest.FixtureRequest) -> str:
    """Return the name of a new bucket."""
    name = "b" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
    server.create(name)
    return name


@pytest.fixture
def machine(tmp_path: Path, server: BucketServer, bucket: str) -> Iterator[Callable[..., Store]]:
    """Return a store for a machine's name. Each has its own state; all share the bucket."""
    stores: list[Store] = []

    def make(name: str = "one") -> Store:
        stores.append(Store(settings_of(server, bucket, tmp_path / name)))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def settings_of(server: BucketServer, bucket: str, state: Path) -> StoreSettings:
    return StoreSettings(root=f"{server.scheme}://{bucket}/tables", state_dir=str(state))


def test_a_stale_version_is_never_overwritten_removed_or_read(
    machine: Callable[..., Store],
) -> None:
    backend = machine().backend
    first = backend.replace(PARTS, b"one", None, lambda content, name: None)
    second = backend.replace(PARTS, b"two", first, lambda content, name: None)
    for stale in (first, None):
        with pytest.raises(ConflictError, match="changed by another writer"):
            backend.replace(PARTS, b"three", stale, lambda content, name: None)
    with pytest.raises(ConflictError):
        backend.remove(PARTS, first)
    with pytest.raises(ConflictError):
        backend.read_version(PARTS, first.etag)  # type: ignore[attr-defined]
    assert backend.read(PARTS) == (b"two", second)
    assert list(backend.list_versions(PARTS[:1])) == [(PARTS, second)]  # type: ignore[attr-defined]
    backend.remove(PARTS, second)
    with pytest.raises(ConflictError):
        backend.replace(PARTS, b"four", second, lambda content, name: None)
    assert backend.version(PARTS) is None
    assert backend.read(PARTS) is None


def test_machines_that_write_one_partition_make_a_union(machine: Callable[..., Store]) -> None:
    check_union([machine(f"machine-{number}") for number in range(3)], turn_count=3)


def test_a_write_without_a_response_is_done_once(
    machine: Callable[..., Store], proxy: Proxy
) -> None:
    store = machine()
    proxy.fault.left = 1
    assert store.merge(TABLE, ACCOUNT, DAY, ids("m1")).is_changed
    assert proxy.fault.left == 0
    assert (store.partitions.conflict_count, stored_ids(store)) == (0, ["m1"])
    assert store.merge(TABLE, ACCOUNT, DAY, ids("m1")).is_changed is False


def test_a_removal_without_a_response_succeeds(machine: Callable[..., Store], proxy: Proxy) -> None:
    backend = machine().backend
    version = backend.replace(PARTS, b"one", None, lambda content, name: None)
    proxy.fault.left, proxy.fault.method = 1, "DELETE"
    backend.remove(PARTS, version)
    assert (backend.version(PARTS), proxy.fault.left) == (None, 0)


def test_a_response_that_is_cut_in_its_body_is_read_again(
    machine: Callable[..., Store], proxy: Proxy
) -> None:
    store = machine()
    store.merge(TABLE, ACCOUNT, DAY, ids("m1", "m2"))
    proxy.fault.is_cut, proxy.fault.left, proxy.fault.method = True, 2, "GET"
    assert store.read(TABLE, ACCOUNT, DAY).num_rows == 2
    assert proxy.fault.left == 0


def test_a_damaged_object_is_named_and_set_aside(
    machine: Callable[..., Store], server: BucketServer, bucket: str
) -> None:
    store = machine()
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    server.damage(bucket, "/".join(("tables", *PARTS)))
    assert [finding.kind for finding in verify(store).findings] == ["damaged"]
    with pytest.raises(CorruptError, match=rf"{server.scheme}://{bucket}/.* was set aside as"):
        store.read(TABLE, ACCOUNT, DAY)
    (kept,) = [key for key in server.keys(bucket) if TABLE in key]
    assert kept.startswith(f"tables/.quarantine/{TABLE}/account={ACCOUNT}/")
    assert store.merge(TABLE, ACCOUNT, DAY, ids("m1")).row_count == 1


def test_the_preflight_can_be_repeated_and_leaves_no_data_file(
    machine: Callable[..., Store], server: BucketServer, bucket: str
) -> None:
    for _ in range(2):
        machine().preflight()
    assert server.keys(bucket) == ["tables/.preflight", "tables/.shared-state"]


def test_a_store_that_ignores_conditions_is_refused(
    machine: Callable[..., Store], proxy: Proxy, server: BucketServer
) -> None:
    if server.scheme == "az":
        pytest.skip("the signature covers the conditions")
    proxy.fault.drops_conditions = True
    with pytest.raises(StoreError, match="this Google store ignores conditional writes"):
        machine().preflight()


def test_the_preflight_names_the_problem_without_secrets(
    server: BucketServer, proxy: Proxy, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(name: str) -> str:
        url = f"{server.scheme}://{name}"
        with closing(type(open_bucket(url))(url, timeout_seconds=0.5)) as store:
            with pytest.raises(StoreError) as caught:
                store.check_writable(0)
        assert SECRET not in str(caught.value)
        return str(caught.value)

    assert "create it, or correct store.root" in refusal("no-such-bucket")
    proxy.close()
    assert "the store does not answer" in refusal(bucket)
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")
    expected = {"az": "set AZURE_STORAGE_ACCOUNT or", "gs": "set GOOGLE_APPLICATION_CREDENTIALS"}
    assert expected[server.scheme] in refusal(bucket)


def test_a_bucket_gets_the_same_tables_as_a_folder(
    tmp_path: Path, server: BucketServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Extract, query, verify, compact, erase and rename, without the proxy."""
    for name, value in server.environ(server.address).items():
        monkeypatch.setenv(name, value)
    world = World(VirtualClock(NOW))
    account = world.add_account("insta", "1111111111", "instagram")
    for day, count in ((8, 2), (9, 3)):
        conversation = account.add_conversation(f"Ada {day}", customer_id=f"99900000000000{day:02}")
        conversation.add_messages(count, NOW.replace(day=day), step_seconds=10)
    settings = settings_of(server, bucket, tmp_path / "state")
    with (
        serve(tmp_path / "local", world) as inboxes,
        closing(Store(settings, stopped_clock(inboxes.clock))) as store,
    ):
        inboxes.extract_whole()
        remote = in_bucket(inboxes, store, settings)
        remote.extract_whole()
        for table in TABLES:
            assert without_times(remote.rows(table)) == without_times(inboxes.rows(table)), table
        assert (verify(store).findings, store.foreign_files()) == ((), [])
        with convo_pipeline.connect(settings.root, settings=remote.settings) as con:
            count = "select count(*) from messages"
            assert con.sql(count).fetchall() == [(5,)]
        assert compact(store, date(2026, 12, 1)) != []
        with convo_pipeline.connect(settings.root, settings=remote.settings) as con:
            assert con.sql(count).fetchall() == [(5,)]
        assert forget(remote.settings, store, "insta", "9990000000000008", NOW) is not None
        rename_account(store, "insta", "bakery")
        with convo_pipeline.connect(settings.root, settings=remote.settings) as con:
            rows = con.sql("select account, count(*) from messages group by 1").fetchall()
        assert rows == [("bakery", 3)]
        assert verify(store).findings == ()
        assert [key for key in server.keys(bucket) if "account=insta" in key] == []
