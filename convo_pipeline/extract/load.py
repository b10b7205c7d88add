"""Store the data of a run in the raw tables: one merge per table and date.

It is idempotent: the spool of a killed run is loaded by the next run, and merging the same rows
twice changes nothing. It calls no API.
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
from convo_pipeline.extract.missing import count_missed, update_missing
from convo_pipeline.extract.observations import (
    ConversationObservation,
    Reject,
    is_plausible,
    message_id_us,
)
from convo_pipeline.extract.run_data import Placements, RunData
from convo_pipeline.extract.spool import OwnIdentity, Spool
from convo_pipeline.lake.first_days import first_raw_day
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import AccountSettings
from convo_pipeline.state.records import (
    REFUSED,
    AccountIdentity,
    ConversationState,
    read_json,
    write_json,
)
from convo_pipeline.tables.merge import Row, read_rows, write_rows
from convo_pipeline.tables.payloads import read_object

KEY = ["conversation_id", "message_id"]
CHECKED_FOR_MISSING = timedelta(days=31)
"""How far back a run that is not `full` looks for missing messages: each day costs one read."""


@dataclass
class LoadResult:
    """What was stored from one spool."""

    commits: list[Commit] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    ids_by_day: Counter[date] = field(default_factory=Counter)
    quarantined: list[str] = field(default_factory=list)


def load_spool(
    store: Store, account: AccountSettings, spool: Spool, cancellation: Cancellation | None = None
) -> LoadResult:
    """Store everything that a spool holds; damaged records are named in `quarantined`."""
    result = load_run_data(store, account, RunData.read(store, account, spool), cancellation)
    result.quarantined += [
        f"{spool.folder / name} is damaged; the next run fetches its content again"
        for name in spool.damaged
    ]
    return result


def load_run_data(
    store: Store, account: AccountSettings, data: RunData, cancellation: Cancellation | None = None
) -> LoadResult:
    """Merge the data into the account's raw tables, then save its state.

    StoppedError between two days if the run is cancelled.
    """
    placed = data.place_untimed(_find_stored_days(store, account.name, data))
    kept = {key: day for key, day in placed.items() if day >= account.start_date}
    if kept:
        store.state.save_placements(account.name, kept)
    result = LoadResult(counts=Counter(data.suppression_filter.counts))
    if data.set_aside_count:
        data.clear_proofs()
        result.quarantined.append(
            f"{data.set_aside_count} records of the run cannot be read; their text is in"
            " raw_rejects, and the next run fetches their content again"
        )
    states = store.state.conversations(account.name)
    identity = data.find_identity(store, account, len(states))
    first_day = max(account.start_date, first_raw_day(store))
    loader = _Loader(store, account, data, result, identity, first_day, states)
    if data.swept_range:
        result.counts["missed"] = 0
    for day in data.days():
        if cancellation:
            cancellation.check()
        if day >= first_day:
            loader.merge_day(day)
        elif day < account.start_date:
            keys = schema.RAW_MESSAGE_IDS.row_keys(data.read_day(day))
            result.counts["before_start_date"] += pc.count_distinct(keys).as_py()
    for day in loader.find_passed_days():
        loader.merge_missing(day)
    loader.merge_conversations_without_messages()
    loader.mark_stored_conversations()
    loader.merge_rejects()
    store.state.set_identity(
        AccountIdentity(account.name, account.page_id, account.platform, **vars(identity)),
        is_decided=True,
    )
    _save_states(store, account.name, data, states)
    return result


def _find_stored_days(store: Store, account: str, data: RunData) -> Placements:
    """Return the days on which messages that were observed without a time are stored."""
    wanted = {(message.conversation_id, message.message_id) for message in data.untimed}
    found: Placements = {}
    for day in store.days("raw_message_ids", account) if wanted else ():
        ids = store.read("raw_message_ids", account, day)
        keys = set(zip(*(ids[name].to_pylist() for name in KEY), strict=True))
        found |= dict.fromkeys(wanted & keys, day)
    return found


def _save_states(
    store: Store, account: str, data: RunData, before: Mapping[str, ConversationState]
) -> None:
    """Save the new states; a conversation that was not read to its end keeps its old range."""
    states = [
        replace(before[key], due_reason=state.due_reason)
        if state.complete_since_us is None and key in before
        else state
        for key, state in data.states.items()
    ]
    store.state.save_conversations(account, states)


@dataclass
class _Loader:
    """Merge one date after the other and count what the run's balance needs."""

    store: Store
    account: AccountSettings
    data: RunData
    result: LoadResult
    identity: OwnIdentity
    first_day: date
    states: Mapping[str, ConversationState]
    """The conversations as earlier runs left them."""

    def merge_day(self, day: date) -> None:
        observations = self.data.read_day(day)
        stored_ids = self._read("raw_message_ids", day)
        keys = schema.RAW_MESSAGE_IDS.row_keys(observations)
        stored_keys = (
            schema.RAW_MESSAGE_IDS.row_keys(stored_ids) if stored_ids else pa.array([], keys.type)
        )
        is_stored = pc.is_in(keys, value_set=stored_keys)
        self._count(day, observations, keys, is_stored)
        self.result.counts["rows_before"] += stored_ids.num_rows if stored_ids else 0
        if self.data.swept_range and stored_ids is not None:
            self.result.counts["missed"] += count_missed(
                self.data.swept_range,
                observations.filter(pc.invert(is_stored)),
                self.states,
                self.data.conversations,
            )
        conversations = self.data.conversations
        ids = pc.unique(observations["conversation_id"]).to_pylist()
        listed = [conversations[key] for key in ids if key in conversations]
        self._merge("raw_conversations", day, self._conversation_rows(listed))
        commit = self._merge("raw_message_ids", day, self._id_rows(stored_ids, observations))
        self.result.counts["rows_after"] += commit.row_count if commit else 0
        self._merge("raw_message_details", day, _detail_rows(observations))
        if stored_ids:
            self._remove_twins(day, stored_ids, observations)

    def _remove_twins(self, day: date, stored_ids: pa.Table, observations: pa.Table) -> None:
        """Remove stored messages that this run listed in another conversation, and not in theirs.

        They were stored from a response to another request. Their own conversation was read past
        their time.
        """
        conversation_ids, lows, _ = self._walked
        row_keys = schema.RAW_MESSAGE_IDS.row_keys
        is_twin = pc.and_(
            pc.is_in(stored_ids["message_id"], value_set=pc.unique(observations["message_id"])),
            pc.invert(pc.is_in(row_keys(stored_ids), value_set=row_keys(observations))),
        )
        candidates = stored_ids.filter(is_twin)
        low = lows.take(pc.index_in(candidates["conversation_id"], value_set=conversation_ids))
        is_passed = pc.fill_null(pc.greater(candidates["created_at"].cast(pa.int64()), low), False)
        twins = row_keys(candidates.filter(is_passed))
        if not len(twins):
            return
        self.result.counts["twins_removed"] += len(twins)

        def keep(rows: pa.Table) -> pa.Table:
            return rows.filter(pc.invert(pc.is_in(row_keys(rows), value_set=twins)))

        derived = [table.name for table in schema.NORMALISED if "message_id" in table.column_names]
        with self.store.lock_derivation(self.account.name):
            for table in ("raw_message_ids", "raw_message_details", *derived):
                self.result.commits.append(self.store.shrink(table, self.account.name, day, keep))

    def find_passed_days(self) -> list[date]:
        """Return the stored days that walks passed without a message of this run on them.

        A run that is not `full` returns only the last 31 days.
        """
        lows, times = (column.to_numpy() for column in self._walked[1:])
        if not len(lows):
            return []
        newest = day_of(int(times.max()))
        oldest = max(day_of(max(int(lows.min()), 0)), self.first_day)
        if not self.data.swept_range:
            oldest = max(oldest, newest - CHECKED_FOR_MISSING)
        observed = set(self.data.days())
        days = self.store.days("raw_message_ids", self.account.name)
        return [day for day in days if oldest <= day <= newest and day not in observed]

    def merge_missing(self, day: date) -> None:
        """Mark the stored ids of a day that are missing in the run's listings."""
        stored_ids = self._read("raw_message_ids", day)
        if stored_ids is not None:
            observed_ids = schema.RAW_MESSAGE_IDS.schema.empty_table()
            self._merge("raw_message_ids", day, self._missing_rows(stored_ids, observed_ids))

    def merge_conversations_without_messages(self) -> None:
        """Store them on the day of their last activity."""
        by_day: dict[date, list[ConversationObservation]] = {}
        for conversation in self.data.conversations.values():
            if conversation.conversation_id not in self.data.ids_with_messages:
                updated_us, at_us = conversation.updated_us, conversation.at_us
                time_us = updated_us if is_plausible(updated_us, at_us) else None
                by_day.setdefault(day_of(at_us if time_us is None else time_us), []).append(
                    conversation
                )
        for day, conversations in sorted(by_day.items()):
            if day >= self.first_day:
                self._merge("raw_conversations", day, self._conversation_rows(conversations))

    def mark_stored_conversations(self) -> None:
        """Mark stored conversations that the run requested by their ids only, without a row.

        If the API refuses one now, the newest of its rows is marked. If it does not any more, for
        example because the conversation vanished, all its marked rows are.
        """
        refused_ids, other_ids = set(), set()
        for key, state in self.data.states.items():
            before = self.states.get(key)
            if key not in self.data.conversations and state.due_reason == REFUSED:
                refused_ids.add(key)
            elif key not in self.data.conversations and before and before.due_reason == REFUSED:
                other_ids.add(key)
        for day in reversed(self.store.days("raw_conversations", self.account.name)):
            if day < self.first_day or not (refused_ids or other_ids):
                return
            stored = self._read("raw_conversations", day)
            if stored is None:
                continue
            chosen = pa.array(sorted(refused_ids | other_ids), pa.string())
            rows = read_rows(stored.filter(pc.is_in(stored["conversation_id"], value_set=chosen)))
            refused_ids -= {row["conversation_id"] for row in rows}
            marked = [_mark_older(row, row["conversation_id"] not in other_ids) for row in rows]
            changed = [each for row, each in zip(rows, marked, strict=True) if each != row]
            self._merge("raw_conversations", day, write_rows(schema.RAW_CONVERSATIONS, changed))

    def merge_rejects(self) -> None:
        """Store the rejected rows on the day of the response."""
        by_day: dict[date, list[Reject]] = {}
        for entry in self.data.rejects.values():
            by_day.setdefault(day_of(entry.at_us), []).append(entry)
        self.result.counts["rejected"] = len(self.data.rejects)
        for day, entries in sorted(by_day.items()):
            self._merge("raw_rejects", day, _reject_rows(entries))

    def _merge(self, table: str, day: date, rows: pa.Table) -> Commit | None:
        """Merge rows; the store moves a damaged file aside, then the day starts with a new file."""
        if rows.num_rows == 0:
            return None
        try:
            commit = self.store.merge(table, self.account.name, day, rows)
        except CorruptError as error:
            self.result.quarantined.append(str(error))
            commit = self.store.merge(table, self.account.name, day, rows)
        self.result.commits.append(commit)
        return commit

    def _read(self, table: str, day: date) -> pa.Table | None:
        """Return the stored rows of a day; None if the file is damaged."""
        try:
            return self.store.read(table, self.account.name, day)
        except CorruptError as error:
            self.result.quarantined.append(str(error))
            return None

    def _count(
        self, day: date, observations: pa.Table, keys: pa.ChunkedArray, is_stored: pa.ChunkedArray
    ) -> None:
        """Count each message once, by its best `detail_status`, and the messages without a row."""
        messages = _codes(keys)
        statuses = pa.array(schema.DETAIL_STATUSES)
        ranks = pc.index_in(observations["detail_status"], value_set=statuses).to_numpy()
        best = np.zeros(messages.max(initial=-1) + 1, dtype=np.int64)
        np.maximum.at(best, messages, ranks)
        self.result.ids_by_day[day] += len(best)
        stored_count = pc.count_distinct(keys.filter(is_stored)).as_py()
        counts = self.result.counts
        counts.update(ids_listed=len(best), rows_inserted=len(best) - stored_count)
        for rank, count in zip(*np.unique(best, return_counts=True), strict=True):
            counts[schema.DETAIL_STATUSES[rank]] += int(count)

    def _conversation_rows(self, conversations: list[ConversationObservation]) -> pa.Table:
        count = len(conversations)
        times = _times([conversation.at_us for conversation in conversations])
        return _table(
            schema.RAW_CONVERSATIONS,
            conversation_id=[conversation.conversation_id for conversation in conversations],
            platform=[self.account.platform] * count,
            page_id=[self.account.page_id] * count,
            folder=[conversation.folder for conversation in conversations],
            own_id=[self.identity.own_id] * count,
            own_username=[self.identity.own_username] * count,
            fields=[self._with_older(each.fields, each, each.at_us) for each in conversations],
            payload=[self._with_older(each.payload, each) for each in conversations],
            first_seen_at=times,
            changed_at=times,
        )

    def _with_older(
        self, text: str | None, conversation: ConversationObservation, at_us: int | None = None
    ) -> str | None:
        """Add to a JSON text whether the API refuses the older messages of a conversation.

        `fields` gets the time `at_us`, a payload the word. A conversation that was never refused
        gets nothing.
        """
        before = self.states.get(conversation.conversation_id)
        state = self.data.states.get(conversation.conversation_id, before)
        is_refused = state is not None and state.due_reason == REFUSED
        was_refused = before is not None and before.due_reason == REFUSED
        if text is None or not (is_refused or was_refused):
            return text
        value = at_us or ("refused" if is_refused else "read")
        return write_json(read_json(text) | {schema.OLDER_MESSAGES_KEY: value})

    def _id_rows(self, stored_ids: pa.Table | None, observations: pa.Table) -> pa.Table:
        nulls = pa.nulls(observations.num_rows, schema.TIME)
        observed_ids = _table(
            schema.RAW_MESSAGE_IDS,
            conversation_id=observations["conversation_id"],
            message_id=observations["message_id"],
            created_at=observations["created_us"].cast(schema.TIME),
            created_at_source=observations["created_at_source"],
            order_in_second=_orders_in_second(observations),
            first_seen_at=observations["at_us"].cast(schema.TIME),
            missing_at=nulls,
            deleted_at=nulls,
            returned_at=nulls,
        )
        if not stored_ids:
            return observed_ids
        return pa.concat_tables([observed_ids, self._missing_rows(stored_ids, observed_ids)])

    def _missing_rows(self, stored_ids: pa.Table, observed_ids: pa.Table) -> pa.Table:
        """Return the stored ids that this run proved to be missing, deleted or returned."""
        found = (
            schema.RAW_MESSAGE_IDS.schema.empty_table(),
            self._newly_missing_rows(stored_ids, observed_ids),
            update_missing(stored_ids, observed_ids, self.data.spans),
        )
        return pa.concat_tables([rows for rows in found if rows is not None])

    def _newly_missing_rows(self, stored_ids: pa.Table, observed_ids: pa.Table) -> pa.Table | None:
        """Return the stored ids that a walk passed without listing them."""
        conversation_ids, lows, times = self._walked
        indices = pc.index_in(stored_ids["conversation_id"], value_set=conversation_ids)
        is_passed = pc.greater(stored_ids["created_at"].cast(pa.int64()), lows.take(indices))
        candidates = stored_ids.filter(
            pc.and_(pc.fill_null(is_passed, False), pc.is_null(stored_ids["missing_at"]))
        )
        row_keys = schema.RAW_MESSAGE_IDS.row_keys
        is_listed = pc.is_in(row_keys(candidates), value_set=row_keys(observed_ids))
        missing = candidates.filter(pc.invert(is_listed))
        if missing.num_rows == 0:
            return None
        self.result.counts["missing"] += missing.num_rows
        indices = pc.index_in(missing["conversation_id"], value_set=conversation_ids)
        index = missing.schema.get_field_index("missing_at")
        missing_at = times.take(indices).cast(schema.TIME)
        return missing.set_column(index, missing.field("missing_at"), missing_at)

    @cached_property
    def _walked(self) -> tuple[pa.Array, pa.Array, pa.Array]:
        """Columns of the walked conversations: id, lowest time, and time of the response."""
        walked = self.data.walked_down_to
        lows, times = (
            pa.array([pair[part] for pair in walked.values()], pa.int64()) for part in (0, 1)
        )
        return pa.array(walked, pa.string()), lows, times


