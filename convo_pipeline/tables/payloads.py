"""Read JSON payloads key by key, and convert values without loss. Pure.

A value of a wrong type is converted only without loss: 5 to "5", "true" to True, "12" to 12.
Any other value stays under its key, with the keys that have no column.
"""

import json
import math
import re
from collections.abc import Iterable
from typing import TypeVar

import orjson

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.schema import CUT_KEY

_Value = TypeVar("_Value")

_LONG_NUMBER = re.compile(r"[:\[,]-?\d{19}")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_WHOLE_NUMBER = re.compile(r"-?\d{1,19}", re.ASCII)
_WRAPPER_KEYS = {"data", "paging", CUT_KEY}
_FLAGS = {True: True, False: False, "true": True, "false": False}
_COUNT_LIMIT = 2**63


def parse_plain(payload: bytes) -> object:
    """Return the JSON value; None if the fast parser cannot read the payload."""
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None


def parse_payload(payload: str, parsed: object = None) -> tuple[object, bool]:
    """Return the JSON value, and whether U+FFFD replaced lone surrogates; raise ValueError.

    `parsed` is the result of `parse_plain`. It is not used if numbers may have lost digits.

    >>> parse_payload('{"message": "a\\\\ud800"}')
    ({'message': 'a�'}, True)
    """
    if parsed is not None and not _LONG_NUMBER.search(payload):
        return parsed, False
    value = load_json(payload)
    if _SURROGATE_ESCAPE.search(payload) is None:
        return value, False
    try:
        text, count = _SURROGATE.subn("\ufffd", json.dumps(value, ensure_ascii=False))
        return json.loads(text), count > 0
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dump(value: object) -> str:
    """Return canonical JSON; raise ValueError if it is nested too deeply."""
    try:
        return dump_json(value).decode()
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_object(text: str | None) -> dict[str, object] | None:
    """Return the JSON object in a text, with exact numbers; None if the text is not one."""
    try:
        value = load_json(text) if text is not None else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def as_text(value: object) -> str | None:
    """Return text unchanged and whole numbers as digits; None for other values.

    >>> as_text(17), as_text("0123"), as_text(True), as_text(1.5)
    ('17', '0123', None, None)
    """
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def as_count(value: object) -> int | None:
    """Return a whole number of 64 bits, also from "5" and 5.0; None for other values."""
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value) if -_COUNT_LIMIT <= value < _COUNT_LIMIT else None


def as_number(value: object) -> float | None:
    """Return a finite number, also from text; None for other values."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_flag(value: object) -> bool | None:
    """Return a bool, also from "true", "false", 1 and 0; None for other values."""
    if isinstance(value, str):
        value = value.lower()
    return _FLAGS.get(value) if isinstance(value, str | int) else None


class PayloadReader:
    """Take the keys of a payload one by one. A null value counts as absent.

    `rest` contains the keys that were not taken: they have no column or an unreadable value.
    `is_readable` is false after an unreadable value.
    """

    __slots__ = ("is_readable", "rest")

    def __init__(self, payload: dict[str, object]) -> None:
        self.rest = {key: value for key, value in payload.items() if value is not None}
        self.is_readable = True

    def text(self, key: str) -> str | None:
        value = self.rest.get(key)
        if value.__class__ is str:
            del self.rest[key]
            return value
        return None if value is None else self._take(key, as_text(value))

    def count(self, key: str) -> int | None:
        return self._take(key, as_count(self.rest[key])) if key in self.rest else None

    def number(self, key: str) -> float | None:
        return self._take(key, as_number(self.rest[key])) if key in self.rest else None

    def flag(self, key: str) -> bool | None:
        return self._take(key, as_flag(self.rest[key])) if key in self.rest else None

    def first_text(self, *keys: str) -> str | None:
        """Take the first present key. Other present keys stay, unless their value is equal."""
        taken: str | None = None
        for key in keys:
            value = self.rest.get(key)
            if value is not None and (taken is None or value == taken):
                taken = self.text(key)
        return taken

    def drop(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.rest.pop(key, None)

    def open(self, key: str) -> "PayloadReader":
        """Take an object to read its keys. `close` puts the keys that were not taken back."""
        if key not in self.rest:
            return NOTHING
        value = self.rest.pop(key)
        if isinstance(value, dict):
            return PayloadReader(value)
        self.refuse(key, value)
        return NOTHING

    def close(self, key: str, inner: "PayloadReader") -> None:
        self.is_readable &= inner.is_readable
        if inner.rest and key not in self.rest:
            self.rest[key] = inner.rest

    def items(self, key: str) -> list[object]:
        """Take a list: `[...]`, `{"data": [...]}` or a single object."""
        if key not in self.rest:
            return []
        value = self.rest.pop(key)
        if isinstance(value, dict) and not value.keys().isdisjoint(_WRAPPER_KEYS):
            unknown = {
                name: item
                for name, item in value.items()
                if name not in _WRAPPER_KEYS and item is not None
            }
            if unknown:
                self.rest[key] = unknown
            value = value.get("data")
        if value is None or value == {}:
            return []
        if isinstance(value, list):
            return value
        if isinstance(value, dict):
            return [value]
        self.refuse(key, value)
        return []

    def values(self, key: str, name: str, known: Iterable[str] = ()) -> list[str] | None:
        """Take the value of one key from each item of a list; None without the list.

        An item that is not an object is the value itself. The keys `known` are dropped.

        >>> reader = PayloadReader({"to": {"data": [{"id": "1", "email": "a@b.c"}, 2]}})
        >>> reader.values("to", "id", ["email"])
        ['1', '2']
        """
        if key not in self.rest:
            return None
        values: list[str] = []
        rests: list[object] = []
        for item in self.items(key):
            inner = PayloadReader(item if isinstance(item, dict) else {name: item})
            value = inner.text(name)
            if value is not None:
                values.append(value)
            inner.drop(known)
            self.is_readable &= inner.is_readable
            if inner.rest:
                rests.append(inner.rest)
        self.keep(key, rests)
        return values

    def keep(self, key: str, items: list[object]) -> None:
        """Put the remaining items of a list back."""
        if items:
            stored = self.rest.get(key)
            self.rest[key] = items if stored is None else {"data": items, "rest": stored}

    def refuse(self, key: str, value: object) -> None:
        """Put an unreadable value back."""
        self.rest[key] = value
        self.is_readable = False

    def dump_rest(self) -> str | None:
        return dump(self.rest) if self.rest else None

    def _take(self, key: str, value: _Value | None) -> _Value | None:
        if value is not None:
            del self.rest[key]
        elif key in self.rest:
            self.is_readable = False
        return value


NOTHING = PayloadReader({})
"""The reader of an absent object."""
