"""Post one JSON document to a secret address from the environment; no error shows the address.

The only user of urllib.request. Like the Graph client it follows no redirect and uses no proxy.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

from convo_pipeline.errors import ConvoError, SettingsError

TIMEOUT_SECONDS = 10.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def read_webhook(variable: str, environ: Mapping[str, str]) -> str:
    """Return the address in a variable; a SettingsError names the variable, never its value."""
    url = environ.get(variable, "").strip()
    if not url:
        raise SettingsError(f"alerts.webhook_env: the environment variable {variable} is not set")
    try:
        parts = urlsplit(url)
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        is_safe = is_safe and bool(parts.hostname)
    except ValueError:
        is_safe = False
    if not is_safe or not url.isascii() or not url.isprintable() or " " in url:
        raise SettingsError(f"alerts.webhook_env: {variable} must hold an https address")
    return url


def post_json(
    url: str, document: Mapping[str, object], timeout_seconds: float = TIMEOUT_SECONDS
) -> None:
    """Send the document once; a ConvoError describes the failure without the address."""
    body = json.dumps(document).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "convo-pipeline"}
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310 - read_webhook checked it
    try:
        with _OPENER.open(request, timeout=timeout_seconds):
            return
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"answered {error.code}"
    except (OSError, ValueError) as error:
        reason = f"could not be reached ({type(error).__name__})"
    raise ConvoError(f"the webhook {reason}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Follow no redirect: the response becomes an HTTPError."""


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
