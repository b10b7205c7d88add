"""Dagster's own SQLite storage, with connections that are kept: for whoever records many events in one process.

Same folder, same files, same tables: what is written here every Dagster reads, and the other way round. Dagster's class
makes an engine for each event, so that each event compiles its statements and opens and closes two files; closing the
last connection copies the journal back. That was more than half of what Dagster adds to a run.
An instance of its own uses it by `storage: custom:` in dagster.yaml, with `base_dir: {env: DAGSTER_HOME}` as config.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData

BUSY_TIMEOUT_SECONDS = 60


class KeptEventLog(SqliteEventLogStorage):
    """An event log that keeps the connections to its index and to the run it saw last."""

    def __init__(self, base_dir: str) -> None:
        self._kept: dict[str, sqlalchemy.Engine] = {}
        super().__init__(base_dir)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[sqlalchemy.Connection]:
        with self._db_lock, self._engine(shard).begin() as connection:
            yield connection

    def _engine(self, shard: str) -> sqlalchemy.Engine:
        if shard not in self._initialized_dbs:
            self._let_go(shard)
        if shard not in self._kept:
            for other in (
                self._kept.keys() - {INDEX_SHARD_NAME} if shard != INDEX_SHARD_NAME else ()
            ):
                self._let_go(other)
            address = self.conn_string_for_shard(shard)
            self._kept[shard] = sqlalchemy.create_engine(
                address, connect_args={"timeout": BUSY_TIMEOUT_SECONDS}
            )
        if shard not in self._initialized_dbs:
            self._initdb(self._kept[shard])
            self._initialized_dbs.add(shard)
        return self._kept[shard]

    def _let_go(self, shard: str) -> None:
        engine = self._kept.pop(shard, None)
        if engine is not None:
            engine.dispose()

    def dispose(self) -> None:
        """Close everything."""
        for shard in list(self._kept):
            self._let_go(shard)
        super().dispose()


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
    """Return the same instance with kept connections; as it is where somebody configured another storage."""
    data = ref.storage_data
    if data is None or data.class_name != DagsterSqliteStorage.__name__:
        return ref
    kept = ConfigurableClassData(__name__, KeptSqliteStorage.__name__, data.config_yaml)
    return ref._replace(storage_data=kept)
