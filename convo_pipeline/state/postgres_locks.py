"""Locks of all machines: advisory locks in PostgreSQL, which end with the session of their holder.

Each partition has its own lock: machines share the records of its file, and write the ledger at the
same time.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from convo_pipeline.errors import BusyError, StoreError
from convo_pipeline.state.postgres import PostgresDatabase
from convo_pipeline.storage.backend import Parts
from convo_pipeline.storage.locks import FOREVER, SETTLED_SECONDS, STALE_SECONDS, Locks

_AGE = "SELECT extract(epoch FROM clock_timestamp() - began_at) FROM live_runs WHERE run_id = ?"


class PostgresLocks(Locks):
    """The advisory locks of one lake, held by the session of the state."""

    are_shared = True

    def __init__(self, folder: Path, database: PostgresDatabase) -> None:
        super().__init__(folder)
        self._database = database

    @contextmanager
    def run(self, run_id: str) -> Iterator[None]:
        """Show that the process of a run of Dagster lives. The row is removed at the end."""
        with self._database.advisory_lock(f"run {run_id}", 0):
            with self._database.transaction() as rows:
                rows.execute(
                    "INSERT INTO live_runs (run_id) VALUES (?) ON CONFLICT DO NOTHING", (run_id,)
                )
            try:
                yield
            finally:
                with suppress(StoreError):  # the session ended: the row shows a dead run
                    self.remove_run(run_id)

    def is_run_dead(self, run_id: str) -> bool | None:
        """Whether the process that held the lock of a run died; None if there is no lock."""
        if not self._database.select(_AGE, run_id):
            return None
        try:
            with self._database.advisory_lock(f"run {run_id}", 0):
                ages = self._database.select(_AGE, run_id)
        except BusyError:
            return False
        return None if not ages or ages[0][0] < SETTLED_SECONDS else True

    def remove_run(self, run_id: str) -> None:
        """Remove the row of a run."""
        with self._database.transaction() as rows:
            rows.execute("DELETE FROM live_runs WHERE run_id = ?", (run_id,))

    def remove_stale_runs(self) -> None:
        """Remove rows of dead runs that ended otherwise, two days after they began."""
        old = self._database.select(
            "SELECT run_id FROM live_runs"
            " WHERE extract(epoch FROM clock_timestamp() - began_at) > ?",
            STALE_SECONDS,
        )
        for (run_id,) in old:
            if self.is_run_dead(run_id):
                self.remove_run(run_id)

    @contextmanager
    def partition(self, parts: Parts) -> Iterator[None]:
        """Lock a partition's file for a writer."""
        with self._database.advisory_lock(f"partition {'/'.join(parts)}", FOREVER):
            yield

    @contextmanager
    def _lock(self, name: str, wait_seconds: float) -> Iterator[None]:
        with self._database.advisory_lock(name.replace("-", " ", 1), wait_seconds):
            yield
