"""Parse field expansion such as `id,messages.limit(20){id,from{id}}`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ARGUMENT = re.compile(r"\.([a-z_]+)\(([^()]*)\)")


class FieldSyntaxError(ValueError):
    """The expression has a syntax error."""


@dataclass(frozen=True)
class Field:
    """One requested field; `children` is None without sub-fields."""

    name: str
    arguments: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    children: "tuple[Field, ...] | None" = None


@lru_cache(maxsize=256)
def parse_fields(text: str) -> tuple[Field, ...]:
    """Return the fields of an expression; of equal names the first counts.

    >>> [f.name for f in parse_fields("id,messages.limit(2){id,from}")]
    ['id', 'messages']
    >>> parse_fields("id{")
    Traceback (most recent call last):
    convo_pipeline.emulator.fields.FieldSyntaxError: Syntax error at end of string.
    """
    text = re.sub(r"\s+", "", text)
    fields, position = _read_list(text, 0)
    if position != len(text):
        raise FieldSyntaxError(
            f'Syntax error "Expected end of string instead of "{text[position]}"."'
            f" at character {position}"
        )
    return fields


def _read_list(text: str, position: int) -> tuple[tuple[Field, ...], int]:
    fields: dict[str, Field] = {}
    while True:
        parsed, position = _read_one(text, position)
        fields.setdefault(parsed.name, parsed)
        if text[position : position + 1] != ",":
            return tuple(fields.values()), position
        position += 1


def _read_one(text: str, position: int) -> tuple[Field, int]:
    name = _NAME.match(text, position)
    if not name:
        where = "end of string" if position >= len(text) else f'"{text[position]}"'
        raise FieldSyntaxError(f"Syntax error at {where}.")
    position = name.end()
    arguments: dict[str, str] = {}
    while argument := _ARGUMENT.match(text, position):
        arguments[argument[1]] = argument[2]
        position = argument.end()
    if text[position : position + 1] != "{":
        return Field(name[0], MappingProxyType(arguments)), position
    children, position = _read_list(text, position + 1)
    if text[position : position + 1] != "}":
        raise FieldSyntaxError("Syntax error at end of string.")
    return Field(name[0], MappingProxyType(arguments), children), position + 1
