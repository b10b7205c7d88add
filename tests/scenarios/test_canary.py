"""Canary values: a unique token, app secret and message text go through every fault.

Afterwards every written byte is searched. No file, log, output, exception or event holds a token, a
secret or a proof, and message text is only in the tables and the spool.
"""

import io
import logging
import secrets
import traceback
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest

from convo_pipeline.base.clock import Clock
from convo_pipeline.console.check import check_accounts
from convo_pipeline.console.status import read_status
from convo_pipeline.derive.day import derive_day, stale_days
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.fault import Fault
from convo_pipeline.emulator.faults import FAULTS, make_fault
from convo_pipeline.emulator.serve import EmulatorServer
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.world import World
from convo_pipeline.extract.run import AccountReport, extract
from convo_pipeline.graph.client import appsecret_proof
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.instance import make_home
from convo_pipeline.orchestration.partitions import Window
from convo_pipeline.orchestration.recorded_runs import run_jobs
from convo_pipeline.privacy.export import export_tables
from convo_pipeline.settings import ExportSettings, Settings
from tests.support.canaries import add_canary_to_each_field, add_canary_to_each_response
from tests.support.inboxes import NOW, START, TOKEN_VARIABLE, settings_for
from tests.support.simulation import DyingStore, KilledError, Ticking

SECRET_VARIABLE = "INBOX_APP_SECRET"
ONE_DAY = timedelta(days=1)
ARGUMENTS = {
    "slow_loris": "0.05", "latency": "0.01", "giant_body": "70", "zip_bomb": "70", "deep_nesting":
    "5000", "many_attachments": "200", "huge_message": "20000", "connect_timeout": None,
    "reduce_above": "100",
}  # fmt: skip
"""Arguments of faults whose default takes long."""
LASTING = 3
"""How many calls a fault affects that would otherwise end after one or two."""
THROUGH_DAGSTER = (("token_revoked", "header"), ("foreign_next", "query"))
MORE_THROUGH_DAGSTER = (
    ("redirect", "query"),
    ("throttle_4", "header"),
    ("html_200", "query"),
    ("type_changes", "header"),
)


@dataclass
class Canaries:
    """The values that must not appear elsewhere."""

    token: str = field(default_factory=lambda: "EAA" + secrets.token_hex(40))
    app_secret: str = field(default_factory=lambda: secrets.token_hex(16))
    text: str = field(default_factory=lambda: "canary" + secrets.token_hex(10))

    @property
    def proof(self) -> str:
        return appsecret_proof(self.token, self.app_secret)

    @property
    def secrets(self) -> list[bytes]:
        return [each.encode() for each in (self.token, self.app_secret, self.proof)]

    @property
    def environ(self) -> dict[str, str]:
        return {TOKEN_VARIABLE: self.token, SECRET_VARIABLE: self.app_secret}


@pytest.fixture
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture(autouse=True)
def proxy_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name a proxy that would see every call if the client used it."""
    for name in (
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
    ):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@contextmanager
def capture_logs() -> Iterator[io.StringIO]:
    """Capture the records of every logger at every level."""
    captured = io.StringIO()
    handler = logging.StreamHandler(captured)
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s %(exc_text)s"))
    root = logging.getLogger()
    before, names = root.level, ("urllib3", "urllib3.connectionpool", "requests", "convo_pipeline")
    levels = {name: logging.getLogger(name).level for name in names}
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        yield captured
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def make_world(canaries: Canaries, platform: str) -> World:
    """Make a few conversations; every text contains the canary text.

    One message has it in all its fields, also in those that look like fixed words.
    """
    world = World(VirtualClock(NOW))
    account = world.add_account(
        "shop", "1111111111", platform, tokens=[canaries.token], app_secret=canaries.app_secret
    )
    for number, count in enumerate((25, 3, 1)):
        conversation = account.add_conversation(f"{canaries.text} {number}")
        for message in conversation.add_messages(count, NOW - timedelta(hours=3 + number), 1.0):
            message.edit(f"{canaries.text} {message.message_id[-6:]}")
        message = conversation.add_message(canaries.text, NOW - timedelta(hours=2))
        add_canary_to_each_field(message, canaries.text)
    return world


def make_settings(world: World, base_url: str, root: Path, token_in: str) -> Settings:
    """Return the settings of the world's account, with the app secret."""
    settings = settings_for(
        world.accounts.values(), base_url, root, START, token_in=token_in, timeout_seconds=1.5
    )
    accounts = tuple(
        each.model_copy(update={"app_secret_env": SECRET_VARIABLE}) for each in settings.accounts
    )
    return settings.model_copy(update={"accounts": accounts})


