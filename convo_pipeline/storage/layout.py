"""Names of the tables' files: `<table>/account=<name>/date=YYYY-MM-DD/data.parquet`. Pure."""

import re
from collections.abc import Sequence
from datetime import date

from convo_pipeline.errors import StoreError
from convo_pipeline.schema import RUNS, TABLES, Table

DATA_FILE = "data.parquet"
QUARANTINE = ".quarantine"
"""Folder of damaged files, beside the tables: readers of a whole folder must not find them."""
_ACCOUNT = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_DATE_FOLDER = re.compile(r"date=(\d{4}-\d{2}-\d{2})")
_SET_ASIDE = re.compile(rf"{re.escape(DATA_FILE)}\.corrupt-[0-9a-f]{{8}}")


def table_of(name: str) -> Table:
    """Return the table of this name, `runs` included; raise StoreError for an unknown name."""
    if name == RUNS.name:
        return RUNS
    if name not in TABLES:
        raise StoreError(f"unknown table {name!r}; the tables are: {', '.join(TABLES)}")
    return TABLES[name]


def check_account(account: str) -> str:
    """Return the account name; raise StoreError if it could be read as a number or a path."""
    if not _ACCOUNT.fullmatch(account):
        raise StoreError(
            f"{account!r} is no account name: lower-case letters, digits, _ and -, a letter first"
        )
    return account


def folder_parts(table: Table, account: str) -> tuple[str, ...]:
    """Return the folder of a table's days. The ledger's has no account."""
    if table.layer == "ledger":
        return (table.name,)
    return table.name, f"account={check_account(account)}"


def file_parts(table: Table, account: str, day: date) -> tuple[str, ...]:
    """Return the name of a partition's file."""
    if type(day) is not date:
        raise StoreError(f"{day!r} is no date")
    return (*folder_parts(table, account), f"date={day}", DATA_FILE)


def read_date(name: str) -> date | None:
    """Return the date in a folder's name; None for other folders.

    >>> read_date("date=2026-01-05"), read_date("date=2026-13-05"), read_date("2026-01-05")
    (datetime.date(2026, 1, 5), None, None)
    """
    match = _DATE_FOLDER.fullmatch(name)
    try:
        return date.fromisoformat(match[1]) if match else None
    except ValueError:
        return None


def read_account(name: str) -> str | None:
    """Return the account in a folder's name; None for other folders.

    >>> read_account("account=bakery"), read_account("account=0123"), read_account("bakery")
    ('bakery', None, None)
    """
    account = name.removeprefix("account=")
    return account if account != name and _ACCOUNT.fullmatch(account) else None


def is_set_aside(name: str) -> bool:
    """Return whether this is the name of a damaged file that was set aside."""
    return _SET_ASIDE.fullmatch(name) is not None


def set_aside_parts(parts: Sequence[str], sha256: str) -> tuple[str, ...]:
    """Return the name of a damaged file with this hash after it was set aside."""
    return QUARANTINE, *parts[:-1], f"{DATA_FILE}.corrupt-{sha256[:8]}"


def is_lake_file(parts: Sequence[str]) -> bool:
    """Return whether this is the name of a data file or of one that was set aside."""
    table, *folders, name = parts
    if table != RUNS.name and (not folders or read_account(folders.pop(0)) is None):
        return False
    is_day = len(folders) == 1 and read_date(folders[0]) is not None
    return is_day and (name == DATA_FILE or is_set_aside(name))
