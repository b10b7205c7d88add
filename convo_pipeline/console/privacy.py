"""Commands `forget` and `deletion`: erase people, and answer Meta's deletion requests."""

from collections.abc import Callable, Mapping

from convo_pipeline.base.clock import Clock
from convo_pipeline.console.results import counted
from convo_pipeline.console.upkeep import open_lake
from convo_pipeline.errors import StoreError
from convo_pipeline.lake.suppression import Receipt
from convo_pipeline.privacy import forget
from convo_pipeline.privacy.deletion import (
    callback_response,
    describe_request,
    finish_request_soon,
    read_request,
    read_requests,
    read_status_url,
    receive_request,
)
from convo_pipeline.privacy.erasure_plan import ErasurePlan
from convo_pipeline.settings import Settings


def forget_person(
    settings: Settings, account: str, person_id: str, clock: Clock, ask: Callable[[str], bool]
) -> str | None:
    """Erase a person after `ask` agreed; return what was erased, or None if nothing was."""
    with open_lake(settings.store) as store:
        receipt = forget.forget(
            settings, store, account, person_id, clock.now(), lambda plan: ask(_describe_plan(plan))
        )
    return _describe_receipt(receipt) if receipt else None


def forget_again(settings: Settings, account: str, clock: Clock) -> list[str]:
    """Erase again the people whom a restored backup brought back; return one line per person."""
    with open_lake(settings.store) as store:
        receipts = forget.forget_again(settings, store, account, clock.now())
    return [_describe_receipt(receipt) for receipt in receipts]


def _describe_plan(plan: ErasurePlan) -> str:
    parts = [counted(len(plan.direct_conversations), "conversation")]
    if plan.group_conversations:
        groups = counted(len(plan.group_conversations), "group conversation")
        parts.append(f"the person's part of {groups}")
    messages = counted(plan.row_counts.get("raw_message_ids", 0), "message")
    return f"{plan.account}: erase {', '.join(parts)} and {messages} for good?"


def _describe_receipt(receipt: Receipt) -> str:
    counts = sorted(receipt.row_counts.items())
    rows = ", ".join(f"{table} {count:,}" for table, count in counts) or "none"
    return f"erased from {receipt.account}; rows removed: {rows}; receipt {receipt.person[:32]}"


def answer_request(
    settings: Settings, text: str, environ: Mapping[str, str], clock: Clock
) -> tuple[str, str]:
    """Store a signed request and erase the person; return the answer for Meta and the result."""
    read_status_url(settings)
    with open_lake(settings.store) as store:
        request = receive_request(settings, store, text, environ, clock.now())
        answer = callback_response(settings, request).decode()
        try:
            request = finish_request_soon(settings, store, request, clock)
        except StoreError as error:
            return answer, f"stored; the nightly upkeep tries again: {error}"
    if request.outcome == "not_found":
        return answer, (
            "no account has this id, which belongs to the app; the account may know the person by"
            " another id (participants.participant_id)"
        )
    return answer, f"erased from {', '.join(request.accounts)}"


def describe_requests(settings: Settings, code: str | None) -> str:
    """Return the status text of one request, or one line per request; empty if there is none."""
    with open_lake(settings.store) as store:
        if code is not None:
            request = read_request(store, code)
            return describe_request(request) if request else ""
        requests = read_requests(store)
    lines = (
        f"{each.code}  {each.received_at:%Y-%m-%d %H:%M}  {each.outcome}"
        f"  {', '.join(each.accounts)}".rstrip()
        for each in requests
    )
    return "".join(f"{line}\n" for line in lines)
