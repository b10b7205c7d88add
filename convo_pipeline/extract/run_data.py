"""Everything one account's run received: messages grouped by UTC date on disk, the rest in memory.

The records come from the API calls of this run, or from the spool of a killed run. The same records
give the same data. It calls no API and writes no table.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from convo_pipeline.base.threads import PARSE_LOCK
from convo_pipeline.base.times import DAY_US, SECOND_US, day_of, day_start_us
from convo_pipeline.errors import ConvoError, StoreError
from convo_pipeline.extract.missing import PageSpan, page_span
from convo_pipeline.extract.observations import (
    ConversationObservation,
    MessageObservation,
    Reject,
    read_conversation,
    read_message,
    read_messages,
    reject,
)
from convo_pipeline.extract.own_id import OwnIdClues
from convo_pipeline.extract.spool import (
    ListingRecord,
    MessageRecord,
    MessagesRecord,
    OwnIdentity,
    Record,
    Spool,
    StateRecord,
    encode_record,
)
from convo_pipeline.extract.suppression_filter import SuppressionFilter
from convo_pipeline.graph.responses import ConversationRow
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import AccountSettings
from convo_pipeline.state.records import ConversationState
from convo_pipeline.tables.complete_range import CompleteRange

ROWS_PER_FILE = 5_000
LEAST_ROWS_PER_FILE = 250
ROWS_IN_MEMORY = 50_000
"""Messages that the accounts of a run keep in memory together, some 4 kB each."""
SCHEMA = pa.schema(
    [
        pa.field("conversation_id", pa.string()),
        pa.field("message_id", pa.string()),
        pa.field("created_us", pa.int64()),
        pa.field("created_at_source", pa.string()),
        pa.field("rank", pa.int64()),
        pa.field("at_us", pa.int64()),
        pa.field("detail_status", pa.string()),
        pa.field("error_code", pa.int64()),
        pa.field("error_subcode", pa.int64()),
        pa.field("fields", pa.string()),
        pa.field("payload", pa.string()),
    ]
)
"""Columns of MessageObservation."""
ESTIMATED_SOURCES = ("conversation", "listing")
"""Sources of a time that is not the message's own."""


