"""Tokens of users and system users: their Pages, and the exchange of a token for a new one.

After Meta's pages on access tokens, `/me/accounts`, `debug_token` and Instagram Login.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from convo_pipeline.emulator import ids, refusals
from convo_pipeline.emulator.calls import Call
from convo_pipeline.emulator.refusals import Refusal

if TYPE_CHECKING:
    from convo_pipeline.emulator.world import Account, World

EXCHANGE_PATHS = (["oauth", "access_token"], ["access_token"], ["refresh_access_token"])
LONG_LIVED_SECONDS = 60 * 86_400
PAGES_PER_RESPONSE = 25


@dataclass
class PageUser:
    """A user or a system user; `page_tasks` has the tasks of each Page that the user manages."""

    token: str
    name: str = "Invented User"
    user_id: str = "999000000000020"
    kind: str = "USER"
    page_tasks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    scopes: tuple[str, ...] = (
        "pages_show_list",
        "pages_messaging",
        "pages_manage_metadata",
        "pages_read_engagement",
        "instagram_basic",
        "instagram_manage_messages",
    )
    declined_scopes: tuple[str, ...] = ()
    expires_at: int = 0
    """Seconds since 1970; 0: never."""
    app_id: str = "999000000000010"
    app_secret: str | None = None


def answer_user(world: "World", user: PageUser, call: Call, segments: list[str]) -> Any:
    """Return the response to a call with a user's token; Conversations calls are refused."""
    call.kind = "token"
    if user.expires_at and user.expires_at * 1_000_000 <= world.clock.now_us():
        raise refusals.expired_token()
    if segments == ["me"]:
        return {"id": user.user_id, "name": user.name}
    if segments == ["me", "permissions"]:
        statuses = dict.fromkeys(user.scopes, "granted")
        statuses |= dict.fromkeys(user.declined_scopes, "declined")
        return {"data": [{"permission": name, "status": value} for name, value in statuses.items()]}
    if segments == ["me", "accounts"]:
        return _pages(world, user, call)
    if segments == ["debug_token"]:
        return _describe(user, call)
    if len(segments) == 1 and segments[0] in user.page_tasks:
        return _page(world, user, segments[0], _names(call.params))
    if len(segments) == 2 and segments[0] in user.page_tasks:
        text = "This method must be called with a Page Access Token"
        raise Refusal(190, text, 2069032)
    raise refusals.missing(segments[0] if segments else "")


def exchange(world: "World", call: Call, segments: list[str]) -> dict[str, Any]:
    """Exchange a short-lived token for a long-lived one, or refresh an Instagram Login token."""
    call.kind = "token"
    params, kind = call.params, call.params.get("grant_type", "")
    if kind == "fb_exchange_token":
        user = world.users.get(params.get("fb_exchange_token", ""))
        if user is None:
            raise refusals.bad_token()
        _check_app(user.app_id, user.app_secret, params)
        del world.users[user.token]
        user.token, user.expires_at = f"{user.token[:24]}Long", _expiry(world)
        world.users[user.token] = user
        token = user.token
    else:
        owner = next((each for each in world.accounts.values() if call.token in each.tokens), None)
        if owner is None or segments[-1] == "oauth":
            raise refusals.bad_token()
        if kind == "ig_exchange_token" and owner.app_secret != params.get("client_secret"):
            raise Refusal(1, "Error validating client secret.")
        token = f"{(call.token or '')[:24]}Next"
        owner.tokens.add(token)
        owner.token_facts["expires_at"] = _expiry(world)
    return {"access_token": token, "token_type": "bearer", "expires_in": LONG_LIVED_SECONDS}


def _check_app(app_id: str, secret: str | None, params: Mapping[str, str]) -> None:
    if params.get("client_id") != app_id:
        raise Refusal(101, "Error validating application. Cannot get application info.")
    if secret is not None and params.get("client_secret") != secret:
        raise Refusal(1, "Error validating client secret.")


def _expiry(world: "World") -> int:
    return world.clock.now_us() // 1_000_000 + LONG_LIVED_SECONDS


def _names(params: Mapping[str, str]) -> list[str]:
    return [name.partition("{")[0] for name in params.get("fields", "id,name").split(",")]


def _pages(world: "World", user: PageUser, call: Call) -> dict[str, Any]:
    pages = list(user.page_tasks)
    state = ids.read_cursor(call.params.get("after", "")) or ["o", 0]
    start = int(str(state[1]))
    stop = start + min(int(call.params.get("limit", PAGES_PER_RESPONSE)), PAGES_PER_RESPONSE)
    names = _names(call.params)
    body: dict[str, Any] = {"data": [_page(world, user, page, names) for page in pages[start:stop]]}
    if body["data"]:
        after = ids.write_cursor(["o", stop])
        body["paging"] = {"cursors": {"before": ids.write_cursor(["o", start]), "after": after}}
        if stop < len(pages):
            body["paging"]["next"] = f"{call.base_url}/{call.path}?after={after}"
    return body


def _page(world: "World", user: PageUser, page_id: str, names: list[str]) -> dict[str, Any]:
    accounts = [each for each in world.accounts.values() if each.page_id == page_id]
    facts = _facts(accounts, page_id)
    tasks = user.page_tasks[page_id]
    if tasks:
        facts["tasks"] = list(tasks)
        facts["access_token"] = min(min(each.tokens) for each in accounts)
    linked = next((each for each in accounts if each.platform == "instagram"), None)
    if linked:
        facts["instagram_business_account"] = {"id": linked.own_id, "username": linked.username}
    return {name: facts[name] for name in (*names, "id") if name in facts}


def _facts(accounts: "list[Account]", page_id: str) -> dict[str, Any]:
    titles = sorted(each.title for each in accounts if each.platform == "messenger")
    title = (titles or sorted(each.title for each in accounts))[0]
    return {"id": page_id, "name": title, "category": "Local business"}


def _describe(user: PageUser, call: Call) -> dict[str, Any]:
    if call.params.get("input_token", user.token) != user.token:
        raise refusals.bad_token()
    granular = [{"scope": scope, "target_ids": list(user.page_tasks)} for scope in user.scopes]
    facts: dict[str, Any] = {
        "app_id": user.app_id,
        "type": user.kind,
        "application": "Invented App",
    }
    facts |= {"expires_at": user.expires_at, "is_valid": True, "scopes": list(user.scopes)}
    return {"data": facts | {"granular_scopes": granular, "user_id": user.user_id}}
