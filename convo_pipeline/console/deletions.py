"""Deletion requests as a person at a terminal answers and lists them. Glue between the lake and a console."""

from collections.abc import Mapping

from convo_pipeline.base.clock import Clock
from convo_pipeline.console.upkeep import open_lake
from convo_pipeline.errors import StoreError
from convo_pipeline.privacy.deletion import (
    callback_response,
    describe_request,
    finish_request,
    read_request,
    read_requests,
    read_status_url,
    receive_request,
)
from convo_pipeline.settings import Settings


def answer_request(
    settings: Settings, text: str, environ: Mapping[str, str], clock: Clock
) -> tuple[str, str]:
    """Note a signed request and forget the person; return the answer for Meta and what came of it."""
    read_status_url(settings)
    with open_lake(settings.store) as store:
        request = receive_request(settings, store, text, environ, clock.now())
        reply = callback_response(settings, request).decode()
        try:
            request = finish_request(settings, store, request, clock.now())
        except StoreError as error:
            return reply, f"noted; the nightly upkeep will finish_request it: {error}"
    if request.outcome == "not_found":
        return (
            reply,
            "nobody is known by this id, which is the app's own: look whether the person is known by another one",
        )
    return reply, f"erased from {', '.join(request.accounts)}"


def describe_requests(settings: Settings, code: str | None) -> str:
    """Return what became of one request, in words for the person, or of all, a line each; empty if there is none."""
    with open_lake(settings.store) as store:
        if code is not None:
            request = read_request(store, code)
            return describe_request(request) if request else ""
        lines = [
            f"{each.code}  {each.received_at:%Y-%m-%d %H:%M}  {each.outcome}  {', '.join(each.accounts)}".rstrip()
            for each in read_requests(store)
        ]
    return "".join(f"{line}\n" for line in lines)
