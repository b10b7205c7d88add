"""What a run brought, into the raw tables: each date is merged once.

Everything here can be done again: a spool left by a killed run is loaded by the next one, and merging the same
rows twice changes nothing. It calls no API.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline import schema
from convo_pipeline.base.cancellation import Cancellation
from convo_pipeline.base.times import day_of
from convo_pipeline.errors import CorruptError
from convo_pipeline.extract.absence import judge_missing
from convo_pipeline.extract.contents import Contents, Placements
from convo_pipeline.extract.missed import count_missed
from convo_pipeline.extract.observations import (
    ConversationObservation,
    MessageObservation,
    Reject,
    is_plausible,
    message_id_us,
)
from convo_pipeline.extract.spool import Spool
from convo_pipeline.lake.floors import raw_floor
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import AccountSettings
from convo_pipeline.state.records import AccountIdentity, ConversationState

KEY = ["conversation_id", "message_id"]
PASSED_DAYS = timedelta(days=31)
"""How far back a run that is no sweep looks for ids that were unsent: each day is a file to read."""


@dataclass
class Loaded:
    """What one spool brought into the store."""

    commits: list[Commit] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    ids_by_day: Counter[date] = field(default_factory=Counter)
    own_id: str | None = None
    own_username: str | None = None
    own_id_source: str | None = None
    quarantined: list[str] = field(default_factory=list)


def load_spool(
    store: Store, account: AccountSettings, spool: Spool, cancellation: Cancellation | None = None
) -> Loaded:
    """Merge everything a spool holds into the account's raw tables and its state.

    Where a record is damaged, what was read is stored, but none of it is called read to its end: the next run asks again.
    """
    contents = Contents.create(store, account, spool)
    for record in spool:
        contents.read(record)
    if spool.damaged:
        contents.distrust()
    loaded = load(store, account, contents, cancellation)
    loaded.quarantined += [
        f"{spool.folder / name} is damaged; what it held is asked again" for name in spool.damaged
    ]
    return loaded


def load(
    store: Store,
    account: AccountSettings,
    contents: Contents,
    cancellation: Cancellation | None = None,
) -> Loaded:
    """Merge what a run brought into the account's raw tables and its state; StoppedError between days if `cancellation` is set."""
    placed = contents.place_untimed(_where_held(store, account.name, contents.untimed))
    if placed:
        store.state.save_placements(account.name, placed)
    identity = contents.identity(store, account)
    loaded = Loaded(
        own_id=identity.own_id, own_username=identity.own_username, own_id_source=identity.source
    )
    loaded.counts.update(contents.suppressor.counts)
    first_day = max(account.start_date, raw_floor(store))
    held = store.state.conversations(account.name)
    writer = _Writer(store, account, contents, loaded, first_day, held)
    if contents.claim:
        loaded.counts["missed"] = 0
    for day in contents.buckets.days():
        if cancellation:
            cancellation.check()
        if day >= first_day:
            writer.write_day(day)
    for day in writer.passed_days():
        writer.write_absences(day)
    writer.write_lonely_conversations()
    writer.write_rejects()
    _save_states(store, account, contents, loaded, held)
    return loaded


def _where_held(store: Store, account: str, observations: list[MessageObservation]) -> Placements:
    """Return where the lake has messages that came without a time of their own."""
    wanted = {(observation.conversation_id, observation.message_id) for observation in observations}
    found: Placements = {}
    for day in store.days("raw_message_ids", account) if wanted else ():
        held = store.read("raw_message_ids", account, day).select(KEY)
        keys = wanted.intersection(
            zip(*(column.to_pylist() for column in held.columns), strict=True)
        )
        found |= dict.fromkeys(keys, day)
    return found


