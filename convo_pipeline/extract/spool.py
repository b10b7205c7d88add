"""Write-ahead log of one account's run: one synced file per API call.

The records hold everything that storing needs, so a killed run loses at most the call in flight:
the next run stores the records before its first call. A record is one JSON object without any
`paging`, because `paging` holds the token. Its file name holds a hash of its bytes, so damage is
found. Files have mode 0600, folders 0700, and no name ends in `.parquet`.
"""

import hashlib
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from convo_pipeline.base.json_text import dump_without_paging, load_json
from convo_pipeline.base.threads import PARSE_LOCK
from convo_pipeline.base.times import day_of, day_start_us, from_us, to_us
from convo_pipeline.errors import CorruptError, PayloadError, StoreError
from convo_pipeline.graph.responses import (
    ConversationRow,
    limit_rows,
    read_conversation_row,
    within_limits,
)
from convo_pipeline.lake.store import Store
from convo_pipeline.state.records import ConversationState
from convo_pipeline.storage.backend import StorageBackend
from convo_pipeline.storage.local import LocalFolder, storage_error, sync_folder, write_synced
from convo_pipeline.tables.complete_range import CompleteRange

SPOOL = "spool"
SHARED_SPOOL = ".spool"
"""Folder in the bucket with copies of the spools of all machines."""
SHARED_MARK = "shared"
"""Empty file in a local spool whose records are in the bucket too."""
MAX_AGE = timedelta(days=7)


@dataclass(frozen=True)
class OwnIdentity:
    """Who the account is inside its conversations; the source as in `AccountIdentity`."""

    own_id: str | None = None
    own_username: str | None = None
    own_id_source: str | None = None


@dataclass(frozen=True)
class ListingRecord:
    """One page of conversations; `fields` are the requested fields of their messages."""

    at_us: int
    folder: str
    fields: tuple[str, ...]
    conversation_fields: tuple[str, ...]
    conversations: tuple[ConversationRow, ...]


@dataclass(frozen=True)
class MessagesRecord:
    """One page of a conversation's messages, the first one at rank `first_rank`."""

    at_us: int
    conversation_id: str
    updated_us: int | None
    first_rank: int
    fields: tuple[str, ...]
    rows: tuple[object, ...]


@dataclass(frozen=True)
class MessageRecord:
    """One message that was fetched by its id: its content, or what the error means."""

    conversation_id: str
    message_id: str
    created_us: int
    created_at_source: str
    rank: int
    at_us: int
    detail_status: str
    error_code: int | None
    error_subcode: int | None
    fields: tuple[str, ...]
    payload: object


@dataclass(frozen=True)
class StateRecord:
    """The new state of a conversation.

    A walk that came to `walked_down_to_us` proves which messages are missing above that time;
    -1 is the first message, None is no proof.
    """

    at_us: int
    state: ConversationState
    walked_down_to_us: int | None = None


Record = OwnIdentity | CompleteRange | ListingRecord | MessagesRecord | MessageRecord | StateRecord
"""A CompleteRange is what earlier runs read to the end, written by a run that reads it again."""

_KEYS = {"detail_status": "verdict", "error_code": "code", "error_subcode": "subcode"}
"""Fields of a MessageRecord that have other names on disk."""


def encode_record(record: Record) -> dict[str, object]:
    """Return a record as the JSON object that is written."""
    match record:
        case OwnIdentity():
            return {"kind": "account", **vars(record)}
        case CompleteRange():
            since_us, until_us = day_start_us(record.since), to_us(record.until)
            return {"kind": "claim", "since_us": since_us, "listed_until_us": until_us}
        case ListingRecord():
            rows = [row.to_json() for row in record.conversations]
            return {"kind": "listing", **vars(record), "conversations": rows}
        case MessagesRecord():
            return {"kind": "edge", **vars(record)}
        case MessageRecord():
            return {"kind": "message"} | {_KEYS.get(k, k): v for k, v in vars(record).items()}
        case StateRecord():
            rest = {"at_us": record.at_us, "walked_down_to_us": record.walked_down_to_us}
            return {"kind": "state", **vars(record.state), **rest}


