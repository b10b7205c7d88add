"""Read on which days the tokens end, once a night, so that `status` can warn without a `check`."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from convo_pipeline.base.clock import Clock
from convo_pipeline.errors import ConvoError, RetryableError
from convo_pipeline.extract.account import open_client
from convo_pipeline.graph.tokens import fetch_token_facts
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import INSTAGRAM_HOST, AccountSettings, Settings

READERS = 8


def read_token_ends(
    settings: Settings,
    store: Store,
    environ: Mapping[str, str],
    clock: Clock,
    is_chosen: Callable[[str], bool] = lambda account: True,
) -> int:
    """Store the days on which the tokens end; return the number of tokens that were read.

    One call for each token, also if many accounts share it. Instagram Login has no `debug_token`
    (Meta's guide on access tokens). A token that cannot be read is left to the next run of its
    accounts, which names the problem. If Meta does not answer, the rest waits for the next night.
    """
    groups: dict[object, list[AccountSettings]] = {}
    for account in settings.accounts:
        base_url = settings.base_url(account)
        if is_chosen(account.name) and INSTAGRAM_HOST not in base_url:
            source = base_url, account.token_env, account.token_file, account.token_from
            groups.setdefault(source, []).append(account)
    has_answers = True

    def read(accounts: list[AccountSettings]) -> bool:
        nonlocal has_answers
        if not has_answers:
            return False
        try:
            with open_client(settings, store, accounts[0], environ, clock) as client:
                facts = fetch_token_facts(client)
        except ConvoError as error:
            has_answers = not isinstance(error, RetryableError)
            return False
        if facts:
            for account in accounts:
                store.state.save_token_ends(account.name, facts.ends)
        return facts is not None

    with ThreadPoolExecutor(READERS, thread_name_prefix="token") as pool:
        return sum(pool.map(read, groups.values()))
