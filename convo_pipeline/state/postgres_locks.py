"""Locks of all machines: advisory locks in PostgreSQL, which end with the session of their holder.

Each partition has its own lock: machines share the records of its file, and write the ledger at the
same time. A process holds the locks of at most 64 accounts, so many processes fit into the some
6,000 locks of a server. That a run of Dagster lives is shown by a row that it renews.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from convo_pipeline.errors import StoreError
from convo_pipeline.state.postgres import PostgresDatabase
from convo_pipeline.storage.backend import Parts
from convo_pipeline.storage.locks import FOREVER, STALE_SECONDS, Locks

RENEWAL_SECONDS = 15.0
SILENT_SECONDS = 45.0
"""A run whose row is older than this may be dead."""
_AGES = """
SELECT extract(epoch FROM clock_timestamp() - seen_at)::float8,
    extract(epoch FROM clock_timestamp() - suspected_at)::float8
FROM live_runs WHERE run_id = ? FOR UPDATE
"""


class PostgresLocks(Locks):
    """The advisory locks of one lake, held by the session of the state."""

    are_shared = True

    def __init__(
        self, folder: Path, database: PostgresDatabase, renewal_seconds: float = RENEWAL_SECONDS
    ) -> None:
        super().__init__(folder)
        self._database = database
        self._renewal_seconds = renewal_seconds

    @contextmanager
    def run(self, run_id: str) -> Iterator[None]:
        """Show that the process of a run of Dagster lives: a thread renews its row.

        A lock would end with its connection, although the run works on. The row is removed at the
        end.
        """
        has_ended = threading.Event()

        def renew() -> None:
            while not has_ended.wait(self._renewal_seconds):
                self._renew(run_id)

        self._renew(run_id)
        thread = threading.Thread(target=renew, name="live-run", daemon=True)
        thread.start()
        try:
            yield
        finally:
            has_ended.set()
            thread.join()
            with suppress(StoreError):  # the row stays and shows a dead run, which has ended
                self.remove_run(run_id)

    def _renew(self, run_id: str) -> None:
        """Renew the row; after a failure the next renewal connects again."""
        with suppress(StoreError), self._database.transaction() as rows:
            rows.execute(
                "INSERT INTO live_runs (run_id) VALUES (?) ON CONFLICT (run_id) DO UPDATE"
                " SET seen_at = clock_timestamp(), suspected_at = NULL",
                (run_id,),
            )

    def is_run_dead(self, run_id: str) -> bool | None:
        """Whether the process of a run died; None if there is no row.

        A run is dead if its row is old at two questions: after a failure of PostgreSQL the rows of
        all runs are old.
        """
        with self._database.transaction() as rows:
            ages = rows.execute(_AGES, (run_id,)).fetchone()
            if ages is None:
                return None
            age_seconds, suspected_seconds = ages
            if age_seconds < SILENT_SECONDS:
                return False
            if suspected_seconds is None:
                sql = "UPDATE live_runs SET suspected_at = clock_timestamp() WHERE run_id = ?"
                rows.execute(sql, (run_id,))
                return False
        return bool(suspected_seconds >= SILENT_SECONDS)

    def remove_run(self, run_id: str) -> None:
        """Remove the row of a run."""
        with self._database.transaction() as rows:
            rows.execute("DELETE FROM live_runs WHERE run_id = ?", (run_id,))

    def remove_stale_runs(self) -> None:
        """Remove rows of dead runs that ended otherwise, two days after they were last renewed."""
        with self._database.transaction() as rows:
            rows.execute(
                "DELETE FROM live_runs WHERE extract(epoch FROM clock_timestamp() - seen_at) > ?",
                (STALE_SECONDS,),
            )

    @contextmanager
    def partition(self, parts: Parts) -> Iterator[None]:
        """Lock a partition's file for a writer."""
        with self._database.advisory_lock(f"partition {'/'.join(parts)}", FOREVER):
            yield

    @contextmanager
    def _lock(self, name: str, wait_seconds: float) -> Iterator[None]:
        with self._database.advisory_lock(name.replace("-", " ", 1), wait_seconds):
            yield
