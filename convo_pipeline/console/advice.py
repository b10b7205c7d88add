"""What can be wrong with an account's set-up, in a sentence, and what to do about it, per way in: data only.

Keyed by a name; `CODES` leads from the Graph API's numbers to it. Sources: Meta's conversations guide, the Messenger
error codes and the Graph error handling guide.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Level = Literal["problem", "warning", "note"]
"""A problem stops the account; a warning will, or loses something; a note is worth knowing and changes no exit code."""
Way = Literal["messenger", "instagram", "instagram_login"]
"""The ways in: a Page's Messenger, the Instagram account linked to a Page, an Instagram account by its own login."""


@dataclass(frozen=True)
class Advice:
    """One finding's words; `remedy` is for every way in that has none of its own. Braces take safe details.

    Instagram Login knows no Page: without words of its own it takes `remedy`, never the linked account's.
    """

    level: Level
    sentence: str
    remedy: str
    instagram: str | None = None
    messenger: str | None = None
    instagram_login: str | None = None

    def remedy_for(self, way: Way) -> str:
        own: str | None = getattr(self, way)
        return own or self.remedy


NEW_TOKEN = (
    "make a new one (a system user's Page token does not expire) and export it in {variable}"  # noqa: S105
)
NEW_LOGIN_TOKEN = "make a new one by the account's login and export it in {variable}; it lives 60 days: refresh it before"  # noqa: S105
SCOPES: Mapping[Way, tuple[str, ...]] = {
    "messenger": ("pages_messaging", "pages_manage_metadata", "pages_read_engagement"),
    "instagram": ("instagram_basic", "instagram_manage_messages", "pages_manage_metadata"),
    "instagram_login": ("instagram_business_basic", "instagram_business_manage_messages"),
}
"""The permissions each way in needs (conversations guide, February 2026)."""

