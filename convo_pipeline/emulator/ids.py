"""Ids and cursors in the forms of Meta's responses.

An Instagram id is base64 of a line with the account, the thread number and the item number, which
is the send time in µs << 64. `Z` escapes characters in it. Messenger ids are `t_<digits>` and `m_`
with 86 characters. A client must treat all of them as opaque.
"""

import base64
import hashlib
import json

from convo_pipeline.emulator.refusals import bad_parameter

_FIRST_THREAD = 340282366841710301244270000000000000000
HOSTILE_TAIL = "+/=:-_"


def meta_text(raw: bytes) -> str:
    """Return bytes as Meta's text: base64 with Z, +, / and = escaped by Z.

    >>> meta_text(b"0")
    'MAZDZD'
    """
    text = base64.b64encode(raw).decode()
    return text.replace("Z", "ZA").replace("+", "ZB").replace("/", "ZC").replace("=", "ZD")


def read_meta_text(text: str) -> bytes:
    """Return the bytes of a `meta_text`; raise ValueError for other texts.

    >>> read_meta_text("MAZDZD")
    b'0'
    """
    plain = text.replace("ZD", "=").replace("ZC", "/").replace("ZB", "+").replace("ZA", "Z")
    return base64.b64decode(plain, validate=True)


def instagram_thread_id(own_id: str, thread: int) -> str:
    return meta_text(f"ig_dm:1:IGMessageThread:{own_id}:{_FIRST_THREAD + thread}".encode())


def instagram_message_id(own_id: str, thread: int, created_us: int, twin: int = 0) -> str:
    """Return an id with its time; `twin` separates messages of the same microsecond."""
    item = (created_us << 64) + twin
    return meta_text(f"ig_dm_item:1:IGMessageID:{own_id}:{_FIRST_THREAD + thread}:{item}".encode())


def messenger_thread_id(thread: int) -> str:
    return f"t_{thread}"


def messenger_message_id(page_id: str, thread: int, created_us: int, twin: int = 0) -> str:
    digest = hashlib.sha512(f"{page_id}:{thread}:{created_us}:{twin}".encode()).digest()
    return "m_" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def hostile(meta_id: str) -> str:
    """Return an id with characters that are special in paths, queries and file names."""
    return meta_id + HOSTILE_TAIL


def write_offset(index: int) -> str:
    """Return the cursor of an index, the form in nested lists.

    >>> write_offset(0), read_offset(write_offset(24))
    ('MAZDZD', 24)
    """
    return meta_text(str(index).encode())


def read_offset(cursor: str) -> int:
    """Return the index of a cursor of `write_offset`; refuse other texts."""
    try:
        return int(read_meta_text(cursor))
    except ValueError:
        raise bad_parameter("Invalid cursors values") from None


def write_cursor(state: list[object]) -> str:
    """Return an opaque cursor for `state`, in Meta's `QVFI…` form."""
    token = base64.urlsafe_b64encode(json.dumps(state, separators=(",", ":")).encode()).decode()
    return meta_text(b"AQH" + token.encode())


def read_cursor(text: str) -> list[object] | None:
    """Return the state of a cursor; None for other texts."""
    try:
        token = read_meta_text(text)
        state = (
            json.loads(base64.urlsafe_b64decode(token[3:])) if token.startswith(b"AQH") else None
        )
    except ValueError:
        return None
    return state if isinstance(state, list) else None
