"""What a refused message is, and whether beyond the newest 20 anything can be read. Pure but for what it is given to ask."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeGuard

from convo_pipeline.errors import ConvoError, GraphError, MissingError, PayloadError, WithheldError
from convo_pipeline.extract.spool import Record
from convo_pipeline.graph.codes import is_outage
from convo_pipeline.schema import READABLE_COUNT

NOT_FOUND_CODE = 100
"""With its subcode 33: this one message is gone, which says nothing of its neighbours."""
PROOFS = 3
"""So many messages of a run that are refused, each for a reason that may be its own, are believed to speak for all."""

Look = Literal["read", "unreadable", "refused"]
"""What one message beyond the newest 20 came to; `refused` for a reason that may be its own."""


def is_telling(error: ConvoError, is_calm: bool) -> bool:
    """Whether a failure says something of the message asked for, rather than of the server or the way there.

    A refusal that came while the account was throttled can mean "slow down".
    """
    return not is_outage(error) and (is_calm or not isinstance(error, MissingError))


def says_absent(error: ConvoError) -> TypeGuard[MissingError]:
    """Whether an object is said to be deleted or out of reach, rather than kept from us."""
    return isinstance(error, MissingError) and not isinstance(error, WithheldError)


def judge(error: ConvoError, rank: int, is_calm: bool) -> Record:
    """Say what a refusal means for the message: its `detail_status`, with the code and subcode it is due to.

    Deleted and too old are one error, so the place decides: beyond the newest 20 a refusal adds nothing to what
    the bare row said. An answer that refuses nothing and brings nothing is none: it is asked for again.
    """
    if rank > READABLE_COUNT:
        return verdict("beyond_20")
    is_refusal = says_absent(error) and is_calm
    fault = error.fault if isinstance(error, GraphError) else None
    return verdict(
        "gone" if is_refusal else "failed",
        fault.code if fault else None,
        fault.subcode if fault else None,
    )


def verdict(status: str, code: int | None = None, subcode: int | None = None) -> Record:
    """Return the part of a message's record that says what became of it."""
    return {"verdict": status, "code": code, "subcode": subcode}


def look_of(error: ConvoError | None) -> Look:
    """Say what asking for one message beyond the newest 20 shows of all that are there."""
    if error is None:
        return "read"
    is_proof = isinstance(error, PayloadError) or (
        says_absent(error) and error.fault.code != NOT_FOUND_CODE
    )
    return "unreadable" if is_proof else "refused"


@dataclass
class Newest20Probe:
    """Whether beyond the newest 20 nothing can be read: confirmed once a run and account, then used for all of them."""

    _holds: bool | None = None
    _refused_count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def holds(self, look: Callable[[int], Look], count: int) -> bool:
        """Return the answer; the first to ask finds it out, whoever asks meanwhile waits for it.

        `look` asks for one of `count` messages; what it raises leaves the question open for the next who asks.
        """
        with self._lock:
            if self._holds is not None:
                return self._holds
            for place in range(min(PROOFS - self._refused_count, count)):
                found = look(place)
                if found != "refused":
                    self._holds = found == "unreadable"
                    return self._holds
                self._refused_count += 1
            if self._refused_count >= PROOFS:
                self._holds = True
            return True
