"""From the spool into the raw tables: one streaming pass sorts rows by date, then each date is merged once.

Everything here can be done again: a spool left by a killed run is loaded by the next one, and merging the same
rows twice changes nothing. It calls no API.
"""

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline import schema
from convo_pipeline.errors import CorruptError, PayloadError
from convo_pipeline.extract import rows
from convo_pipeline.extract.buckets import Buckets
from convo_pipeline.extract.own_id import OwnIdClues
from convo_pipeline.extract.rows import ConversationSighting, Reject, Sighting
from convo_pipeline.extract.spool import Record, Spool
from convo_pipeline.graph.pages import nested_page
from convo_pipeline.json_text import dump_json
from convo_pipeline.lake.files import Commit, Store
from convo_pipeline.lake.state import AccountIdentity, ConversationState
from convo_pipeline.settings import AccountSettings

KEY = ["conversation_id", "message_id"]
STATUS_RANKS = {status: rank for rank, status in enumerate(schema.DETAIL_STATUSES)}


@dataclass
class Loaded:
    """What one spool brought into the store."""

    commits: list[Commit] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    own_id: str | None = None
    own_username: str | None = None
    own_id_source: str | None = None
    quarantined: list[str] = field(default_factory=list)


def load_spool(store: Store, account: AccountSettings, spool: Spool) -> Loaded:
    """Merge everything the spool holds into the account's raw tables and its state."""
    contents = _Contents(Buckets(spool.folder / "buckets"), store.state.placements(account.name))
    with paused_collector():
        for record in spool:
            contents.read(record)
    _place_untimed(store, account, contents)
    identity = contents.identity(store, account)
    loaded = Loaded(own_id=identity.own_id, own_username=identity.own_username, own_id_source=identity.source)
    writer = _Writer(store, account, contents, loaded)
    for day in contents.days(account.start_date):
        writer.write_day(day)
    writer.write_lonely_conversations()
    writer.write_rejects()
    _save_states(store, account, contents, loaded)
    return loaded


