"""Answer Graph calls from a world: routing, tokens, versions, limits. Without HTTP.

It supports what an inbox reader needs. Nothing can be sent or changed, and there are no webhooks.
The parameters `tags`, `source`, `since` and `until` are ignored. Media links lead nowhere. Rates
are counted per server, not per app.
"""

import hashlib
import hmac
import json
import re
import time
from collections.abc import Sequence
from typing import Any

from convo_pipeline.emulator import refusals, render
from convo_pipeline.emulator.calls import Call, EmulatedResponse, read_query
from convo_pipeline.emulator.fields import Field, FieldSyntaxError, parse_fields
from convo_pipeline.emulator.known_fields import IG_USER_FIELDS, PAGE_FIELDS, check_fields
from convo_pipeline.emulator.limiter import ServerLimiter
from convo_pipeline.emulator.paging import read_paging
from convo_pipeline.emulator.refusals import Refusal
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.user_tokens import EXCHANGE_PATHS, answer_user, exchange
from convo_pipeline.emulator.view import CallView, read_id
from convo_pipeline.emulator.world import (
    Account,
    Conversation,
    Message,
    Payload,
    World,
    stable_number,
)

_VERSION = re.compile(r"v\d{1,3}\.\d")
MOST_IN_BATCH = 50
PROOF_SECONDS = 300
LINKED = "instagram_business_account"
FOLDERS = ("", "inbox", "other", "page_done", "spam")


