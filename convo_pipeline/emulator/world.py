"""The emulated data: accounts, conversations and messages, and which of them exist at a time.

A test can add and change everything while the server runs.
"""

import hashlib
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from convo_pipeline.emulator import ids
from convo_pipeline.emulator.clock import MICROSECONDS, VirtualClock, from_us, to_us
from convo_pipeline.emulator.refusals import UNKNOWN, Refusal, read_refusal
from convo_pipeline.emulator.user_tokens import PageUser

EMULATOR_TOKEN = "EAAemulatorTokenThatOpensNothingElse0000"  # noqa: S105 - opens invented data only
"""Token of the emulator's default accounts; it works nowhere else."""
REQUEST_IDLE_US = 30 * 86_400 * MICROSECONDS
"""A conversation in Requests is hidden from apps after this time without a message."""

Payload = dict[str, Any]
Grow = Callable[["Account", int, int], None]


@dataclass(frozen=True)
class TrueMessage:
    """One existing message, for tests."""

    account: str
    conversation_id: str
    message_id: str
    created_at: datetime
    rank: int
    """1 is the newest message of the conversation."""
    is_readable: bool
    """Whether the API returns its content now."""
    is_unsent: bool
    is_visible: bool
    """Whether its conversation is visible to the app."""


@dataclass(slots=True, eq=False)
class Message:
    """One message; its payload is made when it is first read."""

    conversation: "Conversation"
    message_id: str
    created_us: int
    make: Callable[[], Payload] | None = None
    made_payload: Payload | None = None
    extra: Payload = field(default_factory=dict)
    """Additional keys in responses that no field requests."""
    unsent_us: int | None = None
    sequence: int = 0
    """Order among messages of the same microsecond."""

    @property
    def payload(self) -> Payload:
        if self.made_payload is None:
            self.made_payload = self.make() if self.make else {}
        return self.made_payload

    @property
    def created_at(self) -> datetime:
        return from_us(self.created_us)

    def unsend(self) -> None:
        """Unsend the message now."""
        with self.conversation.account.world.change() as now_us:
            self.unsent_us = now_us

    def edit(self, text: str) -> None:
        with self.conversation.account.world.change():
            self.payload["message"] = text

    def react(self, emoji: str, by: Mapping[str, str] | None = None) -> None:
        """Add a reaction, by default of the customer; updated_time does not change."""
        person = dict(by or self.conversation.people[0])
        person.pop("email", None)
        with self.conversation.account.world.change():
            self.payload.setdefault("reactions", []).append({"reaction": emoji, "users": [person]})

    def unreact(self) -> None:
        with self.conversation.account.world.change():
            self.payload.pop("reactions", None)

    def is_unsent(self, now_us: int) -> bool:
        return self.unsent_us is not None and self.unsent_us <= now_us


