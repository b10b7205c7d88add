"""Thousands of answers with random headers, depths, numbers and clocks through the whole chain.

No account gets stuck, no message is lost in silence, and nothing ends as a defect.
"""

import random
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from convo_pipeline.derive.day import stale_days
from convo_pipeline.emulator.fault import Fault, FaultContext, FaultKind
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.upkeep import run_upkeep
from convo_pipeline.upkeep.verify import verify
from tests.integration.extract.test_clocks import SIGNED, add_news, busy_inbox, missing
from tests.support.inboxes import START, Inboxes, serve, stopped_clock

ANSWERS, HUNT_ANSWERS, LONG_ANSWERS = 60, 1_000, 10_000
SHARE = 0.35
"""How many of the answers are hostile."""
NUMBERS = ("1e999", "-1e400", "9" * 5_000, "-" + "9" * 101, "0." + "1" * 500, "1E+400")
TEXTS = (
    "", " ", "\x1b[2J", "\x7f\x80\x9b", "Fri, 31 Dec 9999 23:59:59 -1200", "9" * 5_000, "-1",
    "1e308", "NaN", "v1.0", "v99999.1", "{", "[1]",
    '{"call_count": 1e308}', '{"17": [{"call_count": "x"}]}',
    "Mon, 01 Jan 0001 00:00:00 +1400", "http://[bad", "chunked; q=1", "\xff" * 9,
)  # fmt: skip
HEADERS = (
    "Retry-After", "Facebook-API-Version", "X-App-Usage", "X-Page-Usage", "Location", "Age",
    "X-Business-Use-Case-Usage", "Content-Type", "Content-Language", "ETag", "X-FB-Trace-ID",
    "Set-Cookie", "Warning", "Link",
)  # fmt: skip


class Hostile:
    """Changes the bytes and headers of answers; counts all answers."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.answers = 0
        self.is_on = True

    def content(self, context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
        self.answers += 1
        rng = self.rng
        if not self.is_on or rng.random() > SHARE:
            return content
        if rng.random() < 0.5:
            now = context.world.clock.now() + timedelta(seconds=rng.choice(SIGNED))
            text = format_datetime(now, usegmt=True)
            headers["Date"] = rng.choice((text, text, text, *TEXTS[:5]))
        for name in rng.sample(HEADERS, rng.randint(0, 4)):
            headers[name] = rng.choice(TEXTS)
        if rng.random() < 0.4:
            content = self.insert(content)
        return content

    def insert(self, content: bytes) -> bytes:
        """Insert a value beyond the limits, or just within them, before some id of the answer."""
        rng, mark = self.rng, b'"id":'
        levels = rng.choice((200, 260, 600, 1_100, 30_000))
        value = rng.choice((*NUMBERS, "[" * levels + "]" * levels, '{"a":' * 999 + "1" + "}" * 999))
        parts = content.split(mark)
        if len(parts) == 1:
            return content
        at = rng.randrange(1, len(parts))
        head, tail = mark.join(parts[:at]), mark.join(parts[at:])
        return head + f'"junk":{value},'.encode() + mark + tail


def run_rounds(folder: Path, seed: int, answers: int) -> int:
    """Run until so many answers were sent; return how many runs that took."""
    hostile = Hostile(seed)
    kind = FaultKind("hostile", "A14", "anything", content=hostile.content)
    runs = 0
    with serve(folder, busy_inbox()) as inboxes:
        inboxes.server.set_faults(Fault(kind))
        while hostile.answers < answers:
            hostile.is_on = True
            mode = hostile.rng.choice(("window", "nightly", "capture", "full"))
            run_once(inboxes, mode)
            add_news(inboxes, hostile.rng.randint(1, 3))
            runs += 1
            if runs % 5 == 0:
                check_healing(inboxes, hostile)
        check_healing(inboxes, hostile)
        assert verify(inboxes.store, stale_days=stale_days).is_sound
        clock = stopped_clock(inboxes.clock)
        assert run_upkeep(Deployment(inboxes.settings, clock=clock), lambda text: None) == []
    return runs


def run_once(inboxes: Inboxes, mode: str) -> None:
    [report] = inboxes.extract(START, accounts=["insta"], mode=mode)
    assert "defect" not in report.reasons, report
    # a run whose first call gets three broken answers in a row reads nothing
    is_cut_off = (report.outcome, report.reasons) == ("failed", ("unreachable",))
    assert report.outcome in ("complete", "incomplete") or is_cut_off, report
    if report.outcome == "complete" and mode != "capture":
        assert missing(inboxes) == set()


def check_healing(inboxes: Inboxes, hostile: Hostile) -> None:
    """Without hostile answers, the next two ordinary runs end complete with every message."""
    hostile.is_on = False
    inboxes.extract(START, accounts=["insta"])
    inboxes.clock.advance(60)
    [report] = inboxes.extract(START, accounts=["insta"])
    assert (report.outcome, report.reasons) == ("complete", ()), report
    assert missing(inboxes) == set()
    inboxes.derive()
    assert len(inboxes.rows("messages", "insta")) == len(inboxes.rows("raw_message_ids", "insta"))


def test_hostile_answers_stop_no_account(memory_path: Path) -> None:
    assert run_rounds(memory_path, 1, ANSWERS) > 0


@pytest.mark.hunt
@pytest.mark.timeout(0)
def test_many_hostile_answers_stop_no_account(memory_path: Path, long_run: bool) -> None:
    """With --long it prints how many runs the answers took."""
    answers = LONG_ANSWERS if long_run else HUNT_ANSWERS
    total = 0
    for seed in range(4):
        total += run_rounds(memory_path / str(seed), seed, answers // 4)
    print(f"{answers} answers in {total} runs")
