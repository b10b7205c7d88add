"""Erase one person from everything an account holds; others' rows keep their bytes or, in shared files, their values.

A conversation between us and the person leaves whole. In one with others too (a group) what the person sent leaves,
and who they are leaves every row that is left; what others wrote stays. Damaged files that were set aside may hold
anybody, so the account's all go. Cut off half-way, it is simply run again: what is to be erased is noted before
anything else (`<state>/forget/`), until `finish`. It knows the lake; the spool is its caller's, and so is making the
derived tables again, where the raw rows they are made from are still kept.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.errors import CorruptError, StoreError
from convo_pipeline.lake import ledger
from convo_pipeline.lake.columns import read_columns
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import (
    Receipt,
    hashes_of,
    keyed_hash,
    make_key,
    read_receipts,
    save_receipt,
)
from convo_pipeline.privacy.remains import erase_copies
from convo_pipeline.schema import TABLES, Table
from convo_pipeline.storage.backend import remove_file, write_file
from convo_pipeline.storage.local import LocalFolder
from convo_pipeline.tables.people import (
    IdMatcher,
    is_one_to_one,
    is_sent_by,
    people_in,
    people_of_message,
    without_person,
)

PENDING = "forget"
ERASED = "(forgotten)"
Keep = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class ErasurePlan:
    """Where a person is found in an account."""

    account: str
    person_id: str
    own: frozenset[str] = frozenset()
    """Conversations between us and the person: they leave whole."""
    shared: frozenset[str] = frozenset()
    """Conversations with others too."""
    sent: frozenset[str] = frozenset()
    """Ids of the messages that leave."""
    places: frozenset[tuple[str, date]] = frozenset()
    """Tables and days that hold any of it."""
    row_counts: dict[str, int] = field(default_factory=dict)

    @cached_property
    def mentions(self) -> IdMatcher:
        """How their ids are found in texts."""
        return IdMatcher((self.person_id, *self.own, *self.sent))

    @cached_property
    def own_ids(self) -> pa.Array:
        return _texts(self.own)

    @cached_property
    def met_ids(self) -> pa.Array:
        return _texts(self.own | self.shared)

    @cached_property
    def shared_ids(self) -> pa.Array:
        return _texts(self.shared)

    @cached_property
    def sent_ids(self) -> pa.Array:
        return _texts(self.sent)

    @property
    def is_empty(self) -> bool:
        return not (self.own or self.shared or self.sent or self.row_counts)

    def __or__(self, other: "ErasurePlan") -> "ErasurePlan":
        counts = {
            name: max(self.row_counts.get(name, 0), other.row_counts.get(name, 0))
            for name in {**self.row_counts, **other.row_counts}
        }
        own = self.own | other.own
        shared = (self.shared | other.shared) - own
        sent, places = self.sent | other.sent, self.places | other.places
        return replace(self, own=own, shared=shared, sent=sent, places=places, row_counts=counts)


def plan_erasure(store: Store, account: str, person_id: str) -> ErasurePlan:
    """Return where the person is found; a StoreError says that this is the account itself."""
    identity = store.state.identity(account)
    if not identity and not any(account in store.accounts(table) for table in TABLES):
        raise StoreError(f'there is no account "{account}"')
    own_ids = {identity.page_id, identity.own_id} if identity else set()
    finder = _Finder(store, account, person_id, {str(own_id) for own_id in own_ids if own_id})
    for table, (names, read) in finder.readers.items():
        for day in store.days(table, account):
            read(_read_or_set_aside(store, TABLES[table], account, day, names))
    if person_id in finder.own_ids:
        raise StoreError(f"{person_id} is the account itself, not a person who wrote to it")
    found = finder.traces()
    pending = [
        each
        for each in read_pending(store)
        if (each.account, each.person_id) == (account, person_id)
    ]
    return found | pending[0] if pending else found


def erase(store: Store, traces: ErasurePlan, now: datetime) -> Receipt:
    """Take what was found out of every file and the state; return the receipt.

    The caller holds `lock_for_erasure` since before the traces were found, and calls `finish` at the very end.
    """
    key = make_key(store.state_path)
    person = keyed_hash(key, traces.person_id)
    _save_pending(store, traces, person)
    held = next(
        (each for each in read_receipts(store, traces.account) if each.person == person), None
    )
    receipt = held or Receipt(traces.account, person, (), now)
    conversations = {*receipt.conversations, *hashes_of(key, traces.own)}
    receipt = replace(receipt, conversations=tuple(sorted(conversations)))
    save_receipt(store, receipt)
    _erase_rows(store, traces)
    _erase_texts(store, traces)
    erase_copies(store, traces.account, now.astimezone(UTC).date())
    store.state.database.wipe_free_pages()
    if traces.row_counts or receipt.finished_at is None:
        receipt = replace(receipt, finished_at=now, row_counts=traces.row_counts)
    save_receipt(store, receipt)
    return receipt


def finish(store: Store, receipt: Receipt) -> None:
    """Let go of the note of an erasure, which names the person: nothing of it is left to be done."""
    remove_file(_pending_folder(store), (PENDING, _pending_name(receipt.account, receipt.person)))


@contextmanager
def lock_for_erasure(store: Store, account: str) -> Iterator[None]:
    """Keep everybody from adding rows to an account, and from copying them into other files."""
    with store.lock_account(account), store.lock_derivation(account):
        yield


def read_pending(store: Store) -> list[ErasurePlan]:
    """Return the erasures that were cut off."""
    folder = _pending_folder(store)
    contents = [
        folder.read_bytes((PENDING, name))
        for name in folder.list_names((PENDING,))
        if name.endswith(".json")
    ]
    return [_read_traces(load_json(content)) for content in contents if content is not None]


@dataclass
class _Finder:
    """Reads every table that can name a person; the derived ones too, for raw rows may be gone already."""

    store: Store
    account: str
    person_id: str
    own_ids: set[str]
    people: dict[str, set[str]] = field(default_factory=dict)
    met: set[str] = field(default_factory=set)
    sent: dict[str, str] = field(default_factory=dict)

    @property
    def readers(self) -> dict[str, tuple[Sequence[str], Callable[[pa.Table], None]]]:
        """How each table is read, and which of its columns."""
        return {
            "raw_conversations": ((*_PAYLOAD, "own_id"), self._read_conversations),
            "raw_message_details": ((*_PAYLOAD, "message_id"), self._read_details),
            "participants": self._reader("participant_id"),
            "messages": ((*_SPOKEN, "message_id"), self._read_messages),
            "reactions": self._reader("reactor_id"),
            "conversations": self._reader("customer_id"),
        }

    def traces(self) -> ErasurePlan:
        """Sort the conversations in which the person was met, then find all their rows and count what leaves."""
        ours = frozenset(self.own_ids)
        own = {
            each
            for each in self.met
            if is_one_to_one(self.people.get(each, set()), ours, self._is_person)
        }
        sent = {message for message, conversation in self.sent.items() if conversation not in own}
        met = ErasurePlan(
            self.account, self.person_id, frozenset(own), frozenset(self.met - own), frozenset(sent)
        )
        rest: set[str] = set()
        counts: Counter[str] = Counter()
        places = set()
        for table in _WITH_CONVERSATION if self.met else ():
            for day in self.store.days(table.name, self.account):
                rows = _read_or_set_aside(self.store, table, self.account, day, _ids_of(table))
                rows = rows.filter(pc.is_in(rows["conversation_id"], value_set=met.met_ids))
                if rows.num_rows:
                    places.add((table.name, day))
                    counts[table.name] += pc.sum(_is_leaving(table, rows, met)).as_py()
                    rest.update(_messages_in(rows, met))
        row_counts = {name: count for name, count in counts.items() if count}
        found = replace(met, sent=met.sent | rest, places=frozenset(places), row_counts=row_counts)
        for day in self.store.days("raw_rejects", self.account):
            rows = _read_or_set_aside(
                self.store, TABLES["raw_rejects"], self.account, day, _REJECTED
            )
            found = _add_rejects(found, day, rows)
        return found

    def _is_person(self, found_id: str) -> bool:
        return found_id == self.person_id

    def _read_conversations(self, rows: pa.Table) -> None:
        self.own_ids.update(value for value in pc.unique(rows["own_id"]).to_pylist() if value)
        mentions = rows.filter(_mentions(rows["payload"], self.person_id))
        for conversation_id, text in zip(
            *(mentions[name].to_pylist() for name in _PAYLOAD), strict=True
        ):
            payload = _payload(text)
            if without_person(payload, self._is_person) != payload:
                self._meet(conversation_id, people_in(payload.get("participants")))

    def _read_details(self, rows: pa.Table) -> None:
        mentions = rows.filter(_mentions(rows["payload"], self.person_id))
        columns = (mentions[name].to_pylist() for name in (*_PAYLOAD, "message_id"))
        for conversation_id, text, message_id in zip(*columns, strict=True):
            payload = _payload(text)
            if without_person(payload, self._is_person) != payload:
                self._meet(conversation_id, people_of_message(payload))
            if is_sent_by(payload, self._is_person):
                self.sent[message_id] = conversation_id

    def _reader(self, name: str) -> tuple[Sequence[str], Callable[[pa.Table], None]]:
        return ("conversation_id", name), lambda rows: self._read_column(rows, name)

    def _read_column(self, rows: pa.Table, name: str) -> None:
        for conversation_id in rows.filter(pc.equal(rows[name], self.person_id))[
            "conversation_id"
        ].to_pylist():
            self._meet(conversation_id, set())
        if name == "participant_id":
            met = rows.filter(pc.is_in(rows["conversation_id"], value_set=_texts(self.met)))
            for conversation_id, person in zip(
                met["conversation_id"].to_pylist(), met[name].to_pylist(), strict=True
            ):
                self._meet(conversation_id, {person})

    def _read_messages(self, rows: pa.Table) -> None:
        flat = pc.list_flatten(rows["recipient_ids"])
        parents = pc.list_parent_indices(rows["recipient_ids"]).filter(
            pc.equal(flat, self.person_id)
        )
        sent = rows.filter(pc.fill_null(pc.equal(rows["sender_id"], self.person_id), False))
        self.sent |= dict(
            zip(sent["message_id"].to_pylist(), sent["conversation_id"].to_pylist(), strict=True)
        )
        for row in pa.concat_tables([sent, rows.take(parents)]).select(list(_SPOKEN)).to_pylist():
            self._meet(
                row["conversation_id"], {row["sender_id"], *(row["recipient_ids"] or ())} - {None}
            )

    def _meet(self, conversation_id: str, people: set[str]) -> None:
        self.met.add(conversation_id)
        self.people.setdefault(conversation_id, set()).update({self.person_id}, people)


_PAYLOAD = ("conversation_id", "payload")
_REJECTED = ("reason", "payload")
_WITH_PEOPLE = ("payload", "extra", "recipient_ids")
"""Columns that may name several people, or one among other things: JSON as it came, and a list."""
_SPOKEN = ("conversation_id", "sender_id", "recipient_ids")
_WITH_CONVERSATION = tuple(
    table for table in TABLES.values() if "conversation_id" in table.column_names
)


_PERSON = {"participants": "participant_id", "reactions": "reactor_id"}
"""Derived tables of which a row is about one person, and the column that says whom."""


def _ids_of(table: Table) -> list[str]:
    names = ("conversation_id", "message_id", _PERSON.get(table.name))
    return [name for name in names if name in table.column_names]


def _read_or_set_aside(
    store: Store, table: Table, account: str, day: date, names: Sequence[str]
) -> pa.Table:
    """Read columns of a partition; one that is damaged is set aside by the store, and goes with all that were."""
    try:
        return read_columns(store, table, account, day, names)
    except CorruptError:
        return table.schema.empty_table().select(names)


def _messages_in(rows: pa.Table, traces: ErasurePlan) -> list[str]:
    """Return the ids of the messages of their own conversations: they leave, whoever sent them."""
    if "message_id" not in rows.column_names:
        return []
    of_own = rows.filter(pc.is_in(rows["conversation_id"], value_set=traces.own_ids))
    return of_own["message_id"].to_pylist()  # type: ignore[no-any-return]


def _add_rejects(found: ErasurePlan, day: date, rows: pa.Table) -> ErasurePlan:
    count = sum(_name_any(rows, found.mentions))
    return _add(found, "raw_rejects", day, count) if count else found


def _add(found: ErasurePlan, table: str, day: date, count: int) -> ErasurePlan:
    counts = found.row_counts | ({table: found.row_counts.get(table, 0) + count} if count else {})
    return replace(found, places=found.places | {(table, day)}, row_counts=counts)


def _is_leaving(table: Table, rows: pa.Table, traces: ErasurePlan) -> pa.ChunkedArray:
    """Say which rows leave: those of their own conversations, what they sent in others, and what is about them there."""
    is_leaving = pc.is_in(rows["conversation_id"], value_set=traces.own_ids)
    if "message_id" in table.column_names and traces.sent:
        is_shared = pc.is_in(
            rows["conversation_id"], value_set=traces.shared_ids
        )  # elsewhere the id is another message's
        is_sent = pc.and_(is_shared, pc.is_in(rows["message_id"], value_set=traces.sent_ids))
        is_leaving = pc.or_(is_leaving, is_sent)
    if table.name in _PERSON:
        is_leaving = pc.or_(is_leaving, pc.equal(rows[_PERSON[table.name]], traces.person_id))
    return is_leaving


def _erase_rows(store: Store, traces: ErasurePlan) -> None:
    """Raw rows first: what is derived from what is left is then right."""
    order = list(TABLES)
    for table, day in sorted(traces.places, key=lambda place: (order.index(place[0]), place[1])):
        with suppress(CorruptError):  # set aside by the store: it goes with the others
            store.shrink(table, traces.account, day, _keeper(TABLES[table], traces))


def _keeper(table: Table, traces: ErasurePlan) -> Keep:
    """Return what leaves of a table's rows those that stay, without the person."""
    if table.name == "raw_rejects":
        return lambda rows: _filter(rows, pa.array(_name_any(rows, traces.mentions)))
    if traces.shared:
        return lambda rows: _cut_rows(_filter(rows, _is_leaving(table, rows, traces)), traces)
    return lambda rows: _filter(rows, _is_leaving(table, rows, traces))