@dataclass
class _Writer:
    """Merges one date after the other; keeps the counts of the run's balance."""

    store: Store
    account: AccountSettings
    contents: Contents
    loaded: Loaded
    first_day: date
    held: Mapping[str, ConversationState]
    """The conversations as earlier runs left them."""

    def write_day(self, day: date) -> None:
        observations = self.contents.buckets.read(day)
        stored = self._read_ids(day)
        keys = schema.RAW_MESSAGE_IDS.row_keys(observations)
        is_stored = _is_stored(keys, stored)
        self._count(day, observations, keys, is_stored)
        self.loaded.counts["rows_before"] += stored.num_rows if stored else 0
        if self.contents.claim and stored is not None:
            unstored = observations.filter(pc.invert(is_stored))
            missed = count_missed(
                self.contents.claim, unstored, self.held, self.contents.conversations
            )
            self.loaded.counts["missed"] += missed
        conversation_ids = pc.unique(observations["conversation_id"]).to_pylist()
        known = [
            self.contents.conversations[key]
            for key in conversation_ids
            if key in self.contents.conversations
        ]
        self._merge("raw_conversations", day, self._conversation_rows(known))
        ids = self._merge("raw_message_ids", day, self._id_rows(stored, observations))
        self.loaded.counts["rows_after"] += ids.row_count if ids else 0
        self._merge("raw_message_details", day, _detail_rows(observations))

    def passed_days(self) -> list[date]:
        """Return the days that walks passed without meeting a message there: of a run that is no sweep, the last ones."""
        lows, times = (column.to_numpy() for column in self._walked[1:])
        if not len(lows):
            return []
        newest = day_of(int(times.max()))
        oldest = day_of(max(int(lows.min()), 0))
        if not self.contents.claim:
            oldest = max(oldest, newest - PASSED_DAYS)
        met = set(self.contents.buckets.days())
        days = self.store.days("raw_message_ids", self.account.name)
        return [
            day for day in days if max(oldest, self.first_day) <= day <= newest and day not in met
        ]

    def write_absences(self, day: date) -> None:
        """Merge what a day's ids were not met where they should have been."""
        stored = self._read_ids(day)
        if stored is not None:
            absent = self._absent_rows(stored, schema.RAW_MESSAGE_IDS.schema.empty_table())
            self._merge("raw_message_ids", day, absent)

    def write_lonely_conversations(self) -> None:
        """File conversations that showed no message under the day of their last activity."""
        lonely: dict[date, list[ConversationObservation]] = {}
        for conversation in self.contents.conversations.values():
            if conversation.conversation_id not in self.contents.conversations_with_messages:
                time_us = conversation.updated_us
                plausible = is_plausible(time_us, conversation.at_us)
                day = day_of(time_us if plausible and time_us is not None else conversation.at_us)
                lonely.setdefault(day, []).append(conversation)
        for day, conversations in sorted(lonely.items()):
            if day >= self.first_day:
                self._merge("raw_conversations", day, self._conversation_rows(conversations))

    def write_rejects(self) -> None:
        by_day: dict[date, list[Reject]] = {}
        for entry in self.contents.rejects.values():
            by_day.setdefault(day_of(entry.at_us), []).append(entry)
        self.loaded.counts["rejected"] = len(self.contents.rejects)
        for day, entries in sorted(by_day.items()):
            self._merge("raw_rejects", day, _reject_rows(entries))

    def _merge(self, table: str, day: date, incoming: pa.Table) -> Commit | None:
        """Merge; a damaged file is set aside by the store and then started anew, and the report says so."""
        if incoming.num_rows == 0:
            return None
        try:
            commit = self.store.merge(table, self.account.name, day, incoming)
        except CorruptError as error:
            self.loaded.quarantined.append(str(error))
            commit = self.store.merge(table, self.account.name, day, incoming)
        self.loaded.commits.append(commit)
        return commit

    def _count(
        self, day: date, observations: pa.Table, keys: pa.ChunkedArray, is_stored: pa.ChunkedArray
    ) -> None:
        """Count each message once, by the most that was learned of it, and those that have no row yet."""
        messages = _codes(keys)
        ranks = pc.index_in(
            observations["detail_status"], value_set=pa.array(schema.DETAIL_STATUSES)
        ).to_numpy()
        most = np.zeros(messages.max(initial=-1) + 1, dtype=np.int64)
        np.maximum.at(most, messages, ranks)
        self.loaded.ids_by_day[day] += len(most)
        held_count = pc.count_distinct(keys.filter(is_stored)).as_py()
        self.loaded.counts.update(ids_listed=len(most), rows_inserted=len(most) - held_count)
        for rank, count in zip(*np.unique(most, return_counts=True), strict=True):
            self.loaded.counts[schema.DETAIL_STATUSES[rank]] += int(count)

    def _conversation_rows(self, conversations: list[ConversationObservation]) -> pa.Table:
        count = len(conversations)
        constant = (
            self.account.platform,
            self.account.page_id,
            self.loaded.own_id,
            self.loaded.own_username,
        )
        platform, page_id, own_id, own_username = ([value] * count for value in constant)
        times = pa.array([conversation.at_us for conversation in conversations], pa.int64()).cast(
            schema.TIME
        )
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

    def _id_rows(self, stored: pa.Table | None, observations: pa.Table) -> pa.Table:
        count = observations.num_rows
        seen = _table(
            schema.RAW_MESSAGE_IDS,
            conversation_id=observations["conversation_id"],
            message_id=observations["message_id"],
            created_at=observations["created_us"].cast(schema.TIME),
            created_at_source=observations["created_at_source"],
            tie_rank=_tie_ranks(observations),
            first_seen_at=observations["at_us"].cast(schema.TIME),
            missing_at=pa.nulls(count, schema.TIME),
            deleted_at=pa.nulls(count, schema.TIME),
            returned_at=pa.nulls(count, schema.TIME),
        )
        return (
            pa.concat_tables([seen, self._absent_rows(stored, seen)])
            if stored is not None
            else seen
        )

    def _absent_rows(self, stored: pa.Table, seen: pa.Table) -> pa.Table:
        """Return the held ids of which the run learned that they are missing, deleted or back."""
        found = [self._missing_rows(stored, seen), judge_missing(stored, seen, self.contents.spans)]
        return pa.concat_tables([schema.RAW_MESSAGE_IDS.schema.empty_table(), *filter(None, found)])

    def _missing_rows(self, held: pa.Table, seen: pa.Table) -> pa.Table | None:
        """Return the held ids whose place a contiguous walk passed without meeting them."""
        conversation_ids, lows, times = self._walked
        places = pc.index_in(held["conversation_id"], value_set=conversation_ids)
        is_passed = pc.greater(held["created_at"].cast(pa.int64()), lows.take(places))
        candidates = held.filter(
            pc.and_(pc.fill_null(is_passed, False), pc.is_null(held["missing_at"]))
        )
        is_met = pc.is_in(
            schema.RAW_MESSAGE_IDS.row_keys(candidates), schema.RAW_MESSAGE_IDS.row_keys(seen)
        )
        absent = candidates.filter(pc.invert(is_met))
        if absent.num_rows == 0:
            return None
        self.loaded.counts["missing"] += absent.num_rows
        missing_at = times.take(
            pc.index_in(absent["conversation_id"], value_set=conversation_ids)
        ).cast(schema.TIME)
        index = absent.schema.get_field_index("missing_at")
        return absent.set_column(index, absent.field("missing_at"), missing_at)

    @cached_property
    def _walked(self) -> tuple[pa.Array, pa.Array, pa.Array]:
        """The conversations that were walked, how far down, and when."""
        walked = self.contents.walked_down_to
        lows, times = (
            pa.array([place[part] for place in walked.values()], pa.int64()) for part in (0, 1)
        )
        return pa.array(walked, pa.string()), lows, times

    def _read_ids(self, day: date) -> pa.Table | None:
        """Return the day's ids as they are stored; None where the file is damaged."""
        try:
            return self.store.read("raw_message_ids", self.account.name, day)
        except CorruptError as error:
            self.loaded.quarantined.append(str(error))
            return None


