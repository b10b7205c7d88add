"""The one door to the Graph API: every request of this package is sent here.

It knows HTTP, tokens, retries and the rate limit; it knows nothing of what the answers mean.
Policies, all on purpose:
- no redirects are followed, and no address out of an answer: a request is always built from our own parameters;
- the environment is not trusted (`Session.trust_env` is False): no proxy variables, no .netrc, no CA bundle from it;
- certificates are always verified, and a wrong one is not retried;
- one deadline for the whole call, and a cap on the decoded bytes;
- no cookies are kept;
- an error's text holds code, status, path and trace id: never a query, a body, a token.
"""

import hashlib
import hmac
import logging
import random
import ssl
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import Literal, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import requests
import tenacity
import urllib3
from requests.adapters import HTTPAdapter

from convo_pipeline.base.cancellation import Cancellation
from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.base.secrets import Credentials, RedactingFilter
from convo_pipeline.base.threads import PARSE_LOCK
from convo_pipeline.errors import (
    GraphError,
    GraphFault,
    PayloadError,
    RetryableError,
    ThrottledError,
    TokenError,
    TooMuchDataError,
    UnknownFieldError,
    UnreachableError,
)
from convo_pipeline.graph import headers as answer_headers
from convo_pipeline.graph.body import Body, read_body
from convo_pipeline.graph.codes import build_error, is_unanswered
from convo_pipeline.graph.deadline import pool_classes
from convo_pipeline.graph.fields import names_in
from convo_pipeline.graph.page_size import SMALLEST_MESSAGE_PAGE
from convo_pipeline.graph.rate_limit import CallBudget, LimitKey, RateLimiter
from convo_pipeline.graph.responses import (
    ConversationPage,
    GraphResponse,
    Identity,
    Page,
    read_conversation,
    read_conversation_of_user,
    read_conversations,
    read_identity,
    read_json,
    read_object,
    read_page,
)
from convo_pipeline.graph.retry import Pause, Stop, decide
from convo_pipeline.graph.throttle import CALLS_IN_FLIGHT, ConcurrencyLimit, WaitBudget
from convo_pipeline.settings import AccountSettings, Settings

__all__ = ["Endpoint", "GraphClient", "GraphResponse", "Identity"]

Kind = Literal["listing", "conversation", "edge", "message", "identity", "token", "find"]

LARGEST_RESPONSE_BYTES = 64 * 1024 * 1024
LONGEST_CONNECT_SECONDS = 8.0
"""A run that is ended ends within ten seconds, and nobody looks while a connection is made."""
_LOG = logging.getLogger(__name__)
_CHUNK_BYTES = 1 << 18
_URLLIB3_FILTER = RedactingFilter()

T = TypeVar("T")


@dataclass(frozen=True)
class Endpoint:
    """Which inbox, on which server; `token_in` is `header` or `query`."""

    base_url: str
    version: str
    page_id: str
    platform: str
    token_in: str = "header"  # noqa: S105
    timeout_seconds: float = 60.0

    @classmethod
    def of(cls, settings: Settings, account: AccountSettings) -> "Endpoint":
        """Return an account's inbox as it is configured."""
        return cls(
            base_url=settings.base_url(account),
            version=settings.version(account),
            page_id=account.page_id,
            platform=account.platform,
            token_in=settings.graph.token_in,
            timeout_seconds=settings.graph.timeout_seconds,
        )

    @property
    def limit_key(self) -> LimitKey:
        """What the rate limit counts separately."""
        return LimitKey(urlsplit(self.base_url).netloc, self.page_id, self.platform)


@dataclass(frozen=True)
class _Request:
    kind: Kind
    path: str
    parameters: dict[str, str]
    is_heavy: bool = False
    is_probe: bool = False


class _Adapter(HTTPAdapter):
    """Gives requests the connections that keep a deadline and end with the run."""

    def __init__(self, cancellation: Cancellation) -> None:
        self._cancellation = cancellation
        super().__init__(pool_connections=1, pool_maxsize=CALLS_IN_FLIGHT, max_retries=0)

    def init_poolmanager(self, *arguments: object, **named: object) -> None:
        super().init_poolmanager(*arguments, **named)  # type: ignore[arg-type]
        self.poolmanager.pool_classes_by_scheme = pool_classes(self._cancellation)


