"""Clean texts of other people's making before they reach a terminal or a log. Pure."""

import json
import re

_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
"""Control characters of ASCII (ANSI escapes begin with one), C1, and those that reorder text."""


def printable(text: str, keep: str = "") -> str:
    """Return the text without control characters; line breaks and tabs become spaces.

    Characters in `keep` stay.

    >>> printable("a\\x1b[31mb\\nc"), printable("a\\nb", keep="\\n")
    ('a[31mb c', 'a\\nb')
    """

    def clean(match: re.Match[str]) -> str:
        if match[0] in keep:
            return match[0]
        return " " if match[0] in "\n\t\r" else ""

    return _CONTROLS.sub(clean, text)


def escape_controls(text: str) -> str:
    """Return JSON text in which each control character is an escape, such as `\\u009b`."""
    return _CONTROLS.sub(lambda match: json.dumps(match[0])[1:-1], text)
