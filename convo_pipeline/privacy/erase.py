"""Forget a person on request, and what was unsent: from the spool, every table and the state; then derive again.

Glue between the lake, what a killed run left, and the derived tables.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TypeVar

from convo_pipeline.derive.rederive import derive_stale_days
from convo_pipeline.errors import StoreError
from convo_pipeline.extract.load import load_spool
from convo_pipeline.extract.spool import left_spools
from convo_pipeline.lake.salvage import damaged_days, salvage_day
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import Receipt, keyed_hash, make_key, read_receipts
from convo_pipeline.privacy.forget import (
    ErasurePlan,
    erase,
    lock_for_erasure,
    plan_erasure,
    read_pending,
)
from convo_pipeline.privacy.forget import finish as finish_erasing
from convo_pipeline.privacy.returned import find_returned_people
from convo_pipeline.privacy.unsent import (
    UnsentMessages,
    find_unsent,
    finish,
    pending_accounts,
    remove_content,
)
from convo_pipeline.privacy.unsent import read_pending as read_pending_days
from convo_pipeline.schema import RAW_MESSAGE_IDS
from convo_pipeline.settings import FIRST_START_DATE, AccountSettings, Settings
from convo_pipeline.storage.layout import is_set_aside

T = TypeVar("T")
R = TypeVar("R")


def forget(
    settings: Settings, store: Store, account: str, person_id: str, now: datetime,
    is_agreed: Callable[[ErasurePlan], bool] = lambda traces: True,
) -> Receipt | None:  # fmt: skip
    """Erase the person and return the receipt; None where nothing was found, or `is_agreed` said no to what was."""
    store.preflight()
    with lock_for_erasure(store, account):
        _load_left(settings, store, account)
        traces = _find_traces(store, account, person_id)
        if not is_known(store, traces):
            _check_damaged(store, account)
            return None
        if not is_agreed(traces):
            return None
        receipt = erase(store, traces, now)
    derive_stale_days(store, account, settings.metrics.session_gap_hours)
    finish_erasing(store, receipt)
    return receipt


def forget_again(settings: Settings, store: Store, account: str, now: datetime) -> list[Receipt]:
    """Forget everybody who was forgotten before and came back with a backup; return their receipts."""
    derive_stale_days(store, account, settings.metrics.session_gap_hours)
    found = [
        forget(settings, store, account, person, now)
        for person in find_returned_people(store, account)
    ]
    return [receipt for receipt in found if receipt]


def _find_traces(store: Store, account: str, person_id: str) -> ErasurePlan:
    """Find where the person is, in what can be read of damaged files too: these leave, and others' rows are in them."""
    while True:
        for day in sorted(damaged_days(store, account)):
            salvage_day(store, account, day)
        noted = store.state.suspect_files(account)
        traces = plan_erasure(store, account, person_id)
        if store.state.suspect_files(account) == noted:
            return traces


def is_known(store: Store, traces: ErasurePlan) -> bool:
    """Whether there is anything to erase, or was: then erasing again, after a backup was put back, is no mistake."""
    receipts = read_receipts(store, traces.account)
    if not traces.is_empty or not receipts:
        return not traces.is_empty
    person = keyed_hash(make_key(store.state_path), traces.person_id)
    return any(receipt.person == person for receipt in receipts)


def _check_damaged(store: Store, account: str) -> None:
    """Raise a StoreError where nobody can say that a person is not there: their rows may be in a damaged file."""
    damaged = [
        path
        for *_, path in store.state.suspect_files(account)
        if is_set_aside(path.rpartition("/")[2])
    ]
    if damaged:
        raise StoreError(
            f"the id is in no readable file of {account}, but {damaged[0]} is damaged and may hold it: let the next"
            " `extract` (raw tables) or `normalize` make its day again, or put a backup in its place; then forget again"
        )


def resume_erasures(settings: Settings, store: Store, now: datetime) -> list[Receipt]:
    """Finish every erasure that was cut off; what keeps one from it is raised when the others are done."""
    pending = read_pending(store)
    receipts = _for_all(
        pending, lambda each: forget(settings, store, each.account, each.person_id, now)
    )
    return [receipt for receipt in receipts if receipt]


def _for_all(items: Iterable[T], work: Callable[[T], R]) -> list[R]:
    """Do the work for each; the first StoreError is raised when the others are done."""
    done, errors = [], []
    for item in items:
        try:
            done.append(work(item))
        except StoreError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return done


def find_all_unsent(settings: Settings, store: Store) -> list[UnsentMessages]:
    """Return what was unsent and is still to leave, in every account."""
    accounts = store.accounts(RAW_MESSAGE_IDS.name)
    return [
        each
        for account in accounts
        for each in find_unsent(store, account, settings.retention.on_deleted)
    ]


def remove_unsent(settings: Settings, store: Store, now: datetime) -> list[UnsentMessages]:
    """Do with every account's unsent messages as `[retention] on_deleted` says; return what left.

    An account at work is left to the next time; its BusyError is raised when the others are done.
    """
    accounts = sorted({*store.accounts(RAW_MESSAGE_IDS.name), *pending_accounts(store)})
    removed = _for_all(accounts, lambda account: _remove_deleted(settings, store, account, now))
    return [each for some in removed for each in some]


def _remove_deleted(
    settings: Settings, store: Store, account: str, now: datetime
) -> list[UnsentMessages]:
    policy = settings.retention.on_deleted
    found = find_unsent(store, account, policy)
    if not found and not read_pending_days(store, account):
        return []
    store.preflight()
    with lock_for_erasure(store, account):
        _load_left(settings, store, account)
        found = find_unsent(store, account, policy)
        _check_count(account, found, settings.retention.most_unsent_at_once)
        remove_content(store, account, found, policy)
    derive_stale_days(store, account, settings.metrics.session_gap_hours)
    with lock_for_erasure(store, account):
        finish(store, account, now.astimezone(UTC).date())
    return found


def _check_count(account: str, found: Iterable[UnsentMessages], most: int) -> None:
    """Raise a StoreError where so much was unsent at once that a person should look: content does not come back."""
    count = sum(len(each.messages) for each in found)
    if count > most:
        raise StoreError(
            f"{count} messages of {account} would leave as unsent at once, and [retention] most_unsent_at_once is {most}:"
            " an API that hides messages looks the same. Look at the rows of `messages` that have a deleted_at;"
            " if customers took them back, set it higher"
        )


def _load_left(settings: Settings, store: Store, account: str) -> None:
    """Store what killed runs left, so that nothing is overlooked and nothing comes back from there."""
    for spool in left_spools(store.state_path, account):
        load_spool(store, _account(settings, store, account), spool)
        spool.delete()


def _account(settings: Settings, store: Store, name: str) -> AccountSettings:
    """Return the account's settings; of one that was taken out of the configuration, what the state knows."""
    for account in settings.accounts:
        if account.name == name:
            return account
    identity = store.state.identity(name)
    if identity is None:
        raise StoreError(
            f"{store.state_path / 'spool' / name} holds what a run of {name} left, and nobody knows that account: put it"
            " back into the configuration, or run `convo-pipeline verify --rebuild-state`"
        )
    return AccountSettings.model_validate(
        {"name": name, "page_id": identity.page_id, "platform": identity.platform, "token_env": "NONE",
         "start_date": FIRST_START_DATE}
    )  # fmt: skip