def _is_stored(keys: pa.ChunkedArray, stored: pa.Table | None) -> pa.ChunkedArray:
    """Say for each key whether there is a row of it."""
    value_set = schema.RAW_MESSAGE_IDS.row_keys(stored) if stored else pa.array([], keys.type)
    return pc.is_in(keys, value_set=value_set)


def _detail_rows(observations: pa.Table) -> pa.Table:
    seen_at = observations["at_us"].cast(schema.TIME)
    is_gone = pc.equal(observations["detail_status"], "gone")
    return _table(
        schema.RAW_MESSAGE_DETAILS,
        conversation_id=observations["conversation_id"],
        message_id=observations["message_id"],
        created_at=observations["created_us"].cast(schema.TIME),
        detail_status=observations["detail_status"],
        rank_when_asked=observations["rank"],
        error_code=observations["error_code"],
        error_subcode=observations["error_subcode"],
        fields=observations["fields"],
        payload=observations["payload"],
        first_seen_at=seen_at,
        changed_at=seen_at,
        gone_at=pc.if_else(is_gone, seen_at, pa.scalar(None, schema.TIME)),
        redacted_at=pa.nulls(observations.num_rows, schema.TIME),
    )


def _tie_ranks(observations: pa.Table) -> pa.Array:
    """Return the order among a conversation's messages of one second, the oldest 0.

    The newest answer that showed a message says its place; ids with a time inside are ordered by that.
    """
    ranks = np.zeros(observations.num_rows, dtype=np.int64)
    tied = _are_seconds_shared(observations)
    groups: dict[tuple[str, int], dict[str, tuple[int, int, int]]] = {}
    candidates = observations.filter(pa.array(tied)).to_pylist()
    for row in candidates:
        group = groups.setdefault((row["conversation_id"], row["created_us"]), {})
        place = (message_id_us(row["message_id"]) or 0, -row["rank"], row["at_us"])
        held = group.get(row["message_id"])
        if held is None or held[2] <= row["at_us"]:
            group[row["message_id"]] = place
    order = {
        (key, message_id): rank
        for key, group in groups.items()
        for rank, message_id in enumerate(
            sorted(group, key=lambda message_id: (group[message_id][:2], message_id))
        )
    }
    for index, row in zip(tied.nonzero()[0], candidates, strict=True):
        ranks[index] = order[(row["conversation_id"], row["created_us"]), row["message_id"]]
    return pa.array(ranks)


