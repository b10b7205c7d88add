"""All errors of this package: the class decides what the caller does next.

ConvoError
├── SettingsError          fix the setting; names the key or variable, never its value
├── GraphError             stop this account; code, subcode, status, trace id, path
│   ├── TokenError         stop this account: renew the token
│   │   └── ProofError     stop this account: correct the app secret
│   ├── AccessDeniedError  stop this account: grant the permission
│   ├── VersionError       stop this account: set a version that Meta serves
│   ├── MissingError       skip this object: it is deleted, too old or not visible
│   │   └── WithheldError  skip this conversation: Meta withholds it from programs
│   ├── UnknownFieldError  send the call again without that field
│   ├── TooMuchDataError   request less
│   └── RetryableError     send the call again with backoff
│       ├── ThrottledError    has wait_seconds
│       └── UnreachableError  no usable response arrived
├── BudgetError            stop this account: its calls for this run are used up
├── StoppedError           stop this account: the run was cancelled
├── PayloadError           skip this record: keep its payload and count it
└── StoreError             stop; the files are unchanged
    ├── BusyError          another process holds the lock: try again later
    ├── ConflictError      another process wrote first: read again, then write
    ├── CorruptError       skip this file: it is quarantined
    ├── UnreadableError    try again: the file is as it was written, and cannot be read
    └── SchemaError        names the table, the column and the value's type

The text of an error contains no token, no query of a URL, no body of a response and no text of a
message.
"""

from dataclasses import dataclass
from datetime import datetime


class ConvoError(Exception):
    """Base of all errors of this package."""


class SettingsError(ConvoError):
    """A setting or environment variable is wrong; the text names it and what to write instead."""


@dataclass(frozen=True)
class GraphFault:
    """The parts of an error response that are safe to keep and to show."""

    code: int | None = None
    subcode: int | None = None
    status: int | None = None
    trace_id: str | None = None
    path: str = ""
    reason: str = ""

    def __str__(self) -> str:
        code = f"code {self.code}"
        if self.subcode is not None:
            code += f"/{self.subcode}"
        if self.code is None:
            code = "no code" if self.status is not None else ""
        parts = [
            self.reason or "the Graph API returned an error",
            code,
            f"HTTP {self.status}" if self.status is not None else "",
            f"at {self.path}" if self.path else "",
            f"trace {self.trace_id}" if self.trace_id else "",
        ]
        return ", ".join(filter(None, parts))


class GraphError(ConvoError):
    """The Graph API returned an error that no subclass describes: stop this account."""

    def __init__(self, fault: GraphFault) -> None:
        super().__init__(fault)
        self.fault = fault


class TokenError(GraphError):
    """The token is invalid, expired or revoked: stop this account and renew the token."""


class ProofError(TokenError):
    """The app secret is missing or of another app: stop this account and correct the secret."""


class AccessDeniedError(GraphError):
    """A permission or task is missing, or access is switched off: stop this account."""


class VersionError(GraphError):
    """The API version is retired: stop this account and set a newer `graph.version`."""


class MissingError(GraphError):
    """This object is deleted, too old or not visible: record it and continue."""


class WithheldError(MissingError):
    """Meta withholds this conversation from programs (EU rules): record it and continue."""


class UnknownFieldError(GraphError):
    """The API refuses `field` for this account: send the call again without it."""

    def __init__(self, fault: GraphFault, field: str = "") -> None:
        super().__init__(fault)
        self.field = field


class TooMuchDataError(GraphError):
    """The response would be too large or too slow: request less."""


class RetryableError(GraphError):
    """An error that may pass: send the call again with backoff."""


class ThrottledError(RetryableError):
    """The rate limit refused the call: send none for `wait_seconds` (None: Meta named no time).

    If `resume_at` is set, the wait is too long for this run: stop this account until then.
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

    def __str__(self) -> str:
        if self.resume_at is None:
            return str(self.fault)
        return f"throttled until {self.resume_at:%Y-%m-%dT%H:%M:%SZ}: {self.fault}"


class UnreachableError(RetryableError):
    """No usable response arrived: no connection, a timeout or a broken body."""


class BudgetError(ConvoError):
    """The account used all of its calls for this run."""


class StoppedError(ConvoError):
    """The run was cancelled: Ctrl-C, SIGTERM or Dagster."""


class PayloadError(ConvoError):
    """This record cannot be read: keep its payload and count it."""


class StoreError(ConvoError):
    """A file could not be read or written; the files are unchanged."""


class BusyError(StoreError):
    """Another process holds the lock: try again later."""


class ConflictError(StoreError):
    """The stored version is not the one that was read: read again, then write."""


class CorruptError(StoreError):
    """A stored file is damaged; the text names the file."""


class UnreadableError(StoreError):
    """A file is as it was written and cannot be read: too little memory, or written damaged."""


class SchemaError(StoreError):
    """A value or file does not match its schema; the text names table, column and type."""


STOPPING = (
    TokenError,
    AccessDeniedError,
    VersionError,
    ThrottledError,
    BudgetError,
    StoreError,
    StoppedError,
)
"""Errors that stop an account's run. Every other error concerns only the requested object."""
