"""Ids and cursors in the forms Meta's answers show.

Instagram ids are base64 of a readable line (account, thread number, item number = send time in µs << 64), in Meta's text
form where `Z` escapes; Messenger ids are `t_<digits>` and `m_` + 86 characters. A client must take all of them as opaque.
"""

import base64
import hashlib
import json

_FIRST_THREAD = 340282366841710301244270000000000000000
HOSTILE_TAIL = "+/=:-_"


def meta_text(raw: bytes) -> str:
    """Return Meta's text form of bytes: base64 with Z, +, / and = escaped by Z.

    >>> meta_text(b"0")
    'MAZDZD'
    """
    text = base64.b64encode(raw).decode()
    return text.replace("Z", "ZA").replace("+", "ZB").replace("/", "ZC").replace("=", "ZD")


def read_meta_text(text: str) -> bytes:
    """Undo `meta_text`; ValueError when it is none.

    >>> read_meta_text("MAZDZD")
    b'0'
    """
    plain = text.replace("ZD", "=").replace("ZC", "/").replace("ZB", "+").replace("ZA", "Z")
    return base64.b64decode(plain, validate=True)


def instagram_thread_id(own_id: str, thread: int) -> str:
    return meta_text(f"ig_dm:1:IGMessageThread:{own_id}:{_FIRST_THREAD + thread}".encode())


def instagram_message_id(own_id: str, thread: int, created_us: int, twin: int = 0) -> str:
    """Return an id that carries its time; `twin` tells messages of one microsecond apart."""
    item = (created_us << 64) + twin
    return meta_text(f"ig_dm_item:1:IGMessageID:{own_id}:{_FIRST_THREAD + thread}:{item}".encode())


def messenger_thread_id(thread: int) -> str:
    return f"t_{thread}"


def messenger_message_id(page_id: str, thread: int, created_us: int, twin: int = 0) -> str:
    digest = hashlib.sha512(f"{page_id}:{thread}:{created_us}:{twin}".encode()).digest()
    return "m_" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def hostile(meta_id: str) -> str:
    """Return an id with every character that a path, a query or a file name dislikes."""
    return meta_id + HOSTILE_TAIL


def write_cursor(state: list[object]) -> str:
    """Return an opaque cursor for `state`, in Meta's `QVFI…` form."""
    token = base64.urlsafe_b64encode(json.dumps(state, separators=(",", ":")).encode()).decode()
    return meta_text(b"AQH" + token.encode())


def read_cursor(text: str) -> list[object] | None:
    """Return what a cursor of ours says; None when it is not one."""
    try:
        token = read_meta_text(text)
        state = (
            json.loads(base64.urlsafe_b64decode(token[3:])) if token.startswith(b"AQH") else None
        )
    except ValueError:
        return None
    return state if isinstance(state, list) else None
