"""Where each table comes from, for Dagster's catalogue: inboxes, raw columns and code.

One external asset stands for all inboxes, with one partition per account: an asset for each of
thousands of accounts would hide the graph. `tests/unit/orchestration/test_lineage.py` changes each
raw column and compares the derived columns that change with this declaration.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import dagster as dg

from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.schema import MESSAGES, Table
from convo_pipeline.settings import FACEBOOK_HOST, INSTAGRAM_HOST, AccountSettings, Settings
from convo_pipeline.tables.messages import CHILD_NAMES

INBOXES = "inboxes"
"""The external asset: the inboxes at Meta."""
MOST_ACCOUNTS = 100
"""Accounts in the description of the external asset."""
PAGE_LINK = "https://www.facebook.com/"
PACKAGE = Path(__file__).parent.parent


class RawColumn(NamedTuple):
    """A column of a raw table."""

    table: str
    column: str


_Sources = tuple[RawColumn, ...]


def _of(table: str, *columns: str) -> _Sources:
    return tuple(RawColumn(table, column) for column in columns)


_CONVERSATIONS, _IDS, _DETAILS = "raw_conversations", "raw_message_ids", "raw_message_details"
_PAYLOAD = _of(_DETAILS, "payload")
_CONTENT = _of(_DETAILS, "payload", "detail_status", "redacted_at")
_REQUESTED = (*_CONTENT, *_of(_DETAILS, "fields"))
_CREATED_AT = (*_of(_IDS, "created_at", "first_seen_at"), *_of(_DETAILS, "created_at"))
_OWN_ID = _of(_CONVERSATIONS, "own_id", "page_id")
_PEOPLE = (*_PAYLOAD, *_OWN_ID, *_of(_CONVERSATIONS, "payload"))
_OF_MESSAGES: Mapping[str, _Sources] = {
    "platform": _of(_CONVERSATIONS, "platform"),
    "created_at": _CREATED_AT,
    "order_in_second": _of(_IDS, "order_in_second"),
    **dict.fromkeys(("direction", "sender_id", "sender_name", "sender_username"), _PEOPLE),
    "content_type": _CONTENT,
    **dict.fromkeys(
        ("attachment_count", "share_count", "reaction_count", "is_unsupported"), _REQUESTED
    ),
    "has_own_reaction": (*_REQUESTED, *_OWN_ID),
    "detail_status": _of(_DETAILS, "detail_status"),
    "deleted_at": _of(_IDS, "deleted_at", "returned_at"),
    "problem": (*_of(_DETAILS, "payload", "detail_status"), *_of(_IDS, "created_at_source")),
    "first_seen_at": (*_of(_IDS, "first_seen_at"), *_of(_DETAILS, "first_seen_at")),
    "changed_at": (*_of(_DETAILS, "changed_at"), *_of(_IDS, "first_seen_at")),
}
_CODE: Mapping[str, tuple[str, ...]] = {
    "raw": ("extract/inbox.py", "extract/load.py"),
    "messages": ("tables/messages.py", "tables/normalize.py"),
    **dict.fromkeys(CHILD_NAMES, ("tables/media.py", "tables/normalize.py")),
    **dict.fromkeys(("conversation_days", "participant_days"), ("tables/conversations.py",)),
    "coverage": ("tables/normalize.py",),
    "account_days": ("query/account_days.py",),
}
"""The modules that compute a table or a layer."""


def sources_of(table: Table) -> Mapping[str, tuple[RawColumn, ...]]:
    """Return the raw columns of each column of `messages` and of the tables of its parts.

    Other tables count rows and have no lineage by columns.
    """
    if table is not MESSAGES and table.name not in CHILD_NAMES:
        return {}
    key = {name: (*_of(_IDS, name), *_of(_DETAILS, name)) for name in MESSAGES.key}
    known = key | (dict(_OF_MESSAGES) if table is MESSAGES else {"created_at": _CREATED_AT})
    return {name: known.get(name, _PAYLOAD) for name in table.column_names}


def lineage_metadata(table: Table, keys: Mapping[str, dg.AssetKey]) -> dict[str, Any]:
    """Return the column lineage of a table, and the files of the code that computes it.

    `keys` are the asset keys of the shown tables.
    """
    deps = {
        column: [
            dg.TableColumnDep(keys[source.table], source.column)
            for source in sources
            if source.table in keys
        ]
        for column, sources in sources_of(table).items()
    }
    files = ("schema.py", *_CODE[table.layer if table.layer == "raw" else table.name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        code = dg.CodeReferencesMetadataValue(
            code_references=[
                dg.LocalFileCodeReference(file_path=str(PACKAGE / file), label=file)
                for file in files
            ]
        )
    lineage = {"dagster/column_lineage": dg.TableColumnLineage(deps)} if deps else {}
    return {"dagster/code_references": code, **lineage}


def describe_inboxes(deployment: Deployment, group_name: str | None) -> dg.AssetSpec:
    """Describe the inboxes at Meta: an external asset with one partition per account."""
    settings, accounts = deployment.settings, deployment.settings.accounts
    problem = [f"**Not usable now: {deployment.problem}**", ""] if deployment.problem else []
    lines = [
        *problem,
        "The inboxes at Meta, one partition per account. They are read, and never written.",
        "",
        "| account | platform | Page | since | time zone |",
        "|---|---|---|---|---|",
        *(_describe(account, settings) for account in accounts[:MOST_ACCOUNTS]),
    ]
    if len(accounts) > MOST_ACCOUNTS:
        lines += ["", f"… and {len(accounts) - MOST_ACCOUNTS:,} more accounts"]
    return dg.AssetSpec(
        deployment.names.asset_key(INBOXES),
        description="\n".join(lines),
        group_name=group_name or INBOXES,
        kinds={"facebook", "instagram"},
        partitions_def=dg.StaticPartitionsDefinition([account.name for account in accounts]),
        owners=list(settings.dagster.owners),
        tags={settings.dagster.pii_tag: "true"},
    )


def _describe(account: AccountSettings, settings: Settings) -> str:
    """Return an account as a line of a Markdown table, with a link to its Page at Meta."""
    host = urlsplit(account.base_url or settings.graph.base_url).hostname
    page = f"[{account.page_id}]({PAGE_LINK}{account.page_id})"
    is_linked = host in (FACEBOOK_HOST, INSTAGRAM_HOST) and account.page_id != "me"
    return (
        f"| {account.name} | {account.platform} | {page if is_linked else account.page_id}"
        f" | {account.start_date} | {account.timezone} |"
    )
