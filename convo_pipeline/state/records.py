"""Values of the state, and their rows in SQLite. Times in rows are µs since 1970. Pure."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.base.times import from_us, to_us
from convo_pipeline.errors import GraphFault, StoreError

REFUSED = "refused"
"""Due reason: the API refuses the conversation's own calls."""
REFUSED_PART = "refused_part"
"""Due reason: the API refuses a message of the conversation, or the rest of a list in it."""
REFUSED_REASONS = frozenset({REFUSED, REFUSED_PART})
MOST_REFUSALS_KEPT = 5_000
MOST_NIGHTS_BETWEEN = 30
RUN_PARTS: Mapping[str, tuple[str, ...]] = {
    "conversations_listed": (
        "conversations_unchanged",
        "conversations_fetched",
        "conversations_failed",
        "conversations_vanished",
        "conversations_refused",
        "conversations_pending",
    ),
    "ids_listed": ("detailed", "beyond_20", "gone", "failed", "pending"),
}
"""Counts of a run, and the counts that add up to each of them."""


@dataclass(frozen=True)
class Partition:
    """The committed version of a partition's file."""

    table: str
    account: str
    date: date
    sha256: str
    row_count: int
    byte_count: int
    source: str = ""
    next_sha256: str | None = None
    """Hash of the file that a commit is about to write, "" for a removal. None: no commit runs."""


class SuspectFile(NamedTuple):
    """A file that was damaged, lost or replaced, so that rows of its day can be missing."""

    table: str
    account: str
    date: date
    path: str


@dataclass(frozen=True)
class AccountIdentity:
    """The inbox that an account name stands for."""

    account: str
    page_id: str
    platform: str
    own_id: str | None = None
    own_username: str | None = None
    own_id_source: str | None = None
    """`asked`: from the API. `username`: the person with the account's user name. `inferred`: from
    the messages. None: unknown."""


@dataclass(frozen=True)
class ConversationState:
    """How far a conversation was read.

    Ids and details are complete from the newest message down to `complete_since_us`.
    """

    conversation_id: str
    updated_us: int | None = None
    newest_message_id: str | None = None
    complete_since_us: int | None = None
    due_reason: str | None = None
    """Why it is not read to its end. The next run reads it, but what the API refuses has its own
    day (`ObjectRefusal`)."""

    @property
    def is_due(self) -> bool:
        """Whether the next run reads it even if it has not changed."""
        return self.due_reason is not None and self.due_reason not in REFUSED_REASONS


@dataclass(frozen=True)
class ObjectRefusal:
    """What the API refuses of one conversation, and when a run requests it again.

    After `count` refusals it waits 1, 2, 4, 8, … nights, at most 30. `updated_us` is its last
    activity then: a new message ends the wait. `was_shown`: a response held some of its messages.
    """

    count: int = 0
    retry_on: date = date.min
    updated_us: int | None = None
    was_shown: bool = False
    code: int | None = None
    subcode: int | None = None
    gap_us: int | None = None
    """Messages of the conversation from before this time may be unknown; None if all are known."""

    def again(
        self,
        today: date,
        error: Exception,
        *,
        updated_us: int | None = None,
        was_shown: bool = False,
        gap_us: int | None = None,
    ) -> "ObjectRefusal":
        """Return the refusal after one more.

        >>> refusal, nights = ObjectRefusal(), []
        >>> for _ in range(7):
        ...     refusal = refusal.again(date(2026, 3, 1), ValueError())
        ...     nights.append((refusal.retry_on - date(2026, 3, 1)).days)
        >>> nights
        [1, 2, 4, 8, 16, 30, 30]
        """
        fault = getattr(error, "fault", GraphFault())
        nights = min(2 ** min(self.count, 8), MOST_NIGHTS_BETWEEN)
        retry_on = today + timedelta(days=nights)
        codes = fault.code, fault.subcode
        return ObjectRefusal(self.count + 1, retry_on, updated_us, was_shown, *codes, gap_us)

    def is_due(self, today: date) -> bool:
        """Whether to request it again; a clock that was wrong delays it by 30 days at most."""
        return not today < self.retry_on <= today + timedelta(days=MOST_NIGHTS_BETWEEN)

    def describe(self) -> str:
        """Return what the API answered, for a person."""
        if (self.code, self.subcode) in ((100, 33), (803, None)):
            return "deleted or not visible"
        code = "no code" if self.code is None else f"code {self.code}"
        return code if self.subcode is None else f"{code}/{self.subcode}"


def read_refusals(memory: Mapping[str, object]) -> dict[str, ObjectRefusal]:
    """Return the refusals in an account's memory by conversation id; unreadable ones are left out.

    Without its refusal, a refused conversation is due.
    """
    refusals: dict[str, ObjectRefusal] = {}
    saved = memory.get("refused")
    for values in saved if isinstance(saved, list) else ():
        with suppress(ValueError, TypeError):
            conversation_id, count, retry_on, *others = values
            refusals[conversation_id] = ObjectRefusal(
                int(count), date.fromisoformat(retry_on), *others
            )
    return refusals


def write_refusals(refusals: Mapping[str, ObjectRefusal]) -> list[list[object]]:
    """Return refusals for an account's memory; too many leave out those with the earliest day.

    It is a list, because an erasure replaces ids in values only.
    """
    latest = sorted(refusals.items(), key=lambda item: (item[1].retry_on, item[0]), reverse=True)
    return [
        [key, refusal.count, refusal.retry_on.isoformat(), *astuple(refusal)[2:]]
        for key, refusal in latest[:MOST_REFUSALS_KEPT]
    ]


