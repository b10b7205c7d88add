"""Dagster's SQLite storage with connections that stay open and batches of events.

Dagster's class makes an engine for each event: it opens and closes two files, compiles its
statements, and inspects the tables. This class writes a batch of events (DAGSTER_EVENT_BATCH_SIZE)
with one statement and one transaction for each file, and serialises each event once.
`python -m benchmarks.dagster_share` prints the cost. Files and tables stay the same.
Another instance uses the class by `storage: custom:` in dagster.yaml.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from dagster._core.events import (
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    EVENT_TYPE_TO_PIPELINE_RUN_STATUS,
    DagsterEventType,
)
from dagster._core.events.log import EventLogEntry
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log import SqlEventLogStorageTable, SqliteEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData

BUSY_TIMEOUT_SECONDS = 60
INDEXED = ASSET_EVENTS | ASSET_CHECK_EVENTS | EVENT_TYPE_TO_PIPELINE_RUN_STATUS.keys()
"""Types of events that Dagster also writes to the index of all runs."""


class KeptEventLog(SqliteEventLogStorage):
    """An event log that keeps open the connections to its index and to the last run."""

    def __init__(self, base_dir: str) -> None:
        self._engines: dict[str, sqlalchemy.Engine] = {}
        self._held: dict[str, sqlalchemy.Connection] = {}
        self._lock = threading.RLock()
        self._known_tables: set[str] = set()
        self._has_index_columns = False
        super().__init__(base_dir)

    def store_event(self, event: EventLogEntry) -> None:
        """Store one event in one transaction of each file; Dagster uses up to four."""
        self.store_event_batch([event])

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events of one run in one transaction of each file."""
        rows = [self._event_to_row(event) for event in events]
        indexed = [index for index, event in enumerate(events) if _type_of(event) in INDEXED]
        insert = SqlEventLogStorageTable.insert()
        with self._hold(events[0].run_id) as connection:
            connection.execute(insert, rows)
            if not indexed:
                return
            with self._hold(INDEX_SHARD_NAME) as index_connection:
                insert = insert.returning(
                    SqlEventLogStorageTable.c.id, sort_by_parameter_order=True
                )
                index_rows = [rows[index] for index in indexed]
                event_ids = index_connection.scalars(insert, index_rows).all()
                self._index_events(index_connection, [events[i] for i in indexed], event_ids)

    def _index_events(
        self, connection: sqlalchemy.Connection, events: Sequence[EventLogEntry], ids: Sequence[int]
    ) -> None:
        """Write tags, checks and, for each asset and type, the last event of the batch."""
        last: dict[tuple[Any, Any], tuple[EventLogEntry, int]] = {}
        tagged = []
        for event, event_id in zip(events, ids, strict=True):
            event_type = _type_of(event)
            if event_type in ASSET_EVENTS:
                tagged.append((event, event_id))
                key = (event.get_dagster_event().asset_key, event_type)
                last.pop(key, None)
                last[key] = event, event_id
            elif event_type in ASSET_CHECK_EVENTS:
                self.store_asset_check_event(event, event_id)
        if tagged:
            self._store_asset_event_tags(connection, *map(list, zip(*tagged, strict=True)))
        for event, event_id in last.values():
            self._store_asset_event(connection, event, event_id)

    def has_table(self, table_name: str) -> bool:
        """Whether the index has a table. A table that was found once is not looked for again."""
        if table_name not in self._known_tables and super().has_table(table_name):
            self._known_tables.add(table_name)
        return table_name in self._known_tables

    def _has_asset_key_index_cols_on_connection(self, conn: sqlalchemy.Connection) -> bool:
        self._has_index_columns = (
            self._has_index_columns or super()._has_asset_key_index_cols_on_connection(conn)
        )
        return self._has_index_columns

    @contextmanager
    def _hold(self, shard: str) -> Iterator[sqlalchemy.Connection]:
        """Keep one transaction of a file open: `_connect` uses it."""
        with self._connect(shard) as connection:
            self._held[shard] = connection
            try:
                yield connection
            finally:
                del self._held[shard]

    @contextmanager
    def _connect(self, shard: str) -> Iterator[sqlalchemy.Connection]:
        with self._lock:
            if shard in self._held:
                yield self._held[shard]
                return
            with self._engine(shard).begin() as connection:
                yield connection

    def _engine(self, shard: str) -> sqlalchemy.Engine:
        is_initialized = shard in self._initialized_dbs
        if not is_initialized:
            self._close({shard})
        if shard not in self._engines:
            if shard != INDEX_SHARD_NAME:
                self._close(self._engines.keys() - {INDEX_SHARD_NAME})
            self._engines[shard] = sqlalchemy.create_engine(
                self.conn_string_for_shard(shard), connect_args={"timeout": BUSY_TIMEOUT_SECONDS}
            )
        if not is_initialized:
            self._initdb(self._engines[shard])
            self._initialized_dbs.add(shard)
        return self._engines[shard]

    def _close(self, shards: Iterable[str]) -> None:
        for shard in list(shards):
            if shard in self._engines:
                self._engines.pop(shard).dispose()

    def dispose(self) -> None:
        """Close all connections."""
        self._close(self._engines)
        super().dispose()


def _type_of(event: EventLogEntry) -> DagsterEventType | None:
    return event.get_dagster_event().event_type if event.is_dagster_event else None


class KeptSqliteStorage(DagsterSqliteStorage):
    """Dagster's storage of a local instance with this event log."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        self._event_log_storage = KeptEventLog(str(Path(base_dir) / "history" / "runs"))

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "KeptSqliteStorage":
        return cls.from_local(inst_data=inst_data, **config_value)


def with_kept_connections(ref: InstanceRef) -> InstanceRef:
    """Return the same instance with open connections; unchanged if it has another storage."""
    data = ref.storage_data
    if data is None or data.class_name != DagsterSqliteStorage.__name__:
        return ref
    kept = ConfigurableClassData(__name__, KeptSqliteStorage.__name__, data.config_yaml)
    return ref._replace(storage_data=kept)
