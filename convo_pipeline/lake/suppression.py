"""Erased people as keyed hashes, so that they are not stored again and cannot be identified.

`<root>/.forgotten/account=<name>/<hash>.json` is the receipt of one erasure: when, how many rows of
which table, and the hashes of the person and the conversations. The key is `forget.key` in the
state's folder, apart from the receipts. Each receipt has a seal, a keyed hash of its fields. It
shows a damaged receipt or a wrong key, which would let an erased person in again.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.errors import StoreError
from convo_pipeline.lake.store import Store
from convo_pipeline.state.notes import KEY_FILE, Notes
from convo_pipeline.storage.backend import Parts, write_file
from convo_pipeline.tables.people import REPLACEMENT

RECEIPTS = ".forgotten"
KEY_BYTES = 32
MOST_NAME_LIST_CHARACTERS = 10_000
_BETWEEN_NAMES = re.compile(r"(\s*[,;&|/+\n]\s*|\s+\w{1,3}\s+(?=\S))")
"""What stands between the names of a list: a sign, or a short word such as "and" or "et"."""
_NUMBER = re.compile(r"(?<!\w)\d{5,40}(?!\w)")
SEAL = "seal"
"""Key of the seal in a receipt. Receipts of earlier versions have none."""


@dataclass(frozen=True)
class Receipt:
    """The record of an erasure; `finished_at` is None until it is finished."""

    account: str
    person: str
    conversations: tuple[str, ...]
    begun_at: datetime
    finished_at: datetime | None = None
    row_counts: dict[str, int] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    """Hashes of the person's names, each for one group. Receipts of earlier versions have none."""

    def to_json(self) -> dict[str, object]:
        finished_at = self.finished_at.isoformat() if self.finished_at else None
        times = {"begun_at": self.begun_at.isoformat(), "finished_at": finished_at}
        return asdict(self) | times

    @classmethod
    def from_json(cls, value: Any) -> "Receipt":
        if not set(value) <= {SEAL, *(column.name for column in fields(cls))}:
            raise ValueError("a receipt has no such field")
        finished_at = value["finished_at"]
        return cls(
            value["account"],
            value["person"],
            tuple(value["conversations"]),
            datetime.fromisoformat(value["begun_at"]),
            datetime.fromisoformat(finished_at) if finished_at else None,
            dict(value["row_counts"]),
            tuple(value.get("names", ())),
        )


@dataclass(frozen=True)
class SuppressionList:
    """An account's erased people and conversations."""

    key: bytes
    hashes: frozenset[str]

    @property
    def is_empty(self) -> bool:
        return not self.hashes

    @cached_property
    def _cache(self) -> dict[str, bool]:
        return {}

    def redact(self, conversation_id: str, text: str) -> str:
        """Return the text with `REPLACEMENT` for each id and, in their groups, each name.

        A name is found alone or in a list, such as a group's own name.
        """
        if not self.hashes:
            return text

        def cut_name(part: str) -> str:
            is_theirs = part.strip() and self.contains(scoped_name(conversation_id, part))
            return REPLACEMENT if is_theirs else part

        def cut_id(match: re.Match[str]) -> str:
            return REPLACEMENT if self.contains(match[0]) else match[0]

        whole = cut_name(text)
        if whole == text and len(text) <= MOST_NAME_LIST_CHARACTERS:
            whole = "".join(map(cut_name, _BETWEEN_NAMES.split(text)))
        return _NUMBER.sub(cut_id, whole)

    def contains(self, id_: str) -> bool:
        """Return whether a person or conversation with this id was erased."""
        if not self.hashes:
            return False
        if id_ not in self._cache:
            self._cache[id_] = keyed_hash(self.key, id_) in self.hashes
        return self._cache[id_]