class Conversation:
    """One conversation of an account; `messages` is sorted by time."""

    def __init__(
        self,
        account: "Account",
        conversation_id: str,
        thread: int,
        people: Sequence[Payload] = (),
        folder: str = "",
        make_people: Callable[[], list[Payload]] | None = None,
        is_request: bool = False,
        is_hidden: bool = False,
    ) -> None:
        self.account = account
        self.conversation_id = conversation_id
        self.thread = thread
        self.folder = folder
        self.is_request = is_request
        self.is_hidden = is_hidden
        self.is_vanished = False
        self.messages: list[Message] = []
        self.extra: Payload = {}
        self.refusal: Refusal | None = None
        """Error of every response that would have this conversation's content."""
        self.touched_us: list[int] = []
        self._times: list[int] = []
        self._people = list(people)
        self._make_people = make_people

    @property
    def people(self) -> list[Payload]:
        """The customers in the platform's form, without the account."""
        if not self._people and self._make_people:
            self._people = self._make_people()
        return self._people

    def count_sent(self, now_us: int) -> int:
        """Return the number of messages sent until then, with unsent ones."""
        return bisect_right(self._times, now_us)

    def rows(self, now_us: int, *, keep_unsent: bool) -> list[Message]:
        """Return the messages that exist at a time, newest first."""
        messages = self.messages[: self.count_sent(now_us)]
        messages.reverse()
        if keep_unsent:
            return messages
        return [
            message
            for message in messages
            if message.unsent_us is None or message.unsent_us > now_us
        ]

    def updated_us(self, now_us: int) -> int | None:
        """Return the time of the last activity; None before the first message."""
        count = self.count_sent(now_us)
        if not count:
            return None
        touched = [moment for moment in self.touched_us if moment <= now_us]
        return max(self._times[count - 1], *touched) if touched else self._times[count - 1]

    def next_us(self, now_us: int) -> int | None:
        """Return when this conversation changes next; None for never."""
        count = self.count_sent(now_us)
        coming = [moment for moment in self.touched_us if moment > now_us]
        if count < len(self._times):
            coming.append(self._times[count])
        if self.is_request and count:
            coming.append(self._times[count - 1] + REQUEST_IDLE_US)
        return min((moment for moment in coming if moment > now_us), default=None)

    def is_visible(self, now_us: int) -> bool:
        if self.is_hidden or self.is_vanished:
            return False
        updated_us = self.updated_us(now_us)
        return updated_us is not None and not (
            self.is_request and now_us - updated_us >= REQUEST_IDLE_US
        )

    def append(self, message: Message) -> None:
        """Insert a message by its time."""
        position = bisect_right(self._times, message.created_us)
        self._times.insert(position, message.created_us)
        message.sequence = len(self.messages)
        self.messages.insert(position, message)
        self.account.remember(message)

    # Changes by tests; each takes effect now.

    def add_message(
        self,
        text: str | None = "",
        at: datetime | None = None,
        *,
        is_ours: bool = False,
        message_id: str | None = None,
        payload: Payload | None = None,
        extra: Payload | None = None,
        **fields: Any,
    ) -> Message:
        """Add a message now or at `at`.

        `fields` extend the usual payload, and `payload` replaces it."""
        with self.account.world.change() as now_us:
            created_us = now_us if at is None else to_us(at)
            content = self._describe(text, is_ours) | fields if payload is None else payload
            new_id = message_id or self._new_message_id(created_us)
            message = Message(self, new_id, created_us, made_payload=content, extra=extra or {})
            self.append(message)
        return message

    def add_messages(
        self, count: int, since: datetime, step_seconds: float = 60.0
    ) -> list[Message]:
        """Add `count` texts from `since` on; every second one is outbound."""
        step = timedelta(seconds=step_seconds)
        return [
            self.add_message(f"message {n + 1}", since + n * step, is_ours=n % 2 == 1)
            for n in range(count)
        ]

    def hide(self) -> None:
        """Hide the conversation from the app, as an old request is hidden."""
        with self.account.world.change():
            self.is_hidden = True

    def vanish(self) -> None:
        """Delete the conversation."""
        with self.account.world.change():
            self.is_vanished = True

    def move(self, folder: str) -> None:
        with self.account.world.change():
            self.folder = folder

    def touch(self, at: datetime | None = None) -> None:
        """Change updated_time without a message."""
        with self.account.world.change() as now_us:
            self.touched_us.append(now_us if at is None else to_us(at))

    def make_unreadable(self, code: int | str | None = 1, subcode: int | None = None) -> None:
        """Let every response with this conversation's content fail; code None ends this.

        A text as `read_refusal` reads it, such as "http403", is a code, too.
        """
        refusal = None
        if isinstance(code, str):
            refusal = read_refusal(code)
        elif code is not None:
            refusal = Refusal(code, UNKNOWN, subcode)
        with self.account.world.change():
            self.refusal = refusal

    def _describe(self, text: str | None, is_ours: bool) -> Payload:
        us, them = self.account.person(), self.people
        sender, receivers = (us, them) if is_ours else (them[0], [us, *them[1:]])
        content: Payload = {"from": dict(sender), "to": [dict(person) for person in receivers]}
        return content if text is None else content | {"message": text}

    def _new_message_id(self, created_us: int) -> str:
        twin = 0
        while self.account.knows(new_id := self.account.message_id(self.thread, created_us, twin)):
            twin += 1
        return new_id


