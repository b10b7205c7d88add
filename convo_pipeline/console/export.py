"""Write the derived tables elsewhere, pseudonymised: one file a table, for people who need figures and no persons."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from convo_pipeline.base.secrets import read_secret
from convo_pipeline.console.results import write_csv_batches
from convo_pipeline.console.upkeep import open_lake
from convo_pipeline.errors import SettingsError, StoreError
from convo_pipeline.lake.store import Store
from convo_pipeline.privacy.pseudonyms import EXPORTED, pseudonymise
from convo_pipeline.schema import Table
from convo_pipeline.settings import Settings
from convo_pipeline.storage.local import Folder, make_private_folders

LEAST_CHARACTERS = 32
MOST_BYTES_SEARCHED = 1 << 20


def export_tables(
    settings: Settings,
    accounts: Sequence[str],
    to: Path,
    form: str,
    environ: Mapping[str, str],
    *,
    with_text: bool,
) -> dict[str, int]:
    """Write the accounts' derived tables into a new or empty folder outside the lake; return their numbers of rows."""
    with open_lake(settings.store) as store:
        secret = read_export_secret(settings, store, environ)
        check_target(store, to)
        make_private_folders(to)
        return {
            table.name: _write(
                to / f"{table.name}.{form}", _batches(store, table, accounts, secret, with_text)
            )
            for table in EXPORTED
        }


def read_export_secret(settings: Settings, store: Store, environ: Mapping[str, str]) -> bytes:
    """Return the secret; a SettingsError says that there is none, that it is short, or that it lies beside the data."""
    variable = settings.export.secret_env
    if variable is None:
        raise SettingsError(
            "export.secret_env: name the environment variable that holds the secret of the codes"
        )
    secret = read_secret(variable, "export", environ)
    if len(secret) < LEAST_CHARACTERS:
        raise SettingsError(
            f"export: {variable} holds fewer than {LEAST_CHARACTERS} characters: a short secret can be guessed"
        )
    for path in _files_beside(store):
        if secret.encode() in path.read_bytes():
            raise SettingsError(
                f"export: what {variable} holds also stands in {path}: keep it outside the data root, for whoever has"
                " both can tell who each code is"
            )
    return secret.encode()


def _files_beside(store: Store) -> Iterator[Path]:
    """Yield the small files that lie in the root or the state folder themselves: where settings and secrets are put."""
    found = (
        path
        for folder in _own_folders(store)
        if folder.is_dir()
        for path in sorted(folder.iterdir())
    )
    return (path for path in found if path.is_file() and path.stat().st_size <= MOST_BYTES_SEARCHED)


def _own_folders(store: Store) -> list[Path]:
    """Return the folders of this machine in which the lake writes."""
    return [store.state_path, *([store.root] if isinstance(store.place, Folder) else [])]


def check_target(store: Store, to: Path) -> None:
    """Refuse a folder in which forgetting would not look, or something is already."""
    target = to.resolve()
    if any(target.is_relative_to(folder.resolve()) for folder in _own_folders(store)):
        raise StoreError(
            f"{to} is inside the lake: forget and retention do not reach exports, so write it elsewhere"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{to} is not an empty folder: name a new one")


def _batches(
    store: Store, table: Table, accounts: Sequence[str], secret: bytes, with_text: bool
) -> Iterator[pa.Table]:
    """Yield the table's rows, an account and day at a time; first none of them, for the columns."""

    def place(rows: pa.Table, account: str, day: object) -> pa.Table:
        coded = pseudonymise(table, rows, secret, with_text=with_text)
        count = rows.num_rows
        own = {
            "account": pa.array([account] * count, pa.string()),
            "date": pa.array([day] * count, pa.date32()),
        }
        return pa.table(own | {name: coded[name] for name in coded.column_names})

    yield place(table.schema.empty_table(), "", None)
    for account in accounts:
        for day in store.days(table.name, account):
            yield place(store.read(table.name, account, day), account, day)


def _write(path: Path, batches: Iterator[pa.Table]) -> int:
    """Write a file whole or not at all; return its number of rows."""
    staged = path.with_name(f"{path.name}.part")
    try:
        count = WRITERS[path.suffix](staged, batches)
        os.replace(staged, path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
    finally:
        staged.unlink(missing_ok=True)
    return count


def _write_parquet(path: Path, batches: Iterator[pa.Table]) -> int:
    first = next(batches)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        count = 0
        for batch in batches:
            writer.write_table(batch)
            count += batch.num_rows
    return count


def _write_csv(path: Path, batches: Iterator[pa.Table]) -> int:
    first = next(batches)
    with path.open("wb") as file:
        return write_csv_batches(first.column_names, batches, file)


WRITERS: dict[str, Callable[[Path, Iterator[pa.Table]], int]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
}
