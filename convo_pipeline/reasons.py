"""Reasons why a run is not complete or an account needs attention: sentence, remedy, self-healing.

One table for `status`, `check`, the summary of `extract`, Dagster's failures and checks, alerts and
the generated parts of `docs/`. A run stores the names of `RunReason` in the table `runs`.
Texts are lower case without a full stop; braces take details that are safe to show.
"""

import errno
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from convo_pipeline.errors import (
    AccessDeniedError,
    BudgetError,
    ConvoError,
    MissingError,
    ProofError,
    SettingsError,
    StoppedError,
    StoreError,
    ThrottledError,
    TokenError,
    UnreachableError,
    VersionError,
)

PACKAGE = Path(__file__).parent
RunReason = Literal[
    "token", "app_secret", "permission", "version", "throttled", "budget", "unreachable",
    "missing", "answer", "settings", "store", "busy", "defect", "memory", "stopped",
    "conversation_failed", "conversation_refused",
    "message_failed", "empty_edge", "quarantined", "unbalanced", "cursor_loop", "dead_cursor",
    "empty_pages", "page_refused", "clock",
]  # fmt: skip
"""Why the run of one account is not complete: a closed set, stored in the table `runs`."""
RUN_REASONS: frozenset[str] = frozenset(get_args(RunReason))
Level = Literal["problem", "warning", "note"]
"""problem: stops the account; warning: will stop it or loses data; note: changes no exit code."""
Connection = Literal["messenger", "instagram", "instagram_login"]
"""A Page's Messenger, the Instagram account linked to a Page, or Instagram with its own login."""
Interface = Literal["command_line", "page"]
"""Where a person reads a remedy: in a terminal, or on Dagster's page."""

ACTIONS: Mapping[Interface, Mapping[str, str]] = {
    "command_line": {
        "again": "run `convo-pipeline extract` again",
        "normalize": "run `convo-pipeline normalize`",
        "read_again": "run `convo-pipeline extract --since DAY`",
    },
    "page": {
        "again": "materialize the failed and missing partitions",
        "normalize": "materialize the normalised tables of this day",
        "read_again": "materialize the raw tables of this day",
    },
}
"""What a person does at each interface, for the braces in remedies."""
TO_DO, NOTHING_TO_DO = "To do", "Nothing to do"
UNKNOWN_DETAILS = {
    "variable": "the variable that `token_env` names",
    "page_id": "of the account",
    "clocks": "of the server and this machine",
    "kind": "user or system user",
    "proposal": "make `schedule.capture_minutes` smaller",
    "secret_variable": "the variable that `app_secret_env` names",
}
"""What the braces say where the account is not known."""


Details = Mapping[str, object]
NO_DETAILS: Details = {}


@dataclass(frozen=True)
class Reason:
    """The words for one reason.

    `is_self_healing`: the next run repairs it and no person has to act.
    A remedy of a connection replaces `remedy`; Instagram with its own login has no Page.
    """

    sentence: str
    remedy: str
    is_self_healing: bool = False
    level: Level = "problem"
    messenger: str | None = None
    instagram: str | None = None
    instagram_login: str | None = None

    def describe(self, details: Details = NO_DETAILS) -> str:
        """Return the sentence with its details."""
        return self.sentence.format_map({**UNKNOWN_DETAILS, **details})

    def remedy_for(
        self,
        connection: Connection | None = None,
        interface: Interface = "command_line",
        details: Details = NO_DETAILS,
    ) -> str:
        """Return what to do, in words for the connection and the interface."""
        own: str | None = getattr(self, connection) if connection else None
        return (own or self.remedy).format_map({**UNKNOWN_DETAILS, **ACTIONS[interface], **details})

    def explain(self, interface: Interface = "command_line", details: Details = NO_DETAILS) -> str:
        """Return sentence and remedy.

        >>> REASONS["never_extracted"].explain()
        'never extracted. To do: run `convo-pipeline extract`'
        """
        label = NOTHING_TO_DO if self.is_self_healing else TO_DO
        return f"{self.describe(details)}. {label}: {self.remedy_for(None, interface, details)}"


