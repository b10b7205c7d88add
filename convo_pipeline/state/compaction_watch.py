"""Which compactions are current, for readers that must not write: `state.db` opened for reading alone."""

import os
import sqlite3
from pathlib import Path

from convo_pipeline.state.database import COMPACTIONS_SQL
from convo_pipeline.state.records import Compaction


class CompactionWatch:
    """Which compactions are current, for readers: it writes nothing, and where it cannot read it knows of none."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._openings = 0

    def version(self) -> object:
        """Return what changes whenever the database may say something else."""
        try:
            inode = os.stat(self._path).st_ino
            if self._connection is None or inode != self._inode:
                self._open(inode)
            assert self._connection is not None
            return self._openings, self._connection.execute("PRAGMA data_version").fetchone()[0]
        except (OSError, sqlite3.Error):
            self.close()
            return None

    def current(self) -> dict[str, dict[tuple[str, str], Compaction]]:
        """Return the current compactions: by table, then by account and month."""
        found: dict[str, dict[tuple[str, str], Compaction]] = {}
        try:
            rows = self._connection.execute(COMPACTIONS_SQL).fetchall() if self._connection else []
        except sqlite3.Error:
            return {}
        for row in rows:
            found.setdefault(row[0], {})[row[1], row[2]] = Compaction(*row)
        return found

    def close(self) -> None:
        """Let go of the database."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _open(self, inode: int) -> None:
        self.close()
        place = f"{self._path.absolute().as_uri()}?mode=ro"
        self._connection = sqlite3.connect(
            place, uri=True, timeout=1, check_same_thread=False, isolation_level=None
        )
        self._inode = inode
        self._openings += 1
