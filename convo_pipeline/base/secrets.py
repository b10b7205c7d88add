"""Tokens and app secrets: read from the environment at the edge, masked everywhere else.

The only module that reads a secret. It never writes one.
"""

import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from convo_pipeline.errors import SettingsError
from convo_pipeline.settings import AccountSettings

MASK = "***"
_SECRET_SHAPES = re.compile(
    r"(?P<key>(?:access_token|appsecret_proof|input_token|client_secret)(?:=|%3D|[\"']?\s*:\s*[\"']?))[^&\s\"'\\]+"
    r"|(?P<bearer>Bearer\s+)[^\s\"',}]+"
    r"|\b(?:EAA|IGAA|IGQ)[A-Za-z0-9_-]{16,}"
)


@dataclass(frozen=True)
class Credentials:
    """One account's secrets; neither repr nor str shows them."""

    token: str = field(repr=False)
    app_secret: str | None = field(default=None, repr=False)

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError(
            "credentials are not pickled: they are read from the environment where they are used"
        )


def read_credentials(
    account: AccountSettings, environ: Mapping[str, str] = os.environ
) -> Credentials:
    """Read the account's token and app secret; a SettingsError names the variable that is missing."""
    owner = f'account "{account.name}"'
    token = read_secret(account.token_env, owner, environ)
    app_secret = (
        read_secret(account.app_secret_env, owner, environ) if account.app_secret_env else None
    )
    return Credentials(token, app_secret)


def read_secret(variable: str, owner: str, environ: Mapping[str, str]) -> str:
    """Read a secret that `owner` needs; a SettingsError names the variable, never what it holds."""
    value = environ.get(variable, "").strip()
    if not value:
        raise SettingsError(f"{owner}: the environment variable {variable} is not set")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise SettingsError(
            f"{owner}: the environment variable {variable} holds characters no token has"
        )
    return value


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Mask exact secrets and everything shaped like one.

    >>> redact("GET /me?access_token=abc&limit=1")
    'GET /me?access_token=***&limit=1'
    """
    for secret in secrets:
        if secret:
            text = text.replace(secret, MASK)
    return _SECRET_SHAPES.sub(lambda match: (match["key"] or match["bearer"] or "") + MASK, text)


class RedactingFilter(logging.Filter):
    """A logging filter that masks secrets in every record it sees."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._secrets = tuple(secrets)

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = redact(record.getMessage(), self._secrets)
        record.args = ()
        return True