def _name_any(rows: pa.Table, mentions: IdMatcher) -> list[bool]:
    """Say which rejected entries name one of these ids, in themselves or in why they were rejected."""
    texts = zip(*(rows[name].to_pylist() for name in _REJECTED), strict=True)
    return [any(map(mentions.matches, entry)) for entry in texts]


def _filter(rows: pa.Table, is_leaving: pa.Array | pa.ChunkedArray) -> pa.Table:
    return (
        rows.filter(pc.invert(is_leaving)) if rows.num_rows and pc.any(is_leaving).as_py() else rows
    )


def _cut_rows(rows: pa.Table, traces: ErasurePlan) -> pa.Table:
    """Take the person out of the rows of shared conversations that stay."""
    is_shared = pc.is_in(rows["conversation_id"], value_set=traces.shared_ids)
    for name in _WITH_PEOPLE:
        if name in rows.column_names:
            rows = _cut_column(rows, name, is_shared, traces.person_id)
    return rows


def _cut_column(rows: pa.Table, name: str, is_shared: pa.ChunkedArray, person_id: str) -> pa.Table:
    """Return the very rows given where there was nothing to cut."""
    column = rows[name]
    is_list = pa.types.is_list(column.type)
    cut = _without if is_list else _cut
    touched = is_shared if is_list else pc.and_(is_shared, _mentions(column, person_id))
    if not pc.any(touched).as_py():
        return rows
    pairs = zip(column.to_pylist(), touched.to_pylist(), strict=True)
    left = pa.chunked_array(
        [[cut(value, person_id) if is_touched else value for value, is_touched in pairs]],
        column.type,
    )
    index = rows.schema.get_field_index(name)
    return rows if left.equals(column) else rows.set_column(index, rows.schema.field(index), left)


