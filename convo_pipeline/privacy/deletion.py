"""Handle Meta's data deletion requests: verify, record, erase the person, report the status.

A request is stored in `<state>/deletions/<code>.json` before it is answered. The same process or
the nightly upkeep erases the person afterwards. The file holds the person's id only until then.

A `signed_request` is `<signature>.<payload>`, each base64url. The signature is HMAC-SHA256 of the
payload as sent, under the app's secret (Meta: Data Deletion Request Callback,
https://developers.facebook.com/docs/development/create-an-app/app-dashboard/data-deletion-callback/).
Its user id is scoped to the app. An inbox knows people by ids scoped to the Page or Instagram
account, so a request can name an id that no account knows.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal
from urllib.parse import urlencode

from pydantic import TypeAdapter

from convo_pipeline.base.clock import Clock
from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.base.secrets import read_secret
from convo_pipeline.errors import BusyError, PayloadError, SettingsError
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import keyed_hash, make_key
from convo_pipeline.privacy.erasure import PendingFiles, apply_to_each
from convo_pipeline.privacy.forget import forget
from convo_pipeline.schema import TABLES
from convo_pipeline.settings import Settings

REQUESTS_FOLDER = "deletions"
CODE_CHARACTERS = 24
ALGORITHM = "HMAC-SHA256"
MOST_CHARACTERS = 8192
"""Length of the longest signed request or query that is read."""
PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Pauses between tries while a run works on an account: about a minute."""
_USER_ID = re.compile(r"[0-9]{1,32}")
_CODE = re.compile(r"[0-9a-z]{1,64}")

DeletionOutcome = Literal["open", "erased", "not_found"]
STATUS_TEXTS: Mapping[DeletionOutcome, str] = {
    "open": "Your request has been received. The deletion is under way and is tried again every"
    " night until it is done.",
    "erased": "Your messages and everything stored about you have been deleted.",
    "not_found": "Nothing is stored under the id that your request came with. The id that Meta"
    " sends with such a request can differ from the one by which an inbox knows you: to have a"
    " conversation deleted, write to the business in that conversation and ask for it.",
}
"""What the person reads about each outcome."""


@dataclass(frozen=True)
class DeletionRequest:
    """One request of a person, by its confirmation code."""

    code: str
    received_at: datetime
    outcome: DeletionOutcome = "open"
    finished_at: datetime | None = None
    accounts: tuple[str, ...] = ()
    """Accounts from which the person was erased."""
    person_id: str | None = None
    """None once the request is finished."""


_AS_JSON = TypeAdapter(DeletionRequest)


def parse_signed_request(text: str, app_secret: str) -> dict[str, object]:
    """Verify a signed request and return its payload.

    A PayloadError says what is wrong with it. Its message contains nothing of the request.
    """
    signature, dot, payload = text.strip().partition(".")
    if not dot or len(text) > MOST_CHARACTERS or not payload.isascii():
        raise PayloadError("this is no signed request: <signature>.<payload>, both base64url")
    expected = hmac.digest(app_secret.encode(), payload.encode(), hashlib.sha256)
    if not hmac.compare_digest(expected, _decode_base64url(signature)):
        raise PayloadError("the signed request is not signed with this app's secret")
    try:
        value = load_json(_decode_base64url(payload))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise PayloadError("the signed request holds no JSON object")
    if str(value.get("algorithm", "")).upper() != ALGORITHM:
        raise PayloadError(f"the signed request names another algorithm than {ALGORITHM}")
    return value


def parse_user_id(payload: Mapping[str, object]) -> str:
    """Return the user id: a text in Meta's examples, a number in some clients' tests.

    >>> parse_user_id({"user_id": 218471}), parse_user_id({"user_id": "218471"})
    ('218471', '218471')
    """
    value = payload.get("user_id")
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not _USER_ID.fullmatch(text):
        raise PayloadError("the signed request names no user_id")
    return text


def _decode_base64url(text: str) -> bytes:
    unpadded = text.rstrip("=")
    try:
        return base64.b64decode(
            unpadded + "=" * (-len(unpadded) % 4), altchars=b"-_", validate=True
        )
    except (binascii.Error, ValueError):
        raise PayloadError("the signed request is not base64url") from None


def receive_request(
    settings: Settings, store: Store, text: str, environ: Mapping[str, str], now: datetime
) -> DeletionRequest:
    """Verify and store a signed request; the same text returns the same request. Erases nothing."""
    person_id = parse_user_id(parse_signed_request(text, read_app_secret(settings, environ)))
    payload = text.strip().partition(".")[2]
    code = keyed_hash(make_key(store.notes), f"deletion:{payload}")[:CODE_CHARACTERS]
    request = read_request(store, code)
    if request is None:
        request = DeletionRequest(code, now, person_id=person_id)
        saved = _AS_JSON.dump_python(request, mode="json")
        PendingFiles(store, REQUESTS_FOLDER).create(code, saved)
    return request