def make(name: str) -> Fault:
    kind = FAULTS[name]
    if name in (
        "deep_nesting",
        "many_attachments",
        "huge_message",
        "reduce_above",
        "connect_timeout",
    ):
        return make_fault(name, ARGUMENTS[name])
    times = 1 if name in ("giant_body", "zip_bomb", "read_timeout", "slow_loris") else LASTING
    return make_fault(
        name,
        ARGUMENTS.get(name),
        times=times if kind.takes in ("times", "seconds", "megabytes") else None,
    )


def read_all(folder: Path) -> dict[str, bytes]:
    """Return every file's bytes, and the rows of tables, which are compressed in the file."""
    found = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
    tables = [name for name in found if name.endswith(".parquet")]
    rows = {name: repr(pq.read_table(folder / name).to_pylist()).encode() for name in tables}
    return found | {f"{name} rows": content for name, content in rows.items()}


def where(canary: bytes, contents: dict[str, bytes]) -> list[str]:
    return sorted(name for name, content in contents.items() if canary in content)


def is_table_or_spool(name: str) -> bool:
    return "/account=" in name or "/spool/" in name


def extract_with_fault(
    fault: Fault, canaries: Canaries, folder: Path, token_in: str, *, is_killed: bool = False
) -> list[str]:
    """Run with the fault, and once more without it; return every text that the runs returned."""
    platform = "messenger" if fault.kind.name == "business_80006" else "instagram"
    world = make_world(canaries, platform)
    texts: list[str] = []
    with EmulatorServer(world, Switches(next_token="always"), faults=[fault]) as server:
        settings = make_settings(world, server.base_url, folder / "lake", token_in)
        for _number in (1, 2):
            ticking = Ticking(world.clock, 0.0)
            with closing(DyingStore(settings.store, ticking.clock())) as store:
                until = world.clock.now().date() + ONE_DAY
                store.commits_left = 0 if is_killed else None
                try:
                    reports: list[AccountReport] = extract(
                        settings,
                        store,
                        ["shop"],
                        START,
                        until,
                        environ=canaries.environ,
                        clock=ticking.clock(),
                    )
                except KilledError:
                    texts.append(traceback.format_exc())
                    return texts
                except Exception as error:
                    raise AssertionError(
                        f"{fault.kind.name} ended the program: {error!r}"
                    ) from error
                texts += [repr(report) for report in reports]
                texts += [repr(run) for run in store.state.runs()] + [repr(settings), str(settings)]
                for day in stale_days(store, "shop"):
                    derive_day(store, "shop", day)
            if fault.kind.name == "connect_timeout":
                break
            server.set_faults()
            world.clock.advance(3600)
        assert server.foreign_calls == []
    return texts


def assert_no_canary(canaries: Canaries, folder: Path, *texts: str) -> None:
    contents = read_all(folder) | {
        f"text {number}": text.encode() for number, text in enumerate(texts)
    }
    assert {secret: where(secret, contents) for secret in canaries.secrets} == {
        key: [] for key in canaries.secrets
    }
    assert [
        name for name in where(canaries.text.encode(), contents) if not is_table_or_spool(name)
    ] == []


