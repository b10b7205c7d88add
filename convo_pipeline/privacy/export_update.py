"""Incremental exports: tables and files by day that later exports bring up to date.

The formats are DuckDB, Delta Lake and Iceberg tables, and folders of Parquet or CSV files with the
layout of the lake.

A file beside the tables holds the hash of each exported partition. An export replaces the
partitions whose hash changed and removes those that left the lake, with the rows of erased people.
The data files of old versions of Delta and Iceberg tables are deleted, because they hold erased
rows. So a reader of an older version fails; the newest version is always whole.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.base.extras import needs_extra
from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.errors import StoreError
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import keyed_hash
from convo_pipeline.privacy.export import (
    EXPORTED_TABLES,
    check_outside,
    export_days,
    read_export_secret,
    write_file,
)
from convo_pipeline.settings import Settings
from convo_pipeline.storage.local import make_private_folders, write_synced

MANIFEST = "convo-export.json"
DATABASE = "inbox.duckdb"
NAMESPACE = "inbox"
Replace = Callable[[str, pa.Table, str, Sequence[date]], None]
"""Replaces the rows of an account and some days in a table; creates the table if it is missing."""


def update_export(
    settings: Settings,
    store: Store,
    accounts: Sequence[str],
    to: Path,
    form: str,
    environ: Mapping[str, str],
    *,
    with_text: bool,
) -> dict[str, int]:
    """Bring the tables in `to` up to date; return how many rows each table got in this export.

    `form` is a key of `OPENERS`. `to` is a new folder or one of an earlier export with
    the same format, secret and texts, else StoreError. SettingsError if a package is missing.
    """
    secret = read_export_secret(settings, store, environ)
    check_outside(store, to)
    mark = {
        "format": form,
        "with_text": with_text,
        "secret": keyed_hash(secret, "export")[:16],
    }
    exported = _read_manifest(to, mark)
    make_private_folders(to)
    replace, counts = OPENERS[form](to), {}
    for table in EXPORTED_TABLES:
        counts[table.name] = 0
        replace(table.name, export_days(store, table, "", [], secret, with_text), "", [])
        for account in sorted({*accounts, *exported.get(table.name, {})}):
            known = exported.get(table.name, {}).get(account, {})
            current = {
                str(each.date): each.sha256
                for each in store.state.partitions(account, table=table.name)
                if account in accounts and each.sha256
            }
            changed = sorted(
                day for day in known.keys() | current.keys() if known.get(day) != current.get(day)
            )
            if not changed:
                continue
            stored = [date.fromisoformat(day) for day in changed if day in current]
            rows = export_days(store, table, account, stored, secret, with_text)
            replace(table.name, rows, account, [date.fromisoformat(day) for day in changed])
            counts[table.name] += rows.num_rows
            exported.setdefault(table.name, {})[account] = current
            _write_manifest(to, {**mark, "partitions": exported})
    _write_manifest(to, {**mark, "partitions": exported})
    return counts


def _write_manifest(to: Path, content: Mapping[str, object]) -> None:
    """Replace the manifest in one step, so that a killed export can go on."""
    staged = to / f"{MANIFEST}.part"
    write_synced(staged, dump_json(content))
    os.replace(staged, to / MANIFEST)


def _read_manifest(to: Path, mark: Mapping[str, object]) -> dict[str, dict[str, dict[str, str]]]:
    """Return the hashes of the exported partitions by table, account and day."""
    file = to / MANIFEST
    if not file.exists():
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise StoreError(f"{to} is neither an empty folder nor an earlier export")
        return {}
    try:
        content: Any = load_json(file.read_bytes())
        earlier = {name: content[name] for name in mark}
        partitions: dict[str, dict[str, dict[str, str]]] = content["partitions"]
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{file} is damaged: export into a new folder") from None
    different = [name for name, value in mark.items() if earlier[name] != value]
    if different:
        raise StoreError(
            f"{to} was exported with another {different[0].replace('_', ' ')}: use a new folder"
        )
    return partitions


def _open_files(to: Path, form: str) -> Replace:
    """Write a file for each account and day, with account and date in its path only."""

    def replace(table: str, rows: pa.Table, account: str, days: Sequence[date]) -> None:
        columns = rows.drop_columns(["account", "date"])
        for day in days:
            path = to / table / f"account={account}" / f"date={day}" / f"data.{form}"
            of_day = columns.filter(pc.equal(rows["date"], pa.scalar(day, pa.date32())))
            if of_day.num_rows:
                make_private_folders(path.parent)
                write_file(path, iter([columns.slice(0, 0), of_day]))
            else:
                path.unlink(missing_ok=True)
                with suppress(OSError):  # not there, or not empty
                    path.parent.rmdir()
                    path.parent.parent.rmdir()

    return replace


def _open_duckdb(to: Path) -> Replace:
    def replace(table: str, rows: pa.Table, account: str, days: Sequence[date]) -> None:
        with duckdb.connect(str(to / DATABASE)) as con:
            con.register("exported_rows", rows)
            con.execute("BEGIN")
            con.execute(f"CREATE TABLE IF NOT EXISTS {table} AS FROM exported_rows LIMIT 0")
            con.execute(
                f"DELETE FROM {table} WHERE account = ? AND list_contains(?, date)",  # noqa: S608
                [account, list(days)],
            )
            con.execute(f"INSERT INTO {table} BY NAME FROM exported_rows")
            con.execute("COMMIT")

    return replace


def _open_delta(to: Path) -> Replace:
    with needs_extra("delta"):
        import deltalake

    def replace(table: str, rows: pa.Table, account: str, days: Sequence[date]) -> None:
        path = str(to / table)
        if not deltalake.DeltaTable.is_deltatable(path):
            deltalake.write_deltalake(path, rows, partition_by=["account", "date"])
        if not days:
            return
        listed = ", ".join(f"'{day}'" for day in days)
        where = f"account = '{account}' AND date IN ({listed})"
        deltalake.write_deltalake(path, rows, mode="overwrite", predicate=where)
        deltalake.DeltaTable(path).vacuum(0, dry_run=False, enforce_retention_duration=False)

    return replace


def _open_iceberg(to: Path) -> Replace:
    with needs_extra("iceberg"):
        from pyiceberg.catalog.sql import SqlCatalog
        from pyiceberg.exceptions import NoSuchTableError
        from pyiceberg.expressions import And, EqualTo, In

    folder = to.resolve()
    catalog = SqlCatalog(
        "convo", uri=f"sqlite:///{folder / 'catalog.db'}", warehouse=folder.as_uri()
    )
    catalog.create_namespace_if_not_exists(NAMESPACE)

    def replace(table: str, rows: pa.Table, account: str, days: Sequence[date]) -> None:
        try:
            stored = catalog.load_table((NAMESPACE, table))
        except NoSuchTableError:
            stored = catalog.create_table((NAMESPACE, table), schema=rows.schema)
        if days:
            where = And(EqualTo("account", account), In("date", [str(day) for day in days]))
            stored.overwrite(rows, overwrite_filter=where)
            current = {
                Path(unquote(urlsplit(path).path))
                for path in stored.inspect.files()["file_path"].to_pylist()
            }
            for path in Path(unquote(urlsplit(stored.location()).path)).rglob("*.parquet"):
                if path not in current:
                    path.unlink()

    return replace


OPENERS: Mapping[str, Callable[[Path], Replace]] = {
    "parquet": partial(_open_files, form="parquet"),
    "csv": partial(_open_files, form="csv"),
    "duckdb": _open_duckdb,
    "delta": _open_delta,
    "iceberg": _open_iceberg,
}
