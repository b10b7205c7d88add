"""Find everything that an account stores about one person: the plan of an erasure.

The plan is saved in `<state>/forget/` before the erasure changes any file, and deleted at its
end. An interrupted erasure continues from the saved plan.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.errors import CorruptError, StoreError
from convo_pipeline.lake.columns import read_columns
from convo_pipeline.lake.store import Store
from convo_pipeline.privacy.erasure import PendingFiles
from convo_pipeline.schema import TABLES, Table, current_name
from convo_pipeline.tables.payloads import read_object
from convo_pipeline.tables.people import (
    NAME_KEYS,
    IdMatcher,
    is_one_to_one,
    is_sent_by,
    names_in,
    people_in,
    people_of_message,
    without_person,
)

PLANS_FOLDER = "forget"
PERSON_COLUMNS = {"participant_days": "participant_id", "reactions": "reactor_id"}
"""Derived tables with one person per row, and the column with the person's id."""
_REJECT_COLUMNS = ("reason", "payload")
_SAVED_NAMES = {
    "own": "direct_conversations",
    "shared": "group_conversations",
    "sent": "message_ids",
    "names": "names",
}
"""Names in a saved plan, and the fields of `ErasurePlan` that they hold."""


@dataclass(frozen=True)
class ErasurePlan:
    """What leaves an account when one person is erased."""

    account: str
    person_id: str
    direct_conversations: frozenset[str] = frozenset()
    """Conversations between the business and the person only: they leave completely."""
    group_conversations: frozenset[str] = frozenset()
    """Conversations with other people: only the person's messages and ids leave."""
    message_ids: frozenset[str] = frozenset()
    """All messages of direct conversations, and the person's messages in groups."""
    names: frozenset[str] = frozenset()
    """Names, user names and addresses of the person: they leave what others' rows say of them."""
    partitions: frozenset[tuple[str, date]] = frozenset()
    """Tables and days with rows of these conversations."""
    row_counts: dict[str, int] = field(default_factory=dict)
    """Number of rows that leave, by table."""

    @property
    def is_empty(self) -> bool:
        return not (
            self.direct_conversations
            or self.group_conversations
            or self.message_ids
            or self.row_counts
        )

    @cached_property
    def id_matcher(self) -> IdMatcher:
        """Finds the ids that leave in free text."""
        return IdMatcher((self.person_id, *self.direct_conversations, *self.message_ids))

    @cached_property
    def name_matcher(self) -> IdMatcher:
        """Finds the person's id and names in what others' rows hold."""
        return IdMatcher((self.person_id, *self.names))

    def without_person(self, value: object) -> object:
        """Return a JSON value without the person, the names, and ids of messages that leave."""
        return without_person(value, self._is_theirs, self.name_matcher.cut)

    def may_hold_person(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return a mask of the JSON texts that `without_person` may change."""
        traces = [re.escape(_escaped(each)) for each in (self.person_id, *self.names)]
        pattern = "|".join([*traces, '"reply_to"'])
        return pc.fill_null(pc.match_substring_regex(texts, pattern), False)

    def _is_theirs(self, found_id: str) -> bool:
        return found_id == self.person_id or found_id in self.message_ids

    def _is_reject_of_person(self, reason: str, text: str) -> bool:
        if any(map(self.id_matcher.matches, (reason, text))):
            return True
        try:
            payload = load_json(text)
        except ValueError:  # A key of the API can be somebody's name, such as "message".
            names = [name for name in self.names if not re.fullmatch("[a-z_]+", name)]
            return IdMatcher(names).matches(text)
        return self.without_person(payload) != payload

    @cached_property
    def group_array(self) -> pa.Array:
        return _text_array(self.group_conversations)

    @cached_property
    def direct_array(self) -> pa.Array:
        return _text_array(self.direct_conversations)

    @cached_property
    def _message_array(self) -> pa.Array:
        return _text_array(self.message_ids)

    def leaving_rows(self, table: Table, rows: pa.Table) -> pa.Array | pa.ChunkedArray:
        """Return a mask of the rows that leave; the other rows of groups stay."""
        if table.name == "raw_rejects":
            texts = zip(*(rows[name].to_pylist() for name in _REJECT_COLUMNS), strict=True)
            return pa.array([self._is_reject_of_person(*entry) for entry in texts], pa.bool_())
        is_leaving = pc.is_in(rows["conversation_id"], value_set=self.direct_array)
        if "message_id" in table.column_names and self.message_ids:
            # Message ids are only unique within a conversation.
            is_group = pc.is_in(rows["conversation_id"], value_set=self.group_array)
            is_sent = pc.is_in(rows["message_id"], value_set=self._message_array)
            is_leaving = pc.or_(is_leaving, pc.and_(is_group, is_sent))
        if table.name in PERSON_COLUMNS:
            is_person = pc.equal(rows[PERSON_COLUMNS[table.name]], self.person_id)
            is_leaving = pc.or_(is_leaving, is_person)
        if "reactor_username" in rows.column_names and self.names:  # a reaction without an id
            is_group = pc.is_in(rows["conversation_id"], value_set=self.group_array)
            is_named = pc.is_in(rows["reactor_username"], value_set=_text_array(self.names))
            is_leaving = pc.or_(is_leaving, pc.and_(is_group, is_named))
        return is_leaving

    def merged_with(self, other: "ErasurePlan") -> "ErasurePlan":
        """Return the union of two plans for the same person."""
        direct = self.direct_conversations | other.direct_conversations
        groups = self.group_conversations | other.group_conversations
        counts = {
            name: max(self.row_counts.get(name, 0), other.row_counts.get(name, 0))
            for name in {**self.row_counts, **other.row_counts}
        }
        return replace(
            self,
            direct_conversations=direct,
            group_conversations=groups - direct,
            message_ids=self.message_ids | other.message_ids,
            names=self.names | other.names,
            partitions=self.partitions | other.partitions,
            row_counts=counts,
        )


def plan_erasure(store: Store, account: str, person_id: str) -> ErasurePlan:
    """Return what leaves when the person is erased, with what an interrupted erasure planned.

    A StoreError says that the account is unknown, or that the id is the account's own. The caller
    holds both locks of the account.
    """
    identity = store.state.identity(account)
    if not identity and not any(account in store.accounts(table) for table in TABLES):
        raise StoreError(f'there is no account "{account}"')
    search = _PersonSearch(store, account, person_id)
    if identity:
        search.account_ids.update(filter(None, (identity.page_id, identity.own_id)))
    search.read_tables()
    if person_id in search.account_ids:
        raise StoreError(f"{person_id} is the account itself, not a person who wrote to it")
    plan = search.make_plan()
    for pending in read_pending_plans(store):
        if (pending.account, pending.person_id) == (account, person_id):
            plan = plan.merged_with(pending)
    return plan


def save_pending_plan(store: Store, plan: ErasurePlan, person_hash: str) -> None:
    """Save a plan before its erasure starts."""
    content = {
        "account": plan.account,
        "person_id": plan.person_id,
        "row_counts": plan.row_counts,
        "places": sorted([table, str(day)] for table, day in plan.partitions),
        **{name: sorted(getattr(plan, field)) for name, field in _SAVED_NAMES.items()},
    }
    PendingFiles(store, PLANS_FOLDER).save(_plan_name(plan.account, person_hash), content)


def remove_pending_plan(store: Store, account: str, person_hash: str) -> None:
    """Delete a saved plan: nothing of its erasure is left to do."""
    PendingFiles(store, PLANS_FOLDER).remove(_plan_name(account, person_hash))


def read_pending_plans(store: Store) -> list[ErasurePlan]:
    """Return the plans of interrupted erasures."""
    files = PendingFiles(store, PLANS_FOLDER)
    return [
        ErasurePlan(
            saved["account"],
            saved["person_id"],
            partitions=frozenset(
                (current_name(name), date.fromisoformat(day)) for name, day in saved["places"]
            ),
            row_counts=dict(saved["row_counts"]),
            **{field: frozenset(saved.get(name, ())) for name, field in _SAVED_NAMES.items()},
        )
        for saved in map(files.read, files.names())
        if saved is not None
    ]


def rename_pending_plans(store: Store, old: str, new: str) -> None:
    """Give the plans of interrupted erasures the new name of their account."""
    files = PendingFiles(store, PLANS_FOLDER)
    for name in files.names():
        saved = files.read(name)
        if saved is not None and saved["account"] == old:
            files.save(f"{new}.{name.partition('.')[2]}", saved | {"account": new})
            files.remove(name)


def _plan_name(account: str, person_hash: str) -> str:
    return f"{account}.{hashlib.sha256(person_hash.encode()).hexdigest()[:16]}"


class _PersonSearch:
    """Search of the tables that name people.

    It also reads derived tables: retention may have removed the raw rows already.
    """

    def __init__(self, store: Store, account: str, person_id: str) -> None:
        self.account_ids: set[str] = set()
        self._store, self._account, self._person_id = store, account, person_id
        self._id_matcher = IdMatcher([person_id])
        self._people: dict[str, set[str]] = {}
        """The people of each conversation in which the person occurs."""
        self._member_of: set[str] = set()
        """The conversations in which the person writes or is written to, not only mentioned."""
        self._names: set[str] = set()
        self._sent: dict[str, str] = {}
        """The conversation of each message that the person sent."""

    def read_tables(self) -> None:
        """Find the person's conversations and messages."""
        readers: dict[str, tuple[Sequence[str], Callable[[pa.Table], None]]] = {
            "raw_conversations": (("conversation_id", "payload", "own_id"), self._read_payloads),
            "raw_message_details": (
                ("conversation_id", "payload", "message_id"),
                self._read_payloads,
            ),
            "participant_days": (
                ("conversation_id", "participant_id", *NAME_KEYS),
                self._read_participants,
            ),
            "messages": (
                (
                    "conversation_id",
                    "message_id",
                    "sender_id",
                    "recipient_ids",
                    "sender_name",
                    "sender_username",
                ),
                self._read_messages,
            ),
            "reactions": (
                ("conversation_id", "reactor_id", "reactor_username"),
                self._read_person_column,
            ),
            "conversation_days": (
                ("conversation_id", "customer_id", "customer_name", "customer_username"),
                self._read_person_column,
            ),
        }
        for name, (columns, read) in readers.items():
            for day in self._store.days(name, self._account):
                read(self._read(TABLES[name], day, columns))

    def make_plan(self) -> ErasurePlan:
        """Split the conversations into direct ones and groups, then find all rows of them."""
        account_ids = frozenset(self.account_ids)
        direct = frozenset(
            conversation_id
            for conversation_id, people in self._people.items()
            if conversation_id in self._member_of
            and is_one_to_one(people, account_ids, self._is_person)
        )
        message_ids = {
            message_id for message_id, found_in in self._sent.items() if found_in not in direct
        }
        plan = ErasurePlan(
            self._account,
            self._person_id,
            direct,
            frozenset(self._people.keys() - direct),
            frozenset(message_ids),
            frozenset(self._names),
        )
        partitions: set[tuple[str, date]] = set()
        counts: Counter[str] = Counter()
        known_conversations = _text_array(self._people)
        for table in TABLES.values() if self._people else ():
            if "conversation_id" not in table.column_names:
                continue
            person_column = PERSON_COLUMNS.get(table.name)
            names = ("conversation_id", "message_id", person_column, "reactor_username")
            columns = [name for name in names if name in table.column_names]
            for day in self._store.days(table.name, self._account):
                rows = self._read(table, day, columns)
                rows = rows.filter(pc.is_in(rows["conversation_id"], value_set=known_conversations))
                if not rows.num_rows:
                    continue
                partitions.add((table.name, day))
                counts[table.name] += pc.sum(plan.leaving_rows(table, rows)).as_py()
                if "message_id" in columns:
                    is_direct = pc.is_in(rows["conversation_id"], value_set=plan.direct_array)
                    message_ids.update(rows.filter(is_direct)["message_id"].to_pylist())
        plan = replace(plan, message_ids=frozenset(message_ids))
        for day in self._store.days("raw_rejects", self._account):
            rows = self._read(TABLES["raw_rejects"], day, _REJECT_COLUMNS)
            count = pc.sum(plan.leaving_rows(TABLES["raw_rejects"], rows)).as_py()
            if count:
                partitions.add(("raw_rejects", day))
                counts["raw_rejects"] += count
        row_counts = {name: count for name, count in counts.items() if count}
        return replace(plan, partitions=frozenset(partitions), row_counts=row_counts)

    def _read(self, table: Table, day: date, columns: Sequence[str]) -> pa.Table:
        """Read columns; a damaged file is quarantined and leaves with all quarantined files."""
        try:
            return read_columns(self._store, table, self._account, day, columns)
        except CorruptError:
            return table.schema.empty_table().select(columns)

    def _is_person(self, found_id: str) -> bool:
        return found_id == self._person_id

    def _add(self, conversation_id: str, people: Iterable[str], *, is_member: bool = True) -> None:
        if is_member:
            self._member_of.add(conversation_id)
        self._people.setdefault(conversation_id, {self._person_id}).update(people)

    def _read_payloads(self, rows: pa.Table) -> None:
        """Read a table with payloads of conversations or messages."""
        if "own_id" in rows.column_names:
            self.account_ids.update(filter(None, pc.unique(rows["own_id"]).to_pylist()))
        for row in rows.filter(contains_id(rows["payload"], self._person_id)).to_pylist():
            payload = read_object(row["payload"]) or {}
            if without_person(payload, self._is_person, self._id_matcher.cut) != payload:
                people = people_in(payload.get("participants")) | people_of_message(payload)
                is_member = self._person_id in people
                self._add(row["conversation_id"], people, is_member=is_member)
                self._names |= names_in(payload, self._is_person)
            if "message_id" in row and is_sent_by(payload, self._is_person):
                self._sent[row["message_id"]] = row["conversation_id"]

    def _read_person_column(self, rows: pa.Table) -> None:
        """Read a table with `conversation_id`, a column with one person's id, and their names."""
        is_reaction = rows.column_names[1] == "reactor_id"
        for conversation_id, _, *names in _rows(rows.filter(pc.equal(rows[1], self._person_id))):
            self._add(conversation_id, (), is_member=not is_reaction)
            self._names.update(filter(None, names))

    def _read_participants(self, rows: pa.Table) -> None:
        self._read_person_column(rows)
        is_known = pc.is_in(rows["conversation_id"], value_set=_text_array(self._people))
        for row in rows.filter(is_known).to_pylist():
            self._add(row["conversation_id"], {row["participant_id"]})

    def _read_messages(self, rows: pa.Table) -> None:
        is_sender = pc.fill_null(pc.equal(rows["sender_id"], self._person_id), False)
        sent = rows.filter(is_sender)
        self._sent |= {row["message_id"]: row["conversation_id"] for row in sent.to_pylist()}
        for name in ("sender_name", "sender_username"):
            self._names.update(filter(None, sent[name].to_pylist()))
        is_recipient = pc.equal(pc.list_flatten(rows["recipient_ids"]), self._person_id)
        received = rows.take(pc.list_parent_indices(rows["recipient_ids"]).filter(is_recipient))
        for row in pa.concat_tables([sent, received]).to_pylist():
            people = {row["sender_id"], *(row["recipient_ids"] or ())} - {None}
            self._add(row["conversation_id"], people)


def contains_id(texts: pa.ChunkedArray, found_id: str) -> pa.ChunkedArray:
    """Return a mask of the JSON texts that contain an id, also as part of a longer one."""
    return pc.fill_null(pc.match_substring(texts, _escaped(found_id)), False)


def _escaped(text: str) -> str:
    """Return a text as it stands inside a JSON string."""
    return dump_json(text).decode()[1:-1]


def _rows(rows: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in rows.columns), strict=True)


def _text_array(values: Iterable[str]) -> pa.Array:
    return pa.array(sorted(values), pa.string())