def share_of_memory(account_count: int) -> int:
    """Return how many messages each account may keep in memory.

    >>> share_of_memory(1), share_of_memory(50), share_of_memory(1_000)
    (5000, 1000, 250)
    """
    return min(ROWS_PER_FILE, max(LEAST_ROWS_PER_FILE, ROWS_IN_MEMORY // account_count))


Key = tuple[str, str]
"""(conversation_id, message_id)."""
Placements = dict[Key, date]
"""The days on which messages without a time of their own are stored."""


@dataclass
class RunData:
    """The data of one run; several threads may append records.

    Messages by date are scratch files in the spool's folder: one Arrow file per 5,000 messages,
    with one record batch per date. After a kill they are made again from the spool.
    """

    spool: Spool
    suppression_filter: SuppressionFilter
    placements: Placements
    rows_per_file: int = ROWS_PER_FILE
    """Messages that stay in memory before they are written to a scratch file."""
    is_complete: bool = True
    """Whether every record of the spool was added."""
    conversations: dict[str, ConversationObservation] = field(default_factory=dict)
    ids_with_messages: set[str] = field(default_factory=set)
    """Conversations of which at least one message was observed."""
    states: dict[str, ConversationState] = field(default_factory=dict)
    walked_down_to: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Per conversation: the time down to which every message was listed, and when."""
    spans: dict[str, list[PageSpan]] = field(default_factory=dict)
    untimed: list[MessageObservation] = field(default_factory=list)
    """Messages without a time of their own; `place_untimed` puts them on days."""
    rejects: dict[str, Reject] = field(default_factory=dict)
    set_aside_count: int = 0
    """Records that could not be read and are stored as rejects."""
    own_identity: OwnIdentity | None = None
    swept_range: CompleteRange | None = None
    """What earlier runs read to the end, if this run reads it again to find missed messages."""
    _own_id_clues: OwnIdClues = field(default_factory=OwnIdClues)
    _waiting_states: list[StateRecord] = field(default_factory=list)
    _waiting_messages: list[MessageObservation] = field(default_factory=list)
    _batches: dict[date, list[tuple[Path, int]]] = field(default_factory=dict)
    _file_count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def create(
        cls,
        store: Store,
        account: AccountSettings,
        spool: Spool,
        rows_per_file: int = ROWS_PER_FILE,
    ) -> "RunData":
        """Return empty data whose scratch files lie in the spool's folder."""
        filtered, placements = (
            SuppressionFilter.read(store, account),
            {
                key: day  # a day before the start was the mistake of a wrong clock
                for key, day in store.state.placements(account.name).items()
                if day >= account.start_date
            },
        )
        data = cls(spool, filtered, placements, rows_per_file)
        data.make_folder()
        return data

    @classmethod
    def read(cls, store: Store, account: AccountSettings, spool: Spool) -> "RunData":
        """Return the data of a spool.

        If a record is damaged, the rest is kept, but no range counts as read to the end and no
        message as missing. The next run reads those conversations again.
        """
        data = cls.create(store, account, spool)
        for record in spool:
            data.add(record)
        written_us = int(spool.folder.stat().st_mtime * SECOND_US)
        for value in spool.unreadable:
            data._set_aside(value, written_us)
        if spool.damaged:
            data.clear_proofs()
        return data

    def clear_proofs(self) -> None:
        """Let no range count as read to the end, and no message as missing."""
        for proofs in (self.states, self.walked_down_to, self.spans):
            proofs.clear()

    def make_folder(self) -> None:
        """Make an empty folder for the scratch files."""
        with _write_errors(self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for old in self._folder.iterdir():
                old.unlink()

    def append(self, record: Record, states: Sequence[StateRecord] = ()) -> None:
        """Write a record and states to the spool, with the states that wait, then add them."""
        with self._lock:
            states = [*states, *self._waiting_states]
            self._waiting_states.clear()
        self.spool.append(record, states)
        with self._lock, PARSE_LOCK:
            try:
                for each in (record, *states):
                    self.add(each)
            except BaseException:
                self.is_complete = False
                raise

    def append_later(self, state: StateRecord) -> None:
        """Let the next record carry a conversation's state: it needs no file and no sync.

        Its messages are in the spool already. If the process is killed before the next record,
        the next run reads the conversation again.
        """
        with self._lock:
            self._waiting_states.append(state)

    def flush(self) -> None:
        """Write the states that wait for a record."""
        with self._lock:
            first = self._waiting_states.pop(0) if self._waiting_states else None
        if first:
            self.append(first)

    def clean(self, rows: Sequence[ConversationRow]) -> list[ConversationRow]:
        """Return listed conversations without the data of erased people."""
        with self._lock:
            return self.suppression_filter.clean_conversations(rows)

    def add(self, record: Record) -> None:
        """Add one record without the data of erased people.

        A row that cannot be read becomes a reject, so that it costs only itself.
        """
        try:
            self._add(record)
        except (ConvoError, MemoryError):
            raise
        except Exception:
            for part in _split(record):
                try:
                    self._add(part)
                except (ConvoError, MemoryError):
                    raise
                except Exception:
                    at_us = getattr(part, "at_us", 0)
                    self._set_aside(encode_record(part), at_us)

    def _set_aside(self, value: dict[str, Any], at_us: int) -> None:
        self.set_aside_count += 1
        cleaned = self.suppression_filter.clean_value(value)
        self._add_reject(reject(cleaned, "a record that this version cannot read", at_us))

    def _add(self, record: Record) -> None:
        match self.suppression_filter.clean(record):
            case OwnIdentity() as identity:
                self.own_identity = identity
            case CompleteRange() as complete_range:
                self.swept_range = complete_range
            case ListingRecord() as listing:
                for row in listing.conversations:
                    self._add_conversation(row, listing)
            case MessagesRecord() as page:
                self._add_messages(page)
            case MessageRecord() as message:
                self._add_observations([read_message(message)])
                self._own_id_clues.add_message(message.conversation_id, message.payload)
            case StateRecord(at_us, state, walked_down_to_us):
                self.states[state.conversation_id] = state
                if walked_down_to_us is not None:
                    self.walked_down_to[state.conversation_id] = (walked_down_to_us, at_us)

    def days(self) -> list[date]:
        """Return the dates that have messages, oldest first."""
        self._write_batches()
        return sorted(self._batches)

    def read_day(self, day: date) -> pa.Table:
        """Return the messages of a date in the order of arrival, with the columns of SCHEMA."""
        self._write_batches()
        batches = [_read_batch(path, index) for path, index in self._batches.get(day, ())]
        return pa.Table.from_batches(batches, schema=SCHEMA)

    def find_identity(
        self, store: Store, account: AccountSettings, stored_count: int
    ) -> OwnIdentity:
        """Decide who the account is from what was fetched, stored and observed.

        `stored_count` is how many conversations earlier runs stored.
        """
        known, stored = store.state.identity(account.name), OwnIdentity()
        if known:
            stored = OwnIdentity(known.own_id, known.own_username, known.own_id_source)
        return self._own_id_clues.decide(
            self.own_identity or OwnIdentity(),
            stored,
            stored_count,
        )

    def place_untimed(self, stored_days: Placements) -> Placements:
        """Put messages without a time on a day, for good; return the days.

        It is the day on which the message is stored (`stored_days`), else the day of the same
        message with a time in this run, else the day of the estimated time.
        """
        wanted = {_key(message) for message in self.untimed}
        known: Placements = {}
        for day in self.days() if wanted else ():
            known |= dict.fromkeys(wanted & _keys(self.read_day(day)), day)
        known |= stored_days
        placed: Placements = {}
        for message in self.untimed:
            key = _key(message)
            day = placed.setdefault(key, known.get(key) or day_of(message.created_us))
            self._put_on_days([_on_day(message, day)])
        self.untimed.clear()
        return placed

    def _add_conversation(self, row: ConversationRow, listing: ListingRecord) -> None:
        at_us, conversation_id = listing.at_us, row.conversation_id
        if conversation_id is None:
            self._add_reject(reject(row.to_json(), "a conversation without an id", at_us))
            return
        found = read_conversation(row, conversation_id, listing)
        newest = self.conversations.get(conversation_id, found)
        if (at_us, found.folder or "") >= (newest.at_us, newest.folder or ""):
            self.conversations[conversation_id] = found
        if isinstance(row.payload, dict):
            self._own_id_clues.add_conversation(conversation_id, row.payload)
        if row.malformed_messages is not None:
            reason = f"the messages of conversation {conversation_id} are no list"
            self._add_reject(reject(row.malformed_messages, reason, at_us))
        rows, updated_us = row.messages.rows, row.updated_us
        self._add_messages(
            MessagesRecord(at_us, conversation_id, updated_us, 1, listing.fields, rows)
        )

    def _add_messages(self, page: MessagesRecord) -> None:
        found = read_messages(page)
        span = page_span(found, page.at_us)
        if span:
            self.spans.setdefault(page.conversation_id, []).append(span)
        self._add_observations([each for each in found if isinstance(each, MessageObservation)])
        for each in found:
            if isinstance(each, Reject):
                self._add_reject(each)
        for row in page.rows:
            self._own_id_clues.add_message(page.conversation_id, row)

    def _add_observations(self, messages: list[MessageObservation]) -> None:
        """Put messages on their days; those without a time of their own wait for their day."""
        self.ids_with_messages.update({message.conversation_id for message in messages})
        timed: list[MessageObservation] = []
        for message in messages:
            day = self.placements.get(_key(message)) if self.placements else None
            if day is not None:
                timed.append(_on_day(message, day))
            elif message.created_at_source in ESTIMATED_SOURCES:
                self.untimed.append(message)
            else:
                timed.append(message)
        self._put_on_days(timed)

    def _add_reject(self, entry: Reject) -> None:
        self.rejects.setdefault(entry.digest, entry)

    @property
    def _folder(self) -> Path:
        return self.spool.folder / "days"

    def _put_on_days(self, messages: Sequence[MessageObservation]) -> None:
        self._waiting_messages += messages
        if len(self._waiting_messages) >= self.rows_per_file:
            self._write_batches()

    def _write_batches(self) -> None:
        if not self._waiting_messages:
            return
        self._file_count += 1
        path = self._folder / f"{self._file_count:06d}.arrow"
        with _write_errors(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
                for index, (day, batch) in enumerate(
                    _split_by_day(_as_batch(self._waiting_messages))
                ):
                    writer.write_batch(batch)
                    self._batches.setdefault(day, []).append((path, index))
        self._waiting_messages.clear()


def _split(record: Record) -> Iterator[Record]:
    """Yield a record for each of its rows."""
    match record:
        case ListingRecord():
            for row in record.conversations:
                yield replace(record, conversations=(row,))
        case MessagesRecord():
            for rank, message in enumerate(record.rows, record.first_rank):
                yield replace(record, first_rank=rank, rows=(message,))
        case _:
            yield record


def _key(message: MessageObservation) -> Key:
    return message.conversation_id, message.message_id


def _keys(messages: pa.Table) -> set[Key]:
    columns = (messages[name].to_pylist() for name in ("conversation_id", "message_id"))
    return set(zip(*columns, strict=True))


def _on_day(message: MessageObservation, day: date) -> MessageObservation:
    """Keep a message on the day where it is stored: a row never moves to another day.

    The time that it gets there loses every merge against the stored time.
    """
    if day_of(message.created_us) == day:
        return message
    last_us = day_start_us(day) + DAY_US - SECOND_US
    return message._replace(created_us=last_us, created_at_source="listing")


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StoreError(f"cannot write the spool {path}: {reason}") from None


def _read_batch(path: Path, index: int) -> pa.RecordBatch:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).get_batch(index)


def _as_batch(messages: Sequence[MessageObservation]) -> pa.RecordBatch:
    columns = zip(*messages, strict=True)
    arrays = [
        # payloads are JSON that this program wrote: their UTF-8 needs no check
        pa.array(column, pa.binary()).view(field.type)
        if field.name == "payload"
        else pa.array(column, field.type)
        for column, field in zip(columns, SCHEMA, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _split_by_day(batch: pa.RecordBatch) -> Iterator[tuple[date, pa.RecordBatch]]:
    """Split rows by the UTC day of their time, each day's rows in the order of arrival."""
    times = batch.column("created_us").to_numpy()
    days = times // DAY_US
    order = np.argsort(days, kind="stable")
    starts = np.flatnonzero(np.diff(days[order], prepend=days[order[0]] - 1))
    batch = batch.take(pa.array(order))
    for start, stop in zip(starts, [*starts[1:], len(days)], strict=True):
        yield day_of(int(times[order[start]])), batch.slice(start, stop - start)