def keyed_hash(key: bytes, id_: str) -> str:
    """Return the HMAC-SHA256 of an id in hexadecimal. Without the key it cannot be guessed."""
    return hmac.digest(key, id_.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()


def scoped_name(conversation_id: str, name: str) -> str:
    """Return the text whose hash stands for a name in one group, in any spelling of the case."""
    return f"{conversation_id}\0{name.strip().casefold()}"


def hash_ids(key: bytes, ids: Iterable[str]) -> tuple[str, ...]:
    """Return the keyed hashes of ids, sorted."""
    return tuple(sorted(keyed_hash(key, id_) for id_ in ids))


def read_suppression(store: Store, account: str) -> SuppressionList:
    """Return the account's erased people; raise StoreError if the key or a receipt is damaged."""
    contents = _read_contents(store, account)
    if not contents:
        return SuppressionList(b"", frozenset())
    key_path = store.notes.location("", KEY_FILE)
    key = _read_key(store.notes)
    if key is None:
        raise StoreError(
            f"{key_path} is missing, so erased people cannot be recognised: put it back from your"
            f" backup; without one, remove {store.backend.location((RECEIPTS,))}, forget these"
            " people again and expect them to come back until then"
        )
    receipts = [_read_receipt(store, account, *file) for file in contents.items()]
    if not all(_has_valid_seal(content, key) for content in contents.values()):
        raise StoreError(
            f"a receipt in {store.backend.location((RECEIPTS, f'account={account}'))}, or"
            f" {key_path}, is not what was written, so erased people cannot be recognised: put both"
            " back from your backup"
        )
    hashes = {
        hash_
        for receipt in receipts
        for hash_ in (receipt.person, *receipt.conversations, *receipt.names)
    }
    return SuppressionList(key, frozenset(hashes))


def read_receipts(store: Store, account: str) -> list[Receipt]:
    """Return the account's receipts, sorted by the person's hash."""
    contents = _read_contents(store, account)
    return [_read_receipt(store, account, *file) for file in contents.items()]


def save_receipt(store: Store, receipt: Receipt) -> None:
    """Store a receipt durably."""
    parts = (RECEIPTS, f"account={receipt.account}", f"{receipt.person[:32]}.json")
    store.state.save_receipt(receipt.account, parts[-1])
    write_file(store.backend, parts, _with_seal(receipt.to_json(), make_key(store.notes)))


def rename_receipts(store: Store, old: str, new: str) -> None:
    """Rename the folder of an account's receipts."""
    if f"account={old}" in store.backend.list_names((RECEIPTS,)):
        store.backend.rename_folder((RECEIPTS, f"account={old}"), f"account={new}")


def make_key(notes: Notes) -> bytes:
    """Return the key; make it if there is none. Of two processes that make it the first wins."""
    key = _read_key(notes)
    if key is None:
        notes.create("", KEY_FILE, secrets.token_bytes(KEY_BYTES))
        key = _read_key(notes)
    assert key is not None
    return key


def _read_contents(store: Store, account: str) -> dict[Parts, bytes]:
    folder = (RECEIPTS, f"account={account}")
    listed = {name for name in store.backend.list_names(folder) if name.endswith(".json")}
    files = [(*folder, name) for name in sorted(listed | store.state.receipts(account))]
    return {parts: file.content for parts in files if (file := store.backend.read(parts))}


def _read_receipt(store: Store, account: str, parts: Parts, content: bytes) -> Receipt:
    """Return a receipt. Its account is that of its folder, because an account can be renamed."""
    try:
        return replace(Receipt.from_json(load_json(content)), account=account)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StoreError(
            f"{store.backend.location(parts)} cannot be read: put it back from your backup"
        ) from None


def _with_seal(values: dict[str, object], key: bytes) -> bytes:
    return dump_json(values | {SEAL: keyed_hash(key, dump_json(values).decode())})


def _has_valid_seal(content: bytes, key: bytes) -> bool:
    value: Any = load_json(content)
    seal = value.pop(SEAL, None)
    return seal is None or _with_seal(value, key) == content


def _read_key(notes: Notes) -> bytes | None:
    key = notes.read("", KEY_FILE)
    if key is not None and len(key) < KEY_BYTES:
        path = notes.location("", KEY_FILE)
        raise StoreError(f"{path} is no key of {KEY_BYTES} bytes: put it back from your backup")
    return key