NEW_TOKEN = "create a new one (a system user's Page token does not expire), export it in {variable}"  # noqa: S105
NEW_LOGIN_TOKEN = (
    "create a new one with the account's login and export it in {variable};"  # noqa: S105
    " it is valid for 60 days: refresh it before it expires"
)
LIVE_AND_ACCEPTED = (
    "switch the app to Live (app dashboard, Publish); a tester accepts the invitation at"
    " developers.facebook.com/requests"
)
LOGIN_LIVE_AND_ACCEPTED = (
    "switch the app to Live (app dashboard, Publish); the account accepts the tester invitation in"
    " Instagram (Settings, Website permissions, Apps and websites, Tester invites)"
)
REPORT_IF_REPEATED = "the next run lists again; report it if it occurs again"

REASONS: Mapping[str, Reason] = {
    # stored by runs
    "token": Reason(
        "the token is invalid, expired or revoked",
        "run `convo-pipeline check`, export a new token in {variable}, restart the services,"
        " then {again}",
    ),
    "app_secret": Reason(
        "the app secret is missing or belongs to another app",
        "copy the secret of the app that made the token (app dashboard, App settings, Basic),"
        " export it in {secret_variable}, restart the services, then {again}",
        instagram_login="copy the Instagram app secret (app dashboard, Instagram, API setup with"
        " Instagram login), export it in {secret_variable}, restart the services, then {again}",
    ),
    "permission": Reason(
        "the token lacks a permission, a task or Advanced Access for these messages",
        "run `convo-pipeline check`, grant what it names, then {again}",
        instagram="check instagram_manage_messages, the Page task MESSAGING and the owner's"
        " two-factor login",
        messenger="check pages_messaging and the Page task MESSAGING or MODERATE",
        instagram_login="check instagram_business_manage_messages; the account may have to log in"
        " to the app again",
    ),
    "version": Reason(
        "this version of the API is retired", "set `graph.version` to a newer one, then {again}"
    ),
    "throttled": Reason(
        "Meta's rate limit stopped the calls",
        "the next run continues after the time that `convo-pipeline status` shows;"
        " a call before that time extends the block. Does another program use the same app?",
        is_self_healing=True,
        level="warning",
    ),
    "budget": Reason(
        "the run used all calls that `calls_per_run` allows",
        "the next run continues",
        is_self_healing=True,
    ),
    "unreachable": Reason(
        "the Graph API did not answer correctly, even after retries",
        "check the network, `base_url` and Meta's status page, then {again}",
    ),
    "missing": Reason(
        "page_id {page_id} does not exist, or this token may not read it",
        "compare it with the id on the Page's About page; give the token's owner a role on that"
        " Page",
        instagram_login='set page_id = "me": the account that the token belongs to',
    ),
    "answer": Reason(
        "the Graph API returned an error or a response that this program cannot use",
        "run `convo-pipeline check`; if it names nothing else, check page_id and the version, and"
        " report the error with its trace id",
    ),
    "settings": Reason(
        "`convo.toml` or an environment variable is wrong",
        "correct what the error names, restart the services, then {again}",
    ),
    "store": Reason(
        "a file could not be read or written",
        "free disk space or repair what the error names, run `convo-pipeline verify`, then {again}",
    ),
    "busy": Reason(
        "another run works on this account",
        "that run extracts the account",
        is_self_healing=True,
    ),
    "defect": Reason(
        "a defect of this program",
        "report this error; other accounts are not affected",
    ),
    "memory": Reason(
        "the process ran out of memory",
        "add memory, or extract fewer accounts at a time (`extract ACCOUNT`), then {again}",
    ),
    "stopped": Reason(
        "the run was stopped by Ctrl-C, SIGTERM or a cancelled run",
        "what was read is kept; the next run stores it and continues",
        is_self_healing=True,
    ),
    "conversation_failed": Reason(
        "one or more conversations could not be read",
        "the next run reads them again by their ids; what the API refuses is requested again after"
        " 1, 2, 4, 8, … nights",
        is_self_healing=True,
    ),
    "conversation_refused": Reason(
        "the API refuses some conversations, or messages in them; everything else is stored",
        "they are requested again after 1, 2, 4, 8, … nights (at most 30), and when they change",
        is_self_healing=True,
        level="warning",
    ),
    "message_failed": Reason(
        "one or more messages could not be read",
        "the next run reads them again",
        is_self_healing=True,
    ),
    "empty_edge": Reason(
        "a conversation arrived without messages although it must have some",
        "the next run reads it again and accepts a second empty response",
        is_self_healing=True,
    ),
    "quarantined": Reason(
        "a stored file was damaged, lost or replaced by a backup; its day is read again",
        "the next run completes the day; a backup of the file may hold older messages",
        is_self_healing=True,
    ),
    "unbalanced": Reason(
        "the counts of the run do not add up: a defect of this program",
        "report the run's line in the table `runs` (`report`, `balance`); run"
        " `convo-pipeline verify`",
    ),
    "cursor_loop": Reason(
        "the list of conversations returned to an earlier cursor twice",
        REPORT_IF_REPEATED,
        is_self_healing=True,
    ),
    "dead_cursor": Reason(
        "the cursor of the list of conversations expired several times",
        REPORT_IF_REPEATED,
        is_self_healing=True,
    ),
    "empty_pages": Reason(
        "the list of conversations returned 20 empty pages in a row",
        "the next run lists again; if it occurs again, check whether the inbox is really empty",
        is_self_healing=True,
    ),
    "page_refused": Reason(
        "a page of the list of conversations was refused at every page size",
        "the next run lists again; if it occurs again, run `convo-pipeline check`",
        is_self_healing=True,
    ),
    "clock": Reason(
        "the server's clock, this machine's clock and earlier runs do not agree on the time;"
        " the messages are stored, but their day does not count as complete",
        "correct the clock of this machine (NTP); if it is right, the server's clock is wrong and"
        " the next run reads again",
        level="warning",
    ),
    "clocks_differ": Reason(
        "the clocks differ ({clocks}); everything is stored and no message can be lost",
        "correct the clock of this machine (NTP) if it is the wrong one",
        level="note",
    ),
    # found by `check`: the token
    "token_missing": Reason(
        "the account has no token", "export the account's token in {variable}; no file holds it"
    ),
    "token_invalid": Reason(
        "the token is not valid, or not at this host",
        NEW_TOKEN + "; a token of Instagram Login works only with"
        ' base_url = "https://graph.instagram.com" and page_id = "me"',
        instagram_login=NEW_LOGIN_TOKEN + "; a token of Facebook Login works only with"
        ' base_url = "https://graph.facebook.com"',
    ),
    "token_expired": Reason("the token has expired", NEW_TOKEN, instagram_login=NEW_LOGIN_TOKEN),
    "token_password": Reason(
        "the token became invalid when its owner changed the password",
        NEW_TOKEN,
        instagram_login=NEW_LOGIN_TOKEN,
    ),
    "token_checkpoint": Reason(
        "the token's owner must pass a security check",
        "log in as that person on facebook.com, then retry",
        instagram_login="log in as that account on instagram.com, then retry",
    ),
    "token_unconfirmed": Reason(
        "the token's owner has not confirmed the account",
        "log in as that person and confirm it, then retry",
    ),
    "app_removed": Reason(
        "the token's owner has removed the app",
        "add the app again under business integrations; " + NEW_TOKEN,
        instagram_login="log in to the app again; " + NEW_LOGIN_TOKEN,
    ),
    "token_expiring": Reason(
        "the token expires on {date}",
        NEW_TOKEN + " before that day",
        level="warning",
        instagram_login="refresh it before that day (refresh_access_token) and export the new one"
        " in {variable}",
    ),
    "data_access_expiring": Reason(
        "the app's access to data ends on {date}",
        "the token's owner must log in to the app again before that day",
        level="warning",
    ),
    "token_kind": Reason(
        "the token is a {kind} token; a Page token is needed",
        "read it from /me/accounts with that token (field access_token) and export it in"
        " {variable}",
    ),
    "other_page": Reason(
        "the token does not cover this Page",
        "use the token of Page {page_id}, or correct page_id",
        instagram="use the token of the Page that the Instagram account is linked to, or correct"
        " page_id",
    ),
    "swapped_ids": Reason(
        "the token is the one of the account {other}: ids or tokens are swapped",
        "exchange `page_id` or `token_env` of the two accounts in `convo.toml`, then run"
        " `convo-pipeline check` again",
    ),
    "token_unknown": Reason(
        "expiry and permissions are unknown: debug_token does not answer here",
        "read them in Meta's access token debugger; calls work all the same",
        level="note",
        instagram_login="a token of Instagram Login is valid for 60 days: note the day and refresh"
        " it before; calls work all the same",
    ),
    "scope_missing": Reason(
        "the token lacks {scopes}",
        "grant it in the app, then create the token again",
        messenger="grant it in the app (a Page role with the task MESSAGING or MODERATE), then"
        " create the token again",
        instagram="grant it in the app (a Page role with the task MESSAGING), then create the"
        " token again",
        instagram_login="log the account in to the app again and allow it; export the new token"
        " in {variable}",
    ),
    # found by `check`: host, version and id
    "wrong_host": Reason(
        "base_url, page_id and the token do not fit together",
        'Facebook Login: base_url = "https://graph.facebook.com" and the Page\'s id; '
        'Instagram Login: base_url = "https://graph.instagram.com" and page_id = "me"',
        messenger='base_url = "https://graph.facebook.com" and the Page\'s id',
    ),
    "wrong_id_kind": Reason(
        "page_id {page_id} is not a Page",
        "use the Page's id (Page, About, Page transparency)",
        instagram="use the id of the Page that the Instagram account is linked to, not the"
        " Instagram account's own",
    ),
    "own_id_unknown": Reason(
        "the API does not return the Instagram account's own id",
        "grant instagram_basic; if it is granted, report this with the output of `convo-pipeline"
        " shapes`; until then the id is inferred from the messages",
        level="note",
        instagram_login="grant instagram_business_basic; if it is granted, report this with the"
        " output of `convo-pipeline shapes`; until then the id is inferred from the messages",
    ),
    "own_id_differs": Reason(
        "the API returns {asked} as the own id, but the conversations show {own}",
        "nothing to do: the id of the conversations decides the direction of messages",
        is_self_healing=True,
        level="note",
    ),
    "other_inbox": Reason(
        "this account name belongs to another inbox",
        "give the new account a name of its own, or correct page_id",
    ),
    "version_changed": Reason(
        "version {asked} was requested, {served} answered",
        "set graph.version to a version that Meta serves",
        level="warning",
    ),
    # found by `check`: access
    "not_linked": Reason(
        "the Page is not linked to an Instagram account",
        "link a professional Instagram account in the Page's settings (Linked accounts), then"
        " create the token again",
        messenger='this is an error of Instagram: is platform = "messenger" right?',
    ),
    "advanced_access": Reason(
        "a permission is missing, the app has no Advanced Access, or it is not live",
        "request Advanced Access in App Review, or give every tester a role on the app; "
        + LIVE_AND_ACCEPTED,
        instagram="request Advanced Access to instagram_manage_messages in App Review, or give"
        " every tester a role on the app; " + LIVE_AND_ACCEPTED,
        messenger="request Advanced Access to pages_messaging in App Review, or give every tester"
        " a role on the app; " + LIVE_AND_ACCEPTED,
        instagram_login="request Advanced Access to instagram_business_manage_messages in App"
        " Review, or give every tester a role on the app; " + LOGIN_LIVE_AND_ACCEPTED,
    ),
    "no_role": Reason(
        "the API refuses every call of this account: it has no role on the app, its invitation is"
        " not accepted, or the app is not live",
        "app dashboard, App roles: add the account; " + LOGIN_LIVE_AND_ACCEPTED,
    ),
    "switched_off": Reason(
        "the account's owner has switched message access off",
        "in the Instagram app: Settings, Messages, Message controls, Connected tools: allow access"
        " to messages",
    ),
    "not_eligible": Reason(
        "the Instagram account is not eligible",
        "make it a professional account",
        instagram="make it a professional account linked to the Page",
    ),
    "policy": Reason(
        "Meta blocked this for policy reasons",
        "read the app's alerts in its dashboard; stop calling",
    ),
    # found by `check`: the inbox
    "inbox_empty": Reason(
        "the inbox is empty",
        "if it should not be: is this the right Page, and has the app Advanced Access? Then "
        + LIVE_AND_ACCEPTED,
        level="warning",
        instagram="if it should not be: allow access to messages (Connected tools), check Advanced"
        " Access and page_id; " + LIVE_AND_ACCEPTED,
        instagram_login="if it should not be: allow access to messages (Connected tools), check"
        " Advanced Access; " + LOGIN_LIVE_AND_ACCEPTED,
    ),
    "folder_left_out": Reason(
        "the folder {folder} holds conversations and is not in `folders`",
        "add it to `folders` to extract it",
        level="note",
    ),
    "folder_refused": Reason("the folder {folder} is refused", "remove it from `folders`"),
    "folder_useless": Reason(
        "`folders` names {folder}, which Instagram does not have",
        'remove `folders`: the default is [""]',
        level="warning",
    ),
    "many_partitions": Reason(
        "{count} partitions per asset: Dagster advises at most 100,000",
        "split the accounts over several deployments, or choose later start dates",
        level="warning",
    ),
    # found by `status`
    "blocked": Reason(
        "Meta's rate limit blocks this account until {until}",
        "wait: a call before that time extends the block",
        is_self_healing=True,
        level="warning",
    ),
    "never_extracted": Reason("never extracted", "run `convo-pipeline extract`"),
    "late": Reason(
        "no complete run for more than a day", "check that the schedule `nightly` is on"
    ),
    "night_late": Reason(
        "no complete nightly run for more than a day; only captures ran",
        "check that the schedule `nightly` is on",
    ),
    "derivation_late": Reason(
        "{days} not normalised for more than an hour",
        "check that Dagster's daemon runs, or {normalize}",
    ),
    "at_risk": Reason(
        "{conversations} may receive up to {count} messages before the next capture;"
        " extra capture due {due}",
        "check that the sensor `capture_sooner` is on",
        level="warning",
    ),
    "damaged_files": Reason("{files} set aside as damaged", "run `convo-pipeline verify`"),
    "raw_rows_lost": Reason(
        "raw rows of {days} were lost; the derived tables stay as they are",
        "restore the raw files from a backup, or accept the loss with"
        " `convo-pipeline normalize --accept-loss`",
    ),
    # found by sensors
    "run_died": Reason(
        "the run's process is gone: it was killed, or the machine or the services stopped",
        "the next capture or nightly run stores what it had read and continues; if it occurs again,"
        " look for a lack of memory",
        is_self_healing=True,
    ),
    "run_not_begun": Reason(
        "the run ended before its first step began",
        "read the run's log in Dagster; check that the services run and have memory",
    ),
    "alert_undelivered": Reason(
        "{alerts} not delivered since {since}: {error}",
        "correct `[alerts]` or its receiver; they are sent again at growing intervals until the"
        " receiver answers",
    ),
    # found by `status` and by Dagster's checks
    "unread": Reason(
        "{what} not read yet",
        "the next run reads again; or {read_again}",
        is_self_healing=True,
        level="warning",
    ),
    "lost": Reason(
        "content lost: {what}",
        "keep the schedule `capture` on and {proposal}",
        level="warning",
    ),
    "missed": Reason(
        "the last sweep found {messages} that earlier runs had missed; they are stored now",
        "sweep again (`convo-pipeline extract --full`); report it if that finds more",
        level="warning",
    ),
    "directions_unknown": Reason(
        "no direction for {what}: the account's own id is unknown, or people of the conversations"
        " contradict it",
        "run `convo-pipeline check` and do what it names; the next run then corrects all days."
        " If it names nothing, report it with the output of `convo-pipeline shapes`",
        level="warning",
        instagram="grant instagram_basic to the token, so that the API returns the account's own"
        " id, then {again}. If that does not help, report it with the output of"
        " `convo-pipeline shapes`",
        messenger="compare page_id with the id on the Page's About page. If it is right, report it"
        " with the output of `convo-pipeline shapes`",
        instagram_login="grant instagram_business_basic to the token, so that the API returns the"
        " account's own id, then {again}. If that does not help, report it with the output of"
        " `convo-pipeline shapes`",
    ),
    # found by Dagster's checks
    "new_shapes": Reason(
        "the API sent what this version does not know: {what}",
        "nothing is lost: the raw tables keep it. Report it with the output of"
        " `convo-pipeline shapes`",
        level="warning",
    ),
    "raw_table_wrong": Reason(
        "{what}", "run `convo-pipeline verify` and restore this day's file from a backup"
    ),
    "derived_table_wrong": Reason(
        "{what}", "{normalize} again; if it remains, run `convo-pipeline verify`"
    ),
    "rejected": Reason(
        "{what} that this program cannot read",
        "read the table `raw_rejects` and report what it shows; the warning ends when a later run"
        " stores the item, else after 31 days",
        level="warning",
    ),
    "lost_before_connection": Reason(
        "content lost: {what}",
        "the messages are from before the account was connected",
        is_self_healing=True,
        level="warning",
    ),
}  # fmt: skip