@contextmanager
def paused_collector() -> Iterator[None]:
    """Let the cycle collector rest while many small values that hold no cycles come and go."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(frozen=True)
class _Identity:
    own_id: str | None = None
    own_username: str | None = None
    source: str | None = None


@dataclass
class _Contents:
    """The spool's records, sorted: messages by date on disk, conversations and states in memory."""

    buckets: Buckets
    placements: dict[tuple[str, str], date]
    conversations: dict[str, ConversationSighting] = field(default_factory=dict)
    states: dict[str, ConversationState] = field(default_factory=dict)
    walked_down_to: dict[str, tuple[int, int]] = field(default_factory=dict)
    untimed: list[Sighting] = field(default_factory=list)
    rejects: dict[str, Reject] = field(default_factory=dict)
    clues: OwnIdClues = field(default_factory=OwnIdClues)
    known: _Identity = _Identity()
    conversations_with_messages: set[str] = field(default_factory=set)

    def read(self, record: Record) -> None:
        """Sort one record; an unknown kind is a defect of this program."""
        READERS[str(record["kind"])](self, record)

    def read_account(self, record: Record) -> None:
        self.known = _Identity(record["own_id"], record["own_username"], record["own_id_source"])  # type: ignore[arg-type]

    def read_listing(self, record: Record) -> None:
        at_us, fields = _at(record), _names(record, "fields")
        for row in record["conversations"]:  # type: ignore[attr-defined]
            conversation_id = rows.readable_id(row)
            if conversation_id is None:
                self._reject(rows.reject(row, "a conversation without an id", at_us))
                continue
            sighting = rows.read_conversation(
                row, conversation_id, str(record["folder"]), _names(record, "conversation_fields"), at_us
            )
            self._keep_conversation(sighting, row)
            self._add_messages(
                self._nested(row, at_us), sighting.conversation_id, sighting.updated_us, 1, fields, at_us
            )
        for state in record["states"]:  # type: ignore[attr-defined]
            self.read_state(state)

    def read_edge(self, record: Record) -> None:
        self._add_messages(
            tuple(record["rows"]),  # type: ignore[arg-type]
            str(record["conversation_id"]),
            record["updated_us"],  # type: ignore[arg-type]
            int(str(record["first_rank"])),
            _names(record, "fields"),
            _at(record),
        )

    def read_message(self, record: Record) -> None:
        """A message asked singly: its content, or the verdict on the refusal."""
        place = (record["conversation_id"], record["message_id"], record["created_us"], record["created_at_source"])
        verdict, at_us = str(record["verdict"]), _at(record)
        payload = record["payload"]
        detailed = verdict == "detailed"
        self._add(
            Sighting(
                *place,  # type: ignore[arg-type]
                record["rank"],  # type: ignore[arg-type]
                at_us,
                verdict,
                record["code"],  # type: ignore[arg-type]
                record["subcode"],  # type: ignore[arg-type]
                rows.fields_json(_names(record, "fields"), at_us) if detailed else None,
                dump_json(payload).decode() if detailed else None,
            )
        )
        self.clues.add_message(payload)

    def read_state(self, record: Record) -> None:
        """How far a conversation is held now."""
        conversation_id = str(record["conversation_id"])
        self.states[conversation_id] = ConversationState(
            conversation_id=conversation_id,
            updated_us=record["updated_us"],  # type: ignore[arg-type]
            newest_message_id=record["newest_message_id"],  # type: ignore[arg-type]
            complete_since_us=record["complete_since_us"],  # type: ignore[arg-type]
            due_reason=record["due_reason"],  # type: ignore[arg-type]
        )
        if record["walked_down_to_us"] is not None:
            self.walked_down_to[conversation_id] = (record["walked_down_to_us"], _at(record))  # type: ignore[assignment]

    def identity(self, store: Store, account: AccountSettings) -> _Identity:
        """Return who we are: as asked, else as known from before, else as inferred."""
        if self.known.own_id:
            return self.known
        held = store.state.identity(account.name)
        if held and held.own_id:
            return _Identity(held.own_id, held.own_username, held.own_id_source)
        own_id = self.clues.verdict()
        return _Identity(own_id, None, "inferred" if own_id else None)

    def days(self, start_date: date) -> list[date]:
        return [day for day in self.buckets.days() if day >= start_date]

    def _keep_conversation(self, sighting: ConversationSighting, row: dict[str, object]) -> None:
        held = self.conversations.get(sighting.conversation_id)
        if held is None or (sighting.at_us, sighting.folder or "") >= (held.at_us, held.folder or ""):
            self.conversations[sighting.conversation_id] = sighting
        if not self.known.own_id:
            self.clues.add_conversation(sighting.conversation_id, row)

    def _add_messages(
        self,
        entries: Sequence[object],
        conversation_id: str,
        updated_us: int | None,
        first_rank: int,
        fields: tuple[str, ...],
        at_us: int,
    ) -> None:
        for sighting in rows.read_messages(
            entries,
            conversation_id=conversation_id,
            updated_us=updated_us,
            first_rank=first_rank,
            fields=fields,
            at_us=at_us,
        ):
            if isinstance(sighting, Reject):
                self._reject(sighting)
            else:
                self._add(sighting)
        if not self.known.own_id:
            for entry in entries:
                self.clues.add_message(entry)

    def _add(self, sighting: Sighting) -> None:
        self.conversations_with_messages.add(sighting.conversation_id)
        if self.placements:
            day = self.placements.get((sighting.conversation_id, sighting.message_id))
            if day is not None:
                self.buckets.add(_moved(sighting, day), day)
                return
        if sighting.created_at_source in ("conversation", "listing"):
            self.untimed.append(sighting)
        else:
            self.buckets.add(sighting)

    def _nested(self, row: dict[str, object], at_us: int) -> Sequence[object]:
        try:
            return nested_page(row.get("messages"), rows.EPOCH).rows
        except PayloadError:
            self._reject(rows.reject(row.get("messages"), "a conversation's messages are no list", at_us))
            return ()

    def _reject(self, entry: Reject) -> None:
        self.rejects.setdefault(entry.digest, entry)


READERS = {
    "account": _Contents.read_account,
    "listing": _Contents.read_listing,
    "edge": _Contents.read_edge,
    "message": _Contents.read_message,
    "state": _Contents.read_state,
}


def _moved(sighting: Sighting, day: date) -> Sighting:
    """Keep a message on the day where it was first placed: a row never moves.

    The time it takes there loses every merge against the one that is held.
    """
    if rows.day_of(sighting.created_us) == day:
        return sighting
    last_us = rows.start_us(day) + rows.DAY - rows.SECOND
    return sighting._replace(created_us=last_us, created_at_source="listing")


def _at(record: Record) -> int:
    return int(str(record["at_us"]))


def _names(record: Record, key: str) -> tuple[str, ...]:
    return tuple(record[key])  # type: ignore[arg-type]


def _place_untimed(store: Store, account: AccountSettings, contents: _Contents) -> None:
    """File messages without a time of their own: where they stand already, else by the fallback, for good."""
    if not contents.untimed:
        return
    wanted = {(sighting.conversation_id, sighting.message_id) for sighting in contents.untimed}
    held = dict(_held_days(store, account.name, wanted))
    placed: dict[tuple[str, str], date] = {}
    for sighting in contents.untimed:
        key = (sighting.conversation_id, sighting.message_id)
        day = placed.setdefault(key, held.get(key) or rows.day_of(sighting.created_us))
        contents.buckets.add(_moved(sighting, day), day)
    store.state.save_placements(account.name, placed)
    contents.untimed.clear()