class GraphClient:
    """Calls the Graph API for one account; safe for its few threads, which share connections and counters.

    Raises the errors of `errors.py` by `codes.CODES`. A heavy request (nested messages, a long edge page) that is
    refused with code 1 or does not end in time raises TooMuchDataError: ask for less. After a TokenError no call
    is sent any more; once `cancellation` is set, every call ends with StoppedError, and every wait if it watches the clock.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Credentials,
        limiter: RateLimiter,
        *,
        budget: CallBudget,
        clock: Clock = SYSTEM_CLOCK,
        draw: Callable[[], float] = random.random,
        cancellation: Cancellation | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.calls: Counter[str] = Counter()
        self.refused = 0
        self.retried = 0
        self.unchecked = 0
        """Good answers whose gzip ended without its checksum."""
        self.throttled_seconds = 0.0
        self.version: str | None = None
        self._credentials = credentials
        self._limiter = limiter
        self._budget = budget
        self._cancellation = cancellation or Cancellation()
        self._clock = clock
        self._draw = draw
        self._lock = threading.Lock()
        self._patience, self._endurance = WaitBudget(), WaitBudget()
        self._lanes = ConcurrencyLimit()
        self._token_error: TokenError | None = None
        self._session = _open_session(endpoint, credentials, self._cancellation)
        self._secret_parameters = _secret_parameters(endpoint, credentials)

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> "GraphClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fetch_identity(self) -> Identity:
        """Return who the account is; empty where the API does not say, for whatever reason.

        Only what ends the account anyway is raised: a dead token, a throttle, a host that gives no answer at all.
        """
        page_id = self.endpoint.page_id
        if self.endpoint.platform == "messenger" and page_id != "me":
            return Identity(page_id)
        field = "user_id,username" if page_id == "me" else "instagram_business_account{id,username}"
        try:
            body = self._fetch_identity_fields(field)
        except GraphError as error:
            if isinstance(error, TokenError | ThrottledError) or is_unanswered(error):
                raise
            return Identity()
        return read_identity(body if page_id == "me" else body.get("instagram_business_account"))

    def fetch_account(self, fields: str) -> GraphResponse:
        """Return fields of the account's own node: the Page, or `/me` with Instagram Login."""
        return self._fetch_node("identity", self.endpoint.page_id, fields)

    def _block(self, error: ThrottledError, decision: Stop | Pause) -> Stop | Pause:
        """Silence the account for every process; where that is too long to wait for, give up and say until when."""
        seconds = decision.seconds if isinstance(decision, Pause) else decision.blocked_seconds
        self._lanes.narrow()
        self._limiter.block(seconds)
        if isinstance(decision, Pause) and self._patience.bears(
            self._clock.monotonic_seconds(), seconds
        ):
            with self._lock:
                self.throttled_seconds += seconds
            return decision
        error.wait_seconds = seconds
        error.resume_at = self._clock.now() + timedelta(seconds=seconds)
        return Stop(seconds)

    def _endures(self, seconds: float) -> bool:
        """Whether to pause so long after a fault: not for ever where no good answer comes in between."""
        return self._endurance.bears(self._clock.monotonic_seconds(), seconds)

    def _count_retry(self) -> None:
        with self._lock:
            self.retried += 1

    def _fetch_identity_fields(self, fields: str) -> dict[str, object]:
        try:
            answer = self._fetch_node("identity", self.endpoint.page_id, fields)
        except UnknownFieldError:  # the user name is a convenience, the id is not
            answer = self._fetch_node(
                "identity", self.endpoint.page_id, fields.replace(",username", "")
            )
        return answer.body if isinstance(answer.body, dict) else {}

    def fetch_conversations(
        self,
        fields: str,
        limit: int,
        after: str | None = None,
        folder: str = "",
        user_id: str | None = None,
    ) -> ConversationPage:
        """Return one page of the inbox, newest activity first; with `user_id` the conversation with that person."""
        optional = {"after": after, "folder": folder, "user_id": user_id}
        parameters = {"platform": self.endpoint.platform, "fields": fields, "limit": str(limit)}
        parameters |= {name: value for name, value in optional.items() if value}
        path = _path(self.endpoint.page_id, "conversations")
        if user_id:
            request = _Request("find", path, parameters)
            return self._fetch(request, read_conversation_of_user)
        request = _Request("listing", path, parameters, _is_nested(fields))
        return self._fetch(request, read_conversations)

    def fetch_messages(
        self, conversation_id: str, fields: str, limit: int, after: str | None = None
    ) -> Page:
        """Return one page of a conversation's messages, newest first (the edge form)."""
        parameters = {"fields": fields, "limit": str(limit)} | ({"after": after} if after else {})
        path = _path(conversation_id, "messages")
        return self._fetch(
            _Request("edge", path, parameters, limit > SMALLEST_MESSAGE_PAGE), read_page
        )

    def probe_conversation(self, conversation_id: str) -> None:
        """Ask for a single message id; raises the first error that has a code."""
        request = _Request(
            "edge",
            _path(conversation_id, "messages"),
            {"fields": "id", "limit": "1"},
            is_probe=True,
        )
        self._fetch(request, read_page)

    def fetch_conversation(self, conversation_id: str, fields: str) -> ConversationPage:
        """Return one conversation by its id, as a page of one row."""
        request = _Request(
            "conversation", _path(conversation_id), {"fields": fields}, _is_nested(fields)
        )
        return self._fetch(request, partial(read_conversation, conversation_id=conversation_id))

    def fetch_message(self, message_id: str, fields: str) -> GraphResponse:
        """Return one message; MissingError says deleted or too old alike."""
        return self._fetch_node("message", message_id, fields)

    def fetch_token(self) -> GraphResponse:
        """Return what Meta knows of the token (debug_token)."""
        return self._fetch(
            _Request("token", "debug_token", {"input_token": self._credentials.token}), read_object
        )

    def _fetch_node(self, kind: Kind, node_id: str, fields: str) -> GraphResponse:
        return self._fetch(
            _Request(kind, _path(node_id), {"fields": fields}, _is_nested(fields)), read_object
        )

    def _fetch(self, request: _Request, read: Callable[[GraphResponse], T]) -> T:
        """Send until an answer is good or `decide` says stop."""
        policy = _Policy(self, request)
        retrying = tenacity.Retrying(
            retry=policy.goes_on,
            wait=policy.pause_seconds,
            stop=tenacity.stop_never,
            sleep=self._clock.sleep,
        )
        result: T = retrying(self._attempt, request, read)
        return result

    def _attempt(self, request: _Request, read: Callable[[GraphResponse], T]) -> T:
        with self._lanes.lane():
            self._await_turn(request)
            received = self._exchange(request)
        answer = self._read_answer(request, received)
        try:
            found = read(answer)
        except PayloadError as error:
            reason = str(error)
        else:
            self._endurance.renew()
            return found
        raise UnreachableError(GraphFault(status=200, path=request.path, reason=reason))

    def _await_turn(self, request: _Request) -> None:
        """Delay until the call may be sent, and count it."""
        self._cancellation.check()
        blocked_seconds = self._limiter.acquire(self._patience)
        if self._token_error is not None:
            raise self._token_error
        self._budget.spend()
        with self._lock:
            self.throttled_seconds += blocked_seconds
            self.calls[request.kind] += 1

    def _exchange(self, request: _Request) -> "_Received":
        """Send one request and read all of its answer; every failure below HTTP is an UnreachableError.

        The failure is raised outside of the except block: what requests raised holds the address with its query.
        """
        query = urlencode(request.parameters | self._secret_parameters)
        url = f"{self.endpoint.base_url}/{self.endpoint.version}/{request.path}?{query}"
        connect_seconds = min(LONGEST_CONNECT_SECONDS, self.endpoint.timeout_seconds / 2)
        timeout = (connect_seconds, self.endpoint.timeout_seconds - connect_seconds)
        try:
            with self._session.get(
                url, stream=True, allow_redirects=False, timeout=timeout
            ) as response:
                chunks = response.raw.stream(_CHUNK_BYTES, decode_content=False)
                body = read_body(
                    chunks, response.headers.get("Content-Encoding", ""), LARGEST_RESPONSE_BYTES
                )
                return _Received(response.status_code, response.headers, body)
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            OSError,
            zlib.error,
        ) as error:
            failure = _no_answer(error, request)
        raise failure

    def _read_answer(self, request: _Request, received: "_Received") -> GraphResponse:
        self._heed(received.headers)
        content = received.body.content
        if content is None:
            kind = TooMuchDataError if request.is_heavy else GraphError
            raise kind(
                _fault(
                    request,
                    received.status,
                    f"the answer is larger than {LARGEST_RESPONSE_BYTES} bytes",
                )
            )
        if 300 <= received.status < 400:
            raise GraphError(
                _fault(request, received.status, "the server redirects, which is never followed")
            )
        try:
            with PARSE_LOCK:
                body = read_json(content)
        except PayloadError as error:
            body, reason = None, str(error)
        else:
            reason = "the answer is an error without a code"
        now = self._clock.now()
        refusal = body.get("error") if isinstance(body, dict) else None
        if isinstance(refusal, dict) or body is None or received.status >= 400:
            raise self._refusal(
                request, received, refusal if isinstance(refusal, dict) else {}, reason, now
            )
        moment = answer_headers.server_time(received.headers) or now
        with self._lock:
            self.unchecked += not received.body.is_checked
        return GraphResponse(
            body, moment, len(content), received.headers.get("Facebook-API-Version")
        )

    def _refusal(
        self,
        request: _Request,
        received: "_Received",
        error: dict[str, object],
        reason: str,
        now: datetime,
    ) -> GraphError:
        with self._lock:
            self.refused += 1
        asked = names_in(request.parameters.get("fields", ""))
        server_time = answer_headers.server_time(received.headers) or now
        wait_seconds = answer_headers.wait_seconds(received.headers, server_time)
        failure = build_error(
            error,
            received.status,
            request.path,
            is_heavy=request.is_heavy,
            asked=asked,
            wait_seconds=wait_seconds,
        )
        if type(failure) is RetryableError and failure.fault.code is None:
            return UnreachableError(_fault(request, received.status, reason))
        if isinstance(failure, TokenError):
            self._token_error = failure
        return failure

    def _heed(self, headers: Mapping[str, str]) -> None:
        """Note the version that served, and slow down before the wall."""
        version = headers.get("Facebook-API-Version")
        if version and version != self.version:
            self.version = version
            if version != self.endpoint.version:
                _LOG.warning(
                    "version %s was asked for, %s answered", self.endpoint.version, version[:16]
                )
        percent = answer_headers.usage_percent(headers)
        if percent is not None:
            self._limiter.slow_down(percent)


