"""What may be said of an error that nobody foresaw: its type and its place in this package. Pure.

Its own text is not repeated: it may hold whatever the program held at that moment, a token or a customer's words.
"""

import errno
import traceback
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
_DEFECT = ("a defect of this program", "please report this line")
_OUT_OF_MEMORY = ("out of memory", "run it again with more memory or for fewer accounts at a time")


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether it is too little memory that an error means: for an object, for a thread's stack, for the system.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("can't start new thread"))
    (True, True)
    >>> is_out_of_memory(RuntimeError("another"))
    False
    """
    is_threadless = type(error) is RuntimeError and error.args == ("can't start new thread",)
    return (
        isinstance(error, MemoryError)
        or is_threadless
        or getattr(error, "errno", None) == errno.ENOMEM
    )


def describe_defect(error: BaseException) -> str:
    """Return a line that can be shown and sent to whoever maintains this program; too little memory is no defect.

    >>> describe_defect(KeyError("secret"))
    'a defect of this program, KeyError: please report this line; what came is kept'
    >>> describe_defect(MemoryError())
    'out of memory, MemoryError: run it again with more memory or for fewer accounts at a time; what came is kept'
    """
    inside = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if PACKAGE in Path(frame.filename).parents
    ]
    place = f" in {_place(inside[-1])}" if inside else ""
    what, remedy = _OUT_OF_MEMORY if is_out_of_memory(error) else _DEFECT
    return f"{what}, {type(error).__name__}{place}: {remedy}; what came is kept"


def _place(frame: traceback.FrameSummary) -> str:
    path = Path(frame.filename).relative_to(PACKAGE.parent).as_posix()
    return f"{path} line {frame.lineno} ({frame.name})"
