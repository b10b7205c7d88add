"""Random hostile responses over HTTP into derived tables: nothing crashes, no row is dropped."""

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convo_pipeline.base.times import to_us
from convo_pipeline.emulator.api import GraphApi
from convo_pipeline.emulator.calls import Call, EmulatedResponse
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.fault import kind_of
from convo_pipeline.emulator.refusals import read_refusal
from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.world import World
from convo_pipeline.extract.run_data import RunData
from convo_pipeline.extract.spool import ListingRecord, Spool
from convo_pipeline.extract.suppression_filter import SuppressionFilter
from convo_pipeline.graph.fields import conversation_field_names, message_field_names
from convo_pipeline.graph.responses import GraphResponse, read_conversations, read_json
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import SuppressionList
from convo_pipeline.reasons import RUN_REASONS
from tests.support.inboxes import NOW, TOKEN_VARIABLE, Inboxes, date, settings_for, stopped_clock

FAST_EXAMPLES, HUNT_EXAMPLES, LONG_EXAMPLES = 25, 150, 5_000
"""Examples for the whole chain."""
FAST_READINGS, HUNT_READINGS, LONG_READINGS = 40, 1_000, 100_000
"""Examples for reading alone, without a server and tables, in a tenth of the time."""

TEXTS = st.text(st.characters(exclude_categories=()), max_size=8)
NUMBERS = st.one_of(
    st.integers(), st.integers(-(10**30), 10**30), st.floats(allow_nan=False, allow_infinity=False)
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
IDS = st.one_of(
    st.sampled_from(["1", "m_1", "m_2", "m_3", "t_1", "0123", "/|=..%*?['\"", "..", ".", "\x00",
        "\ud800", "é", "x" * 400, ""]),
    st.integers(-9, 10**25),
    VALUES,
)  # fmt: skip
TIMES = st.one_of(
    st.sampled_from(["2026-03-09T10:00:00+0000", "2026-03-08T23:59:59Z",
        "2026-03-09T23:59:59-0100", "1970-01-01T00:00:00+0000", "9999-12-31T23:59:59+0000",
        "2026-02-30T00:00:00+0000", 1_773_000_000, "1773000000123", -1, 10**20]),
    VALUES,
)  # fmt: skip
PEOPLE = st.one_of(
    VALUES, st.fixed_dictionaries({"id": IDS}, optional={"username": VALUES, "name": VALUES})
)
NAMES = (
    *("message", "attachments", "shares", "reactions", "story", "reply_to", "tags"),
    *("sticker", "error", "paging", "new"),
)
NEXT = "https://graph.facebook.com/v26.0/1/attachments?after=MAZDZD"


@st.composite
def cut_lists(draw: st.DrawFn) -> dict[str, Any]:
    """Lists of which a `next` says that there are more items."""
    cursors = draw(VALUES | st.fixed_dictionaries({"after": IDS}))
    paging = {"next": draw(TEXTS | st.just(NEXT)), "cursors": cursors}
    return {"data": draw(VALUES | st.lists(VALUES, max_size=3)), "paging": paging}


CUT_LISTS = cut_lists()
RECIPIENTS = st.fixed_dictionaries({"data": st.lists(PEOPLE, max_size=2)})
MESSAGES = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {"id": IDS, "created_time": TIMES},
        optional=dict.fromkeys(NAMES, VALUES | CUT_LISTS)
        | {"from": PEOPLE, "to": VALUES | RECIPIENTS | CUT_LISTS},
    ),
)
NESTED = st.one_of(
    VALUES,
    st.lists(MESSAGES, max_size=6),
    st.fixed_dictionaries({"data": st.lists(MESSAGES, max_size=8)}),
)
CONVERSATIONS = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {"id": IDS, "updated_time": TIMES},
        optional={
            "messages": NESTED,
            "participants": VALUES | st.lists(PEOPLE, max_size=3) | CUT_LISTS,
            "paging": VALUES,
            "new": VALUES,
        },
    ),
)


ERRORS = st.sampled_from(["100/33", "100", "10", "200", "1234567", "http403", "http404", "1"])
LATER_PAGES = VALUES | CUT_LISTS