class _Policy:
    """Carries one call's decisions from `decide` to the retry loop."""

    def __init__(self, client: GraphClient, request: _Request) -> None:
        self._client = client
        self._request = request
        self._started = client._clock.monotonic_seconds()
        self._seconds = 0.0

    def goes_on(self, state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, RetryableError) or (
            isinstance(error, ThrottledError) and error.resume_at
        ):
            return False
        elapsed_seconds = self._client._clock.monotonic_seconds() - self._started
        decision = decide(
            error,
            state.attempt_number,
            elapsed_seconds,
            draw=self._client._draw(),
            is_heavy=self._request.is_heavy,
            is_probe=self._request.is_probe,
        )
        if isinstance(error, ThrottledError):
            decision = self._client._block(error, decision)
        elif isinstance(decision, Pause) and not self._client._endures(decision.seconds):
            return False
        if isinstance(decision, Pause):
            self._seconds = decision.seconds
            self._client._count_retry()
        return isinstance(decision, Pause)

    def pause_seconds(self, _: tenacity.RetryCallState) -> float:
        return self._seconds


@dataclass(frozen=True)
class _Received:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: Body


def _open_session(
    endpoint: Endpoint, credentials: Credentials, cancellation: Cancellation
) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update(
        {"User-Agent": "convo-pipeline", "Accept": "application/json", "Accept-Encoding": "gzip"}
    )
    if endpoint.token_in == "header":  # noqa: S105
        session.headers["Authorization"] = f"Bearer {credentials.token}"
    adapter = _Adapter(cancellation)
    for scheme in ("https://", "http://"):
        session.mount(scheme, adapter)
    logging.getLogger("urllib3.connectionpool").addFilter(_URLLIB3_FILTER)
    return session