def _without(ids: list[str] | None, person_id: str) -> list[str] | None:
    return ids and [each for each in ids if each != person_id]


def _cut(text: str, person_id: str) -> str:
    return dump_json(without_person(_payload(text), lambda found: found == person_id)).decode()


def _payload(text: str) -> dict[str, object]:
    try:
        value = load_json(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _mentions(texts: pa.ChunkedArray, person_id: str) -> pa.ChunkedArray:
    escaped = dump_json(person_id).decode()[1:-1]
    return pc.fill_null(pc.match_substring(texts, escaped), False)


def _texts(values: Iterable[str]) -> pa.Array:
    return pa.array(sorted(values), pa.string())


def _erase_texts(store: Store, traces: ErasurePlan) -> None:
    """Take the ids out of the state and out of what runs said of themselves."""

    def redact(text: str) -> str:
        """Only texts are looked into: a number in a report is not an id."""
        if text.startswith("{"):
            with suppress(ValueError):
                held = load_json(text)
                left = _map_texts(held, redact)
                return text if left == held else dump_json(left).decode()
        return traces.mentions.replace(text, ERASED)

    store.state.forget(traces.account, traces.own, traces.shared, traces.sent, redact)
    ledger.change_runs(store, lambda rows: ledger.redact_account(rows, traces.account, redact))


def _map_texts(value: object, change: Callable[[str], str]) -> object:
    if isinstance(value, dict):
        return {key: _map_texts(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_texts(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def _pending_folder(store: Store) -> LocalFolder:
    return LocalFolder(store.state_path)


def _pending_name(account: str, person: str) -> str:
    return f"{account}.{hashlib.sha256(person.encode()).hexdigest()[:16]}.json"


def _save_pending(store: Store, traces: ErasurePlan, person: str) -> None:
    folder, parts = _pending_folder(store), (PENDING, _pending_name(traces.account, person))
    texts: dict[str, object] = {
        name: sorted(getattr(traces, name)) for name in ("own", "shared", "sent")
    }
    texts["places"] = sorted([table, str(day)] for table, day in traces.places)
    content = {
        "account": traces.account,
        "person_id": traces.person_id,
        "row_counts": traces.row_counts,
        **texts,
    }
    write_file(folder, parts, dump_json(content))


def _read_traces(value: object) -> ErasurePlan:
    assert isinstance(value, dict)
    sets = {name: frozenset(value[name]) for name in ("own", "shared", "sent")}
    places = frozenset((table, date.fromisoformat(day)) for table, day in value["places"])
    return ErasurePlan(
        value["account"],
        value["person_id"],
        places=places,
        row_counts=dict(value["row_counts"]),
        **sets,
    )
