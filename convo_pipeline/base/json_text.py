"""JSON as this project keeps it: canonical text that holds exactly what the API said.

Two inputs that most libraries bend are kept whole: a lone surrogate (it stays an ASCII escape such as
`\\ud83d`) and a whole number beyond 64 bits (it stays a whole number).
"""

import json
import re

import orjson

_LONG_NUMBER = re.compile(rb"[:\[,]\s*-?\d{19}")


def dump_json(value: object) -> bytes:
    """Return canonical JSON: sorted keys, no spaces, UTF-8.

    >>> dump_json({"b": 1, "a": "é"}).decode()
    '{"a":"é","b":1}'
    >>> dump_json("\\ud83d!").decode()
    '"\\\\ud83d!"'
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace")


def load_json(content: bytes | str) -> object:
    """Read JSON text exactly; raise ValueError if it is none (NaN and infinities are none).

    >>> load_json(b'{"id": 340282366841710300949110269838224261120}')
    {'id': 340282366841710300949110269838224261120}
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    if not _LONG_NUMBER.search(content):
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError:
            pass
    try:
        return json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def readable_id(value: object) -> str | None:
    """Return the `id` of a JSON object, or None if it has no usable one.

    An id with half a surrogate pair is unusable: no address and no file can hold it.

    >>> readable_id({"id": 17}), readable_id({"id": ""}), readable_id("17")
    ('17', None, None)
    """
    if not isinstance(value, dict):
        return None
    found = value.get("id")
    if isinstance(found, str) and found:
        return found if found.isascii() or _is_encodable(found) else None
    return str(found) if isinstance(found, int) and not isinstance(found, bool) else None


def _is_encodable(text: str) -> bool:
    return text == text.encode("utf-8", "replace").decode()


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