ADVICE: Mapping[str, Advice] = {
    # the token
    "token_missing": Advice(
        "problem", "{detail}", "export the account's token in {variable}; no file holds it"
    ),
    "token_invalid": Advice(
        "problem", "the token is not valid", NEW_TOKEN, instagram_login=NEW_LOGIN_TOKEN
    ),
    "token_expired": Advice(
        "problem", "the token has expired", NEW_TOKEN, instagram_login=NEW_LOGIN_TOKEN
    ),
    "token_password": Advice(
        "problem",
        "the token died when its owner's password changed",
        NEW_TOKEN,
        instagram_login=NEW_LOGIN_TOKEN,
    ),
    "token_checkpoint": Advice(
        "problem",
        "the token's owner has to pass a security check",
        "log in as that person on facebook.com, then retry",
        instagram_login="log in as that account on instagram.com, then retry",
    ),
    "token_unconfirmed": Advice(
        "problem",
        "the token's owner has not confirmed the account",
        "log in as that person and confirm it, then retry",
    ),
    "app_removed": Advice(
        "problem",
        "the token's owner has removed the app",
        "add the app again under business integrations; " + NEW_TOKEN,
        instagram_login="log in to the app again; " + NEW_LOGIN_TOKEN,
    ),
    "token_expiring": Advice(
        "warning",
        "the token expires on {date}",
        NEW_TOKEN + " before that day",
        instagram_login="refresh it before that day (refresh_access_token) and export the new one in {variable}",
    ),
    "data_access_expiring": Advice(
        "warning",
        "the app's access to data ends on {date}",
        "let the token's owner log in to the app again before",
    ),
    "token_kind": Advice(
        "problem",
        "it is a {kind} token; the Page's own is due",
        "read it from /me/accounts with that token (field access_token) and export it in {variable}",
    ),
    "other_page": Advice(
        "problem",
        "the token does not cover this Page",
        "take the token of Page {page_id}, or correct page_id",
        instagram="take the token of the Page that the Instagram account is linked to, or correct page_id",
    ),
    "token_unknown": Advice(
        "note",
        "expiry and permissions are not known: debug_token is not answered here",
        "look at the token in Meta's access token debugger; calls work all the same",
        instagram_login="a token of Instagram Login lives 60 days: note the day and refresh it before; calls work all the same",
    ),
    "scope_missing": Advice(
        "problem",
        "the token lacks {scopes}",
        "grant it in the app, then make the token anew",
        messenger="grant it in the app (a Page role with the task MESSAGING or MODERATE), then make the token anew",
        instagram="grant it in the app (a Page role with the task MESSAGING), then make the token anew",
        instagram_login="let the account log in to the app again and allow it; the new token goes to {variable}",
    ),
    # host, version and id
    "wrong_host": Advice(
        "problem",
        "{detail}",
        'Facebook Login: base_url = "https://graph.facebook.com" and the Page\'s id; '
        'Instagram Login: base_url = "https://graph.instagram.com" and page_id = "me"',
        messenger='base_url = "https://graph.facebook.com" and the Page\'s id',
    ),
    "wrong_id_kind": Advice(
        "problem",
        "page_id {page_id} is not a Page",
        "give the Page's id (Page, About, Page transparency)",
        instagram="give the id of the Page that the Instagram account is linked to, not the Instagram account's own",
    ),
    "page_missing": Advice(
        "problem",
        "page_id {page_id} does not exist or this token may not see it",
        "compare it with the id on the Page's About page; give the token's owner a role on that Page",
        instagram_login='page_id = "me" is the account that the token is of',
    ),
    "own_id_unknown": Advice(
        "note",
        "the Instagram account's own id is not told",
        "grant instagram_basic; until then it is inferred from the messages",
        instagram_login="grant instagram_business_basic; until then it is inferred from the messages",
    ),
    "other_inbox": Advice(
        "problem", "{detail}", "give the new account a name of its own, or correct page_id"
    ),
    "version_retired": Advice(
        "problem", "this version of the API is retired", "set graph.version to a later one"
    ),
    "version_changed": Advice(
        "warning",
        "{asked} was asked for, {served} answered",
        "set graph.version to a version that lives",
    ),
    # access
    "not_linked": Advice(
        "problem",
        "the Page is not linked to an Instagram account",
        "link a professional Instagram account in the Page's settings (Linked accounts), then make the token anew",
        messenger='this is Instagram\'s error: is platform = "messenger" right?',
    ),
    "advanced_access": Advice(
        "problem",
        "a permission is missing, or the app has no Advanced Access",
        "ask for Advanced Access in App Review, or give every tester a role on the app",
        instagram="ask for Advanced Access to instagram_manage_messages in App Review, or give every tester a role on the app",
        messenger="ask for Advanced Access to pages_messaging in App Review, or give every tester a role on the app",
        instagram_login="ask for Advanced Access to instagram_business_manage_messages in App Review, or give every "
        "tester a role on the app",
    ),
    "switched_off": Advice(
        "problem",
        "the account's owner has switched message access off",
        "in the Instagram app: Settings, Messages, Message controls, Connected tools: allow access to messages",
    ),
    "permission": Advice(
        "problem",
        "the token may not read these messages ({detail})",
        "check the permissions",
        instagram="check instagram_manage_messages, the Page task MESSAGING and the owner's two-factor login",
        messenger="check pages_messaging and the Page task MESSAGING or MODERATE",
        instagram_login="check instagram_business_manage_messages: the account may have to log in to the app again",
    ),
    "not_eligible": Advice(
        "problem",
        "the Instagram account is not eligible",
        "make it a professional account",
        instagram="make it a professional account linked to the Page",
    ),
    "policy": Advice(
        "problem",
        "Meta blocked this for policy reasons",
        "read the app's alerts in its dashboard; do not go on calling",
    ),
    # the inbox
    "inbox_empty": Advice(
        "warning",
        "the inbox is empty",
        "if it should not be: is this the right Page, and has the app Advanced Access?",
        instagram="if it should not be: allow access to messages (Connected tools), check Advanced Access and page_id",
        instagram_login="if it should not be: allow access to messages (Connected tools), check Advanced Access",
    ),
    "folder_left_out": Advice(
        "note",
        "the folder {folder} holds conversations and is not in `folders`",
        "add it to `folders` to extract it",
    ),
    "folder_refused": Advice(
        "problem", "the folder {folder} is refused ({detail})", "take it out of `folders`"
    ),
    "folder_useless": Advice(
        "warning",
        "`folders` names {folder}, which Instagram does not know",
        'leave `folders` out: it is [""]',
    ),
    # calls
    "blocked": Advice(
        "warning",
        "the rate limit blocks this account until {until}",
        "wait: a call before extends it",
    ),
    "throttled": Advice(
        "warning", "the rate limit answered", "wait, then check again; is another program calling?"
    ),
    "unreachable": Advice(
        "problem",
        "no good answer came ({detail})",
        "check base_url, the network and Meta's status page",
    ),
    "refused": Advice(
        "problem",
        "the Graph API refused ({detail})",
        "check page_id, version and, if the app requires a proof, app_secret_env",
    ),
    "many_partitions": Advice(
        "warning",
        "{count} partitions an asset: Dagster advises at most 100,000",
        "split the accounts over several deployments, or choose later start dates",
    ),
}

CODES: Mapping[tuple[int, int | None], str] = {
    # (code, subcode); subcode None stands for every subcode without a line of its own
    (3, None): "permission",
    (10, None): "permission",
    (10, 2534077): "not_linked",
    (100, 33): "page_missing",
    (100, 2534013): "not_linked",
    (100, 2534014): "page_missing",
    (102, None): "token_invalid",
    (190, None): "token_invalid",
    (190, 458): "app_removed",
    (190, 459): "token_checkpoint",
    (190, 460): "token_password",
    (190, 463): "token_expired",
    (190, 464): "token_unconfirmed",
    (200, None): "advanced_access",
    (200, 2534041): "switched_off",
    (230, None): "permission",
    (368, None): "policy",
    (803, None): "page_missing",
    (2635, None): "version_retired",
    (36103, None): "not_eligible",
}
