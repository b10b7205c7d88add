"""Tokens and app secrets: read from the environment, masked in every text.

Only this module reads a secret. It never writes one.
"""

import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from convo_pipeline.errors import SettingsError
from convo_pipeline.settings import AccountSettings, StoreSettings, check_state_url

MASK = "***"
MAX_SECRET_BYTES = 4096
_SECRET_SHAPES = re.compile(
    r"(?P<key>(?:access_token|exchange_token|appsecret_proof|input_token|client_secret)"
    r"(?:=|%3D|[\"']?\s*:\s*[\"']?))[^&\s\"'\\]+"
    r"|(?P<bearer>Bearer\s+)[^\s\"',}]+"
    r"|\b(?:EAA|IGAA|IGQ)[A-Za-z0-9_-]{16,}"
)


@dataclass(frozen=True)
class Credentials:
    """One account's secrets; `repr` hides them and pickling raises TypeError."""

    token: str = field(repr=False)
    app_secret: str | None = field(default=None, repr=False)
    is_user_token: bool = field(default=False, repr=False)
    """Whether the token belongs to a user or system user, who can read the Page's token."""

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("credentials cannot be pickled; read them from the environment")


def read_credentials(
    account: AccountSettings, environ: Mapping[str, str] = os.environ
) -> Credentials:
    """Read an account's token and app secret; SettingsError names a missing variable or file."""
    owner = f'account "{account.name}"'
    secret_variable = account.app_secret_env
    return Credentials(
        read_token(account.token_name, owner, environ),
        read_secret(secret_variable, owner, environ) if secret_variable else None,
        is_user_token=account.token_from is not None,
    )


def read_token(name: str, owner: str, environ: Mapping[str, str]) -> str:
    """Read the token in a file, if `name` is an absolute path, else in an environment variable."""
    if not os.path.isabs(name):
        return read_secret(name, owner, environ)
    try:
        content = Path(name).read_bytes()[: MAX_SECRET_BYTES + 1]
    except OSError as error:
        raise SettingsError(f"{owner}: cannot read {name}: {error.strerror}") from None
    return _check_secret(content.decode("latin-1").strip(), owner, f"the file {name}")


def read_secret(variable: str, owner: str, environ: Mapping[str, str]) -> str:
    """Read a secret that `owner` needs; SettingsError names the variable, never its value."""
    value = environ.get(variable, "").strip()
    if not value:
        raise SettingsError(f"{owner}: the environment variable {variable} is not set")
    return _check_secret(value, owner, f"the environment variable {variable}")


def read_state_url(store: StoreSettings, environ: Mapping[str, str] = os.environ) -> str:
    """Return the address of the state's PostgreSQL database, "" for SQLite; it is a secret.

    SettingsError names a missing variable or file, or one that holds no such address.
    """
    name = store.state_url_env or store.state_url_file
    if name is None:
        return store.state_url.get_secret_value()
    try:
        return check_state_url(read_token(name, "[store]", environ))
    except ValueError as error:
        raise SettingsError(f"[store]: the value of {name} {error}") from None


def _check_secret(value: str, owner: str, place: str) -> str:
    if not value:
        raise SettingsError(f"{owner}: {place} is empty")
    if len(value) > MAX_SECRET_BYTES:
        raise SettingsError(f"{owner}: {place} is longer than {MAX_SECRET_BYTES} bytes")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise SettingsError(f"{owner}: {place} has characters that no secret has")
    return value


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Mask these secrets and everything that looks like a token or an app secret.

    >>> redact("GET /me?access_token=abc&limit=1")
    'GET /me?access_token=***&limit=1'
    """
    for secret in filter(None, secrets):
        text = text.replace(secret, MASK)
    return _SECRET_SHAPES.sub(lambda match: (match["key"] or match["bearer"] or "") + MASK, text)


class RedactingFilter(logging.Filter):
    """Mask secrets and escape control characters in every log record; drop its traceback.

    A traceback of a library repeats addresses and headers.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        text = redact(record.getMessage())
        record.msg = text if text.isprintable() else ascii(text)
        record.args, record.exc_info, record.exc_text = (), None, None
        return True