def _held_days(store: Store, account: str, wanted: set[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], date]]:
    for day in store.days("raw_message_ids", account):
        held = store.read("raw_message_ids", account, day).select(KEY)
        for key in wanted.intersection(zip(*(column.to_pylist() for column in held.columns), strict=True)):
            yield key, day


@dataclass
class _Writer:
    """Merges one date after the other; keeps the counts of the run's balance."""

    store: Store
    account: AccountSettings
    contents: _Contents
    loaded: Loaded

    def write_day(self, day: date) -> None:
        sightings = self.contents.buckets.read(day)
        self._count(sightings)
        conversation_ids = pc.unique(sightings["conversation_id"]).to_pylist()
        known = [self.contents.conversations[key] for key in conversation_ids if key in self.contents.conversations]
        self._merge("raw_conversations", day, self._conversation_rows(known))
        self._merge("raw_message_ids", day, self._id_rows(day, sightings))
        self._merge("raw_message_details", day, _detail_rows(sightings))

    def write_lonely_conversations(self) -> None:
        """File conversations that showed no message under the day of their last activity."""
        lonely: dict[date, list[ConversationSighting]] = {}
        for conversation in self.contents.conversations.values():
            if conversation.conversation_id not in self.contents.conversations_with_messages:
                time_us = conversation.updated_us
                plausible = rows.is_plausible(time_us, conversation.at_us)
                day = rows.day_of(time_us if plausible and time_us is not None else conversation.at_us)
                lonely.setdefault(day, []).append(conversation)
        for day, conversations in sorted(lonely.items()):
            if day >= self.account.start_date:
                self._merge("raw_conversations", day, self._conversation_rows(conversations))

    def write_rejects(self) -> None:
        by_day: dict[date, list[Reject]] = {}
        for entry in self.contents.rejects.values():
            by_day.setdefault(rows.day_of(entry.at_us), []).append(entry)
        self.loaded.counts["rejected"] = len(self.contents.rejects)
        for day, entries in sorted(by_day.items()):
            self._merge("raw_rejects", day, _reject_rows(entries))

    def _merge(self, table: str, day: date, incoming: pa.Table) -> None:
        """Merge; a damaged file is set aside by the store and then started anew, and the report says so."""
        if incoming.num_rows == 0:
            return
        try:
            commit = self.store.merge(table, self.account.name, day, incoming)
        except CorruptError as error:
            self.loaded.quarantined.append(str(error))
            commit = self.store.merge(table, self.account.name, day, incoming)
        self.loaded.commits.append(commit)

    def _count(self, sightings: pa.Table) -> None:
        frame = sightings.select([*KEY, "detail_status"]).to_pandas()
        if frame.duplicated(KEY).any():
            frame["known"] = frame["detail_status"].map(STATUS_RANKS)
            frame = frame.sort_values("known").drop_duplicates(KEY, keep="last")
        self.loaded.counts["ids_listed"] += len(frame)
        for status, count in frame["detail_status"].value_counts().items():
            self.loaded.counts[str(status)] += int(count)

    def _conversation_rows(self, conversations: list[ConversationSighting]) -> pa.Table:
        count = len(conversations)
        constant = (self.account.platform, self.account.page_id, self.loaded.own_id, self.loaded.own_username)
        platform, page_id, own_id, own_username = ([value] * count for value in constant)
        times = pa.array([conversation.at_us for conversation in conversations], pa.int64()).cast(schema.TIME)
        return _table(
            schema.RAW_CONVERSATIONS,
            conversation_id=[conversation.conversation_id for conversation in conversations],
            platform=platform,
            page_id=page_id,
            folder=[conversation.folder for conversation in conversations],
            own_id=own_id,
            own_username=own_username,
            fields=[conversation.fields for conversation in conversations],
            payload=[conversation.payload for conversation in conversations],
            first_seen_at=times,
            changed_at=times,
        )

    def _id_rows(self, day: date, sightings: pa.Table) -> pa.Table:
        count = sightings.num_rows
        seen = _table(
            schema.RAW_MESSAGE_IDS,
            conversation_id=sightings["conversation_id"],
            message_id=sightings["message_id"],
            created_at=sightings["created_us"].cast(schema.TIME),
            created_at_source=sightings["created_at_source"],
            tie_rank=_tie_ranks(sightings),
            first_seen_at=sightings["at_us"].cast(schema.TIME),
            missing_at=pa.nulls(count, schema.TIME),
        )
        missing = self._missing_rows(day, seen)
        return pa.concat_tables([seen, missing]) if missing is not None else seen

    def _missing_rows(self, day: date, seen: pa.Table) -> pa.Table | None:
        """Return the held ids whose place a contiguous walk passed without meeting them."""
        held = self._read_ids(day)
        if held.num_rows == 0:
            return None
        frame = held.to_pandas()
        low = frame["conversation_id"].map({key: low for key, (low, _) in self.contents.walked_down_to.items()})
        walked = low.notna() & (frame["created_at"].astype("int64") > low.fillna(0)) & frame["missing_at"].isna()
        met = pd.MultiIndex.from_frame(frame[KEY]).isin(pd.MultiIndex.from_frame(seen.select(KEY).to_pandas()))
        absent = held.filter(pa.array((walked & ~met).to_numpy(bool)))
        if absent.num_rows == 0:
            return None
        self.loaded.counts["missing"] += absent.num_rows
        times = [self.contents.walked_down_to[key][1] for key in absent["conversation_id"].to_pylist()]
        index = absent.schema.get_field_index("missing_at")
        return absent.set_column(index, absent.field("missing_at"), pa.array(times, pa.int64()).cast(schema.TIME))

    def _read_ids(self, day: date) -> pa.Table:
        try:
            return self.store.read("raw_message_ids", self.account.name, day)
        except CorruptError as error:
            self.loaded.quarantined.append(str(error))
            return schema.RAW_MESSAGE_IDS.schema.empty_table()