REASONS_OF_ERRORS: Mapping[type[ConvoError], RunReason] = {
    SettingsError: "settings",
    ProofError: "app_secret",
    TokenError: "token",
    AccessDeniedError: "permission",
    VersionError: "version",
    ThrottledError: "throttled",
    BudgetError: "budget",
    UnreachableError: "unreachable",
    MissingError: "missing",
    StoreError: "store",
    StoppedError: "stopped",
}


def reason_of(error: BaseException) -> RunReason:
    """Return the reason that a run stores for an error.

    An error of the operating system is one of a file, unless it is one of a connection.

    >>> reason_of(StoppedError("Ctrl-C")), reason_of(MemoryError()), reason_of(KeyError("x"))
    ('stopped', 'memory', 'defect')
    >>> reason_of(PermissionError(13, "Permission denied")), reason_of(ConnectionResetError())
    ('store', 'unreachable')
    """
    if isinstance(error, ConvoError):
        matching = (word for kind, word in REASONS_OF_ERRORS.items() if isinstance(error, kind))
        return next(matching, "answer")
    has_no_thread = type(error) is RuntimeError and error.args == ("can't start new thread",)
    is_out_of_memory = isinstance(error, MemoryError) or getattr(error, "errno", 0) == errno.ENOMEM
    if is_out_of_memory or has_no_thread:
        return "memory"
    if not isinstance(error, OSError):
        return "defect"
    is_connection = isinstance(error, (ConnectionError, TimeoutError)) or error.errno is None
    return "unreachable" if is_connection else "store"


