"""Commands `forget` and `deletion`: erase people, and answer Meta's deletion requests."""

from collections.abc import Callable, Mapping

from convo_pipeline.base.clock import Clock
from convo_pipeline.console.results import counted
from convo_pipeline.console.upkeep import open_lake
from convo_pipeline.errors import StoreError
from convo_pipeline.lake.suppression import Receipt
from convo_pipeline.privacy import forget
from convo_pipeline.privacy.deletion import (
    DeletionRequest,
    callback_response,
    finish_request_soon,
    read_request,
    read_requests,
    read_status_url,
    receive_request,
)
from convo_pipeline.privacy.erasure_plan import ErasurePlan
from convo_pipeline.settings import Settings


def forget_person(
    settings: Settings,
    account: str,
    person_id: str,
    clock: Clock,
    is_agreed: Callable[[ErasurePlan], bool],
) -> list[Receipt]:
    """Erase a person if `is_agreed` accepts the plan; return the receipt, or an empty list."""
    with open_lake(settings.store) as store:
        receipt = forget.forget(settings, store, account, person_id, clock.now(), is_agreed)
    return [receipt] if receipt else []


def forget_again(settings: Settings, account: str, clock: Clock) -> list[Receipt]:
    """Erase again the people whom a restored backup brought back; return one receipt each."""
    with open_lake(settings.store) as store:
        return forget.forget_again(settings, store, account, clock.now())


def describe_plan(plan: ErasurePlan) -> str:
    """Return what an erasure would remove, in one line."""
    parts = [counted(len(plan.direct_conversations), "conversation")]
    if plan.group_conversations:
        groups = counted(len(plan.group_conversations), "group conversation")
        parts.append(f"the person's part of {groups}")
    messages = counted(plan.row_counts.get("raw_message_ids", 0), "message")
    return f"{plan.account}: erase {', '.join(parts)} and {messages}"


def describe_receipt(receipt: Receipt) -> str:
    """Return what an erasure removed, in one line."""
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


def find_requests(settings: Settings, code: str | None) -> list[DeletionRequest]:
    """Return the request with this code, or all requests; an empty list if there is none."""
    with open_lake(settings.store) as store:
        if code is None:
            return read_requests(store)
        request = read_request(store, code)
    return [request] if request else []
