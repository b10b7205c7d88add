"""What may be said of an error that nobody foresaw: its type and its place in this package. Pure.

Its own text is not repeated: it may hold whatever the program held at that moment, a token or a customer's words.
"""

import traceback
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def describe_defect(error: BaseException) -> str:
    """Return a line that can be shown and sent to whoever maintains this program.

    >>> describe_defect(KeyError("secret"))
    'a defect of this program, KeyError: please report this line; the answers that came are kept'
    """
    inside = [frame for frame in traceback.extract_tb(error.__traceback__) if PACKAGE in Path(frame.filename).parents]
    place = f" in {_place(inside[-1])}" if inside else ""
    return f"a defect of this program, {type(error).__name__}{place}: please report this line; the answers that came are kept"


def _place(frame: traceback.FrameSummary) -> str:
    path = Path(frame.filename).relative_to(PACKAGE.parent).as_posix()
    return f"{path} line {frame.lineno} ({frame.name})"