class GraphApi:
    """Answers calls; the caller holds the world's lock."""

    def __init__(self, world: World, switches: Switches) -> None:
        self.world = world
        self.switches = switches
        self.limiter = ServerLimiter(switches)
        self.call_counts: dict[str, int] = {}

    def answer(self, call: Call) -> EmulatedResponse:
        """Return the response to one call; errors are responses, too."""
        now_us = self.world.refresh()
        headers = {
            "Content-Type": "application/json; charset=UTF-8",
            "Cache-Control": "private, no-cache, no-store",
        }
        version = ""
        try:
            segments, version = self._read_version(call.segments)
            body: Any = self._route(call, segments, version, now_us)
            status = 200
        except Refusal as refusal:
            return self.refused(call, refusal, version)
        headers["Facebook-API-Version"] = version or self.switches.newest_version
        headers["x-fb-trace-id"] = hashlib.blake2b(
            f"{call.number}:{call.path}".encode(), digest_size=8
        ).hexdigest()
        return EmulatedResponse(status, body, headers | self._usage(call))

    def refused(self, call: Call, refusal: Refusal, version: str = "") -> EmulatedResponse:
        """Return the error response of a refusal."""
        if refusal.is_html:
            html = b"<!DOCTYPE html><html><body>refused</body></html>"
            return EmulatedResponse(
                refusal.status or 400, None, {"Content-Type": "text/html"}, html
            )
        body, status = self._refuse(call, refusal)
        headers = {
            "Content-Type": "application/json; charset=UTF-8",
            **refusal.headers,
            **_challenge(refusal),
        }
        headers["Facebook-API-Version"] = version or self.switches.newest_version
        return EmulatedResponse(status, body, headers | self._usage(call))

    def _refuse(self, call: Call, refusal: Refusal) -> tuple[Payload, int]:
        if call.segments[-1:] == ["me"] or "me" in call.segments[:2]:
            refusal.type = refusals.INSTAGRAM
        body = refusal.envelope(f"{call.number}{call.path}", localised=self.switches.localised)
        usual = refusal.status or refusals.STATUSES.get(refusal.code, 400)
        status = dict(self.switches.error_statuses).get(refusal.code, usual)
        return body, 200 if self.switches.errors_as_200 else status

    def _read_version(self, segments: list[str]) -> tuple[list[str], str]:
        """Split off the version; a retired one becomes the oldest version that is served."""
        if not segments or not _VERSION.fullmatch(segments[0]):
            return segments, self.switches.newest_version
        asked, oldest, newest = (
            float(version[1:])
            for version in (segments[0], self.switches.oldest_version, self.switches.newest_version)
        )
        if asked > newest:
            raise refusals.unknown_path(f"/{segments[0]}")
        return segments[1:], segments[0] if asked >= oldest else self.switches.oldest_version

    # Routing

    def _route(self, call: Call, segments: list[str], version: str, now_us: int) -> Any:
        if call.method == "POST" and "batch" in call.params and segments in ([], ["me"]):
            call.kind = "batch"
            return self._batch(call)
        if call.method not in ("GET", "HEAD"):
            raise Refusal(
                3,
                "(#3) Application does not have the capability to make this API call.",
                status=400,
            )
        if segments in EXCHANGE_PATHS:
            return exchange(self.world, call, segments)
        if user := self.world.users.get(call.token or ""):
            return answer_user(self.world, user, call, segments)
        accounts = self._authorise(call, segments)
        if segments == ["me", "accounts"]:
            raise refusals.nonexisting_field("accounts", "Page")
        view = self._view(call, version, now_us)
        if segments == ["debug_token"]:
            call.kind = "token"
            return self._debug_token(call)
        if not segments and "ids" in call.params:
            call.kind = "ids"
            return self._many(call, accounts, view)
        if not segments:
            raise refusals.unknown_path("/")
        return self._object(call, accounts, segments, view)

    def _object(
        self, call: Call, accounts: Sequence[Account], segments: list[str], view: CallView
    ) -> Any:
        node, edge = segments[0], segments[1] if len(segments) > 1 else ""
        if len(segments) > 2:
            raise refusals.unknown_path("/" + "/".join(segments[2:]))
        if edge in ("conversations", "threads"):
            return self._conversations(call, accounts, node, view)
        if edge == "permissions":
            call.kind = "token"
            scopes = dict.fromkeys(scope for account in accounts for scope in account.scopes)
            return {"data": [{"permission": scope, "status": "granted"} for scope in scopes]}
        if owner := self._owner(accounts, node, call):
            return self._page_node(call, owner, node, edge, view)
        item = self._find(accounts, node, view)
        self._count(
            call, item.account if isinstance(item, Conversation) else item.conversation.account
        )
        if isinstance(item, Conversation):
            return self._conversation(call, item, edge, view)
        return self._message(call, item, edge, view)

    def _view(self, call: Call, version: str, now_us: int) -> CallView:
        mode = self.switches.next_token
        has_token = mode == "always" or (mode == "as_sent" and call.token_in == "query")  # noqa: S105 - no secret
        return CallView(
            now_us, self.switches, call.base_url, version, call.token if has_token else None
        )

    # Tokens and limits

    def _authorise(self, call: Call, segments: list[str]) -> list[Account]:
        """Return the accounts that the token opens; check the app secret's proof."""
        token = call.token
        if not token:
            raise refusals.no_token()
        accounts = [account for account in self.world.accounts.values() if token in account.tokens]
        if not accounts and not (segments == ["debug_token"] and "|" in token):
            raise refusals.bad_token()
        secrets = {account.app_secret for account in accounts if account.app_secret}
        if secrets:
            _check_proof(call.params, token, secrets)
        return accounts

    def _count(self, call: Call, account: Account, cost: int = 1) -> None:
        """Count a call of the Conversations API against its account's limit."""
        call.account, call.page_id, call.platform = account.name, account.page_id, account.platform
        self.call_counts[account.name] = self.call_counts.get(account.name, 0) + cost
        for _ in range(0 if call.is_free else cost):
            if not self.limiter.admits((account.page_id, account.platform)):
                raise refusals.rate_limited()

    def _usage(self, call: Call) -> dict[str, str]:
        count = self.call_counts.get(call.account or "", 0)
        if call.account is None or not 0 <= self.switches.usage_headers_after < count:
            return {}
        percent = min(100, round(count * 100 / self.switches.calls_per_hour))
        figures = {"call_count": percent, "total_cputime": percent, "total_time": percent}
        use_case = {"type": call.platform, **figures, "estimated_time_to_regain_access": 0}
        return {
            "X-App-Usage": json.dumps(figures),
            "X-Business-Use-Case-Usage": json.dumps({call.page_id: [use_case]}),
        }

    # Pages and tokens

    def _owner(self, accounts: Sequence[Account], node: str, call: Call) -> Account | None:
        """Return the account of a page id, an Instagram id or `me`."""
        platform = call.params.get("platform", "").lower()
        for account in sorted(
            accounts, key=lambda each: (each.platform != platform, each.platform)
        ):
            if node in (account.page_id, account.own_id, "me"):
                return account
        return None

    def _page_node(
        self, call: Call, owner: Account, node: str, edge: str, view: CallView
    ) -> Payload:
        if edge:
            raise refusals.unknown_path(f"/{edge}")
        call.kind, call.account = "identity", owner.name
        fields = _fields(call) or (Field("id"), Field("name"))
        is_user = node in ("me", owner.own_id) and owner.platform == "instagram"
        known = IG_USER_FIELDS if is_user else PAGE_FIELDS
        check_fields(fields, known, "IGUser" if is_user else "Page", self.switches)
        asked = {field.name: field for field in fields}
        linked = asked.get(LINKED)
        if self.switches.own_id == "field_refused" and (
            "user_id" in asked or (linked and linked.children)
        ):
            raise Refusal(100, "Unsupported request - method type: get")
        facts = self._user_facts(owner) if is_user else self._page_facts(owner)
        shown = {name: _pick(facts[name], field) for name, field in asked.items() if name in facts}
        shown |= {"id": facts["id"]} if "id" in facts else {}
        return {"data": [shown]} if is_user and self.switches.own_id == "enveloped" else shown

    def _user_facts(self, owner: Account) -> Payload:
        """Return an Instagram account: its ids and its user name as the switch `own_id` says."""
        mode = self.switches.own_id
        if mode == "refused":
            raise Refusal(10, "(#10) Application does not have permission for this action")
        facts: Payload = {"name": owner.title, "account_type": "BUSINESS"}
        if mode != "unknown_id":
            facts["username"] = owner.username
        if mode in ("app_scoped", "unknown_id"):
            facts["id"] = str(stable_number("app" + owner.own_id, 17))
        elif mode != "username_only":
            facts |= {"id": owner.own_id, "user_id": owner.own_id}
        return facts

    def _page_facts(self, owner: Account) -> Payload:
        facts: Payload = {
            "id": owner.page_id,
            "name": owner.title,
            "username": owner.username,
            "category": "Local business",
        }
        linked = self._linked(owner.page_id)
        if linked and self.switches.own_id != "refused":
            user = self._user_facts(linked)
            own = {name: user[name] for name in ("id", "username") if name in user}
            facts[LINKED] = {"data": [own]} if self.switches.own_id == "enveloped" else own
        return facts

    def _linked(self, page_id: str) -> Account | None:
        """Return the Instagram account of a Page."""
        same = (account for account in self.world.accounts.values() if account.page_id == page_id)
        return next((account for account in same if account.platform == "instagram"), None)

    def _debug_token(self, call: Call) -> Payload:
        asked = call.params.get("input_token", call.token)
        accounts = [account for account in self.world.accounts.values() if asked in account.tokens]
        if not accounts:
            error = {"code": 190, "message": "Invalid OAuth access token.", "subcode": 463}
            return {"data": {"is_valid": False, "scopes": [], "error": error}}
        scopes = list(dict.fromkeys(scope for account in accounts for scope in account.scopes))
        pages = list(dict.fromkeys(account.page_id for account in accounts))
        issued = int(self.world.clock.now_us() / 1e6) - 86_400
        overrides = {
            key: value for account in accounts for key, value in account.token_facts.items()
        }
        return {
            "data": {
                "app_id": "999000000000010",
                "type": "PAGE",
                "application": "Invented App",
                "data_access_expires_at": issued + 90 * 86_400,
                "expires_at": 0,
                "is_valid": True,
                "issued_at": issued,
                "profile_id": pages[0],
                "scopes": scopes,
                "granular_scopes": [
                    {"scope": scope, "target_ids": _pages_with(scope, accounts)} for scope in scopes
                ],
                "user_id": "999000000000020",
            }
            | overrides
        }

    # Conversations and messages

    def _conversations(
        self, call: Call, accounts: Sequence[Account], node: str, view: CallView
    ) -> Payload:
        call.kind = "find" if "user_id" in call.params else "listing"
        platform = call.params.get("platform", "").lower()
        if platform not in ("", "instagram", "messenger"):
            raise refusals.bad_parameter("Param platform must be one of {INSTAGRAM, MESSENGER}")
        mine = [account for account in accounts if node in (account.page_id, account.own_id, "me")]
        if not mine:
            raise refusals.missing(node)
        platform = platform or ("instagram" if node == "me" else "messenger")
        account = next((account for account in mine if account.platform == platform), None)
        if account is None:
            return _not_linked(platform)
        self._count(call, account)
        paging = read_paging(
            call.params, self.switches.default_limit, self.switches.conversations_limit
        )
        fields = _fields(call)
        rows = account.listing(self._folder(call, account), view.now_us)
        if user_id := call.params.get("user_id"):
            rows = [row for row in account.listing("*", view.now_us) if _is_with(row[1], user_id)]
        names = ("platform", "fields", "folder", "user_id")
        kept: dict[str, object] = {name: call.params[name] for name in names if name in call.params}
        return render.conversations_page(view, account, fields, paging, kept, rows)

    def _folder(self, call: Call, account: Account) -> str:
        """Return the folder to list. Instagram has no folders, and an unknown folder is empty."""
        if account.platform == "instagram":
            return "*"
        asked = call.params.get("folder", "")
        if not asked:
            return "*" if self.switches.no_folder == "all" else ""
        return "" if asked == "inbox" else asked

    def _find(
        self, accounts: Sequence[Account], shown_id: str, view: CallView
    ) -> Conversation | Message:
        world_id = read_id(shown_id, self.switches)
        for account in accounts if world_id else ():
            assert world_id is not None
            conversation = account.conversations.get(world_id)
            if conversation and conversation.is_visible(view.now_us):
                return conversation
            if message := account.find_message(world_id, view.now_us):
                return message
        if world_id and any(account.knows(world_id) for account in accounts):
            raise refusals.gone(self.switches.refused_as, shown_id)
        raise refusals.missing(shown_id)

    def _conversation(
        self, call: Call, conversation: Conversation, edge: str, view: CallView
    ) -> Payload:
        call.kind = "edge" if edge else "conversation"
        fields = _fields(call)
        if not edge:
            return render.conversation_node(view, conversation, fields)
        if edge in ("participants", "senders"):
            return render.people_edge(view, conversation, edge, fields, call.params.get("after"))
        if edge != "messages":
            raise refusals.unknown_path(f"/{edge}")
        paging = read_paging(call.params, self.switches.default_limit, self.switches.messages_limit)
        return render.messages_page(
            view, conversation, fields, paging, call.params.get("fields", "")
        )

    def _message(self, call: Call, message: Message, edge: str, view: CallView) -> Payload:
        call.kind = "message_edge" if edge else "message"
        if not edge:
            return render.message_node(view, message, _fields(call))
        if edge not in render.WRAPPED:
            raise refusals.unknown_path(f"/{edge}")
        return render.message_edge(view, message, edge, _fields(call), call.params.get("after"))

    # Several ids or calls in one request

    def _many(self, call: Call, accounts: Sequence[Account], view: CallView) -> Payload:
        """Answer `?ids=`: each id counts as a call, and one bad id refuses all."""
        asked = [part for part in call.params["ids"].split(",") if part]
        if len(asked) > MOST_IN_BATCH:
            raise Refusal(
                100, f"(#100) Too many IDs. Maximum: {MOST_IN_BATCH}. Provided: {len(asked)}"
            )
        objects: Payload = {}
        for shown_id in asked:
            objects[shown_id] = self._object(call, accounts, [shown_id], view)
        call.kind = "ids"
        return objects

    def _batch(self, call: Call) -> list[Any]:
        """Answer a batch in order; each item is a separate call."""
        if "access_token" not in call.params and call.token is None:
            raise refusals.no_token()
        try:
            items = json.loads(call.params["batch"])
        except ValueError:
            raise refusals.bad_parameter("batch parameter must be a JSON array") from None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise refusals.bad_parameter("batch parameter must be a JSON array")
        if len(items) > MOST_IN_BATCH:
            text = f"Too many requests in batch message. Maximum batch size is {MOST_IN_BATCH}"
            raise Refusal(1, text, type=refusals.GRAPH_BATCH, status=400)
        has_headers = call.params.get("include_headers", "true") != "false"
        return [self._batch_item(call, item, has_headers) for item in items]

    def _batch_item(self, call: Call, item: Payload, has_headers: bool) -> Payload:
        path, _, query = str(item.get("relative_url", "")).lstrip("/").partition("?")
        shared = {
            key: call.params[key]
            for key in ("access_token", "appsecret_proof")
            if key in call.params
        }
        inner = Call(
            str(item.get("method", "GET")).upper(),
            path,
            shared | read_query(query),
            call.headers,
            call.base_url,
            call.number,
        )
        inner.is_free = not self.switches.batch_counts_items
        answer = self.answer(inner)
        call.account = inner.account or call.account
        shown: Payload = {"code": answer.status}
        if has_headers:
            headers = answer.headers | {"Content-Type": "text/javascript; charset=UTF-8"}
            shown["headers"] = [{"name": name, "value": value} for name, value in headers.items()]
        return shown | {"body": write_json(answer.body, self.switches).decode()}


