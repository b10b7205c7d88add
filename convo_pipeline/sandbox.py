"""`base_url = "emulator"` made real: the built-in emulator answers for as long as it is needed.

The only place that connects the emulator with the rest. A token that is not set gets the emulator's own, for
accounts that the emulator answers and no others.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer, FaultError, serve_forever
from convo_pipeline.errors import SettingsError
from convo_pipeline.settings import EMULATOR, AccountSettings, Settings

URL_VARIABLE = "CONVO_EMULATOR_URL"
"""Where an emulator already runs: `demo --ui` keeps one for all runs that are started from the UI."""
DEFAULT_SEED = 7


@contextmanager
def reachable(
    settings: Settings, environ: Mapping[str, str]
) -> Iterator[tuple[Settings, Mapping[str, str]]]:
    """Give settings whose accounts all have a real address, and the environment with the tokens to go there."""
    emulated = [account for account in settings.accounts if settings.base_url(account) == EMULATOR]
    if not emulated:
        yield settings, environ
    elif URL_VARIABLE in environ:
        yield pointed(settings, environ[URL_VARIABLE]), with_tokens(emulated, environ)
    else:
        with serving() as server:
            yield pointed(settings, server.base_url), with_tokens(emulated, environ)


@contextmanager
def serving(port: int = 0, seed: int = DEFAULT_SEED) -> Iterator[EmulatorServer]:
    """Serve the emulator in this process; a SettingsError if the port is taken."""
    server = EmulatorServer(port=port, seed=seed)
    try:
        server.start()
    except OSError as error:
        raise SettingsError(f"--port {port}: {error.strerror}") from None
    try:
        yield server
    finally:
        server.stop()


def pointed(settings: Settings, url: str) -> Settings:
    """Replace the word `emulator` by an address."""
    accounts = tuple(
        account.model_copy(update={"base_url": url})
        if settings.base_url(account) == EMULATOR
        else account
        for account in settings.accounts
    )
    return settings.model_copy(update={"accounts": accounts})


def with_tokens(accounts: list[AccountSettings], environ: Mapping[str, str]) -> Mapping[str, str]:
    """Add the emulator's token where a variable is not set."""
    return {account.token_env: EMULATOR_TOKEN for account in accounts} | dict(environ)


CONFIG = """\
# {url} is answering until Ctrl-C. In another terminal:
#   export EMULATOR_TOKEN={token}
#   convo-pipeline --config FILE extract      with this in FILE:
[graph]
base_url = "{url}"
"""
ACCOUNT = """
[[accounts]]
name = "{name}"
page_id = "{page_id}"
platform = "{platform}"
token_env = "EMULATOR_TOKEN"
start_date = "{start}"
"""
DEFAULT_ACCOUNTS = (
    ("bakery-instagram", "1234567890", "instagram"),
    ("bikes-messenger", "9876543210", "messenger"),
)


def serve_emulator(
    port: int, seed: int, say: Callable[[str], None], faults: Sequence[str] = ()
) -> None:
    """Serve the emulator until Ctrl-C, with faults such as `slow_loris:0.1`; say how to reach it."""
    start = datetime.now(UTC).date() - timedelta(days=29)

    def announce(server: EmulatorServer) -> None:
        accounts = [
            ACCOUNT.format(name=name, page_id=page_id, platform=platform, start=start)
            for name, page_id, platform in DEFAULT_ACCOUNTS
        ]
        say(CONFIG.format(url=server.base_url, token=EMULATOR_TOKEN) + "".join(accounts))

    try:
        serve_forever(port=port, seed=seed, on_start=announce, faults=faults)
    except FaultError as error:
        raise SettingsError(f"--fault: {error}") from None
    except OSError as error:
        raise SettingsError(f"--port {port}: {error.strerror}") from None
