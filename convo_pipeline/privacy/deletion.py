"""Answer Meta's data deletion callback: believe it, note it, forget the person wherever they are known, tell what came.

A request is noted durably (`<state>/deletions/<code>.json`) before it is answered, and finished by whoever comes next:
the same call, or the nightly upkeep. Until then the note holds the person's id, afterwards no id at all. The id that
Meta sends is scoped to the app; an inbox knows people by ids scoped to the Page or Instagram account, so it is well
possible that nobody is found: that is noted too, for a person to look into.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Literal
from urllib.parse import urlencode

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.base.secrets import read_secret
from convo_pipeline.errors import SettingsError, StoreError
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import keyed_hash, make_key
from convo_pipeline.privacy.erase import forget
from convo_pipeline.privacy.signed_request import read_signed_request, read_user_id
from convo_pipeline.schema import TABLES
from convo_pipeline.settings import Settings
from convo_pipeline.storage.backend import write_file
from convo_pipeline.storage.local import LocalFolder

REQUESTS = "deletions"
CODE_CHARACTERS = 24
Outcome = Literal["open", "erased", "nobody"]
TOLD = {
    "open": "Your request has been received. The deletion is under way and is tried again every night until it is done.",
    "erased": "Your messages and everything stored about you have been deleted.",
    "nobody": "Nothing is stored under the id that your request came with. The id that Meta sends with such a request can"
    " differ from the one by which an inbox knows you: to have a conversation deleted, write to the business in"
    " that conversation and ask for it.",
}
"""What the person is told of each outcome."""


@dataclass(frozen=True)
class DeletionRequest:
    """One request: its confirmation code, when it came, what became of it."""

    code: str
    received_at: datetime
    outcome: Outcome = "open"
    finished_at: datetime | None = None
    accounts: tuple[str, ...] = ()
    """Accounts from which the person was erased."""
    person_id: str | None = None
    """Only while it is open."""

    def to_json(self) -> dict[str, object]:
        ended = self.finished_at.isoformat() if self.finished_at else None
        return asdict(self) | {"received_at": self.received_at.isoformat(), "finished_at": ended}

    @classmethod
    def from_json(cls, value: dict[str, object]) -> "DeletionRequest":
        times = {name: datetime.fromisoformat(str(value[name])) if value[name] else None
                 for name in ("received_at", "finished_at")}  # fmt: skip
        return cls(**{**value, **times, "accounts": tuple(value["accounts"])})  # type: ignore[arg-type]


def receive(
    settings: Settings, store: Store, text: str, environ: Mapping[str, str], now: datetime
) -> DeletionRequest:
    """Believe a signed request and note it; the very same request comes back as it is. Nothing is erased yet."""
    payload = read_signed_request(text, read_app_secret(settings, environ))
    person_id = read_user_id(payload)
    code = keyed_hash(make_key(store.state_path), f"deletion:{text.strip().partition('.')[2]}")[
        :CODE_CHARACTERS
    ]
    held = read_request(store, code)
    if held:
        return held
    request = DeletionRequest(code, now, person_id=person_id)
    _save(store, request)
    return request


def finish(
    settings: Settings, store: Store, request: DeletionRequest, now: datetime
) -> DeletionRequest:
    """Forget the person in every account that knows them; a StoreError leaves the request open for the next time."""
    if request.person_id is None:
        return request
    accounts, errors = list(request.accounts), []
    for account in sorted(_accounts(store) - set(accounts)):
        try:
            if forget(settings, store, account, request.person_id, now):
                accounts.append(account)
        except StoreError as error:
            errors.append(error)
    request = replace(request, accounts=tuple(sorted(accounts)))
    if not errors:
        request = replace(
            request, outcome="erased" if accounts else "nobody", finished_at=now, person_id=None
        )
    _save(store, request)
    if errors:
        raise errors[0]
    return request


def _accounts(store: Store) -> set[str]:
    """Return every account of the lake; one whose first run was killed is in the state alone."""
    stored = {name for table in TABLES for name in store.accounts(table)}
    return stored | {identity.account for identity in store.state.identities()}


def finish_open_requests(settings: Settings, store: Store, now: datetime) -> list[DeletionRequest]:
    """Finish every request that is still open; what keeps one from it is raised when the others are done."""
    done, errors = [], []
    for request in read_requests(store):
        if request.outcome == "open":
            try:
                done.append(finish(settings, store, request, now))
            except StoreError as error:
                errors.append(error)
    if errors:
        raise errors[0]
    return done


def callback_response(settings: Settings, request: DeletionRequest) -> bytes:
    """Return what Meta wants to hear, as JSON: where the person can look, and the code."""
    url = f"{read_status_url(settings)}?{urlencode({'code': request.code})}"
    return dump_json({"url": url, "confirmation_code": request.code})


def describe(request: DeletionRequest) -> str:
    """Return what a person may read of it."""
    ended = f" Done on {request.finished_at:%Y-%m-%d}." if request.finished_at else ""
    return f"Request {request.code}, received on {request.received_at:%Y-%m-%d}. {TOLD[request.outcome]}{ended}\n"


def read_requests(store: Store) -> list[DeletionRequest]:
    """Return every request, oldest first."""
    names = LocalFolder(store.state_path).list_names((REQUESTS,))
    found = [
        read_request(store, name.removesuffix(".json")) for name in names if name.endswith(".json")
    ]
    return sorted(filter(None, found), key=lambda request: (request.received_at, request.code))


def read_request(store: Store, code: str) -> DeletionRequest | None:
    """Return the request with this code, None where there is none."""
    if not (code.isascii() and code.isalnum()):
        return None
    content = LocalFolder(store.state_path).read_bytes((REQUESTS, f"{code}.json"))
    return DeletionRequest.from_json(load_json(content)) if content else None  # type: ignore[arg-type]


def read_app_secret(settings: Settings, environ: Mapping[str, str]) -> str:
    """Return the secret of the app that Meta calls for; a SettingsError names what is missing."""
    variable = settings.deletion.app_secret_env
    if variable is None:
        raise SettingsError(
            "deletion.app_secret_env: name the environment variable that holds the app's secret"
        )
    return read_secret(variable, "deletion", environ)


def read_status_url(settings: Settings) -> str:
    """Return where people see what became of their request."""
    if settings.deletion.status_url is None:
        raise SettingsError(
            "deletion.status_url: name the https address at which people see what became of their request"
        )
    return settings.deletion.status_url


def _save(store: Store, request: DeletionRequest) -> None:
    write_file(
        LocalFolder(store.state_path),
        (REQUESTS, f"{request.code}.json"),
        dump_json(request.to_json()),
    )
