"""Calls of the Graph API for one account: URLs, tokens, retries, rate limit and error classes.

Every request is built from our own parameters, never from an address in a response. `transport`
sends it, `codes` classifies an error, `retry` decides about the next attempt and `responses` reads
the result.
"""

import hashlib
import hmac
import logging
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import Literal, TypeVar
from urllib.parse import quote, unquote, urlsplit

from convo_pipeline.base.cancellation import Cancellation
from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.base.secrets import Credentials
from convo_pipeline.base.threads import PARSE_LOCK
from convo_pipeline.errors import (
    GraphError,
    GraphFault,
    PayloadError,
    RetryableError,
    ThrottledError,
    TokenError,
    TooMuchDataError,
    UnreachableError,
)
from convo_pipeline.graph import headers as response_headers
from convo_pipeline.graph.codes import BAD_PARAMETER, PROOF_PARAMETER, build_error, is_unanswered
from convo_pipeline.graph.fields import names_in
from convo_pipeline.graph.page_size import SMALLEST_MESSAGE_PAGE
from convo_pipeline.graph.rate_limit import CallBudget, ConcurrencyLimit, LimitKey, RateLimiter
from convo_pipeline.graph.responses import (
    ConversationPage,
    GraphResponse,
    Identity,
    Page,
    activity_times,
    read_conversation,
    read_conversation_of_user,
    read_conversations,
    read_identity,
    read_json,
    read_message,
    read_node,
    read_object,
    read_page,
)
from convo_pipeline.graph.retry import GiveUp, Retry, WaitBudget, decide
from convo_pipeline.graph.server_clock import TOLERANCE, ResponseTime, ServerClock
from convo_pipeline.graph.shapes import Census
from convo_pipeline.graph.transport import MAX_RESPONSE_BYTES, HttpResponse, HttpTransport
from convo_pipeline.settings import AccountSettings, Settings

CallKind = Literal[
    "listing", "conversation", "edge", "message", "list", "identity", "token", "find"
]
"""What a call requests: an edge is a page of one conversation's messages, a list a later page of
another list inside a conversation or message, such as `attachments`."""
MAX_PARALLEL_CALLS = 4
LIST_LIMIT = 100
"""Items on a later page of a list inside a conversation or message."""
CENSUS_ITEMS = 5
"""Items of each list in a response whose shape is counted."""
LINKED = "instagram_business_account"
PAGE_IDENTITY_FIELDS = (f"{LINKED}{{id,username}}", LINKED)
LOGIN_IDENTITY_FIELDS = ("user_id,username", "user_id", "id,username")
"""Fields of the account's own node, the best first; the next ones are for a refused field."""
PAGE_ACCESS_FIELDS = f"id,name,tasks,access_token,{LINKED}{{id,username}}"
_EDGE = re.compile(r"/([^/?#]+)/messages(?:[?#]|$)")
_LOG = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Endpoint:
    """The server and inbox of an account; `token_in` is `header` or `query`."""

    base_url: str
    version: str
    page_id: str
    platform: str
    token_in: str = "header"  # noqa: S105
    timeout_seconds: float = 60.0

    @classmethod
    def of(cls, settings: Settings, account: AccountSettings) -> "Endpoint":
        """Return the endpoint of a configured account."""
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
        """What Meta's rate limit counts separately."""
        return LimitKey(urlsplit(self.base_url).netloc, self.page_id, self.platform)


@dataclass(frozen=True)
class _Request:
    kind: CallKind
    path: str
    parameters: dict[str, str]
    is_heavy: bool = False
    """A smaller request is possible, and better than another attempt."""
    is_probe: bool = False
    authorization: "_Authorization | None" = None
    """The token to send; None: the account's own."""

    def fault(self, status: int | None, reason: str) -> GraphFault:
        return GraphFault(status=status, path=self.path, reason=reason)


@dataclass(frozen=True, repr=False)
class _Authorization:
    """A token in the form in which requests send it."""

    token: str
    headers: dict[str, str]
    parameters: dict[str, str]

    @classmethod
    def of(cls, token: str, app_secret: str | None, token_in: str) -> "_Authorization":
        is_header = token_in == "header"  # noqa: S105
        headers = {"Authorization": f"Bearer {token}"} if is_header else {}
        parameters = {} if is_header else {"access_token": token}
        if app_secret:
            parameters[PROOF_PARAMETER] = appsecret_proof(token, app_secret)
        return cls(token, headers, parameters)