class HostileApi:
    """Returns the given rows for a listing, and pages for their lists; refuses every other call."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.later_page: Any = None
        self.error = "100/33"

    def answer(self, call: Call) -> EmulatedResponse:
        kind = kind_of(call)
        if kind in ("listing", "inner"):
            body = {"data": self.rows} if kind == "listing" else self.later_page
            content = json.dumps(body).encode()
            return EmulatedResponse(200, None, {"Content-Type": "application/json"}, content)
        refusal = read_refusal(self.error)
        assert refusal is not None
        refused = GraphApi(World(), Switches()).refused(call, refusal)
        refused.content = refused.content or json.dumps(refused.body).encode()
        return refused


def run_hostile(api: HostileApi, inboxes: Inboxes) -> None:
    """Extract twice and derive; rows with ids are stored once, others are rejects."""
    for _ in range(2):
        [report] = inboxes.extract(date(2010, 1, 1))
        assert report.outcome in ("complete", "incomplete", "failed")
        assert set(report.reasons) <= RUN_REASONS
    inboxes.derive()
    wanted, has_reject = _expected(api.rows)
    stored = Counter(
        (row["conversation_id"], row["message_id"]) for row in inboxes.rows("messages")
    )
    assert set(stored) == wanted
    assert set(stored.values()) <= {1}
    assert bool(inboxes.rows("raw_rejects")) >= has_reject


def _expected(rows: list[Any]) -> tuple[set[tuple[str, str]], bool]:
    """Return the keys of the rows, and whether there is a reject: an oracle of its own."""
    wanted: set[tuple[str, str]] = set()
    has_reject = False
    latest = {found: row for row in rows if (found := _text_id(row))}
    for row in rows:
        conversation_id = _text_id(row)
        has_reject |= conversation_id is None
        if conversation_id is None or latest[conversation_id] is not row:
            continue
        messages = row.get("messages")
        entries = messages.get("data", messages) if isinstance(messages, dict) else messages
        entries = entries if isinstance(entries, list) else [entries] if entries else []
        wanted |= {(conversation_id, found) for entry in entries if (found := _text_id(entry))}
    return wanted, has_reject


def _text_id(row: Any) -> str | None:
    value = row.get("id") if isinstance(row, dict) else None
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value)
    return text if text and text == text.encode("utf-8", "replace").decode() else None


def hunt(folder: Path, examples: int, *, derandomize: bool) -> None:
    world = World(VirtualClock(NOW))
    account = world.add_account("shop", "1111111111", "messenger")
    api = HostileApi()
    with EmulatorServer(world, api=api) as server:

        @settings(
            max_examples=examples, deadline=None, database=None, derandomize=derandomize,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(
            st.lists(CONVERSATIONS, max_size=6, unique_by=lambda row: _text_id(row) or id(row)),
            LATER_PAGES,
            ERRORS,
        )
        def survives(rows: list[Any], later_page: Any, error: str) -> None:
            api.rows, api.later_page, api.error = rows, later_page, error
            with tempfile.TemporaryDirectory(dir=folder) as root:
                made = settings_for(
                    [account], server.base_url, Path(root), date(2010, 1, 1), timeout_seconds=5
                )
                store = Store(made.store, stopped_clock(world.clock))
                try:
                    run_hostile(api, Inboxes(server, made, store, {TOKEN_VARIABLE: EMULATOR_TOKEN}))
                finally:
                    store.close()

        survives()


@pytest.mark.slow
def test_no_response_crashes_the_chain_or_is_dropped(memory_path: Path) -> None:
    hunt(memory_path, FAST_EXAMPLES, derandomize=True)


@pytest.mark.hunt
@pytest.mark.timeout(0)
def test_no_response_of_many_crashes_the_chain_or_is_dropped(
    memory_path: Path, long_run: bool
) -> None:
    hunt(memory_path, LONG_EXAMPLES if long_run else HUNT_EXAMPLES, derandomize=not long_run)


def read_hostile(rows: list[Any], folder: Path) -> None:
    """Read a response from bytes to rows by day; everything is a row or a reject."""
    spool = Spool(folder)
    body = read_json(json.dumps({"data": rows}).encode())
    page = read_conversations(GraphResponse(body, NOW, 1, None))
    data = RunData(spool, SuppressionFilter(SuppressionList(b"", frozenset())), {})
    data.make_folder()
    record = ListingRecord(
        to_us(NOW), "", message_field_names("messenger"), conversation_field_names(), page.rows
    )
    data.append(record)
    data.place_untimed({})
    observations = [row for day in data.days() for row in data.read_day(day).to_pylist()]
    wanted, has_reject = _expected(rows)
    assert {(row["conversation_id"], row["message_id"]) for row in observations} == wanted
    assert bool(data.rejects) >= has_reject
    assert [type(record) for record in spool] == [ListingRecord]


def hunt_readings(folder: Path, examples: int, *, derandomize: bool) -> None:
    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=derandomize,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.lists(CONVERSATIONS, max_size=6, unique_by=lambda row: _text_id(row) or id(row)))
    def survives(rows: list[Any]) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as root:
            read_hostile(rows, Path(root))

    survives()


def test_no_row_is_dropped(memory_path: Path) -> None:
    hunt_readings(memory_path, FAST_READINGS, derandomize=True)


@pytest.mark.hunt
@pytest.mark.timeout(0)
def test_no_row_of_many_is_dropped(memory_path: Path, long_run: bool) -> None:
    hunt_readings(
        memory_path, LONG_READINGS if long_run else HUNT_READINGS, derandomize=not long_run
    )
