"""Exports that can be updated follow the lake, read by the libraries of their formats."""

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from convo_pipeline.errors import StoreError
from convo_pipeline.privacy.export import EXPORTED_TABLES
from convo_pipeline.privacy.export_update import MANIFEST, OPENERS, update_export
from convo_pipeline.privacy.forget import forget
from convo_pipeline.settings import ExportSettings
from tests.support.inboxes import NOW, Inboxes, serve, small_world

ADAS_DAY = (NOW - timedelta(days=2)).date()
ADA, TEXT = "9990000000000101", "a text of Ada's"
SECRET = {"SECRET": "0123456789abcdef" * 2}


@pytest.fixture
def inboxes(tmp_path: Path) -> Iterator[Inboxes]:
    world = small_world()
    for account in world.accounts.values():
        ada = account.add_conversation("Ada Lovelace", ADA)
        ada.add_message(TEXT, NOW - timedelta(days=2))
        account.add_conversation("Bob", "9990000000000202").add_messages(3, NOW - timedelta(days=1))
    with serve(tmp_path / "lake", world) as inboxes:
        inboxes.extract_whole()
        yield inboxes


def export(inboxes: Inboxes, to: Path, form: str, with_text: bool = True) -> dict[str, int]:
    settings = inboxes.settings.model_copy(update={"export": ExportSettings(secret_env="SECRET")})
    return update_export(
        settings, inboxes.store, inboxes.names, to, form, SECRET, with_text=with_text
    )


def read(to: Path, form: str, table: str) -> pa.Table:
    """Read an exported table with the format's own library."""
    if form == "delta":
        import deltalake

        return deltalake.DeltaTable(str(to / table)).to_pyarrow_table()
    if form == "iceberg":
        from pyiceberg.catalog.sql import SqlCatalog

        catalog = SqlCatalog("convo", uri=f"sqlite:///{to / 'catalog.db'}", warehouse=to.as_uri())
        return catalog.load_table(("inbox", table)).scan().to_arrow()
    if form in ("parquet", "csv"):
        files = f"{to}/{table}/*/*/data.{form}"
        if not list(to.glob(f"{table}/*/*/*")):
            return pa.table({})
        return duckdb.sql(f"from '{files}'").to_arrow_table()
    with closing(duckdb.connect(str(to / "inbox.duckdb"), read_only=True)) as con:
        return con.execute(f"from {table}").to_arrow_table()


def files_of(to: Path) -> dict[str, int]:
    """Return the inode of every file: a file that is written again gets a new one."""
    files = (path for path in to.rglob("*") if path.is_file())
    return {str(path.relative_to(to)): path.stat().st_ino for path in files}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", OPENERS)
def test_an_export_is_updated_by_the_days_that_changed(
    inboxes: Inboxes, tmp_path: Path, form: str
) -> None:
    pytest.importorskip({"delta": "deltalake", "iceberg": "pyiceberg"}.get(form, "duckdb"))
    to = tmp_path / "export"
    first = export(inboxes, to, form)
    assert first["messages"] == 8
    assert {table.name: read(to, form, table.name).num_rows for table in EXPORTED_TABLES} == first
    assert sorted(read(to, form, "messages")["text"].to_pylist()).count(TEXT) == 2
    files = files_of(to)
    assert sum(export(inboxes, to, form).values()) == 0, "nothing has changed"
    if form in ("parquet", "csv"):
        assert files_of(to).items() - files.items() == {(MANIFEST, files_of(to)[MANIFEST])}

    account = inboxes.names[0]
    forget(inboxes.settings, inboxes.store, account, ADA, inboxes.clock.now())
    export(inboxes, to, form)
    texts = read(to, form, "messages")
    assert texts.num_rows == 7
    assert texts["text"].to_pylist().count(TEXT) == 1
    if form in ("parquet", "csv"):
        changed = {name for name, _ in files_of(to).items() - files.items()} - {MANIFEST}
        assert {name.split("/")[1] for name in changed} <= {f"account={account}"}
        gone = files.keys() - files_of(to).keys()
        assert f"messages/account={account}/date={ADAS_DAY}/data.{form}" in gone
        assert [path for path in to.rglob("*") if path.is_dir() and not any(path.iterdir())] == []
    with pytest.raises(StoreError, match="exported with another with text"):
        export(inboxes, to, form, with_text=False)


def test_another_folder_is_refused(inboxes: Inboxes, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="neither an empty folder nor an earlier export"):
        export(inboxes, tmp_path, "duckdb")
    with pytest.raises(StoreError, match="inside the lake"):
        export(inboxes, inboxes.store.root / "export", "duckdb")