def decode_record(value: dict[str, Any]) -> Record:
    """Return the record of a JSON object; KeyError if it is not one that this version writes."""
    kind = value["kind"]
    if kind == "account":
        return OwnIdentity(value["own_id"], value["own_username"], value["own_id_source"])
    if kind == "claim":
        return CompleteRange(day_of(value["since_us"]), from_us(value["listed_until_us"]))
    at_us = value["at_us"]
    if kind == "listing":
        rows = value["conversations"]
        conversations = tuple(read_conversation_row(row, from_us(at_us)) for row in rows)
        fields, names = tuple(value["fields"]), tuple(value["conversation_fields"])
        return ListingRecord(at_us, value["folder"], fields, names, conversations)
    conversation_id = value["conversation_id"]
    if kind == "state":
        names = ("updated_us", "newest_message_id", "complete_since_us", "due_reason")
        state = ConversationState(conversation_id, **{name: value[name] for name in names})
        return StateRecord(at_us, state, value["walked_down_to_us"])
    fields = tuple(value["fields"])
    if kind == "edge":
        rows = limit_rows(value["rows"])
        updated_us, first_rank = value["updated_us"], value["first_rank"]
        return MessagesRecord(at_us, conversation_id, updated_us, first_rank, fields, rows)
    if kind == "message":
        names = tuple(MessageRecord.__dataclass_fields__)
        values = {name: value[_KEYS.get(name, name)] for name in names}
        payload, _ = within_limits(value["payload"])
        return MessageRecord(**(values | {"fields": fields, "payload": payload}))
    raise KeyError(kind)


_UNREADABLE = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    PayloadError,
)
"""Errors of `decode_record` for a value that this version does not write."""


class SharedSpools:
    """Copies of the spools in the bucket: any machine stores what a dead one left.

    Only the holder of an account's lock may use its copies. So they need locks of all machines:
    without them the spool of a live run looks like one of a dead run.
    """

    def __init__(self, backend: StorageBackend) -> None:
        self._backend = backend

    @classmethod
    def of(cls, store: Store) -> "SharedSpools | None":
        """Return the copies of a store's spools; None if it has no bucket or no shared locks."""
        is_shared = store.backend.is_shared and store.locks.are_shared
        return cls(store.backend) if is_shared else None

    def save(self, spool: Path, name: str, content: bytes) -> None:
        """Write a record that is new."""
        self._backend.replace(
            (*self._parts(spool), name), content, None, lambda content, name: None
        )

    def delete(self, spool: Path) -> None:
        """Remove the copy of a spool."""
        self._backend.remove_folder(self._parts(spool))

    def run_ids(self, account: str) -> list[str]:
        """Return the runs of an account that have a copy, oldest first."""
        return self._backend.list_names((SHARED_SPOOL, f"account={account}"))

    def fetch(self, state_path: Path, account: str) -> None:
        """Copy the account's spools to this machine; remove those that another machine stored."""
        folder, run_ids = LocalFolder(state_path), self.run_ids(account)
        for run in _run_folders(state_path, account):
            if run.name not in run_ids and (run / SHARED_MARK).exists():
                _remove_folder(run)
        for run_id in run_ids:
            run = folder.make_folder((SPOOL, account, run_id))
            _write(run, SHARED_MARK, b"")
            for parts in self._backend.list_files(self._parts(run)):
                if not (run / parts[-1]).exists():
                    _write(run, parts[-1], self._read(parts))

    def delete_old(self, now: datetime, accounts: Collection[str]) -> int:
        """Remove copies older than seven days, except of these accounts; return how many."""
        count, limit = 0, f"{now - MAX_AGE:%Y%m%dT%H%M%S}"
        for name in self._backend.list_names((SHARED_SPOOL,)):
            account = name.removeprefix("account=")
            for run_id in () if account in accounts else self.run_ids(account):
                if run_id < limit:
                    self._backend.remove_folder((SHARED_SPOOL, name, run_id))
                    count += 1
        return count

    def rename(self, old: str, new: str) -> None:
        """Move the copies of an account to its new name."""
        self._backend.rename_folder((SHARED_SPOOL, f"account={old}"), f"account={new}")

    def _read(self, parts: Sequence[str]) -> bytes:
        """Return a record; an empty one, which counts as damaged, if it is damaged or gone."""
        try:
            file = self._backend.read(parts)
        except CorruptError:
            return b""
        return file.content if file else b""

    @staticmethod
    def _parts(spool: Path) -> tuple[str, ...]:
        return (SHARED_SPOOL, f"account={spool.parent.name}", spool.name)


@dataclass
class Spool:
    """The write-ahead log of one account's run; several threads may append to it."""

    folder: Path
    shared: SharedSpools | None = None
    damaged: list[str] = field(default_factory=list)
    """File names of the damaged records that the last iteration skipped."""
    unreadable: list[dict[str, Any]] = field(default_factory=list)
    """The undamaged records that the last iteration could not read, as JSON objects."""
    _count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def create(
        cls, state_path: Path, account: str, run_id: str, shared: SharedSpools | None = None
    ) -> "Spool":
        folder = LocalFolder(state_path).make_folder((SPOOL, account, run_id))
        if shared:
            _write(folder, SHARED_MARK, b"")
        return cls(folder, shared)

    def append(self, record: Record, states: Sequence[StateRecord] = ()) -> None:
        """Write a record and new states into one file, synced: after a crash it is whole or absent.

        If the spools are shared, a copy in the bucket is written before this returns.

        Raise StoreError if it cannot be written, PayloadError if it is nested too deeply.
        """
        with PARSE_LOCK:
            content = _encode(record, states)
            digest = _digest(content)
        with self._lock:
            self._count += 1
            name = f"{self._count:08d}-{digest}"
        _write(self.folder, f"{name}.json", content)
        if self.shared:
            self.shared.save(self.folder, f"{name}.json", content)

    def __iter__(self) -> Iterator[Record]:
        """Yield the records in the order of writing; skip and keep those that cannot be read."""
        self.damaged.clear()
        self.unreadable.clear()
        for file in sorted(self.folder.glob("*.json")):
            value = _read(file)
            if value is None:
                self.damaged.append(file.name)
                continue
            try:
                records = [decode_record(value), *map(decode_record, value.get("states", ()))]
            except _UNREADABLE:
                self.unreadable.append(value)
            else:
                yield from records

    def delete(self) -> None:
        """Remove the spool after its records were stored.

        After a StoreError the next run stores the same records once more.
        """
        if self.shared:
            self.shared.delete(self.folder)
        _remove_folder(self.folder)