def _secret_parameters(endpoint: Endpoint, credentials: Credentials) -> dict[str, str]:
    parameters = {} if endpoint.token_in == "header" else {"access_token": credentials.token}  # noqa: S105
    if credentials.app_secret:
        parameters["appsecret_proof"] = appsecret_proof(credentials.token, credentials.app_secret)
    return parameters


def appsecret_proof(token: str, app_secret: str) -> str:
    """Return the proof that the caller knows the app's secret: HMAC-SHA256 over the token, hexadecimal."""
    return hmac.new(app_secret.encode(), token.encode(), hashlib.sha256).hexdigest()


def _path(*parts: str) -> str:
    """Join ids into a path; an id that no path can hold is refused before any call."""
    for part in parts:
        if part in ("", ".", ".."):
            raise PayloadError("an id is empty or made of dots: no address can name it")
    return "/".join(quote(part, safe="") for part in parts)


def _is_nested(fields: str) -> bool:
    return "messages" in fields and "{" in fields.partition("messages")[2]


def _no_answer(error: Exception, request: _Request) -> GraphError:
    if _is_caused_by(error, ssl.SSLCertVerificationError):
        return GraphError(_fault(request, None, "the server's certificate is not trusted"))
    is_read_timeout = isinstance(
        error, requests.ReadTimeout | urllib3.exceptions.ReadTimeoutError | TimeoutError
    )
    if is_read_timeout and request.is_heavy:
        return TooMuchDataError(_fault(request, None, "the answer took too long"))
    reason = (
        "the answer took too long"
        if is_read_timeout
        else f"no whole answer came ({type(error).__name__})"
    )
    return UnreachableError(_fault(request, None, reason))


def _is_caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind) or any(isinstance(part, kind) for part in error.args):
            return True
        reason = getattr(error, "reason", None) or next(
            (a.reason for a in error.args if hasattr(a, "reason")), None
        )
        error = (
            reason if isinstance(reason, BaseException) else error.__cause__ or error.__context__
        )
    return False


def _fault(request: _Request, status: int | None, reason: str) -> GraphFault:
    return GraphFault(status=status, path=request.path, reason=reason)