class Account:
    """The inbox of a Page (Messenger) or of an Instagram account."""

    def __init__(
        self,
        world: "World",
        name: str,
        page_id: str,
        platform: str,
        *,
        title: str = "",
        own_id: str | None = None,
        username: str = "",
        tokens: Iterable[str] = (EMULATOR_TOKEN,),
        app_secret: str | None = None,
        grow: Grow | None = None,
    ) -> None:
        self.world = world
        self.name = name
        self.page_id = page_id
        self.platform = platform
        self.title = title or name.replace("-", " ").title()
        self.own_id = own_id or (
            page_id if platform == "messenger" else "1784140" + page_id[-10:].zfill(10)
        )
        self.username = username or name.replace("-", ".")
        self.tokens = set(tokens)
        self.app_secret = app_secret
        self.scopes = _scopes(platform)
        self.token_facts: Payload = {}
        """Values of debug_token for this account's token, such as expires_at."""
        self.conversations: dict[str, Conversation] = {}
        self.grow = grow
        self.grown_until_day = 0
        self._by_message_id: dict[str, list[Message]] = {}
        self._listing: dict[str, tuple[int, int, list[tuple[int, Conversation]]]] = {}

    def person(self) -> Payload:
        """Return the account in the form of `from`, `to` and `participants`."""
        if self.platform == "instagram":
            return {"username": self.username, "id": self.own_id}
        return {"name": self.title, "email": f"{self.page_id}@facebook.com", "id": self.page_id}

    def message_id(self, thread: int, created_us: int, twin: int = 0) -> str:
        if self.platform == "instagram":
            return ids.instagram_message_id(self.own_id, thread, created_us, twin)
        return ids.messenger_message_id(self.page_id, thread, created_us, twin)

    def conversation_id(self, thread: int) -> str:
        if self.platform == "instagram":
            return ids.instagram_thread_id(self.own_id, thread)
        return ids.messenger_thread_id(int(self.page_id) * 10_000 % 10**15 + thread)

    def add_conversation(
        self,
        customer_name: str = "Ada Invented",
        customer_id: str | None = None,
        *,
        conversation_id: str | None = None,
        people: Sequence[Payload] | None = None,
        folder: str = "",
        is_request: bool = False,
        is_hidden: bool = False,
    ) -> Conversation:
        """Add an empty conversation with one customer or with `people`."""
        with self.world.change():
            thread = 500_000_000 + len(self.conversations)
            who = people or [
                self.describe_customer(customer_name, customer_id or str(9990000000000000 + thread))
            ]
            new_id = conversation_id or self.conversation_id(thread)
            conversation = Conversation(
                self, new_id, thread, who, folder, is_request=is_request, is_hidden=is_hidden
            )
            self.conversations[new_id] = conversation
        return conversation

    def describe_customer(self, name: str, customer_id: str) -> Payload:
        if self.platform == "instagram":
            return {"username": name.lower().replace(" ", "_"), "id": customer_id}
        return {"name": name, "email": f"{customer_id}@facebook.com", "id": customer_id}

    def remember(self, message: Message) -> None:
        self._by_message_id.setdefault(message.message_id, []).append(message)

    def knows(self, message_id: str) -> bool:
        return message_id in self._by_message_id

    def find_message(self, message_id: str, now_us: int) -> Message | None:
        """Return the message with this id if it was sent and its conversation is visible."""
        for message in self._by_message_id.get(message_id, ()):
            if message.created_us <= now_us and message.conversation.is_visible(now_us):
                return message
        return None

    def listing(self, folder: str, now_us: int) -> list[tuple[int, Conversation]]:
        """Return (updated_us, conversation) of a folder, newest activity first; "*" is all."""
        if folder in self._listing:
            revision, until_us, rows = self._listing[folder]
            newest_us = rows[0][0] if rows else 0
            if revision == self.world.revision and until_us > now_us >= newest_us:
                return rows
        rows = [
            (conversation.updated_us(now_us) or 0, conversation)
            for conversation in self.conversations.values()
            if folder in ("*", conversation.folder) and conversation.is_visible(now_us)
        ]
        rows.sort(key=lambda row: (row[0], row[1].conversation_id), reverse=True)
        coming = (conversation.next_us(now_us) for conversation in self.conversations.values())
        until_us = min((moment for moment in coming if moment is not None), default=2**63)
        self._listing[folder] = (self.world.revision, until_us, rows)
        return rows


