"""Read Meta's `signed_request`: `<signature>.<payload>`, each base64url. Pure; what it holds is shown in no error.

The signature is HMAC-SHA256 of the payload as it was sent, under the app's secret (Meta: Data Deletion Request
Callback; https://developers.facebook.com/docs/development/create-an-app/app-dashboard/data-deletion-callback/).
"""

import base64
import binascii
import hashlib
import hmac
import re

from convo_pipeline.base.json_text import load_json
from convo_pipeline.errors import PayloadError

ALGORITHM = "HMAC-SHA256"
MOST_CHARACTERS = 8192
_USER_ID = re.compile(r"[0-9]{1,32}")


def read_signed_request(text: str, app_secret: str) -> dict[str, object]:
    """Return the payload; a PayloadError says why it is not to be believed."""
    signature, dot, payload = text.strip().partition(".")
    if not dot or len(text) > MOST_CHARACTERS or not payload.isascii():
        raise PayloadError("this is no signed request: <signature>.<payload>, both base64url")
    expected = hmac.digest(app_secret.encode(), payload.encode(), hashlib.sha256)
    if not hmac.compare_digest(expected, _decode(signature)):
        raise PayloadError("the signed request is not signed with this app's secret")
    try:
        value = load_json(_decode(payload))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise PayloadError("the signed request holds no JSON object")
    if str(value.get("algorithm", "")).upper() != ALGORITHM:
        raise PayloadError(f"the signed request names another algorithm than {ALGORITHM}")
    return value


def read_user_id(payload: dict[str, object]) -> str:
    """Return whose data is to be deleted: text in Meta's examples, a number in some clients' fixtures.

    >>> read_user_id({"user_id": 218471}), read_user_id({"user_id": "218471"})
    ('218471', '218471')
    """
    value = payload.get("user_id")
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not _USER_ID.fullmatch(text):
        raise PayloadError("the signed request names no user_id")
    return text


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(
            text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), altchars=b"-_", validate=True
        )
    except (binascii.Error, ValueError):
        raise PayloadError("the signed request is not base64url") from None
