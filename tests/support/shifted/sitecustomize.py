"""Shift this process's clock by the offset in a file. Python imports this module at its start.

The file holds one number: the seconds to add to the machine's clock. A change of the file changes
the time in all processes at once. No code of Dagster or of this project is replaced.

There are two exceptions. A server that expects heartbeats keeps the machine's `time.time`, because
a jump would look like a missing heartbeat. The daemon's waits end when the shifted clock reaches
their end.
"""

import ctypes
import datetime
import gc
import mmap
import os
import struct
import sys
import threading
import time

ROUND_SECONDS = 0.2
machine_seconds, machine_wait = time.time, threading.Event.wait


def shift(path: str) -> None:
    """Replace the clock functions of this process."""
    with open(path, "rb") as file:
        shared = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)

    def seconds() -> float:
        (ahead,) = struct.unpack("d", shared[:8])
        return machine_seconds() + ahead

    def now(cls: type[datetime.datetime], tz: datetime.tzinfo | None = None) -> datetime.datetime:
        return cls.fromtimestamp(seconds(), tz)

    def wait(self: threading.Event, timeout: float | None = None) -> bool:
        until = None if timeout is None else seconds() + timeout
        while until is not None and (rest := until - seconds()) > 0:
            if machine_wait(self, min(rest, ROUND_SECONDS)):
                return True
        return machine_wait(self, 0 if timeout is not None else None)

    replace_attribute(datetime.datetime, "now", classmethod(now))
    if not {"grpc", "code-server"}.intersection(sys.orig_argv):
        time.time = seconds
        time.time_ns = lambda: int(seconds() * 1_000_000_000)
    if "dagster._daemon" in sys.orig_argv:
        threading.Event.wait = wait


def replace_attribute(kind: type, name: str, value: object) -> None:
    """Set an attribute of a type that is implemented in C."""
    (attributes,) = gc.get_referents(kind.__dict__)
    attributes[name] = value
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))


if "SHIFTED_CLOCK" in os.environ:
    shift(os.environ["SHIFTED_CLOCK"])
