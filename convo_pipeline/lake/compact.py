"""Closed months as one file each, so that a year is not read as 365 small files. Derived, rebuildable, never the truth.

`<root>/.compact/<table>/account=<name>/month=YYYY-MM.parquet` holds the month's daily rows with their `date`, and in
its metadata the hash of every daily file it was made from. It counts only while `state.db` says that these are the
month's files still; whoever has no `state.db` reads the daily files.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from itertools import groupby

import pyarrow as pa
import pyarrow.parquet as pq

from convo_pipeline.errors import CorruptError
from convo_pipeline.json_text import dump_json
from convo_pipeline.lake.files import Store
from convo_pipeline.lake.parquet import ROWS_PER_GROUP, SOURCE_KEY
from convo_pipeline.lake.place import remove_file
from convo_pipeline.lake.records import Compaction
from convo_pipeline.schema import SCHEMA_VERSION, TABLES, VERSION_KEY, Table

COMPACT = ".compact"
DAYS_KEY = b"convo_pipeline.days"
DATE = pa.field("date", pa.date32(), nullable=False)


def compaction_parts(table: str, account: str, day: date) -> tuple[str, ...]:
    """Return where the compaction of the day's month lies.

    >>> "/".join(compaction_parts("messages", "bakery", date(2026, 1, 5)))
    '.compact/messages/account=bakery/month=2026-01.parquet'
    """
    return COMPACT, table, f"account={account}", f"month={day:%Y-%m}.parquet"


def compact(
    store: Store,
    today: date,
    *,
    skipped_months: Iterable[str] = (),
    on_progress: Callable[[str, int], None] = lambda account, count: None,
) -> list[Compaction]:
    """Compact every closed month that is not current and return what was made; what is left over is removed.

    A month in which a file is damaged, older than today's schema or just being written waits for the next time.
    """
    made: list[Compaction] = []
    closed = {*skipped_months, f"{today:%Y-%m}"}
    accounts = sorted({account for table in TABLES for account in store.accounts(table)} | _compacted_accounts(store))
    for account in accounts:
        current = {(held.table, held.month): held for held in store.state.compactions(account)}
        for table in TABLES.values():
            for month, days in groupby(store.days(table.name, account), key=lambda day: f"{day:%Y-%m}"):
                if month in closed or month > f"{today:%Y-%m}":
                    continue
                month_days = list(days)
                if not _is_whole(store, current.get((table.name, month)), month_days):
                    made += _compact_month(store, table, account, month_days)
        _remove_leftovers(store, account)
        on_progress(account, len(made))
    return made


def remove_compactions(store: Store, account: str) -> None:
    """Remove every compaction of an account, current or not."""
    store.state.remove_compactions(account)
    for table in store.place.names((COMPACT,)):
        for parts in list(store.place.files((COMPACT, table, f"account={account}"))):
            remove_file(store.place, parts)


def remove_month(store: Store, table: str, account: str, day: date) -> None:
    """Remove the compaction of a day's month."""
    store.state.remove_compactions(account, table, f"{day:%Y-%m}")
    remove_file(store.place, compaction_parts(table, account, day))


def source_of(sha256s: Mapping[date, str]) -> str:
    """Return the digest of the daily files a compaction was made from."""
    return hashlib.sha256("".join(f"{day}:{sha256s[day]}\n" for day in sorted(sha256s)).encode()).hexdigest()


def _is_whole(store: Store, held: Compaction | None, days: list[date]) -> bool:
    if held is None or held.day_count != len(days):
        return False
    return store.folder.size(compaction_parts(held.table, held.account, days[0])) == held.byte_count


def _compact_month(store: Store, table: Table, account: str, days: list[date]) -> list[Compaction]:
    """Make one compaction; nothing where the month cannot be compacted now."""
    with store.lock_derivation(account):
        read = _read_month(store, table, account, days)
        if read is None:
            return []
        rows, sha256s = read
        source = source_of(sha256s)
        content = _encode(table, rows, sha256s, source)
        parts = compaction_parts(table.name, account, days[0])
        made = Compaction(table.name, account, f"{days[0]:%Y-%m}", source, len(days), len(content))
        store.state.remove_compactions(account, table.name, made.month)
        staged, read_back = store.folder.stage(parts, content)
        if read_back != content:
            store.folder.discard(staged)
            raise CorruptError(f"{staged} read back differs from what was written")
        store.folder.publish(staged, parts)
        if store.state.save_compaction(made, sha256s):
            return [made]
        store.folder.remove(parts)
        return []


def _read_month(store: Store, table: Table, account: str, days: list[date]) -> tuple[pa.Table, dict[date, str]] | None:
    """Read the days and their hashes; None if one is not as it should be."""
    tables: list[pa.Table] = []
    sha256s: dict[date, str] = {}
    for day in days:
        try:
            held = store.partitions.read_file(table, account, day)
        except CorruptError:
            return None
        if held is None or not held.content.is_exact or held.content.version != SCHEMA_VERSION:
            return None
        sha256s[day] = held.record.sha256
        tables.append(held.content.rows.add_column(0, DATE, pa.array([day] * held.content.row_count, pa.date32())))
    return pa.concat_tables(tables), sha256s


def _encode(table: Table, rows: pa.Table, sha256s: Mapping[date, str], source: str) -> bytes:
    days = dump_json({str(day): sha256 for day, sha256 in sha256s.items()})
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode(), SOURCE_KEY: source.encode(), DAYS_KEY: days}
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows.replace_schema_metadata(metadata),
        sink,
        compression="zstd",
        write_page_checksum=True,
        row_group_size=ROWS_PER_GROUP,
        use_dictionary=[
            "date",
            *(name for name in table.column_names if name not in ("payload", "message_id", "text")),
        ],
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _compacted_accounts(store: Store) -> set[str]:
    tables = store.folder.names((COMPACT,))
    return {name.removeprefix("account=") for table in tables for name in store.folder.names((COMPACT, table))}


def _remove_leftovers(store: Store, account: str) -> None:
    """Remove files that no line of the state calls current: nobody reads them."""
    current = {(held.table, f"month={held.month}.parquet") for held in store.state.compactions(account)}
    for table in store.folder.names((COMPACT,)):
        for parts in list(store.folder.files((COMPACT, table, f"account={account}"))):
            if (table, parts[-1]) not in current:
                store.folder.remove(parts)
