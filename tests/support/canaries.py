"""Put a unique text where only tables may hold it: into all fields, responses and errors."""

import itertools
import json

from convo_pipeline.emulator.fault import Fault, FaultContext, FaultKind
from convo_pipeline.emulator.world import Message


def add_canary_to_each_field(message: Message, canary: str) -> None:
    """Let all fields of a message hold the canary, also those that look like fixed words."""
    hostile = {"id": f"9{canary}12345678", "name": canary, "title": canary, "type": canary}
    message.edit(canary)
    message.payload.update(
        attachments=[
            {**hostile, "mime_type": canary, "size": canary, "file_url": f"https://x/{canary}"},
            {"id": "71", "mime_type": f"image/{canary}", "image_data": {"url": canary}},
        ],
        shares=[{**hostile, "description": canary, "link": f"https://x/{canary}"}],
        tags=[canary, f"source:{canary}"],
        story={"mention": {"id": canary, "link": f"https://x/{canary}"}},
        is_unsupported=canary,
    )
    message.react(canary, {"id": "72", "username": canary})


def add_canary_to_each_response(canary: str, every: int) -> Fault:
    """Put the canary into each response of each endpoint, under unknown keys and in all errors.

    Each `every`-th response is an error whose texts are the canary. Headers have it too.
    """
    count = itertools.count(1)

    def content(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
        for header in ("x-fb-trace-id", "Content-Language", "Warning", "ETag"):
            headers[header] = canary
        body = json.loads(content)
        texts = ("message", "type", "error_user_title", "error_user_msg", "error_data")
        if next(count) % every == 0:
            body = {"error": {"code": 2, **dict.fromkeys((*texts, "fbtrace_id"), canary)}}
        if isinstance(body.get("error"), dict):
            body["error"] |= dict.fromkeys((*texts, canary), canary)
        rows = body["data"] if isinstance(body.get("data"), list) else [body.get("data")]
        for each in (body, *rows):
            if isinstance(each, dict):
                each |= {canary: canary, "category": canary, "name": canary, "application": canary}
        return json.dumps(body).encode()

    return Fault(FaultKind("canary", "S1", "canary in every response", content=content))
