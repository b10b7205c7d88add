"""Random inboxes of two shops, as raw tables and all that the product derives from them.

They have saved replies, hearts, unsent and unread messages, pictures, a change of clocks, and two
time zones. `desk_oracle.py` reads them a second time.
"""

import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from convo_pipeline.derive.account_days import derive_account_days, read_rules
from convo_pipeline.derive.day import derive_day
from convo_pipeline.lake.accounts import save_accounts
from convo_pipeline.lake.ledger import export_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import Settings, parse_settings
from convo_pipeline.state.records import Run
from tests.support.raw_days import OWN_IDS, conversation_row, detail_row, id_row, raw_day

OWN = OWN_IDS["instagram"]
CLOCKS = {"bakery": ("Europe/Berlin", 9, 18), "surf": ("America/New_York", 9, 18)}
"""The time zone of each account, and its business hours from Monday to Friday."""
SAVED_REPLY = "Thank you for your question, we have it in three colours."
TEXTS = (SAVED_REPLY, "ok", "Do you have a BÏKE?", "text", None)
CHANGES_OF_CLOCKS = (datetime(2026, 3, 27, tzinfo=UTC), datetime(2026, 3, 6, tzinfo=UTC))
LATER = datetime(2027, 1, 1, tzinfo=UTC)
PAUSES = (2, 4, 30, 300, 900, 5_000, 40_000, 90_000)
EXPIRED, VALID = 0x65D3A1F0, 0x7FFFFFFF
Rows = tuple[dict[str, Any], dict[str, Any]]


@dataclass
class Inbox:
    """The raw rows of one account by day, and the names of its customers."""

    days: dict[date, list[Rows]] = field(default_factory=lambda: defaultdict(list))

    def add(
        self, conversation: str, name: str, moment: datetime, sender: str, text: str | None, *,
        has_heart: bool = False, is_unsent: bool = False, is_unread: bool = False,
        picture: int | None = None,
    ) -> None:  # fmt: skip
        """Add a message; the customer of a conversation has its name with a `p` before it."""
        customer = f"p{conversation}"
        sender_id = OWN if sender == OWN else customer
        payload: dict[str, Any] = {"id": name, "from": {"id": sender_id}, "message": text or ""}
        payload["created_time"] = f"{moment:%Y-%m-%dT%H:%M:%S+0000}"
        if has_heart:
            other = OWN if sender != OWN else customer
            payload["reactions"] = {"data": [{"reaction": "love", "users": [{"id": other}]}]}
        if picture is not None:
            image = {"url": f"https://cdn.example/{name}.jpg?oe={picture:08X}"}
            payload["attachments"] = {"data": [{"image_data": image}]}
        row = id_row(
            name, conversation, created_at=moment,
            deleted_at=moment + timedelta(days=1) if is_unsent else None,
        )  # fmt: skip
        status = {"detail_status": "beyond_20"} if is_unread else {}
        content = None if is_unread else payload
        detail = detail_row(name, content, conversation, created_at=moment, **status)
        self.days[moment.date()].append((row, detail))

    def raw_days(self) -> Iterator[tuple[date, Any]]:
        """Yield each day with its raw tables."""
        for day, rows in self.days.items():
            ids, details = [each[0] for each in rows], [each[1] for each in rows]
            people = [
                conversation_row("instagram", people_of(name), name)
                for name in sorted({str(row["conversation_id"]) for row in ids})
            ]
            yield day, raw_day("instagram", ids, details, people)


def people_of(conversation: str) -> dict[str, Any]:
    own = {"id": OWN, "username": "shop"}
    customer = {"id": f"p{conversation}", "username": f"user-{conversation}"}
    return {"participants": {"data": [own, customer]}}


def settings_of(root: Path) -> Settings:
    text = f'[store]\nroot = "{root}"\n'
    for number, (name, (zone, opens, closes)) in enumerate(CLOCKS.items(), 1):
        text += (
            f'[[accounts]]\nname = "{name}"\npage_id = "{number}"\nplatform = "instagram"\n'
            f'token_env = "T"\nstart_date = "2026-01-01"\ntimezone = "{zone}"\n'
            f'business_hours = "Mon-Fri {opens:02}:00-{closes:02}:00"\n'
        )
    return parse_settings(text.encode())


def random_inbox(draw: random.Random, since: datetime) -> Inbox:
    """Return three busy days, a quiet week before them, and two conversations of 40 days ago."""
    inbox = Inbox()
    inbox.add("old", "m", since - timedelta(days=40), "customer", "long ago")
    inbox.add("back", "b0", since - timedelta(days=40), "customer", "hello?")
    inbox.add("back", "b1", since + timedelta(hours=30), "customer", "still there?")
    for number in range(20):
        moment = since + timedelta(seconds=draw.randrange(3 * 86_400))
        if number >= 14:
            moment -= timedelta(days=draw.randint(7, 20))
        for index in range(draw.randint(1, 7)):
            moment += timedelta(seconds=draw.choice(PAUSES))
            inbox.add(
                f"c{number}", f"m{number}-{index}", moment,
                draw.choice(("customer", "customer", OWN)), draw.choice(TEXTS),
                has_heart=draw.random() < 0.15, is_unsent=draw.random() < 0.08,
                is_unread=draw.random() < 0.04,
                picture=draw.choice((EXPIRED, VALID)) if draw.random() < 0.1 else None,
            )  # fmt: skip
    return inbox


def make_lake(root: Path, seed: int) -> Settings:
    """Write the raw tables of a random world and derive all others."""
    draw, settings = random.Random(seed), settings_of(root)
    with closing(Store(settings.store)) as store:
        for name in CLOCKS:
            inbox = random_inbox(draw, CHANGES_OF_CLOCKS[seed % 2])
            for day, raw in inbox.raw_days():
                store.merge("raw_conversations", name, day, raw.conversations)
                store.merge("raw_message_ids", name, day, raw.message_ids)
                store.merge("raw_message_details", name, day, raw.message_details)
                derive_day(store, name, day)
            first = min(inbox.days) - timedelta(days=2)
            store.state.save_run(
                Run(
                    "r", name, "nightly", LATER, first, LATER.date(),
                    LATER + timedelta(seconds=90), "complete",
                    calls={"conversations": 3, "messages": 4},
                )
            )  # fmt: skip
            derive_account_days(store, name, rules=read_rules(store, settings, name))
        export_runs(store, "r")
        save_accounts(store, {each.name: settings.describe(each) for each in settings.accounts})
    return settings
