"""Settings of each account beside its tables: `<root>/.accounts.json`.

Readers use them for time zones, business hours and the rules of metrics. So they need no
configuration file. The history is in the table `runs`: each run has the settings of its time.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.errors import ConflictError
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import AccountSettings, Settings
from convo_pipeline.storage.backend import write_version

ACCOUNTS_FILE = (".accounts.json",)
TRIES = 5
Descriptions = dict[str, dict[str, Any]]
"""The settings of each account by its name."""


def describe_account(settings: Settings, store: Store, account: AccountSettings) -> dict[str, Any]:
    """Return what readers need to know of an account, with its own ids and without secrets."""
    identity = store.state.identity(account.name)
    own_ids = (identity.own_id, identity.own_username) if identity else (None, None)
    return settings.describe(account) | dict(zip(("own_id", "own_username"), own_ids, strict=True))


def save_accounts(store: Store, accounts: Mapping[str, Mapping[str, Any]]) -> None:
    """Store the settings of these accounts; write nothing if none changed.

    The settings of other accounts stay. If other machines change the file at the same time five
    times in a row, the next run saves them.
    """
    _change(store, lambda stored: stored | {name: dict(each) for name, each in accounts.items()})


def rename_account(store: Store, old: str, new: str) -> None:
    """Store an account's settings under its new name."""
    _change(store, lambda stored: {new if name == old else name: stored[name] for name in stored})


def parse_accounts(content: bytes) -> Descriptions:
    """Return the settings in the file's bytes; none if they cannot be read."""
    with suppress(ValueError):
        value = load_json(content)
        if isinstance(value, dict):
            return {name: each for name, each in value.items() if isinstance(each, dict)}
    return {}


def read_accounts(store: Store) -> Descriptions:
    """Return the stored settings of all accounts."""
    file = store.backend.read(ACCOUNTS_FILE)
    return parse_accounts(file.content) if file else {}


def _change(store: Store, change: Callable[[Descriptions], Descriptions]) -> None:
    with store.locks.layout():
        for _ in range(TRIES):
            file = store.backend.read(ACCOUNTS_FILE)
            stored = parse_accounts(file.content) if file else {}
            changed = change(stored)
            if changed == stored:
                return
            with suppress(ConflictError):
                content = dump_json(dict(sorted(changed.items())))
                write_version(store.backend, ACCOUNTS_FILE, content, file.version if file else None)
                return