def _detail_rows(sightings: pa.Table) -> pa.Table:
    seen_at = sightings["at_us"].cast(schema.TIME)
    is_gone = pc.equal(sightings["detail_status"], "gone")
    return _table(
        schema.RAW_MESSAGE_DETAILS,
        conversation_id=sightings["conversation_id"],
        message_id=sightings["message_id"],
        created_at=sightings["created_us"].cast(schema.TIME),
        detail_status=sightings["detail_status"],
        rank_when_asked=sightings["rank"],
        error_code=sightings["error_code"],
        error_subcode=sightings["error_subcode"],
        fields=sightings["fields"],
        payload=sightings["payload"],
        first_seen_at=seen_at,
        changed_at=seen_at,
        gone_at=pc.if_else(is_gone, seen_at, pa.scalar(None, schema.TIME)),
    )


def _tie_ranks(sightings: pa.Table) -> pa.Array:
    """Return the order among a conversation's messages of one second, the oldest 0.

    The newest answer that showed a message says its place; ids with a time inside are ordered by that.
    """
    frame = sightings.select(["conversation_id", "created_us"]).to_pandas()
    tied = frame.duplicated(keep=False).to_numpy()
    ranks = [0] * len(frame)
    if not tied.any():
        return pa.array(ranks, pa.int64())
    groups: dict[tuple[str, int], dict[str, tuple[int, int, int]]] = {}
    candidates = sightings.filter(pa.array(tied)).to_pylist()
    for row in candidates:
        group = groups.setdefault((row["conversation_id"], row["created_us"]), {})
        place = (rows.message_id_us(row["message_id"]) or 0, -row["rank"], row["at_us"])
        held = group.get(row["message_id"])
        if held is None or held[2] <= row["at_us"]:
            group[row["message_id"]] = place
    order = {
        (key, message_id): rank
        for key, group in groups.items()
        for rank, message_id in enumerate(sorted(group, key=lambda message_id: (group[message_id][:2], message_id)))
    }
    for index, row in zip(tied.nonzero()[0], candidates, strict=True):
        ranks[index] = order[(row["conversation_id"], row["created_us"]), row["message_id"]]
    return pa.array(ranks, pa.int64())


def _reject_rows(entries: list[Reject]) -> pa.Table:
    return _table(
        schema.RAW_REJECTS,
        digest=[entry.digest for entry in entries],
        reason=[entry.reason for entry in entries],
        payload=[entry.payload for entry in entries],
        first_seen_at=pa.array([entry.at_us for entry in entries], pa.int64()).cast(schema.TIME),
    )


def _table(table: schema.Table, **columns: object) -> pa.Table:
    arrays = [_array(columns[column.name], column.type) for column in table.columns]
    return pa.Table.from_arrays(arrays, schema=table.schema)


def _array(values: object, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    return values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, kind)


def _save_states(store: Store, account: AccountSettings, contents: _Contents, loaded: Loaded) -> None:
    if loaded.own_id_source == "inferred":
        store.state.set_identity(
            AccountIdentity(account.name, account.page_id, account.platform, loaded.own_id, None, "inferred")
        )
    held = store.state.conversations(account.name)
    states = [_with_held(state, held.get(key)) for key, state in contents.states.items()]
    store.state.save_conversations(account.name, states)


def _with_held(state: ConversationState, held: ConversationState | None) -> ConversationState:
    """Keep what is held of a conversation that could not be read to its end this time."""
    is_read = state.complete_since_us is not None
    return state if is_read or held is None else replace(held, due_reason=state.due_reason)
