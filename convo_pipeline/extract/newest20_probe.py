"""Decide what a refused message means, and whether messages beyond the newest 20 are readable."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeGuard

from convo_pipeline.errors import (
    STOPPING,
    ConvoError,
    GraphError,
    MissingError,
    PayloadError,
    WithheldError,
)
from convo_pipeline.graph.codes import is_outage
from convo_pipeline.schema import READABLE_COUNT

NOT_FOUND_CODE = 100
"""With subcode 33: this message is gone, which says nothing about other messages."""
MOST_REFUSALS = 3
"""After so many refusals, each perhaps for its own reason, the limit counts as confirmed."""

ProbeResult = Literal["read", "unreadable", "refused"]
"""`refused`: for a reason that may be the message's own."""


@dataclass
class Newest20Probe:
    """Whether messages beyond the newest 20 are unreadable: probed once per run and account."""

    _is_limited: bool | None = None
    _refusal_count: int = 0
    _failure_count: int = 0
    _failure: ConvoError | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def is_limited(self, fetch: Callable[[int], ConvoError | None], count: int) -> bool:
        """Return the result. The first thread probes while the others wait.

        `fetch` fetches one of `count` messages and returns the error. If it raises, another message
        is tried. If all fail, the next caller probes again. After three such callers every caller
        gets the last error.
        """
        with self._lock:
            if self._is_limited is not None:
                return self._is_limited
            if self._failure is not None and self._failure_count >= MOST_REFUSALS:
                raise self._failure
            try:
                return self._probe(fetch, count)
            except ConvoError as error:
                self._failure, self._failure_count = error, self._failure_count + 1
                raise

    def _probe(self, fetch: Callable[[int], ConvoError | None], count: int) -> bool:
        failure: ConvoError | None = None
        for index in range(min(MOST_REFUSALS - self._refusal_count, count)):
            try:
                result = probe_result(fetch(index))
            except STOPPING:
                raise
            except GraphError as error:
                failure = error
                continue
            if result != "refused":
                self._is_limited = result == "unreadable"
                return self._is_limited
            self._refusal_count += 1
        if self._refusal_count >= MOST_REFUSALS:
            self._is_limited = True
        elif failure is not None:
            raise failure
        return True


def probe_result(error: ConvoError | None) -> ProbeResult:
    """Return what fetching one message beyond the newest 20 shows about all of them."""
    if error is None:
        return "read"
    is_proof = isinstance(error, PayloadError) or (
        is_absent(error) and error.fault.code != NOT_FOUND_CODE
    )
    return "unreadable" if is_proof else "refused"


def refused_status(error: ConvoError, rank: int, is_throttled: bool) -> str:
    """Return the `detail_status` of a message that was refused.

    The API has one error for deleted and too old, so the rank decides: beyond the newest 20 a
    refusal adds nothing to the bare row. A response without an error and without content is
    `failed`: the next run fetches the message again. So is a refusal while the account was
    throttled, because it may only mean "slow down".
    """
    if rank > READABLE_COUNT:
        return "beyond_20"
    return "gone" if is_absent(error) and not is_throttled else "failed"


def is_about_message(error: ConvoError, is_throttled: bool) -> bool:
    """Whether an error is about the message, not about the server, the network or throttling."""
    return not is_outage(error) and not (is_throttled and isinstance(error, MissingError))


def is_absent(error: ConvoError) -> TypeGuard[MissingError]:
    """Whether an error says that an object is deleted or out of reach, rather than withheld."""
    return isinstance(error, MissingError) and not isinstance(error, WithheldError)