def write_json(body: Any, switches: Switches) -> bytes:
    """Return the body as JSON; `json_escapes` decides whether non-ASCII is escaped as Meta does."""
    text = json.dumps(body, separators=(",", ":"))
    if switches.json_escapes == "meta":
        return text.replace("/", "\\/").encode()
    try:
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return text.encode()


def _fields(call: Call) -> tuple[Field, ...] | None:
    text = call.params.get("fields", "")
    try:
        return parse_fields(text) if text else None
    except FieldSyntaxError as error:
        raise Refusal(2500, str(error)) from None


def _pick(value: Any, field: Field) -> Any:
    if not field.children or not isinstance(value, dict):
        return value
    names = {"id", *(child.name for child in field.children)}
    return {name: value[name] for name in value if name in names or name == "data"}


def _pages_with(scope: str, accounts: Sequence[Account]) -> list[str]:
    return list(dict.fromkeys(account.page_id for account in accounts if scope in account.scopes))


def _not_linked(platform: str) -> Payload:
    if platform == "instagram":
        raise Refusal(100, "(#100) The Page is not linked to an Instagram account", 2534013)
    return {"data": []}


def _is_with(conversation: Conversation, user_id: str) -> bool:
    return any(person.get("id") == user_id for person in conversation.people)


def _check_proof(params: dict[str, str], token: str, secrets: set[str]) -> None:
    """Check `appsecret_proof`: the plain form, or the timed form that is valid for five minutes."""
    proof, stamp = params.get("appsecret_proof", ""), params.get("appsecret_time", "")
    signed = f"{token}|{stamp}" if stamp else token
    is_fresh = not stamp or (stamp.isdigit() and abs(time.time() - int(stamp)) <= PROOF_SECONDS)
    good = {
        hmac.new(secret.encode(), signed.encode(), hashlib.sha256).hexdigest() for secret in secrets
    }
    if not is_fresh or proof not in good:
        raise refusals.bad_proof(is_missing=not proof)


def _challenge(refusal: Refusal) -> dict[str, str]:
    if refusal.type not in (refusals.OAUTH, refusals.GRAPH_METHOD, refusals.INSTAGRAM):
        return {}
    word = "invalid_token" if refusal.code in (102, 104, 190) else "invalid_request"
    printable = (char if char.isascii() and char.isprintable() else "?" for char in refusal.message)
    text = "".join(printable).replace('"', "'")
    return {"WWW-Authenticate": f'OAuth "Facebook Platform" "{word}" "{text}"'}
