"""Every error this package raises; the class says what the caller does next.

ConvoError
├── SettingsError          fix the setting; names the key or variable, never its value
├── GraphError             stop this account; code, subcode, status, trace id, path
│   ├── TokenError         stop this account: renew the token
│   ├── AccessDeniedError  stop this account: grant the permission
│   ├── VersionError       stop this account: set a version that is served
│   ├── MissingError       this object only: record it, go on
│   │   └── WithheldError  this conversation only: it is there, and not for us
│   ├── UnknownFieldError  ask again without that field
│   ├── TooMuchDataError   ask for less
│   └── RetryableError     again with backoff
│       ├── ThrottledError    has wait_seconds
│       └── UnreachableError  no answer came
├── BudgetError            stop this account: its calls for this run are used up
├── StoppedError           stop this account: somebody ended the run
├── PayloadError           this record only: keep its payload, count it
└── StoreError             stop; the files are as they were
    ├── BusyError          another process holds the lock: come back later
    ├── ConflictError      another writer was first: read again, then write
    ├── CorruptError       this file only: it is quarantined
    └── SchemaError        names table, column, value's type

No text of an error holds a token, a URL's query, an answer's body or a message's text.
"""

from dataclasses import dataclass
from datetime import datetime


class ConvoError(Exception):
    """Base of all errors of this package."""


class SettingsError(ConvoError):
    """A setting or environment variable is wrong; the text names it and says what to write instead."""


@dataclass(frozen=True)
class GraphFault:
    """What an error answer said, as far as it is safe to keep."""

    code: int | None = None
    subcode: int | None = None
    status: int | None = None
    trace_id: str | None = None
    path: str = ""
    reason: str = ""

    def __str__(self) -> str:
        number = "no code" if self.code is None else f"code {self.code}"
        if self.subcode is not None:
            number += f"/{self.subcode}"
        parts = [self.reason or "the Graph API refused", number]
        if self.status is not None:
            parts.append(f"HTTP {self.status}")
        if self.path:
            parts.append(f"at {self.path}")
        if self.trace_id:
            parts.append(f"trace {self.trace_id}")
        return ", ".join(parts)


class GraphError(ConvoError):
    """The Graph API refused or could not be understood: stop this account."""

    def __init__(self, fault: GraphFault) -> None:
        super().__init__(str(fault))
        self.fault = fault

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.fault,))


class TokenError(GraphError):
    """The token is invalid, expired or revoked: stop this account and renew it."""


class AccessDeniedError(GraphError):
    """A permission, task or switch is missing: stop this account and grant it."""


class VersionError(GraphError):
    """The API's version is retired: stop this account and set `graph.version` to one that is served."""


class MissingError(GraphError):
    """This object is deleted, too old or not visible: record it, go on."""


class WithheldError(MissingError):
    """This conversation is there but not given to anybody's program (EU rules): record it, go on."""


class UnknownFieldError(GraphError):
    """One field is unknown to this account: ask again without `field`."""

    def __init__(self, fault: GraphFault, field: str = "") -> None:
        super().__init__(fault)
        self.field = field

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.fault, self.field))


class TooMuchDataError(GraphError):
    """The answer would be too large: ask for less."""


class RetryableError(GraphError):
    """A passing fault: ask again with backoff."""


class ThrottledError(RetryableError):
    """The rate limit answered: no call for `wait_seconds` (None: Meta named no time), i.e. until `resume_at`.

    With a `resume_at` it ends the account's run, and its text says so.
    """

    def __init__(
        self,
        fault: GraphFault,
        wait_seconds: float | None = None,
        resume_at: datetime | None = None,
    ) -> None:
        super().__init__(fault)
        self.wait_seconds = wait_seconds
        self.resume_at = resume_at

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.fault, self.wait_seconds, self.resume_at))

    def __str__(self) -> str:
        text = str(self.fault)
        return (
            f"throttled until {self.resume_at:%Y-%m-%dT%H:%M:%SZ}: {text}"
            if self.resume_at
            else text
        )


class UnreachableError(RetryableError):
    """No answer came: name, connection, time-out or a broken body."""


class BudgetError(ConvoError):
    """The account used up its calls for this run."""


class StoppedError(ConvoError):
    """Somebody ended the run: Ctrl-C, SIGTERM, a cancelled run."""


class PayloadError(ConvoError):
    """This record cannot be understood: keep its payload, count it."""


class StoreError(ConvoError):
    """The store refused; the files are as they were."""


class BusyError(StoreError):
    """Another process holds the lock: come back later."""


class ConflictError(StoreError):
    """Another version is there than the one that was read: read again, then write."""


class CorruptError(StoreError):
    """A stored file is damaged; the text names it."""


class SchemaError(StoreError):
    """A value or file does not fit its schema; the text names table, column and type."""


STOPPING = (
    TokenError,
    AccessDeniedError,
    VersionError,
    ThrottledError,
    BudgetError,
    StoreError,
    StoppedError,
)
"""What ends the account's run; every other error costs what was asked for only."""
