"""One person's conversation: refreshed from the API into the tables, then read from them."""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from rich.console import Console
from rich.text import Text

from convo_pipeline.base.clock import Clock
from convo_pipeline.console.results import readable
from convo_pipeline.derive.day import derive_day, stale_days
from convo_pipeline.extract.run import AccountReport, find
from convo_pipeline.lake.store import Store
from convo_pipeline.query.connection import connect
from convo_pipeline.sandbox import reachable
from convo_pipeline.settings import Settings

MESSAGES = """
select created_at, direction, coalesce(sender_name, sender_username, sender_id) as sender, text, content_type, detail_status
from messages where account = ? and list_contains(?, conversation_id) order by created_at, tie_rank, message_id
"""


def find_conversation(
    settings: Settings, account: str, user_id: str, clock: Clock, environ: Mapping[str, str]
) -> tuple[AccountReport, list[str]]:
    """Refresh the conversations with one person and derive what changed; return the report and their ids."""
    settings.account(account)
    with closing(Store(settings.store, clock)) as store:
        with reachable(settings, environ) as (reached, environ):
            report, conversation_ids = find(
                reached, store, account, user_id, environ=environ, clock=clock
            )
        for day in stale_days(store, account):
            derive_day(store, account, day)
    return report, conversation_ids


def print_conversation(
    console: Console, settings: Settings, account: str, conversation_ids: list[str]
) -> int:
    """Print the stored messages, newest last; return how many there are."""
    with connect(settings.store.root, settings=settings) as con:
        found = con.execute(MESSAGES, [account, conversation_ids]).fetchall()
    for row in found:
        console.print(_line(*row), soft_wrap=True)
    return len(found)


def _line(
    created_at: Any,
    direction: str | None,
    sender: str | None,
    text: str | None,
    kind: str,
    status: str,
) -> Text:
    arrow = {"inbound": "→", "outbound": "←"}.get(direction or "", "·")
    content = readable(text) or (f"[{kind}]" if status == "detailed" else f"[{status}]")
    line = Text(f"{created_at:%Y-%m-%d %H:%M} {arrow} ", style="dim")
    return line.append(f"{readable(sender) or '?'}: ", style="bold").append(content, style="")
