"""Who was forgotten, as keyed hashes: it keeps them from coming back, and tells nobody who they were.

`<root>/.forgotten/account=<name>/<hash>.json` is the receipt of one erasure: when, how many rows of which table, the
person's and their conversations' hashes. The key is `forget.key` beside the state, apart from the receipts. A seal under
that key tells whether a receipt, or the key, is not what was written: it would let back in whom nobody may store.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.errors import StoreError
from convo_pipeline.lake.store import Store
from convo_pipeline.storage.backend import write_file
from convo_pipeline.storage.local import make_private_folders, storage_error, write_synced

RECEIPTS = ".forgotten"
KEY_FILE = "forget.key"
KEY_BYTES = 32
SEAL = "seal"
"""Beside a receipt's fields: a keyed hash of these, as they were written; receipts of earlier versions have none."""


@dataclass(frozen=True)
class Receipt:
    """What is left of an erasure; `finished_at` is None while it is under way."""

    account: str
    person: str
    conversations: tuple[str, ...]
    begun_at: datetime
    finished_at: datetime | None = None
    row_counts: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        times = {"begun_at": self.begun_at.isoformat()}
        ended = {"finished_at": self.finished_at.isoformat() if self.finished_at else None}
        return asdict(self) | times | ended

    @classmethod
    def from_json(cls, value: Any) -> "Receipt":
        if not set(value) <= {SEAL, *(each.name for each in fields(cls))}:
            raise ValueError("a receipt has no such field")
        ended = value["finished_at"]
        return cls(
            value["account"],
            value["person"],
            tuple(value["conversations"]),
            datetime.fromisoformat(value["begun_at"]),
            datetime.fromisoformat(ended) if ended else None,
            dict(value["row_counts"]),
        )


@dataclass(frozen=True)
class Suppression:
    """An account's forgotten people and conversations, for asking only."""

    key: bytes
    hashes: frozenset[str]

    @property
    def is_empty(self) -> bool:
        return not self.hashes

    @cached_property
    def _known(self) -> dict[str, bool]:
        return {}

    def holds(self, found_id: str) -> bool:
        """Say whether this id, of a person or a conversation, was forgotten."""
        if not self.hashes:
            return False
        if found_id not in self._known:
            self._known[found_id] = keyed_hash(self.key, found_id) in self.hashes
        return self._known[found_id]


def keyed_hash(key: bytes, found_id: str) -> str:
    """Return HMAC-SHA256 of an id, hexadecimal: without the key it cannot be found by trying ids."""
    return hmac.digest(key, found_id.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()


def read_suppression(store: Store, account: str) -> Suppression:
    """Return who must not come back; a StoreError says that the key is lost, for then nobody could tell."""
    contents = _read_contents(store, account)
    if not contents:
        return Suppression(b"", frozenset())
    key = _read_key(store.state_path / KEY_FILE)
    if key is None:
        raise StoreError(
            f"{store.state_path / KEY_FILE} is missing, so forgotten people cannot be told apart from others: put it"
            f" back from your backup; without one, remove {store.backend.location((RECEIPTS,))}, forget these people again and"
            " expect them to come back until then"
        )
    receipts = [_read_receipt(store, account, *found) for found in contents.items()]
    if not all(_is_as_written(content, key) for content in contents.values()):
        raise StoreError(
            f"a receipt in {store.backend.location((RECEIPTS, f'account={account}'))}, or {store.state_path / KEY_FILE}, is not"
            " what was written, so forgotten people cannot be told apart from others: put both back from your backup"
        )
    return Suppression(
        key,
        frozenset(
            each for receipt in receipts for each in (receipt.person, *receipt.conversations)
        ),
    )


def read_receipts(store: Store, account: str) -> list[Receipt]:
    """Return the account's receipts, sorted by the person's hash."""
    return [
        _read_receipt(store, account, *found) for found in _read_contents(store, account).items()
    ]


def _read_contents(store: Store, account: str) -> dict[tuple[str, ...], bytes]:
    folder = (RECEIPTS, f"account={account}")
    listed = {name for name in store.backend.list_names(folder) if name.endswith(".json")}
    places = [(*folder, name) for name in sorted(listed | store.state.receipts(account))]
    return {parts: found[0] for parts in places if (found := store.backend.read(parts))}


def _read_receipt(store: Store, account: str, parts: tuple[str, ...], content: bytes) -> Receipt:
    """Return a receipt, of the account in whose folder it lies now."""
    try:
        return replace(Receipt.from_json(load_json(content)), account=account)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StoreError(
            f"{store.backend.location(parts)} cannot be read: put it back from your backup"
        ) from None


def _sealed(fields: dict[str, object], key: bytes) -> bytes:
    return dump_json(fields | {SEAL: keyed_hash(key, dump_json(fields).decode())})


def _is_as_written(content: bytes, key: bytes) -> bool:
    value: Any = load_json(content)
    seal = value.pop(SEAL, None)
    return seal is None or _sealed(value, key) == content


def save_receipt(store: Store, receipt: Receipt) -> None:
    """Put a receipt in place, durably."""
    parts = (RECEIPTS, f"account={receipt.account}", f"{receipt.person[:32]}.json")
    store.state.save_receipt(receipt.account, parts[-1])
    write_file(store.backend, parts, _sealed(receipt.to_json(), make_key(store.state_path)))


def rename_receipts(store: Store, old: str, new: str) -> None:
    """Give an account's receipts its new name: the folder says whose they are."""
    if f"account={old}" in store.backend.list_names((RECEIPTS,)):
        store.backend.rename_folder((RECEIPTS, f"account={old}"), f"account={new}")


def make_key(state_path: Path) -> bytes:
    """Return the key, made at its first use; of two who make it at once the first wins."""
    path = state_path / KEY_FILE
    if (key := _read_key(path)) is not None:
        return key
    staged = path.with_name(f"{KEY_FILE}.{os.getpid()}.tmp")
    try:
        make_private_folders(state_path)
        write_synced(staged, secrets.token_bytes(KEY_BYTES))
        if not path.exists():
            os.link(staged, path)
    except FileExistsError:
        pass
    except OSError as error:
        raise storage_error(path, "write", error) from None
    finally:
        staged.unlink(missing_ok=True)
    key = _read_key(path)
    assert key is not None
    return key


def hashes_of(key: bytes, found_ids: Iterable[str]) -> tuple[str, ...]:
    """Return the ids' hashes, sorted."""
    return tuple(sorted(keyed_hash(key, found_id) for found_id in found_ids))


def _read_key(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(path, "read", error) from None
    with open(descriptor, "rb") as file:
        key = file.read()
    if len(key) < KEY_BYTES:
        raise StoreError(f"{path} is no key of {KEY_BYTES} bytes: put it back from your backup")
    return key
