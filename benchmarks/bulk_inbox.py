"""A very large inbox for benchmarks: format strings write the responses, no message is in memory.

It serves conversations with nested messages, messages of one conversation, single objects and the
Page. It has no newest-20 rule, no token check, no limits and no faults: it measures the client.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache

from convo_pipeline.emulator.calls import Call, EmulatedResponse
from convo_pipeline.emulator.clock import MICROSECONDS, from_us, to_us
from convo_pipeline.emulator.fields import Field, parse_fields

TEXTS = (
    "Hi, are you open on Sunday?",
    "Ja, sonntags von 8 bis 12 Uhr",
    "Perfekt, danke! 🙏",
    "Kann ich eine Torte für Samstag bestellen? Für zwölf Personen, am liebsten Schokolade.",
    "Gerne! Auf welchen Namen dürfen wir sie richten?",
    "👍",
    "¿A qué hora abrís el domingo?",
    "はい、8時から12時までです",
)
FILLER = "Inv3ntedBulkMessageId_AAAAbbbbCCCCddddEEEEffffGGGGhhhhIIIIjjjjKKKKllll"
_PAGE_PATH = re.compile(r"^(?:/v\d+\.\d)?/([^/]+)(?:/([a-z]+))?$")


@dataclass(frozen=True)
class BulkShape:
    """Size of the inbox: conversation 0 is the newest; all lie within `days` before `until`."""

    conversations: int = 50_000
    messages_each: int = 20
    days: float = 90.0
    until: datetime = datetime(2026, 2, 19, 12, tzinfo=UTC)
    gap_seconds: int = 60
    page_id: str = "9876543210"
    deep_messages: int = 0
    """Number of messages of every tenth conversation; 0: the same as the others."""

    def messages_of(self, conversation: int) -> int:
        return (
            self.deep_messages
            if self.deep_messages and conversation % 10 == 9
            else self.messages_each
        )

    @cached_property
    def until_us(self) -> int:
        return to_us(self.until)

    def newest_us(self, conversation: int) -> int:
        return self.until_us - int(
            conversation * self.days * 86_400 * MICROSECONDS / self.conversations
        )

    def created_us(self, conversation: int, position: int) -> int:
        """Time of a message; position 0 is the newest."""
        return self.newest_us(conversation) - position * self.gap_seconds * MICROSECONDS

    def conversation_id(self, conversation: int) -> str:
        return f"t_{1_000_000_000 + conversation}"

    def message_id(self, conversation: int, position: int) -> str:
        return f"m_{FILLER}{conversation:08d}{position:08d}"

    def truth(self) -> Iterator[tuple[str, str, datetime]]:
        """Yield (conversation_id, message_id, created_at) of every message."""
        for conversation in range(self.conversations):
            for position in range(self.messages_of(conversation)):
                created_at = from_us(self.created_us(conversation, position))
                yield (
                    self.conversation_id(conversation),
                    self.message_id(conversation, position),
                    created_at,
                )


Write = Callable[[BulkShape, int, int], str]


@lru_cache(maxsize=256)
def _customer(conversation: int) -> str:
    person = f"{9_990_000_000_000_000 + conversation}"
    return f'{{"name":"Customer {conversation}","email":"{person}@facebook.com","id":"{person}"}}'


@lru_cache(maxsize=8)
def _us(page_id: str) -> str:
    return f'{{"name":"Bulk","email":"{page_id}@facebook.com","id":"{page_id}"}}'


def _from(shape: BulkShape, conversation: int, position: int) -> str:
    return _us(shape.page_id) if position % 2 else _customer(conversation)


def _time(shape: BulkShape, conversation: int, position: int) -> str:
    day, second = divmod(shape.created_us(conversation, position) // MICROSECONDS, 86_400)
    return f'"{_day(day)}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}+0000"'


@lru_cache(maxsize=512)
def _day(day: int) -> str:
    return f"{from_us(day * 86_400 * MICROSECONDS):%Y-%m-%d}"


_MESSAGE: dict[str, Write] = {
    "id": lambda shape, conversation, position: f'"{shape.message_id(conversation, position)}"',
    "created_time": _time,
    "from": _from,
    "to": lambda shape, conversation, position: (
        f'{{"data":[{_from(shape, conversation, position + 1)}]}}'
    ),
    "message": lambda shape, conversation, position: (
        f'"{TEXTS[(conversation + position) % len(TEXTS)]}"'
    ),
    "tags": lambda shape, conversation, position: '{"data":[{"name":"inbox"},{"name":"read"}]}',
}


@lru_cache(maxsize=64)
def _writers(fields: tuple[Field, ...] | None) -> tuple[tuple[str, Write], ...]:
    names = [field.name for field in fields or (Field("id"), Field("created_time"))]
    names += [] if "id" in names else ["id"]
    return tuple((f'"{name}":', _MESSAGE[name]) for name in names if name in _MESSAGE)


class BulkApi:
    """Answer calls about a `BulkShape`; cache responses up to `cached_bytes` in all."""

    def __init__(self, shape: BulkShape | None = None, cached_bytes: int = 0) -> None:
        self.shape = shape or BulkShape()
        self._room = cached_bytes
        self._cache: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def answer(self, call: Call) -> EmulatedResponse:
        query = "&".join(
            f"{key}={value}" for key, value in sorted(call.params.items()) if key != "access_token"
        )
        content = self._cache.get((call.path, query))
        if content is None:
            content = self._write(call).encode()
            if len(content) <= self._room:
                self._room -= len(content)
                self._cache[call.path, query] = content
        headers = {
            "Content-Type": "application/json; charset=UTF-8",
            "Facebook-API-Version": "v26.0",
        }
        return EmulatedResponse(200, None, headers, content)

    def _write(self, call: Call) -> str:
        match = _PAGE_PATH.match(call.path)
        node, edge = (match[1], match[2]) if match else ("", None)
        fields = parse_fields(call.params["fields"]) if call.params.get("fields") else None
        start, limit = int(call.params.get("after", "0")), int(call.params.get("limit", "25"))
        if edge == "conversations":
            call.kind = "listing"
            return self._listing(call, fields, start, min(limit, 200))
        if node.startswith("t_") and edge == "messages":
            call.kind = "edge"
            return self._messages(
                call.base_url, int(node[2:]) - 1_000_000_000, fields, start, min(limit, 100)
            )
        if node.startswith("t_"):
            call.kind = "conversation"
            return self._conversation(call, int(node[2:]) - 1_000_000_000, fields)
        if node.startswith("m_"):
            call.kind = "message"
            return self._message(int(node[-16:-8]), int(node[-8:]), _writers(fields))
        call.kind = "identity"
        return f'{{"id":"{node}","name":"Bulk"}}'

    def _listing(self, call: Call, fields: tuple[Field, ...] | None, start: int, limit: int) -> str:
        stop = min(start + limit, self.shape.conversations)
        rows = ",".join(self._conversation(call, number, fields) for number in range(start, stop))
        path = f"{self.shape.page_id}/conversations"
        paging = self._paging(call.base_url, path, start, stop, self.shape.conversations)
        return f'{{"data":[{rows}],{paging}}}'

    def _conversation(self, call: Call, number: int, fields: tuple[Field, ...] | None) -> str:
        parts = [f'"id":"{self.shape.conversation_id(number)}"']
        for field in fields or (Field("updated_time"),):
            if field.name == "updated_time":
                parts.append(f'"updated_time":{_time(self.shape, number, 0)}')
            elif field.name == "participants":
                parts.append(
                    f'"participants":{{"data":[{_customer(number)},{_us(self.shape.page_id)}]}}'
                )
            elif field.name == "messages":
                limit = int(field.arguments.get("limit", "25"))
                parts.append(
                    f'"messages":{self._messages(call.base_url, number, field.children, 0, limit)}'
                )
        return "{" + ",".join(parts) + "}"

    def _messages(
        self, base_url: str, number: int, fields: tuple[Field, ...] | None, start: int, limit: int
    ) -> str:
        count = self.shape.messages_of(number)
        stop = min(start + limit, count)
        writers = _writers(fields)
        rows = ",".join(self._message(number, position, writers) for position in range(start, stop))
        path = f"{self.shape.conversation_id(number)}/messages"
        return f'{{"data":[{rows}],{self._paging(base_url, path, start, stop, count)}}}'

    def _message(self, number: int, position: int, writers: tuple[tuple[str, Write], ...]) -> str:
        return (
            "{"
            + ",".join([key + write(self.shape, number, position) for key, write in writers])
            + "}"
        )

    def _paging(self, base_url: str, path: str, start: int, stop: int, count: int) -> str:
        following = f',"next":"{base_url}/v26.0/{path}?after={stop}"' if stop < count else ""
        return f'"paging":{{"cursors":{{"before":"{start}","after":"{stop}"}}{following}}}'
