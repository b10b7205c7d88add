"""Forget a person on request: from the spool, every table and the state, then make the derived tables whole again.

Glue between the lake, what a killed run left, and the derived tables.
"""

from collections.abc import Callable
from datetime import datetime

from convo_pipeline.daily import derive_account_days
from convo_pipeline.derive import derive_day, stale_days
from convo_pipeline.extract.load import load_spool
from convo_pipeline.extract.spool import left_spools
from convo_pipeline.lake.files import Store
from convo_pipeline.lake.forget import Traces, erase, find_traces, lock_person_out, read_pending
from convo_pipeline.lake.suppression import Receipt, keyed_hash, make_key, read_receipts
from convo_pipeline.schema import ACCOUNT_DAYS
from convo_pipeline.settings import FIRST_START_DATE, AccountSettings, Settings


def forget(
    settings: Settings, store: Store, account: str, person_id: str, now: datetime,
    is_agreed: Callable[[Traces], bool] = lambda traces: True,
) -> Receipt | None:  # fmt: skip
    """Erase the person and return the receipt; None where nothing was found, or `is_agreed` said no to what was."""
    store.preflight()
    with store.lock_account(account):
        for spool in left_spools(store.state_path, account):
            load_spool(store, _account(settings, store, account), spool)
            spool.delete()
    with lock_person_out(store, account):
        traces = find_traces(store, account, person_id)
        if not is_known(store, traces) or not is_agreed(traces):
            return None
        receipt = erase(store, traces, now)
    settle(store, account, settings.metrics.session_gap_hours)
    return receipt


def is_known(store: Store, traces: Traces) -> bool:
    """Whether there is anything to erase, or was: then erasing again, after a backup was put back, is no mistake."""
    receipts = read_receipts(store, traces.account)
    if not traces.is_empty or not receipts:
        return not traces.is_empty
    person = keyed_hash(make_key(store.state_path), traces.person_id)
    return any(receipt.person == person for receipt in receipts)


def resume(settings: Settings, store: Store, now: datetime) -> list[Receipt]:
    """Finish every erasure that was cut off."""
    receipts = [forget(settings, store, each.account, each.person_id, now) for each in read_pending(store)]
    return [receipt for receipt in receipts if receipt]


def settle(store: Store, account: str, session_gap_hours: float) -> None:
    """Make the derived tables agree with what is left of the raw ones."""
    for day in stale_days(store, account):
        derive_day(store, account, day)
    if store.days(ACCOUNT_DAYS.name, account):
        derive_account_days(store, account, session_gap_hours=session_gap_hours)


def _account(settings: Settings, store: Store, name: str) -> AccountSettings:
    """Return the account's settings; of one that was taken out of the configuration, what the state knows."""
    for account in settings.accounts:
        if account.name == name:
            return account
    identity = store.state.identity(name)
    assert identity is not None, "a spool is written after its account is known"
    return AccountSettings.model_validate(
        {"name": name, "page_id": identity.page_id, "platform": identity.platform, "token_env": "NONE",
         "start_date": FIRST_START_DATE}
    )  # fmt: skip
