"""Notes of unfinished work and the key of the receipts: small files beside the state.

With a state in PostgreSQL they are rows of a table there, so that all machines share them.
"""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from convo_pipeline.state.database import Database
from convo_pipeline.storage.backend import remove_file, write_file
from convo_pipeline.storage.local import (
    LocalFolder,
    make_private_folders,
    storage_error,
    sync_folder,
    write_synced,
)

NOTE_FOLDERS = ("rename", "forget", "deleted", "deletions", "")
"""Folders of the notes; the key is in none."""
KEY_FILE = "forget.key"
_READ = "SELECT content FROM notes WHERE folder = ? AND name = ?"
_WRITE = """
INSERT INTO notes (folder, name, content) VALUES (?, ?, ?)
ON CONFLICT (folder, name) DO {}
"""


class Notes(Protocol):
    """Named contents in folders. A write is durable when it returns."""

    def location(self, folder: str, name: str) -> str:
        """Return where a note is, for a person."""

    def names(self, folder: str) -> list[str]:
        """Return the sorted names in a folder."""

    def read(self, folder: str, name: str) -> bytes | None:
        """Return a note's content; None if there is no note."""

    def write(self, folder: str, name: str, content: bytes) -> None:
        """Write a note, or replace it."""

    def create(self, folder: str, name: str, content: bytes) -> None:
        """Write a note if there is none: of two writers the first wins."""

    def remove(self, folder: str, name: str) -> None:
        """Remove a note if there is one."""


class FileNotes:
    """Notes in files of the state's folder."""

    def __init__(self, state_path: Path) -> None:
        self._files = LocalFolder(state_path)

    def location(self, folder: str, name: str) -> str:
        return self._files.location(_parts(folder, name))

    def names(self, folder: str) -> list[str]:
        if not folder:
            return [KEY_FILE] if self._files.version((KEY_FILE,)) else []
        return self._files.list_names((folder,))

    def read(self, folder: str, name: str) -> bytes | None:
        return self._files.read_bytes(_parts(folder, name))

    def write(self, folder: str, name: str, content: bytes) -> None:
        write_file(self._files, _parts(folder, name), content)

    def create(self, folder: str, name: str, content: bytes) -> None:
        path = self._files.path(_parts(folder, name))
        staged = path.with_name(f"{name}.{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            make_private_folders(path.parent)
            write_synced(staged, content)
            with suppress(FileExistsError):
                os.link(staged, path)
            sync_folder(path.parent)
        except OSError as error:
            raise storage_error(path, "write", error) from None
        finally:
            staged.unlink(missing_ok=True)

    def remove(self, folder: str, name: str) -> None:
        remove_file(self._files, _parts(folder, name))


class DatabaseNotes:
    """Notes in a table of PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def location(self, folder: str, name: str) -> str:
        return f"{'/'.join(_parts(folder, name))} in {self._database.location}"

    def names(self, folder: str) -> list[str]:
        sql = "SELECT name FROM notes WHERE folder = ? ORDER BY name"
        return [name for (name,) in self._database.select(sql, folder)]

    def read(self, folder: str, name: str) -> bytes | None:
        rows = self._database.select(_READ, folder, name)
        return bytes(rows[0][0]) if rows else None

    def write(self, folder: str, name: str, content: bytes) -> None:
        with self._database.transaction() as rows:
            sql = _WRITE.format("UPDATE SET content = excluded.content")
            rows.execute(sql, (folder, name, content))

    def create(self, folder: str, name: str, content: bytes) -> None:
        with self._database.transaction() as rows:
            rows.execute(_WRITE.format("NOTHING"), (folder, name, content))

    def remove(self, folder: str, name: str) -> None:
        with self._database.transaction() as rows:
            rows.execute("DELETE FROM notes WHERE folder = ? AND name = ?", (folder, name))


def _parts(folder: str, name: str) -> tuple[str, ...]:
    return (folder, name) if folder else (name,)
