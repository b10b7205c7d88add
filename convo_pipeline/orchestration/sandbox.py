"""Start the built-in emulator when a setting says `base_url = "emulator"`.

The only module that connects the emulator with the rest of the package. It imports the emulator
when one starts, because its web server takes half a second to load.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from convo_pipeline.base.extras import needs_extra
from convo_pipeline.errors import SettingsError
from convo_pipeline.settings import EMULATOR, Settings

if TYPE_CHECKING:
    from convo_pipeline.emulator.serve import EmulatorServer

URL_VARIABLE = "CONVO_EMULATOR_URL"
"""Address of a running emulator: `demo --ui` shares one between all runs of the UI."""
DEFAULT_SEED = 7


@contextmanager
def emulator_if_needed(
    settings: Settings, environ: Mapping[str, str]
) -> Iterator[tuple[Settings, Mapping[str, str]]]:
    """Return settings and environment in which emulated accounts have an address and a token.

    Starts an emulator unless one is running. A token variable that is set keeps its value.
    """
    emulated = [account for account in settings.accounts if settings.base_url(account) == EMULATOR]
    if not emulated:
        yield settings, environ
        return
    with needs_extra("demo"):
        from convo_pipeline.emulator.serve import EMULATOR_TOKEN

    tokens = {account.token_name: EMULATOR_TOKEN for account in emulated} | dict(environ)
    if URL_VARIABLE in environ:
        yield _with_address(settings, environ[URL_VARIABLE]), tokens
    else:
        with run_emulator() as server:
            yield _with_address(settings, server.base_url), tokens


@contextmanager
def run_emulator(port: int = 0, seed: int = DEFAULT_SEED) -> Iterator["EmulatorServer"]:
    """Run the emulator in this process; a SettingsError if the port is taken."""
    with needs_extra("demo"):
        from convo_pipeline.emulator.serve import EmulatorServer

    server = EmulatorServer(port=port, seed=seed)
    try:
        server.start()
    except OSError as error:
        raise SettingsError(f"--port {port}: {error.strerror}") from None
    try:
        yield server
    finally:
        server.stop()


def _with_address(settings: Settings, url: str) -> Settings:
    accounts = tuple(
        account.model_copy(update={"base_url": url})
        if settings.base_url(account) == EMULATOR
        else account
        for account in settings.accounts
    )
    return settings.model_copy(update={"accounts": accounts})


CONFIG = """\
# {url} responds until Ctrl-C. Write these lines to convo.toml. In another terminal:
#   export EMULATOR_TOKEN={token}
#   convo-pipeline check
#   convo-pipeline extract
[graph]
base_url = "{url}"
"""
EXAMPLE_ACCOUNTS = """
[[accounts]]
name = "bakery-instagram"
page_id = "1234567890"
platform = "instagram"
token_env = "EMULATOR_TOKEN"
start_date = "{start}"
timezone = "Europe/Berlin"
business_hours = "Mon-Fri 09:00-18:00"

[[accounts]]
name = "bikes-messenger"
page_id = "9876543210"
platform = "messenger"
token_env = "EMULATOR_TOKEN"
start_date = "{start}"
timezone = "Europe/Lisbon"
business_hours = "Mon-Sat 10:00-19:00"
"""
"""Settings of the two businesses in the emulator's default world."""


def serve_emulator(
    port: int, seed: int, say: Callable[[str], None], faults: Sequence[str] = ()
) -> None:
    """Run the emulator until Ctrl-C, with faults such as `slow_loris:0.1`; print its settings."""
    with needs_extra("demo"):
        from convo_pipeline.emulator.serve import EMULATOR_TOKEN, FaultError, serve_forever

    start = datetime.now(UTC).date() - timedelta(days=29)

    def announce(server: "EmulatorServer") -> None:
        head = CONFIG.format(url=server.base_url, token=EMULATOR_TOKEN)
        say(head + EXAMPLE_ACCOUNTS.format(start=start))

    try:
        serve_forever(port=port, seed=seed, on_start=announce, faults=faults)
    except FaultError as error:
        raise SettingsError(f"--fault: {error}") from None
    except OSError as error:
        raise SettingsError(f"--port {port}: {error.strerror}") from None
