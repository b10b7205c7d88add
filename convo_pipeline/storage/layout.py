"""Where the tables' files lie below the root: `<table>/account=<name>/date=YYYY-MM-DD/data.parquet`; pure."""

import re
from collections.abc import Sequence
from datetime import date

from convo_pipeline.errors import StoreError
from convo_pipeline.schema import RUNS, TABLES, Table

DATA_FILE = "data.parquet"
_ACCOUNT = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_DATE_FOLDER = re.compile(r"date=(\d{4}-\d{2}-\d{2})")
_SET_ASIDE = re.compile(rf"{re.escape(DATA_FILE)}\.corrupt-[0-9a-f]{{8}}")


def table_of(name: str) -> Table:
    """Return the table of this name, the ledger's too; a StoreError lists the names there are."""
    if name == RUNS.name:
        return RUNS
    if name not in TABLES:
        raise StoreError(f"unknown table {name!r}; the tables are: {', '.join(TABLES)}")
    return TABLES[name]


def is_account(name: str) -> bool:
    """Say whether no reader can take the name for a number or a path."""
    return _ACCOUNT.fullmatch(name) is not None


def check_account(account: str) -> str:
    """Return the name if no reader can take it for a number or a path, else raise a StoreError."""
    if not is_account(account):
        raise StoreError(
            f"{account!r} is no account name: lower-case letters, digits, _ and -, a letter first"
        )
    return account


def folder_parts(table: Table, account: str) -> tuple[str, ...]:
    """Return the folder of a table's days; the ledger is not kept by account."""
    return (
        (table.name,)
        if table.layer == "ledger"
        else (table.name, f"account={check_account(account)}")
    )


def file_parts(table: Table, account: str, day: date) -> tuple[str, ...]:
    """Return the place of a partition's file."""
    if type(day) is not date:
        raise StoreError(f"{day!r} is no date")
    return (*folder_parts(table, account), f"date={day}", DATA_FILE)


def read_date(name: str) -> date | None:
    """Return the date a folder is named for, None if it is none of ours.

    >>> read_date("date=2026-01-05"), read_date("date=2026-13-05"), read_date("2026-01-05")
    (datetime.date(2026, 1, 5), None, None)
    """
    match = _DATE_FOLDER.fullmatch(name)
    try:
        return date.fromisoformat(match[1]) if match else None
    except ValueError:
        return None


def read_account(name: str) -> str | None:
    """Return the account a folder is named for, None if it is none of ours.

    >>> read_account("account=bakery"), read_account("account=0123"), read_account("bakery")
    ('bakery', None, None)
    """
    account = name.removeprefix("account=")
    return account if account != name and is_account(account) else None


def is_set_aside(name: str) -> bool:
    """Say whether this is the name of a damaged file that was set aside."""
    return _SET_ASIDE.fullmatch(name) is not None


def set_aside_name(sha256: str) -> str:
    """Return the name under which a damaged file of this hash is kept."""
    return f"{DATA_FILE}.corrupt-{sha256[:8]}"


def is_ours(parts: Sequence[str]) -> bool:
    """Say whether this is the path of a data file, or of one that was set aside."""
    table, *folders, name = parts
    if table != RUNS.name and (not folders or read_account(folders.pop(0)) is None):
        return False
    return (
        len(folders) == 1
        and read_date(folders[0]) is not None
        and (name == DATA_FILE or is_set_aside(name))
    )