def locate_error(error: BaseException) -> str:
    """Return an unexpected error's class and its place in this package, without its text.

    The text may hold a token or a customer's message. An error of a file names the file.

    >>> locate_error(KeyError("secret"))
    'KeyError'
    >>> locate_error(PermissionError(13, "Permission denied", "/lake/messages"))
    'Permission denied: /lake/messages, PermissionError'
    """
    kind = type(error).__name__
    if isinstance(error, OSError) and error.strerror and isinstance(error.filename, str):
        kind = f"{error.strerror}: {error.filename}, {kind}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if PACKAGE in Path(frame.filename).parents
    ]
    if not frames:
        return kind
    path = Path(frames[-1].filename).relative_to(PACKAGE.parent).as_posix()
    return f"{kind} in {path} line {frames[-1].lineno} ({frames[-1].name})"


def is_settled(outcome: str, reasons: Iterable[str]) -> bool:
    """Return whether a run stored everything that the API returns.

    It is complete, or nothing is missing but what the API refused in earlier runs too.

    >>> is_settled("incomplete", ["conversation_refused"]), is_settled("incomplete", ["budget"])
    (True, False)
    """
    is_refused = outcome == "incomplete" and set(reasons) == {"conversation_refused"}
    return outcome == "complete" or is_refused


