"""Find ids in texts."""

import re
from collections.abc import Iterable


def names_any(text: str, names: Iterable[str]) -> bool:
    """Say whether a text names one of these ids: whole, not as a part of a longer one.

    >>> names_any('{"id":"12"}', ["12"]), names_any('{"id":"123"}', ["12"])
    (True, False)
    """
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in names if name in text)