class GraphClient:
    """Calls the Graph API for one account; safe for threads, which share connections and counters.

    Raises the classes of `errors.py` by the table `codes.CODES`. A heavy request (nested messages,
    a long page of messages) that is refused with code 1 or too slow raises TooMuchDataError. After
    a TokenError no more calls are sent. After a cancellation every call raises StoppedError.
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
        read_credentials: Callable[[], Credentials] | None = None,
    ) -> None:
        """`draw` returns the random jitter of retries, in [0, 1).

        `read_credentials` reads the credentials again if the API refuses the token.
        """
        self.endpoint = endpoint
        self.calls: Counter[str] = Counter()
        self.refused = 0
        self.retried = 0
        self.unchecked = 0
        """Successful responses whose gzip body ended before its checksum."""
        self.throttled_seconds = 0.0
        self.server_clock = ServerClock()
        self.listed_at: ResponseTime | None = None
        """The time of the first page of the inbox."""
        self.is_probing = False
        """Whether every call only tests if an object is still refused: no second attempt then."""
        self.version: str | None = None
        """The API version of the last response."""
        self.census = Census()
        """The shapes of responses: of each kind of call the first four, then ever fewer, and of
        all errors."""
        self._credentials = credentials
        self._limiter = limiter
        self._budget = budget
        self._cancellation = cancellation or Cancellation()
        self._clock = clock
        self._draw = draw
        self._lock = threading.Lock()
        self._throttle_budget, self._backoff_budget = WaitBudget(), WaitBudget()
        self._concurrency = ConcurrencyLimit(MAX_PARALLEL_CALLS)
        self._token_error: TokenError | None = None
        self._read_credentials = read_credentials
        self._token_lock = threading.Lock()
        self._authorization: _Authorization | None = None
        self._refused_tokens: set[str] = set()
        self._has_exact_ids = True
        """Whether the API returns the ids that are requested, as far as this run knows."""
        self._transport = HttpTransport(
            endpoint.timeout_seconds, MAX_PARALLEL_CALLS, self._cancellation
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every token and secret that this client has sent, so that texts can mask them."""
        used = {self._credentials.token, self._credentials.app_secret, *self._refused_tokens}
        if self._authorization:
            used.add(self._authorization.token)
        return tuple(filter(None, used))

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> "GraphClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fetch_identity(self) -> Identity:
        """Return the account's own id and name; empty if the API does not return them.

        Raises only what stops the account: TokenError, ThrottledError, or UnreachableError of a
        server that sends no response.
        """
        page_id = self.endpoint.page_id
        if self.endpoint.platform == "messenger" and page_id != "me":
            return Identity(page_id)
        for fields in LOGIN_IDENTITY_FIELDS if page_id == "me" else PAGE_IDENTITY_FIELDS:
            try:
                body = self.fetch_account(fields).body
            except GraphError as error:
                if isinstance(error, TokenError | ThrottledError) or is_unanswered(error):
                    raise
                if error.fault.code == BAD_PARAMETER or page_id == "me":
                    continue
                return Identity()
            own = body if page_id == "me" or not isinstance(body, dict) else body.get(LINKED)
            return read_identity(own)
        return Identity()

    def fetch_account(self, fields: str) -> GraphResponse:
        """Return fields of the account's own object: the Page, or `/me` with Instagram Login."""
        path = _path(self.endpoint.page_id)
        return self._fetch(_Request("identity", path, {"fields": fields}), read_node)

    def fetch_token_owner(self) -> GraphResponse:
        """Return the id of the node that the token belongs to: a Page for a Page's token."""
        return self._fetch(_Request("identity", "me", {"fields": "id"}), read_node)

    def fetch_token(self) -> GraphResponse:
        """Return what Meta knows about the token (debug_token)."""
        parameters = {"input_token": self._authorize().token}
        return self._fetch(_Request("token", "debug_token", parameters), read_node)

    def fetch_pages(self, after: str | None = None) -> Page:
        """Return one response of the Pages that a user's token opens, with their tokens."""
        parameters = {"fields": PAGE_ACCESS_FIELDS, "limit": "100"}
        parameters |= {"after": after} if after else {}
        return self._fetch(_Request("token", "me/accounts", parameters), read_page)

    def fetch_permissions(self) -> Page:
        """Return the permissions of a user's token, granted and declined."""
        return self._fetch(_Request("token", "me/permissions", {}), read_page)

    def exchange_token(self, path: str, parameters: dict[str, str]) -> GraphResponse:
        """Exchange the token for a longer-lived one; the body has `access_token`."""
        return self._fetch(_Request("token", path, parameters), read_object)

    def fetch_conversations(
        self,
        fields: str,
        limit: int,
        after: str | None = None,
        folder: str = "",
        user_id: str | None = None,
    ) -> ConversationPage:
        """Return one page of the inbox, newest activity first; or the conversation with a user."""
        optional = {"after": after, "folder": folder, "user_id": user_id}
        parameters = {"platform": self.endpoint.platform, "fields": fields, "limit": str(limit)}
        parameters |= {name: value for name, value in optional.items() if value}
        path = _path(self.endpoint.page_id, "conversations")
        if user_id:
            return self._fetch(_Request("find", path, parameters), read_conversation_of_user)
        request = _Request("listing", path, parameters, is_heavy=_is_nested(fields))
        return self._fetch(request, read_conversations)

    def fetch_conversation(self, conversation_id: str, fields: str) -> ConversationPage:
        """Return one conversation by its id, as a page of one row."""
        parameters, is_heavy = {"fields": fields}, _is_nested(fields)
        request = _Request("conversation", _path(conversation_id), parameters, is_heavy)
        return self._fetch(request, partial(read_conversation, conversation_id=conversation_id))

    def fetch_messages(
        self, conversation_id: str, fields: str, limit: int, after: str | None = None
    ) -> Page:
        """Return one page of a conversation's messages, newest first."""
        parameters = {"fields": fields, "limit": str(limit)} | ({"after": after} if after else {})
        is_heavy = limit > SMALLEST_MESSAGE_PAGE
        request = _Request("edge", _path(conversation_id, "messages"), parameters, is_heavy)
        return self._fetch(request, read_page)

    def probe_conversation(self, conversation_id: str) -> None:
        """Request a single message id; raise the first error that has a code."""
        parameters = {"fields": "id", "limit": "1"}
        path = _path(conversation_id, "messages")
        self._fetch(_Request("edge", path, parameters, is_probe=True), read_page)

    def fetch_message(self, message_id: str, fields: str) -> GraphResponse:
        """Return one message; MissingError means deleted or older than the newest 20."""
        return self._fetch(_Request("message", _path(message_id), {"fields": fields}), read_message)

    def fetch_list(self, object_id: str, name: str, fields: str, after: str) -> Page:
        """Return a page of a list inside a conversation or message; the first one for ""."""
        parameters = {"limit": str(LIST_LIMIT)}
        parameters |= {"after": after} if after else {}
        parameters |= {"fields": fields} if fields else {}
        return self._fetch(_Request("list", _path(object_id, name), parameters), read_page)

    def _authorize(self) -> _Authorization:
        """Return the account's token. With a user's token, the Page's token is read first."""
        with self._token_lock:
            if self._token_error:
                raise self._token_error
            if self._authorization is None:
                self._authorization = self._read_token(self._credentials)
            return self._authorization

    def _read_token(self, credentials: Credentials) -> _Authorization:
        """Return the token of the credentials, or the Page's token that a user's token can read.

        Meta returns it as a field of the Page (access token guide). TokenError if it does not.
        """
        token, secret = credentials.token, credentials.app_secret
        authorization = _Authorization.of(token, secret, self.endpoint.token_in)
        if not credentials.is_user_token:
            return authorization
        path = _path(self.endpoint.page_id)
        request = _Request("token", path, {"fields": "access_token"}, authorization=authorization)
        body = self._fetch(request, read_node).body
        page_token = body.get("access_token") if isinstance(body, dict) else None
        if not isinstance(page_token, str) or not page_token:
            raise TokenError(request.fault(200, "the user of token_from has no task on this Page"))
        return _Authorization.of(page_token, secret, self.endpoint.token_in)

    def _renew(self, refused: _Authorization) -> bool:
        """Read the token again after a refusal; return whether there is a token to try."""
        with self._token_lock:
            if self._authorization is not refused:
                return self._token_error is None
            if self._read_credentials is None:
                return False
            self._refused_tokens.add(refused.token)
            self._credentials = self._read_credentials()
            renewed = self._read_token(self._credentials)
            if renewed.token in self._refused_tokens:
                return False
            self._authorization = renewed
            return True

    def _fetch(self, request: _Request, read: Callable[[GraphResponse], T]) -> T:
        """Send a request until a response can be read or `decide` gives up."""
        started = self._clock.monotonic_seconds()
        attempt = 0
        while True:
            authorization = request.authorization or self._authorize()
            attempt += 1
            try:
                return self._send(request, authorization, read, is_retry=attempt > 1)
            except TokenError as error:
                if request.authorization or not self._renew(authorization):
                    self._token_error = error
                    raise
                attempt -= 1
                continue
            except RetryableError as error:
                elapsed_seconds = self._clock.monotonic_seconds() - started
                seconds = self._wait_seconds(error, request, attempt, elapsed_seconds)
                if seconds is None:
                    raise
            with self._lock:
                self.retried += 1
            self._clock.sleep(seconds)

    def _wait_seconds(
        self, error: RetryableError, request: _Request, attempt: int, elapsed_seconds: float
    ) -> float | None:
        """Return how long to wait before the next attempt, or None if the error is final."""
        if isinstance(error, ThrottledError) and error.resume_at:
            return None  # the rate limiter is blocked: nothing was sent
        decision = decide(
            error,
            attempt,
            elapsed_seconds,
            draw=self._draw(),
            is_heavy=request.is_heavy,
            is_probe=request.is_probe or self.is_probing,
        )
        if isinstance(error, ThrottledError):
            return self._block(error, decision)
        if isinstance(decision, GiveUp):
            return None
        now = self._clock.monotonic_seconds()
        return decision.seconds if self._backoff_budget.take(now, decision.seconds) else None

    def _block(self, error: ThrottledError, decision: Retry | GiveUp) -> float | None:
        """Block the account for every process; return the wait, or None if it is too long.

        Then the error tells until when the account is blocked.
        """
        self._concurrency.reduce_to_one()
        self._limiter.block(decision.seconds)
        now = self._clock.monotonic_seconds()
        if isinstance(decision, Retry) and self._throttle_budget.take(now, decision.seconds):
            with self._lock:
                self.throttled_seconds += decision.seconds
            return decision.seconds
        error.wait_seconds = decision.seconds
        error.resume_at = self._clock.now() + timedelta(seconds=decision.seconds)
        return None

    def _send(
        self,
        request: _Request,
        authorization: _Authorization,
        read: Callable[[GraphResponse], T],
        *,
        is_retry: bool,
    ) -> T:
        """Send a request once; a retry has a connection of its own."""
        with self._concurrency.slot():
            self._cancellation.check()
            blocked_seconds = self._limiter.acquire(self._throttle_budget)
            if self._token_error is not None:
                raise self._token_error
            self._budget.spend()
            with self._lock:
                self.throttled_seconds += blocked_seconds
                self.calls[request.kind] += 1
            response = self._transport.get(
                f"{self.endpoint.base_url}/{self.endpoint.version}/{request.path}",
                request.parameters | authorization.parameters,
                headers=authorization.headers,
                path=request.path,
                is_heavy=request.is_heavy,
                is_alone=is_retry,
                on_sent=self._limiter.correct,
            )
        checked = self._check(request, response)
        try:
            result = read(checked)
            if self._has_exact_ids and not _is_about(request, checked.body):
                if not response.is_first:
                    self._transport.close()
                    raise PayloadError("the response is that of another request")
                self._has_exact_ids = False
        except PayloadError as error:
            failure = UnreachableError(request.fault(200, str(error)))
        else:
            self._backoff_budget.renew()
            return result
        raise failure

    def _check(self, request: _Request, response: HttpResponse) -> GraphResponse:
        """Return the JSON of a successful response; raise the error of any other."""
        self._read_headers(response.headers)
        if response.content is None:
            kind = TooMuchDataError if request.is_heavy else GraphError
            reason = f"the response is larger than {MAX_RESPONSE_BYTES} bytes"
            raise kind(request.fault(response.status, reason))
        if 300 <= response.status < 400:
            reason = "the server redirects; redirects are not followed"
            raise GraphError(request.fault(response.status, reason))
        if response.status < 400 and response.status != HTTPStatus.OK:
            reason = "the server did not send a whole response"
            raise UnreachableError(request.fault(response.status, reason))
        body, reason = None, "the response is an error without a code"
        try:
            with PARSE_LOCK:
                body = read_json(response.content)
        except PayloadError as error:
            reason = str(error)
        self._count_shape(request.kind, body, response.status)
        now = self._clock.now()
        date = response_headers.server_time(response.headers)
        error_object = body.get("error") if isinstance(body, dict) else None
        if isinstance(error_object, dict) or body is None or response.status >= 400:
            fields = error_object if isinstance(error_object, dict) else {}
            asked_at = date if date and abs(date - now) <= TOLERANCE else now
            raise self._read_error(request, response, fields, reason, asked_at)
        with self._lock:
            self.unchecked += not response.has_checksum
            time = self.server_clock.read(
                date, now, self._clock.monotonic_seconds(), activity_times(body)
            )
            if request.kind == "listing" and self.listed_at is None:
                self.listed_at = time
                if time.dispute:
                    _LOG.warning("the clocks disagree: %s", time.dispute)
        version = response_headers.api_version(response.headers)
        return GraphResponse(body, time.at, len(response.content), version)

    def _count_shape(self, kind: CallKind, body: object, status: int) -> None:
        """Count the shape of a response; a walk of every response would double the CPU time."""
        with self._lock:
            number = self.census.responses.get(kind, 0) + 1
            is_error = status >= 400 or (isinstance(body, dict) and "error" in body)
            is_walked = number <= 4 or number & (number - 1) == 0 or is_error
            self.census.add(kind, body, status, most_items=CENSUS_ITEMS, is_walked=is_walked)

    def _read_error(
        self,
        request: _Request,
        response: HttpResponse,
        error_object: dict[str, object],
        reason: str,
        server_time: datetime,
    ) -> GraphError:
        with self._lock:
            self.refused += 1
        error = build_error(
            error_object,
            response.status,
            request.path,
            is_heavy=request.is_heavy,
            requested=names_in(request.parameters.get("fields", "")),
            wait_seconds=response_headers.wait_seconds(response.headers, server_time),
        )
        if type(error) is RetryableError and error.fault.code is None:
            return UnreachableError(request.fault(response.status, reason))
        return error

    def _read_headers(self, headers: Mapping[str, str]) -> None:
        """Note the version that served, and slow down before the rate limit is reached."""
        version = response_headers.api_version(headers)
        if version and version != self.version:
            self.version = version
            if version != self.endpoint.version:
                _LOG.warning(
                    "API version %s was requested, %s answered", self.endpoint.version, version
                )
        percent = response_headers.usage_percent(headers)
        if percent is not None:
            self._limiter.slow_down(percent)


