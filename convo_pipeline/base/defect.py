"""Describe an unexpected error by its type and place, without its text. Pure.

The text may hold anything that the program held at that moment: a token or a customer's words.
"""

import errno
import traceback
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
_DEFECT = ("a defect of this program", "please report this line")
_OUT_OF_MEMORY = ("out of memory", "run it again with more memory or for fewer accounts at a time")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the system refused memory, for an object or for a thread.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("can't start new thread"))
    (True, True)
    >>> is_out_of_memory(RuntimeError("another"))
    False
    """
    is_threadless = type(error) is RuntimeError and error.args == ("can't start new thread",)
    is_refused = getattr(error, "errno", None) == errno.ENOMEM
    return isinstance(error, MemoryError) or is_threadless or is_refused


def describe_defect(error: BaseException) -> str:
    """Return a line that may be shown and reported: what to do, the error's type and its place.

    >>> describe_defect(KeyError("secret"))
    'a defect of this program, KeyError: please report this line; received messages are kept'
    """
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if PACKAGE in Path(frame.filename).parents]
    place = ""
    if inside:
        path = Path(inside[-1].filename).relative_to(PACKAGE.parent).as_posix()
        place = f" in {path} line {inside[-1].lineno} ({inside[-1].name})"
    what, remedy = _OUT_OF_MEMORY if is_out_of_memory(error) else _DEFECT
    return f"{what}, {type(error).__name__}{place}: {remedy}; received messages are kept"