class World:
    """All accounts with a clock and a lock. `World()` is empty; see `content.default_world`."""

    def __init__(self, clock: VirtualClock | None = None, seed: int = 7) -> None:
        self.clock = clock or VirtualClock()
        self.seed = seed
        self.accounts: dict[str, Account] = {}
        self.users: dict[str, PageUser] = {}
        """Users and system users, by token."""
        self.revision = 0
        self.lock = threading.RLock()

    def add_account(self, name: str, page_id: str, platform: str, **details: Any) -> Account:
        """Add an account; see `Account` for the details."""
        if platform not in ("instagram", "messenger"):
            raise ValueError(f"no such platform: {platform}")
        with self.change():
            account = self.accounts[name] = Account(self, name, page_id, platform, **details)
        return account

    def add_user(self, token: str, **details: Any) -> PageUser:
        """Add a user or system user with this token; see `PageUser` for the details."""
        with self.change():
            user = self.users[token] = PageUser(token, **details)
        return user

    def change(self) -> "_Change":
        """Lock the world for a change and return the time."""
        return _Change(self)

    def refresh(self) -> int:
        """Generate what was sent until now; return the time."""
        now_us = self.clock.now_us()
        today = now_us // (86_400 * MICROSECONDS)
        for account in self.accounts.values():
            if account.grow and today > account.grown_until_day:
                account.grow(account, account.grown_until_day + 1, today)
                account.grown_until_day = today
                self.revision += 1
        return now_us

    def truth(
        self, readable_count: int = 20, *, keep_unsent: bool = False
    ) -> Iterator[TrueMessage]:
        """Yield every existing message.

        Of each conversation the newest `readable_count` messages are readable; 0 means all.
        `keep_unsent` includes unsent ones, as `Switches.unsent_rows="kept"` does.
        """
        with self.lock:
            now_us = self.refresh()
            for account in self.accounts.values():
                for conversation in account.conversations.values():
                    yield from _true_messages(conversation, now_us, readable_count, keep_unsent)


class _Change:
    def __init__(self, world: World) -> None:
        self.world = world

    def __enter__(self) -> int:
        self.world.lock.acquire()
        self.world.revision += 1
        return self.world.clock.now_us()

    def __exit__(self, *exc: object) -> None:
        self.world.lock.release()


def _true_messages(
    conversation: Conversation, now_us: int, readable_count: int, keep_unsent: bool
) -> Iterator[TrueMessage]:
    is_visible = conversation.is_visible(now_us)
    for rank, message in enumerate(conversation.rows(now_us, keep_unsent=keep_unsent), 1):
        is_unsent = message.is_unsent(now_us)
        yield TrueMessage(
            account=conversation.account.name,
            conversation_id=conversation.conversation_id,
            message_id=message.message_id,
            created_at=message.created_at,
            rank=rank,
            is_readable=is_visible
            and not is_unsent
            and (not readable_count or rank <= readable_count),
            is_unsent=is_unsent,
            is_visible=is_visible,
        )


def _scopes(platform: str) -> list[str]:
    if platform == "instagram":
        return ["instagram_basic", "instagram_manage_messages", "pages_manage_metadata"]
    return ["pages_messaging", "pages_manage_metadata", "pages_read_engagement"]


def stable_number(text: str, digits: int) -> int:
    """Return a number with this many digits that depends only on the text."""
    value = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")
    smallest: int = 10 ** (digits - 1)
    return smallest + value % (9 * smallest)
