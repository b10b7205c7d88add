"""Who was forgotten, as keyed hashes: it keeps them from coming back, and tells nobody who they were.

`<root>/.forgotten/account=<name>/<hash>.json` is the receipt of one erasure: when, how many rows of which table, the
person's and their conversations' hashes. The key is `forget.key` beside the state, apart from the receipts.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from convo_pipeline.errors import StoreError
from convo_pipeline.json_text import dump_json, load_json
from convo_pipeline.lake.files import Store
from convo_pipeline.lake.folder import make_private_folders, refusal, write_synced
from convo_pipeline.lake.place import write_file

RECEIPTS = ".forgotten"
KEY_FILE = "forget.key"
KEY_BYTES = 32


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
    receipts = read_receipts(store, account)
    if not receipts:
        return Suppression(b"", frozenset())
    key = _read_key(store.state_path / KEY_FILE)
    if key is None:
        raise StoreError(
            f"{store.state_path / KEY_FILE} is missing, so forgotten people cannot be told apart from others: put it"
            f" back from your backup; without one, remove {store.place.location((RECEIPTS,))}, forget these people again and"
            " expect them to come back until then"
        )
    return Suppression(
        key, frozenset(each for receipt in receipts for each in (receipt.person, *receipt.conversations))
    )


def read_receipts(store: Store, account: str) -> list[Receipt]:
    """Return the account's receipts, sorted by the person's hash."""
    folder = (RECEIPTS, f"account={account}")
    names = [name for name in store.place.names(folder) if name.endswith(".json")]
    found = (store.place.read_marked((*folder, name)) for name in names)
    return [Receipt.from_json(load_json(content)) for content, _ in filter(None, found)]


def save_receipt(store: Store, receipt: Receipt) -> None:
    """Put a receipt in place, durably."""
    parts = (RECEIPTS, f"account={receipt.account}", f"{receipt.person[:32]}.json")
    write_file(store.place, parts, dump_json(receipt.to_json()))


def rename_receipts(store: Store, old: str, new: str) -> None:
    """Give an account's receipts its new name: the folder says whose they are."""
    if f"account={old}" in store.place.names((RECEIPTS,)):
        store.place.rename_folder((RECEIPTS, f"account={old}"), f"account={new}")


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
        raise refusal(path, "write", error) from None
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
        raise refusal(path, "read", error) from None
    with open(descriptor, "rb") as file:
        key = file.read()
    if len(key) < KEY_BYTES:
        raise StoreError(f"{path} is no key of {KEY_BYTES} bytes: put it back from your backup")
    return key