def describe_error(error: BaseException, interface: Interface = "command_line") -> str:
    """Return a text that is safe to show: a ConvoError's own, else reason, location and remedy.

    >>> describe_error(KeyError("secret"))
    'a defect of this program (KeyError). To do: report this error; other accounts are not affected'
    """
    if isinstance(error, ConvoError):
        return str(error)
    reason = REASONS[reason_of(error)]
    remedy = reason.remedy_for(interface=interface)
    return f"{reason.describe()} ({locate_error(error)}). {TO_DO}: {remedy}"


def describe_outcome(
    outcome: str,
    reasons: Iterable[str],
    error: str | None = None,
    interface: Interface = "command_line",
    details: Details = NO_DETAILS,
) -> str:
    """Say in one line why an account's run is not complete and what to do about it.

    If one of the reasons needs a person, the line holds only the remedies of such reasons.

    >>> describe_outcome("failed", ["store"], "disk full").split(" To do: ")[0]
    'failed: a file could not be read or written (disk full).'
    """
    known = [REASONS[name] for name in reasons if name in REASONS]
    sentences = "; ".join(each.describe(details) for each in known) or "no reason was stored"
    acting = [each for each in known if not each.is_self_healing]
    remedies = "; ".join(
        dict.fromkeys(each.remedy_for(None, interface, details) for each in acting or known)
    )
    head = f"{outcome}: {sentences}" + (f" ({error.rstrip('.')})" if error else "")
    return f"{head}. {TO_DO if acting else NOTHING_TO_DO}: {remedies}" if remedies else head
