"""Small Graph API for inboxes that are declared as JSON (`tests/cases/`).

It shares no code with the client or with the built-in emulator, so one wrong belief about Meta
cannot hide in all three. A world has these keys:

- `platform`, `page_id`, `own_id` (Instagram), `conversations` (newest first, messages newest first)
- `answers`: replies that come first for a `path` (`*`: every path); `fields_has`, `fields_lack`,
  `user_id` and `times` narrow them
- `poison`: one conversation, or a list of them, whose own calls and every listing that nests its
  messages get an error
- `nested_error`: replaces the nested messages of one conversation the first `times` times
- `wrap`: the key that the listing comes under instead of `data`
- `message_errors`: message id -> error of the message's own call
"""

import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from tests.support.graph_server import Call, Reply

MINUTES_AGO = re.compile(r"@-(\d+)([mhd])")
UNITS = {"m": "minutes", "h": "hours", "d": "days"}
DEFAULT_LIMIT = 25
MISSING = {
    "error": {
        "message": "Unsupported get request. Object with this id does not exist",
        "type": "GraphMethodException", "code": 100, "error_subcode": 33, "fbtrace_id": "AInvented",
    }
}  # fmt: skip


def dated(value: Any, now: datetime) -> Any:
    """Replace times such as `@-10m` (ten minutes ago) by Meta's spelling of them."""
    if isinstance(value, str):
        found = MINUTES_AGO.fullmatch(value)
        if found is None:
            return value
        at = now - timedelta(**{UNITS[found[2]]: int(found[1])})
        return at.strftime("%Y-%m-%dT%H:%M:%S+0000")
    if isinstance(value, Mapping):
        return {key: dated(each, now) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [dated(each, now) for each in value]
    return value


class CaseApi:
    """Answers one `Call` after another from a declared world; `calls` counts them by path."""

    def __init__(self, world: Mapping[str, Any], now: datetime) -> None:
        self.world = dated(world, now)
        self.now = now
        self.calls: list[Call] = []
        self.select = select
        """Returns the fields of a message that a call gets."""
        self._used: Counter[int] = Counter()
        self._nested_errors = 0
        self._lock = threading.Lock()
        self.conversations: dict[str, dict[str, Any]] = {
            each["id"]: each for each in self.world["conversations"]
        }
        self.messages: dict[str, dict[str, Any]] = {
            message["id"]: message
            for each in self.conversations.values()
            for message in each.get("messages", ())
        }

    def __call__(self, call: Call) -> Reply:
        with self._lock:
            self.calls.append(call)
            body, status = self._answer(call)
        return Reply(body, status, {"Date": format_datetime(self.now.astimezone(UTC), usegmt=True)})

    def path(self, call: Call) -> str:
        """Return the path without its version."""
        return re.sub(r"^/v\d+\.\d+", "", call.raw_path).strip("/")

    def _answer(self, call: Call) -> tuple[object, int]:
        path, fields = self.path(call), call.parameters.get("fields", "")
        for index, answer in enumerate(self.world.get("answers", ())):
            is_meant = (
                answer["path"] in ("*", path)
                and answer.get("fields_has", "") in fields
                and ("fields_lack" not in answer or answer["fields_lack"] not in fields)
                and answer.get("user_id") in (None, call.parameters.get("user_id"))
                and self._used[index] < answer.get("times", 1_000_000)
            )
            if is_meant:
                self._used[index] += 1
                return answer["body"], answer.get("status", 200)
        node, _, edge = path.partition("/")
        if edge == "conversations":
            return self._listing(call, fields)
        if node in self.conversations:
            return self._conversation(self.conversations[node], edge, call, fields)
        if node in self.messages:
            return self._message(self.messages[node], edge, call, fields)
        if not edge and node in (self.world["page_id"], "me", self.world.get("own_id")):
            return self._account(fields), 200
        return MISSING, 404

    def _account(self, fields: str) -> object:
        own_id = self.world.get("own_id", "17841499990000001")
        if self.world["platform"] == "instagram" and self.world["page_id"] != "me":
            linked = {"id": own_id, "username": "example.bakery"}
            whole = {"id": self.world["page_id"], "instagram_business_account": linked}
        elif self.world["page_id"] == "me":
            whole = {"id": own_id, "user_id": own_id, "username": "example.bakery"}
        else:
            whole = {"id": self.world["page_id"], "name": "Example Bakery"}
        names = _names(fields) or ["id"]
        return {name: whole[name] for name in {"id": "", **dict.fromkeys(names)} if name in whole}

    def _poison(self, conversation_id: str) -> tuple[object, int] | None:
        poisons = self.world.get("poison", ())
        for each in [poisons] if isinstance(poisons, Mapping) else poisons:
            ids = each["conversation"]
            if conversation_id in ([ids] if isinstance(ids, str) else ids):
                return each["body"], each.get("status", 400)
        return None

    def _listing(self, call: Call, fields: str) -> tuple[object, int]:
        chosen = list(self.conversations.values())
        if "user_id" in call.parameters:
            person = call.parameters["user_id"]
            chosen = [each for each in chosen if person in str(each.get("participants"))]
        page, after = _page(chosen, call)
        if "messages" in fields:
            for each in page:
                if poison := self._poison(each["id"]):
                    return poison
        rows = [self._render_conversation(each, fields) for each in page]
        return self._list(rows, after, self.world.get("wrap", "data")), 200

    def _render_conversation(self, conversation: Mapping[str, Any], fields: str) -> dict[str, Any]:
        names = _names(fields)
        row = {name: conversation[name] for name in names if name in conversation}
        row["id"] = conversation["id"]
        if "messages" in names:
            nested = self.world.get("nested_error")
            if (
                nested
                and nested["conversation"] == conversation["id"]
                and self._nested_errors < nested["times"]
            ):
                self._nested_errors += 1
                row["messages"] = nested["body"]
            else:
                limit = re.search(r"messages(?:\.limit\((\d+)\))?", fields)
                assert limit is not None
                most = int(limit[1] or DEFAULT_LIMIT)
                messages = conversation.get("messages", [])
                inner = re.search(r"messages(?:\.limit\(\d+\))?\{(.*)\}", fields)
                asked = inner[1] if inner else ""
                rows = [self.select(each, asked) for each in messages[:most]]
                row["messages"] = self._list(rows, str(most) if len(messages) > most else None)
        return row

    def _conversation(
        self, conversation: Mapping[str, Any], edge: str, call: Call, fields: str
    ) -> tuple[object, int]:
        if poison := self._poison(conversation["id"]):
            return poison
        if edge == "messages":
            page, after = _page(conversation.get("messages", []), call)
            return self._list([self.select(each, fields) for each in page], after), 200
        if edge:
            rest = conversation.get(f"{edge}_rest", [])
            return self._list(rest, None), 200
        return self._render_conversation(conversation, fields), 200

    def _message(
        self, message: Mapping[str, Any], edge: str, call: Call, fields: str
    ) -> tuple[object, int]:
        if error := self.world.get("message_errors", {}).get(message["id"]):
            return error["body"], error.get("status", 400)
        if edge:
            return self._list(message.get(f"{edge}_rest", []), None), 200
        return self.select(message, fields), 200

    def _list(self, rows: Sequence[object], after: str | None, key: str = "data") -> object:
        paging: dict[str, Any] = {"cursors": {"before": "B", "after": after or "END"}}
        if after:
            paging["next"] = "https://graph.example/next?access_token=canary"
        return {key: list(rows), "paging": paging}


def _page(items: Sequence[Any], call: Call) -> tuple[Sequence[Any], str | None]:
    start, limit = call.parameters.get("after", "0"), int(call.parameters.get("limit", "25"))
    first = int(start) if start.isdigit() else len(items)
    last = first + limit
    return items[first:last], str(last) if last < len(items) else None


def select(message: Mapping[str, Any], fields: str) -> dict[str, Any]:
    """Return the fields that were asked for; `id` and `created_time` where none was."""
    names = _names(fields) or ["id", "created_time"]
    return {name: value for name, value in message.items() if name in {*names, "id"}}


def _names(fields: str) -> list[str]:
    """Return the top-level names of a field expansion.

    >>> _names("id,messages.limit(20){id,from},shares{link}")
    ['id', 'messages', 'shares']
    """
    names, depth, word = [], 0, ""
    for character in fields + ",":
        if character == "," and not depth:
            names.append(word)
            word = ""
            continue
        depth += character in "{("
        depth -= character in "})"
        word += character
    return [re.split(r"[.{(]", name)[0] for name in names if name]
