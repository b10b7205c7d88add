"""JSON without loss: canonical text out, exact values in.

Most libraries change two kinds of values. This module keeps both: a lone surrogate stays an ASCII
escape such as `\\ud83d`, and an integer beyond 64 bits keeps all its digits.
"""

import json
import math
import re
from contextlib import suppress
from typing import NoReturn

import orjson

MOST_LEVELS = 254
"""How deeply a value may be nested: orjson writes no more levels, and recursive code reads them."""
MOST_DIGITS = 100
"""Digits of the longest integer; Python refuses to read more than 4,300."""
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)
_LONG_DIGITS = b"0" * 19
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"0" * 9)
_DIGITS = re.compile(rb"0*")
_BEFORE_NUMBER = (b":", b"[", b",")
_USUAL_PAGING = re.compile(
    rb',"paging":\{(?:"cursors":\{(?:"after":"[^"\\]*")?,?(?:"before":"[^"\\]*")?\})?'
    rb'(?:,?"next":"[^"\\]*")?(?:,?"previous":"[^"\\]*")?\}'
)


class OverLimit(str):
    """The text of a value beyond a limit: too deep, too many digits, or an infinite number."""


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


def dump_without_paging(value: object) -> bytes:
    """Return canonical JSON without any `paging` object: it holds the token, and differs each time.

    The usual form is cut out of the text. Inside a JSON string a quote is always escaped, so the
    pattern never matches a message's text. Other forms are cut out of the value.

    >>> dump_without_paging({"rows": {"data": [1], "paging": {"cursors": {"after": "a"}}}})
    b'{"rows":{"data":[1]}}'
    """
    content = dump_json(value)
    if b'"paging"' not in content:
        return content
    content = _USUAL_PAGING.sub(b"", content)
    return dump_json(_without_paging(value)) if b'"paging"' in content else content


def _without_paging(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_paging(item) for key, item in value.items() if key != "paging"}
    if isinstance(value, list | tuple):
        return [_without_paging(item) for item in value]
    return value


def load_json(content: bytes | str, *, unique_keys: bool = False) -> object:
    """Parse JSON exactly; raise ValueError for anything else, NaN and infinities included.

    With `unique_keys`, for JSON from outside, an object that has one key with two different values
    is refused too. Values that exceed a limit become their text, as `OverLimit`.

    >>> load_json(b'{"id": 340282366841710300949110269838224261120}')
    {'id': 340282366841710300949110269838224261120}
    >>> load_json('{"data": [], "data": [1]}', unique_keys=True)
    Traceback (most recent call last):
    ValueError: not JSON
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    if not has_long_number(content):
        try:
            value: object = orjson.loads(content)
        except orjson.JSONDecodeError:
            pass
        else:
            if not unique_keys or not _may_have_lost_a_key(content, value):
                return value
    try:
        if not unique_keys:
            return json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
        content, cut_texts = _cut_deep_values(content)
        value = _load_within_limits(content.decode("utf-8"))
        for text in cut_texts:
            with suppress(RecursionError):  # then its brackets match, but its values are unknown
                _load_within_limits(text)
        return _mark(value, cut_texts) if cut_texts else value
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError:
        raise ValueError("not JSON") from None


def readable_id(value: object) -> str | None:
    """Return the `id` of a JSON object, or None if it has no usable one.

    An id with half a surrogate pair is unusable: no address and no file can hold it.

    >>> readable_id({"id": 17}), readable_id({"id": ""}), readable_id("17")
    ('17', None, None)
    """
    if not isinstance(value, dict):
        return None
    raw_id = value.get("id")
    if isinstance(raw_id, OverLimit):
        return None
    if isinstance(raw_id, str) and raw_id:
        return raw_id if raw_id.isascii() or _is_encodable(raw_id) else None
    return str(raw_id) if isinstance(raw_id, int) and not isinstance(raw_id, bool) else None


def _is_encodable(text: str) -> bool:
    return text == text.encode("utf-8", "replace").decode()


def has_long_number(content: bytes) -> bool:
    """Whether the text may hold an integer beyond 64 bits, which orjson rounds to a float."""
    zeros = content.translate(_DIGITS_TO_ZERO)
    start = zeros.find(_LONG_DIGITS)
    while start >= 0:
        before = content[max(start - 8, 0) : start].rstrip(b" \t\r\n-")
        if not before or before.endswith(_BEFORE_NUMBER):
            return True
        digits = _DIGITS.match(zeros, start)
        start = zeros.find(_LONG_DIGITS, digits.end() if digits else len(zeros))
    return False


def _may_have_lost_a_key(content: bytes, value: object) -> bool:
    """Whether the text has more colons than the parsed value: orjson drops duplicate keys.

    This takes a third of orjson's time. The exact parser takes three times the whole.
    """
    try:
        return content.count(b":") > orjson.dumps(value).count(b":")
    except orjson.JSONEncodeError:  # nested more deeply than orjson writes
        return True


def _load_within_limits(text: str) -> object:
    return json.loads(
        text,
        parse_int=_read_integer,
        parse_float=_read_float,
        parse_constant=_refuse_constant,
        object_pairs_hook=_refuse_duplicate_keys,
    )


def _cut_deep_values(content: bytes) -> tuple[bytes, set[str]]:
    """Replace each value that is nested too deeply by its text; return these texts too."""
    parts, texts = [], set()
    level = start = end = 0
    for match in _BRACKETS.finditer(content):
        if match[0] in (b"[", b"{"):
            level += 1
            if level == MOST_LEVELS + 1:
                start = match.start()
        elif match[0] in (b"]", b"}"):
            level -= 1
            if level == MOST_LEVELS:
                text = content[start : match.end()].decode("utf-8")
                parts += [content[end:start], dump_json(text)]
                texts.add(text)
                end = match.end()
    return b"".join([*parts, content[end:]]), texts


def _mark(value: object, texts: set[str]) -> object:
    if isinstance(value, dict):
        return {key: _mark(item, texts) for key, item in value.items()}
    if isinstance(value, list):
        return [_mark(item, texts) for item in value]
    return OverLimit(value) if isinstance(value, str) and value in texts else value


def _read_integer(text: str) -> int | OverLimit:
    return int(text) if len(text) <= MOST_DIGITS else OverLimit(text)


def _read_float(text: str) -> float | OverLimit:
    number = float(text)
    return OverLimit(text) if math.isinf(number) else number


def _refuse_duplicate_keys(pairs: list[tuple[str, object]]) -> object:
    values = dict(pairs)
    if len(values) != len(pairs) and any(values[key] != value for key, value in pairs):
        raise ValueError("a key occurs twice")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