WHOLE_DAYS = ("window", "nightly", "full")
"""Kinds of runs that read whole days; captures and `find` do not."""


@dataclass(frozen=True)
class Run:
    """One account's part of one run."""

    run_id: str
    account: str
    kind: str
    started_at: datetime
    """The server's time in the first response."""
    since: date | None = None
    until: date | None = None
    ended_at: datetime | None = None
    outcome: str = "running"
    reasons: tuple[str, ...] = ()
    error: str | None = None
    calls: Mapping[str, int] | None = None
    counts: Mapping[str, int] | None = None
    report: Mapping[str, object] | None = None
    settings: Mapping[str, object] | None = None
    """The account's settings at the time of the run; see `runs.settings` in `schema.py`."""


@dataclass(frozen=True)
class Compaction:
    """A compacted month that agrees with its daily files."""

    table: str
    account: str
    month: str
    source: str
    day_count: int
    byte_count: int


def check_identity(
    identity: AccountIdentity, stored: Iterable[AccountIdentity], *, is_decided: bool = False
) -> AccountIdentity:
    """Return what is known of an account, this identity included.

    A decided identity replaces the stored one; conversations were compared with it.
    Raise StoreError if the name stands for another inbox, or the inbox has another name.
    """
    for other in stored:
        is_same_page = (other.page_id, other.platform) == (identity.page_id, identity.platform)
        if other.account == identity.account:
            merged = _merge_identities(other, identity, is_same_page)
            return identity if is_decided else merged
        is_same_own_id = other.own_id is not None and other.own_id == identity.own_id
        if is_same_page and (other.page_id != "me" or is_same_own_id):
            raise StoreError(
                f'{_describe(identity)} is already stored as "{other.account}"; if it was renamed,'
                f" run: convo-pipeline rename {other.account} {identity.account}"
            )
    return identity


def _merge_identities(
    stored: AccountIdentity, new: AccountIdentity, is_same_page: bool
) -> AccountIdentity:
    are_asked = stored.own_id_source == new.own_id_source == "asked"
    are_known = stored.own_id is not None and new.own_id is not None
    if not is_same_page or (are_asked and are_known and stored.own_id != new.own_id):
        raise StoreError(
            f'the account name "{stored.account}" already stands for {_describe(stored)}, not for'
            f" {_describe(new)}; give the new one another name"
        )
    is_better = stored.own_id_source == "asked" and new.own_id_source != "asked"
    return stored if new.own_id is None or is_better else new


def _describe(identity: AccountIdentity) -> str:
    own = f" (own id {identity.own_id})" if identity.own_id is not None else ""
    return f"{identity.platform} page {identity.page_id}{own}"


def balance(counts: Mapping[str, int]) -> dict[str, int]:
    """Return for each count of `RUN_PARTS` what its parts leave out, and the rows lost; 0 is right.

    Rows are those of `raw_message_ids` on the days that were written. Another machine that writes
    to the same bucket can add rows.

    >>> balance({"conversations_listed": 3, "conversations_fetched": 2})
    {'conversations_listed': 1, 'ids_listed': 0, 'rows_lost': 0}
    >>> balance({"rows_before": 7, "rows_inserted": 2, "rows_after": 8})
    {'conversations_listed': 0, 'ids_listed': 0, 'rows_lost': 1}
    """
    differences = {
        name: counts.get(name, 0) - sum(counts.get(part, 0) for part in parts)
        for name, parts in RUN_PARTS.items()
    }
    expected_rows = counts.get("rows_before", 0) + counts.get("rows_inserted", 0)
    return differences | {"rows_lost": max(0, expected_rows - counts.get("rows_after", 0))}


def read_partition(row: tuple[Any, ...]) -> Partition:
    """Return the partition of a row."""
    table, account, day, *others = row
    return Partition(table, account, date.fromisoformat(day), *others)


def run_values(run: Run) -> tuple[object, ...]:
    """Return the row of a run. Its last four values repeat what queries compare."""
    refused = (run.report or {}).get("refused")
    return (
        run.run_id,
        run.account,
        run.kind,
        run.since and str(run.since),
        run.until and str(run.until),
        to_us(run.started_at),
        None if run.ended_at is None else to_us(run.ended_at),
        run.outcome,
        write_json(list(run.reasons)),
        run.error,
        *(write_json(part or {}) for part in (run.calls, run.counts, run.report, run.settings)),
        str(run.started_at.astimezone(UTC).date()),
        (run.counts or {}).get("missed"),
        int(bool((run.report or {}).get("is_incremental"))),
        refused.get("complete_from") if isinstance(refused, Mapping) else None,
    )


def read_run(row: tuple[Any, ...]) -> Run:
    """Return the run of a row."""
    run_id, account, kind, since, until, started_us, ended_us, outcome, reasons, error, *parts = row
    calls, counts, report, settings = map(read_json, parts[:4])
    return Run(
        run_id,
        account,
        kind,
        from_us(started_us),
        since and date.fromisoformat(since),
        until and date.fromisoformat(until),
        None if ended_us is None else from_us(ended_us),
        outcome,
        tuple(load_json(reasons)),  # type: ignore[arg-type]
        error,
        calls,
        counts,
        report,
        settings,
    )


def write_json(value: object) -> str:
    """Return a value as JSON."""
    return dump_json(value).decode()


def read_json(text: str) -> dict[str, Any]:
    """Return a JSON object; an empty one for other JSON."""
    value = load_json(text)
    return value if isinstance(value, dict) else {}