def appsecret_proof(token: str, app_secret: str) -> str:
    """Return the proof that the caller knows the app secret: HMAC-SHA256 of the token, as hex."""
    return hmac.new(app_secret.encode(), token.encode(), hashlib.sha256).hexdigest()


def _path(*parts: str) -> str:
    """Join ids into a path; raise PayloadError for an id that no path can contain."""
    for part in parts:
        if part in ("", ".", ".."):
            raise PayloadError("an id is empty or consists of dots: no URL can contain it")
    return "/".join(quote(part, safe="") for part in parts)


def _is_about(request: _Request, body: object) -> bool:
    """Whether nothing in a response shows that it answers another request.

    An object has the id that was requested. The address of the next page names the conversation.
    """
    if not isinstance(body, dict):
        return True
    node = unquote(request.path.partition("/")[0])
    if request.kind == "edge":
        paging = body.get("paging")
        address = paging.get("next") if isinstance(paging, dict) else None
        match = _EDGE.search(address) if isinstance(address, str) else None
        return match is None or unquote(match[1]) == node
    returned_id = body.get("id")
    is_id = isinstance(returned_id, str | int) and request.kind in ("conversation", "message")
    return not is_id or str(returned_id) == node


def _is_nested(fields: str) -> bool:
    return "messages" in fields and "{" in fields.partition("messages")[2]