def left_spools(state_path: Path, account: str, shared: SharedSpools | None = None) -> list[Spool]:
    """Return the spools that earlier runs of the account left, oldest first.

    With `shared` these are the runs of all machines. The caller holds the account's lock then.
    """
    if shared:
        shared.fetch(state_path, account)
    return [
        Spool(run, shared if (run / SHARED_MARK).exists() else None)
        for run in _run_folders(state_path, account)
    ]


def count_left_spools(store: Store, account: str) -> int:
    """Return how many spools earlier runs of the account left, without a lock."""
    shared, runs = SharedSpools.of(store), _run_folders(store.state_path, account)
    if shared is None:
        return len(runs)
    own = {run.name for run in runs if not (run / SHARED_MARK).exists()}
    return len(own.union(shared.run_ids(account)))


def find_damaged_records(state_path: Path) -> list[Path]:
    """Return the damaged records of all spools as sorted paths relative to `state_path`.

    A run in progress may remove its spool meanwhile; its records are stored then.
    """
    found: list[Path] = []
    for account in LocalFolder(state_path).list_names((SPOOL,)):
        for run in _run_folders(state_path, account):
            for file in sorted(run.glob("*.json")):
                try:
                    content = file.read_bytes()
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise storage_error(file, "read", error) from None
                if not _is_undamaged(file, content):
                    found.append(file.relative_to(state_path))
    return found


def delete_old_spools(
    state_path: Path,
    now: datetime,
    accounts: Collection[str] = (),
    shared: SharedSpools | None = None,
) -> int:
    """Remove spools older than seven days, except of these accounts; return how many.

    Raise the first StoreError after trying all.

    A spool may hold the only copy of a message that is no longer among the newest 20.
    So the spool of a configured account stays until it is stored.
    """
    limit = (now - MAX_AGE).timestamp()
    old: list[Path] = []
    with suppress(StoreError):  # a symbolic link: the run that opens the spool reports it
        for account in sorted(
            set(LocalFolder(state_path).list_names((SPOOL,))).difference(accounts)
        ):
            with suppress(StoreError):
                runs = _run_folders(state_path, account)
                old += [run for run in runs if run.stat().st_mtime < limit]
    errors: list[StoreError] = []
    for run in old:
        try:
            _remove_folder(run)
        except StoreError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return len(old) + (shared.delete_old(now, accounts) if shared else 0)


def _write(folder: Path, name: str, content: bytes) -> None:
    """Write a file of a spool in one step, synced."""
    staged = folder / f"{Path(name).stem}.tmp"
    try:
        write_synced(staged, content)
        staged.rename(folder / name)
        sync_folder(folder)
    except OSError as error:
        with suppress(OSError):
            staged.unlink()
        raise StoreError(f"cannot write the spool {folder}: {error.strerror}") from None


def _remove_folder(folder: Path) -> None:
    LocalFolder(folder.parent).remove_folder((folder.name,))


def _encode(record: Record, states: Sequence[StateRecord]) -> bytes:
    value = encode_record(record)
    try:
        return dump_without_paging(value | {"states": [encode_record(state) for state in states]})
    except RecursionError:
        raise PayloadError("an answer is nested too deeply to be kept") from None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _is_undamaged(file: Path, content: bytes) -> bool:
    """Whether the content has the hash in the file's name; names of early versions have none."""
    return file.stem.partition("-")[2] in ("", _digest(content))


def _read(file: Path) -> dict[str, Any] | None:
    """Return the JSON object of a record, None if the file is damaged."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise storage_error(file, "read", error) from None
    try:
        value = load_json(content, unique_keys=True) if _is_undamaged(file, content) else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _run_folders(state_path: Path, account: str) -> list[Path]:
    """Return the spool folders of an account, oldest first; StoreError for a symbolic link."""
    folder = LocalFolder(state_path)
    runs = (folder.path((SPOOL, account, run)) for run in folder.list_names((SPOOL, account)))
    return [run for run in runs if run.is_dir()]