def _are_seconds_shared(observations: pa.Table) -> np.ndarray:
    """Say for each row whether another one is of the same conversation and time."""
    seconds = observations["created_us"].cast(pa.string())
    codes = _codes(pc.binary_join_element_wise(seconds, observations["conversation_id"], " "))
    is_shared: np.ndarray = np.bincount(codes)[codes] > 1
    return is_shared


def _codes(values: pa.ChunkedArray) -> np.ndarray:
    """Return a small number for each value, the same for the same."""
    codes: np.ndarray = values.combine_chunks().dictionary_encode().indices.to_numpy()
    return codes


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


def _save_states(
    store: Store,
    account: AccountSettings,
    contents: Contents,
    loaded: Loaded,
    held: Mapping[str, ConversationState],
) -> None:
    if loaded.own_id_source == "inferred":
        store.state.set_identity(
            AccountIdentity(
                account.name, account.page_id, account.platform, loaded.own_id, None, "inferred"
            )
        )
    states = [_with_held(state, held.get(key)) for key, state in contents.states.items()]
    store.state.save_conversations(account.name, states)


def _with_held(state: ConversationState, held: ConversationState | None) -> ConversationState:
    """Keep what is held of a conversation that could not be read to its end this time."""
    is_read = state.complete_since_us is not None
    return state if is_read or held is None else replace(held, due_reason=state.due_reason)
