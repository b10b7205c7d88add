"""`state move` copies a lake's state between SQLite and PostgreSQL."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from convo_pipeline.cli import main
from convo_pipeline.errors import BusyError, StoreError
from convo_pipeline.graph.rate_limit import LimitKey
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import make_key
from convo_pipeline.settings import StoreSettings
from convo_pipeline.state.access import blocked_until, open_limiter
from convo_pipeline.state.records import Run
from convo_pipeline.state.state_schema import STATE_TABLES
from convo_pipeline.storage.locks import Locks
from convo_pipeline.upkeep.move_state import move_state
from tests.support.inboxes import NOW, Inboxes, serve, small_world
from tests.support.postgres_server import PostgresServer
from tests.support.s3_server import CREDENTIALS, S3Server, serve_s3

pytestmark = pytest.mark.slow
KEY = LimitKey("graph.facebook.com", "17", "instagram")


@pytest.fixture
def inboxes(tmp_path: Path) -> Iterator[Inboxes]:
    world = small_world()
    for account in world.accounts.values():
        account.add_conversation("Ada").add_messages(3, NOW.replace(day=9), step_seconds=10)
    with serve(tmp_path / "lake", world) as inboxes:
        inboxes.extract_whole()
        yield inboxes


@pytest.fixture
def s3() -> Iterator[S3Server]:
    with serve_s3() as server:
        yield server


def in_database(inboxes: Inboxes, url: str) -> Store:
    return Store(inboxes.settings.store.model_copy(update={"state_url": SecretStr(url)}))


def all_rows(store: Store) -> dict[str, list[tuple[object, ...]]]:
    return {
        name: store.state.database.select(f"{table.select} ORDER BY {', '.join(table.key)}")
        for name, table in STATE_TABLES.items()
    }


def test_the_state_moves_to_postgresql_and_back(
    inboxes: Inboxes, postgres: PostgresServer, tmp_path: Path
) -> None:
    key = make_key(inboxes.store.notes)
    inboxes.store.notes.write("deletions", "code.json", b"{}")
    open_limiter(inboxes.store.state.database, KEY, 1.8).block(600)
    with closing(in_database(inboxes, postgres.new_url())) as target:
        counts = move_state(inboxes.store, target, is_dry_run=True)
        assert counts["partitions"] > 10
        assert not any(all_rows(target).values())
        assert move_state(inboxes.store, target) == counts
        assert move_state(inboxes.store, target) == counts
        assert all_rows(target) == all_rows(inboxes.store)
        assert make_key(target.notes) == key
        assert target.notes.names("deletions") == ["code.json"]
        assert blocked_until(target.state.database, KEY, NOW.now(NOW.tzinfo)) is not None
        back = Store(StoreSettings(root=str(inboxes.store.root), state_dir=str(tmp_path / "back")))
        move_state(target, back)
        assert all_rows(back) == all_rows(inboxes.store)
        assert make_key(back.notes) == key
        back.close()
        call_count = len(inboxes.server.log)
        inboxes.store.close()
        inboxes.store = target
        inboxes.extract_whole()
        assert len(inboxes.server.log) - call_count <= 6


def test_an_interrupted_move_copies_nothing_and_starts_again(
    inboxes: Inboxes, postgres: PostgresServer
) -> None:
    with closing(in_database(inboxes, postgres.new_url())) as target:
        target.state.runs()
        with target.state.database.transaction() as rows:
            rows.execute("ALTER TABLE runs ADD CONSTRAINT fault CHECK (account <> 'mess')")
        with pytest.raises(StoreError, match="fault"):
            move_state(inboxes.store, target)
        assert not any(all_rows(target).values())
        with target.state.database.transaction() as rows:
            rows.execute("ALTER TABLE runs DROP CONSTRAINT fault")
        move_state(inboxes.store, target)
        assert all_rows(target) == all_rows(inboxes.store)


def test_a_move_replaces_no_other_state_and_waits_for_no_run(
    inboxes: Inboxes, postgres: PostgresServer
) -> None:
    with closing(in_database(inboxes, postgres.new_url())) as target:
        with inboxes.store.locks.account("insta"), pytest.raises(BusyError):
            move_state(inboxes.store, target)
        target.state.save_memory("insta", {"of": "another lake"})
        with pytest.raises(StoreError, match="holds another state"):
            move_state(inboxes.store, target)
        with pytest.raises(StoreError, match="already"):
            move_state(target, target)


def test_the_command_names_the_next_step_and_shows_no_password(
    inboxes: Inboxes, postgres: PostgresServer, s3: S3Server, tmp_path: Path
) -> None:
    config, url = tmp_path / "convo.toml", postgres.new_url()
    s3.client.create_bucket(Bucket="moved")
    state = inboxes.settings.store.state_path
    config.write_text(
        f'[store]\nroot = "s3://moved/lake"\nstate_dir = "{state}"\nendpoint_url = "{s3.url}"\n'
    )
    environ = CREDENTIALS | {
        "CONVO_CONFIG": str(config),
        "STATE_URL": url.replace("postgres@", "postgres:pw1@"),
    }
    done = CliRunner().invoke(main, ["state", "move", "STATE_URL"], env=environ)
    assert done.exit_code == 0, done.output
    assert 'set state_url_env = "STATE_URL" in [store]' in done.output
    assert f"copied to postgresql://127.0.0.1:{postgres.port}/postgres" in done.output
    refused = CliRunner().invoke(main, ["state", "move", environ["STATE_URL"]], env=environ)
    assert (refused.exit_code, "pw1" in done.output + refused.output) == (2, False)
    config.write_text(f'[store]\nroot = "{inboxes.store.root}"\n')
    refused = CliRunner().invoke(main, ["state", "move", "STATE_URL"], env=environ)
    assert refused.exit_code == 2
    assert "is for tables in a bucket: set root to s3://" in refused.output


class RacingLocks(Locks):
    """Locks that save a run of `insta` when the other account is locked first."""

    def __init__(self, store: Store, folder: Path) -> None:
        super().__init__(folder)
        self._state = store.state

    @contextmanager
    def account(self, account: str, wait_seconds: float = 0) -> Iterator[None]:
        if account == "mess":
            self._state.save_run(Run("r9", "insta", "nightly", NOW))
        with super().account(account, wait_seconds):
            yield


def test_a_run_during_the_copy_is_found_and_nothing_is_copied(
    inboxes: Inboxes, postgres: PostgresServer, tmp_path: Path
) -> None:
    """Accounts are locked one by one, so a run can change one that was copied already."""
    inboxes.store.locks = RacingLocks(inboxes.store, tmp_path / "locks")
    with closing(in_database(inboxes, postgres.new_url())) as target:
        target.state.runs()
        with pytest.raises(BusyError, match="changed runs of insta during the copy"):
            move_state(inboxes.store, target)
        assert not any(all_rows(target).values())