def _mark_older(row: Row, is_refused: bool) -> Row:
    """Return a stored conversation with the mark whether the API refuses its older messages.

    A row without the mark needs none if nothing is refused. The time of the mark is one
    microsecond after the newest response.
    """
    payload, fields = read_object(row["payload"]), read_object(row["fields"]) or {}
    mark = "refused" if is_refused else "read"
    if payload is None or payload.get(schema.OLDER_MESSAGES_KEY, "read") == mark:
        return row
    newest_us = max((time for time in fields.values() if isinstance(time, int)), default=0)
    return row | {
        "payload": write_json(payload | {schema.OLDER_MESSAGES_KEY: mark}),
        "fields": write_json(fields | {schema.OLDER_MESSAGES_KEY: newest_us + 1}),
    }


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


def _reject_rows(entries: list[Reject]) -> pa.Table:
    return _table(
        schema.RAW_REJECTS,
        digest=[entry.digest for entry in entries],
        reason=[entry.reason for entry in entries],
        payload=[entry.payload for entry in entries],
        first_seen_at=_times([entry.at_us for entry in entries]),
    )


def _orders_in_second(observations: pa.Table) -> pa.Array:
    """Return the order among the messages of one conversation and second, the oldest 0.

    The order is that of the newest response; ids with a time inside are ordered by that time.
    """
    seconds = observations["created_us"].cast(pa.string())
    codes = _codes(pc.binary_join_element_wise(seconds, observations["conversation_id"], " "))
    is_tied = np.bincount(codes)[codes] > 1
    tied_rows = observations.filter(pa.array(is_tied)).to_pylist()
    orders: dict[tuple[str, int], dict[str, tuple[int, int, int]]] = {}
    for row in tied_rows:
        order = orders.setdefault((row["conversation_id"], row["created_us"]), {})
        message_id, at_us = row["message_id"], row["at_us"]
        if message_id not in order or order[message_id][2] <= at_us:
            order[message_id] = (message_id_us(message_id) or 0, -row["rank"], at_us)
    ordinals = {
        (second, message_id): rank
        for second, order in orders.items()
        for rank, message_id in enumerate(sorted(order, key=lambda each: (order[each][:2], each)))
    }
    ranks = np.zeros(observations.num_rows, dtype=np.int64)
    for index, row in zip(is_tied.nonzero()[0], tied_rows, strict=True):
        ranks[index] = ordinals[(row["conversation_id"], row["created_us"]), row["message_id"]]
    return pa.array(ranks)


def _codes(values: pa.ChunkedArray) -> np.ndarray:
    """Return a small number for each value, equal for equal values."""
    codes: np.ndarray = values.combine_chunks().dictionary_encode().indices.to_numpy()
    return codes


def _times(times_us: list[int]) -> pa.Array:
    return pa.array(times_us, pa.int64()).cast(schema.TIME)


def _table(table: schema.Table, **columns: object) -> pa.Table:
    arrays = [
        values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, column.type)
        for column in table.columns
        for values in [columns[column.name]]
    ]
    return pa.Table.from_arrays(arrays, schema=table.schema)