def finish_request(
    settings: Settings, store: Store, request: DeletionRequest, now: datetime
) -> DeletionRequest:
    """Erase the person from every account; after a StoreError the request stays open.

    One request is finished at a time, over all processes. One that another process has finished
    meanwhile is returned as it is.
    """
    with store.locks.deletions():
        request = read_request(store, request.code) or request
        if request.person_id is None:
            return request
        return _erase_everywhere(settings, store, request, request.person_id, now)


def _erase_everywhere(
    settings: Settings, store: Store, request: DeletionRequest, person_id: str, now: datetime
) -> DeletionRequest:
    def erase_from(account: str) -> str | None:
        return account if forget(settings, store, account, person_id, now) else None

    # An account whose first run was killed is known to the state only.
    known = {account for table in TABLES for account in store.accounts(table)}
    known |= {identity.account for identity in store.state.identities()}
    results, errors = apply_to_each(erase_from, sorted(known.difference(request.accounts)))
    accounts = sorted({*request.accounts, *filter(None, results)})
    request = replace(request, accounts=tuple(accounts))
    if not errors:
        outcome: DeletionOutcome = "erased" if accounts else "not_found"
        request = replace(request, outcome=outcome, finished_at=now, person_id=None)
    _save_request(store, request)
    if errors:
        raise errors[0]
    return request


def finish_request_soon(
    settings: Settings, store: Store, request: DeletionRequest, clock: Clock
) -> DeletionRequest:
    """Finish a request; if a run works on an account, try again for about a minute."""
    for pause_seconds in PAUSES_SECONDS:
        try:
            return finish_request(settings, store, request, clock.now())
        except BusyError:
            clock.sleep(pause_seconds)
    return finish_request(settings, store, request, clock.now())


def finish_open_requests(settings: Settings, store: Store, now: datetime) -> list[DeletionRequest]:
    """Finish every open request; raise the first StoreError after trying all."""
    requests = [request for request in read_requests(store) if request.outcome == "open"]
    finished, errors = apply_to_each(
        lambda request: finish_request(settings, store, request, now), requests
    )
    if errors:
        raise errors[0]
    return finished


def callback_response(settings: Settings, request: DeletionRequest) -> bytes:
    """Return the JSON that Meta expects: the address of the status page and the code."""
    url = f"{read_status_url(settings)}?{urlencode({'code': request.code})}"
    return dump_json({"url": url, "confirmation_code": request.code})


def describe_request(request: DeletionRequest) -> str:
    """Return the status text for the person."""
    finished = f" Done on {request.finished_at:%Y-%m-%d}." if request.finished_at else ""
    return (
        f"Request {request.code}, received on {request.received_at:%Y-%m-%d}."
        f" {STATUS_TEXTS[request.outcome]}{finished}\n"
    )


def read_requests(store: Store) -> list[DeletionRequest]:
    """Return every request, oldest first."""
    codes = PendingFiles(store, REQUESTS_FOLDER).names()
    requests = [request for code in codes if (request := read_request(store, code))]
    return sorted(requests, key=lambda request: (request.received_at, request.code))


def read_request(store: Store, code: str) -> DeletionRequest | None:
    """Return the request with this code, or None."""
    is_code = _CODE.fullmatch(code)
    saved = PendingFiles(store, REQUESTS_FOLDER).read(code) if is_code else None
    if saved is None:
        return None
    if saved["outcome"] == "nobody":  # The word of earlier versions.
        saved["outcome"] = "not_found"
    return _AS_JSON.validate_python(saved)


def read_app_secret(settings: Settings, environ: Mapping[str, str]) -> str:
    """Return the app's secret; a SettingsError names what is missing."""
    variable = settings.deletion.app_secret_env
    if variable is None:
        raise SettingsError(
            "deletion.app_secret_env: name the environment variable that holds the app's secret"
        )
    return read_secret(variable, "deletion", environ)


def read_status_url(settings: Settings) -> str:
    """Return the address of the status page; a SettingsError if it is missing."""
    if settings.deletion.status_url is None:
        raise SettingsError(
            "deletion.status_url: name the https address of the page that shows people the status"
            " of their request"
        )
    return settings.deletion.status_url


def _save_request(store: Store, request: DeletionRequest) -> None:
    saved = _AS_JSON.dump_python(request, mode="json")
    PendingFiles(store, REQUESTS_FOLDER).save(request.code, saved)