def check_fault(
    name: str, token_in: str, canaries: Canaries, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with capture_logs() as logged:
        texts = extract_with_fault(make(name), canaries, folder, token_in)
    output = capfd.readouterr()
    assert_no_canary(canaries, folder, logged.getvalue(), output.out, output.err, *texts)


@pytest.mark.hunt
@pytest.mark.parametrize("name", sorted(FAULTS))
def test_s1_s2_s13_no_fault_reveals_a_secret_or_a_text(
    name: str, tmp_path: Path, canaries: Canaries, capfd: pytest.CaptureFixture[str]
) -> None:
    token_in = ("header", "query")[sorted(FAULTS).index(name) % 2]
    check_fault(name, token_in, canaries, tmp_path, capfd)


@pytest.mark.hunt
@pytest.mark.parametrize("name", sorted(FAULTS))
def test_s1_s2_s13_no_fault_reveals_a_token_sent_as_a_parameter(
    name: str, tmp_path: Path, canaries: Canaries, capfd: pytest.CaptureFixture[str]
) -> None:
    token_in = ("query", "header")[sorted(FAULTS).index(name) % 2]
    check_fault(name, token_in, canaries, tmp_path, capfd)


def test_the_search_finds_texts_where_they_belong(tmp_path: Path, canaries: Canaries) -> None:
    extract_with_fault(make("unknown_fields"), canaries, tmp_path, "query")
    holders = where(canaries.text.encode(), read_all(tmp_path))
    assert any("raw_message_details" in name for name in holders)
    assert any(name.startswith("lake/messages/") for name in holders)


@pytest.mark.parametrize("token_in", ["header", "query"])
def test_the_spool_of_a_killed_run_holds_texts_and_no_secret(
    tmp_path: Path, canaries: Canaries, token_in: str
) -> None:
    texts = extract_with_fault(make("unknown_fields"), canaries, tmp_path, token_in, is_killed=True)
    contents = read_all(tmp_path)
    assert any("/spool/" in name for name in where(canaries.text.encode(), contents))
    assert_no_canary(canaries, tmp_path, *texts)


def test_s17_an_export_without_texts_holds_no_canary_of_any_field(
    tmp_path: Path, canaries: Canaries
) -> None:
    extract_with_fault(make("unknown_fields"), canaries, tmp_path, "header")
    world = make_world(canaries, "instagram")
    settings = make_settings(world, "http://127.0.0.1:9", tmp_path / "lake", "header")
    exported = settings.model_copy(update={"export": ExportSettings(secret_env="EXPORT")})
    environ = {"EXPORT": secrets.token_hex(32)}
    for form in ("csv", "parquet"):
        to = tmp_path / f"export-{form}"
        with closing(Store(settings.store)) as store:
            counts = export_tables(exported, store, ["shop"], to, form, environ, with_text=False)
        assert counts["attachments"] >= 2
        assert counts["reactions"] >= 1
        assert where(canaries.text.encode(), read_all(to)) == []


def test_a_token_inside_a_message_text_stays(tmp_path: Path, canaries: Canaries) -> None:
    """Such a text is content like any other, and it is only where content is."""
    canaries.text = "EAAnobodysToken" + secrets.token_hex(20)
    extract_with_fault(make("unknown_fields"), canaries, tmp_path, "header")
    assert_no_canary(canaries, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("every", [3, 1_000])
def test_s1_no_endpoint_s_unknown_field_or_error_text_is_shown(
    every: int, tmp_path: Path, canaries: Canaries, capfd: pytest.CaptureFixture[str]
) -> None:
    """Conversations, messages, accounts, tokens, refused calls: only tables hold such texts."""
    fault = add_canary_to_each_response(canaries.text, every)
    check_through_dagster(fault, "query", canaries, tmp_path, capfd, with_check=True)


@pytest.mark.parametrize(("name", "token_in"), THROUGH_DAGSTER)
def test_s1_dagster_s_home_holds_neither_secret_nor_text(
    name: str, token_in: str, tmp_path: Path, canaries: Canaries, capfd: pytest.CaptureFixture[str]
) -> None:
    check_through_dagster(make(name), token_in, canaries, tmp_path, capfd)


@pytest.mark.hunt
@pytest.mark.parametrize(("name", "token_in"), MORE_THROUGH_DAGSTER)
def test_s1_dagster_s_home_holds_neither_secret_nor_text_with_any_fault(
    name: str, token_in: str, tmp_path: Path, canaries: Canaries, capfd: pytest.CaptureFixture[str]
) -> None:
    check_through_dagster(make(name), token_in, canaries, tmp_path, capfd)


def check_through_dagster(
    fault: Fault,
    token_in: str,
    canaries: Canaries,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    *,
    with_check: bool = False,
) -> None:
    world = make_world(canaries, "instagram")
    environ = canaries.environ
    home = make_home(tmp_path / "home")
    switches, faults = Switches(next_token="always"), [fault]
    with capture_logs() as logged, EmulatorServer(world, switches, faults=faults) as server:
        settings = make_settings(world, server.base_url, tmp_path / "lake", token_in)
        clock = Ticking(world.clock, 0.0).clock()
        with dg.DagsterInstance.from_config(str(home)) as instance:
            deployment = Deployment(settings, environ=environ, clock=clock)
            today = world.clock.now().date()
            result = run_jobs(deployment, {"shop": Window(today, today + ONE_DAY)}, instance)
            events = [
                repr(entry)
                for run in instance.get_runs()
                for entry in instance.all_logs(run.run_id)
            ]
        checks = ask_check(settings, environ, clock) if with_check else ""
        assert server.foreign_calls == []
    output = capfd.readouterr()
    assert len(events) > 20
    assert_no_canary(
        canaries, tmp_path, logged.getvalue(), output.out, output.err, repr(result), checks, *events
    )


def ask_check(settings: Settings, environ: Mapping[str, str], clock: Clock) -> str:
    """Return what `check` and `status` find, which call debug_token and the account's node."""
    found = check_accounts(settings, ["shop"], environ, clock)
    return repr(found) + repr(read_status(settings, ["shop"], clock.now()))


def test_s3_credentials_are_masked_in_every_representation(canaries: Canaries) -> None:
    from convo_pipeline.base.secrets import Credentials

    credentials = replace(Credentials("x"), token=canaries.token, app_secret=canaries.app_secret)
    spoken = f"{credentials!r} {credentials} {[credentials]}"
    assert canaries.token not in spoken
    assert canaries.app_secret not in spoken
