"""Faults A1 to A25 of HTTP and the network: what one listing of the emulator returns."""

import socket
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from convo_pipeline import errors
from convo_pipeline.base.clock import Clock
from convo_pipeline.base.secrets import Credentials
from convo_pipeline.emulator.fault import Fault, FaultContext, FaultKind
from convo_pipeline.emulator.faults import make_fault
from convo_pipeline.emulator.refusals import Refusal
from convo_pipeline.graph import headers
from convo_pipeline.graph.client import Endpoint, GraphClient
from convo_pipeline.graph.rate_limit import NO_LIMIT, CallBudget
from convo_pipeline.graph.retry import HEAVY_ATTEMPTS
from tests.support.certificates import write_certificate
from tests.support.fault_runs import PASSING, Outcome, list_inbox, make_inbox

CLEAN_CALLS = 4
"""Calls without a fault: three pages, and the newest page again."""

HARMLESS = [
    ("A2", "latency"),
    ("A10", "gzip_no_trailer"),
    ("A13", "byte_order_mark"),
    ("A19", "high_usage"),
    ("A20", "malformed_usage"),
]
"""Faults that leave the response readable."""
THROTTLES = ["throttle_613", "throttle_4", "throttle_17", "throttle_32", "throttle_341"]


@pytest.mark.parametrize(("number", "name"), PASSING)
def test_passing_fault_loses_nothing(number: str, name: str) -> None:
    fault = make_fault(name, times=2, after_calls=1)
    outcome = list_inbox([fault])
    assert (outcome.is_complete, fault.fired) == (True, 2)
    assert CLEAN_CALLS < outcome.client.calls["listing"] <= CLEAN_CALLS + 14
    assert set(outcome.summary.unreadable) == set()


@pytest.mark.parametrize(("number", "name"), PASSING)
def test_lasting_fault_fails_in_few_calls(number: str, name: str) -> None:
    outcome = list_inbox([make_fault(name, times=10_000)])
    assert isinstance(outcome.error, errors.GraphError)
    assert outcome.rows == []
    assert len(outcome.server.log) <= 20
    assert max(outcome.sleeps, default=0) <= 30


def test_a20_malformed_usage_header_warns_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "_warned", set())
    assert list_inbox([make_fault("malformed_usage", times=10_000)]).is_complete
    warned = [
        record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()
    ]
    assert len(warned) == len(set(warned)) > 0


@pytest.mark.parametrize(("number", "name"), HARMLESS)
def test_harmless_fault_costs_nothing(number: str, name: str) -> None:
    fault = make_fault(name, "0.05" if name == "latency" else None, times=10_000)
    outcome = list_inbox([fault])
    assert outcome.is_complete
    assert outcome.client.calls["listing"] == fault.fired == CLEAN_CALLS


def test_a1_connect_timeout_is_retried_with_backoff() -> None:
    outcome = list_inbox(["connect_timeout"], timeout_seconds=0.4)
    assert isinstance(outcome.error, errors.UnreachableError)
    assert outcome.client.calls["listing"] == HEAVY_ATTEMPTS == 1 + len(outcome.sleeps)
    assert all(
        longest / 2 <= pause <= longest
        for pause, longest in zip(outcome.sleeps, (1, 2), strict=True)
    )


@pytest.mark.parametrize(("number", "name"), [("A2", "read_timeout"), ("A3", "slow_loris")])
def test_a2_a3_slow_response_ends_at_the_deadline(number: str, name: str) -> None:
    fault = make_fault(name, "0.05" if name == "slow_loris" else None, times=2, after_calls=1)
    outcome = list_inbox([fault], timeout_seconds=0.8)
    assert (outcome.is_complete, fault.fired) == (True, 2)
    assert outcome.client.calls["listing"] > CLEAN_CALLS


@pytest.mark.parametrize("name", ["retry_after_seconds", "retry_after_date"])
def test_a15_retry_after_is_obeyed(name: str) -> None:
    outcome = list_inbox([name])
    assert outcome.is_complete
    assert outcome.sleeps == pytest.approx([2.0], abs=1)


def test_a16_status_429_without_headers_waits_longer_each_time() -> None:
    outcome = list_inbox(["too_many_requests"])
    assert outcome.is_complete
    assert [
        round(seconds) >= least for seconds, least in zip(outcome.sleeps, (4, 16), strict=True)
    ] == [True, True]


@pytest.mark.parametrize("name", THROTTLES)
def test_a17_throttle_code_is_waited_out(name: str) -> None:
    outcome = list_inbox([name])
    assert outcome.is_complete
    assert (len(outcome.sleeps), outcome.client.calls["listing"]) == (1, CLEAN_CALLS + 1)
    assert outcome.client.throttled_seconds >= 4


@pytest.mark.parametrize("name", THROTTLES)
def test_a17_lasting_throttle_stops_the_account(name: str) -> None:
    outcome = list_inbox([make_fault(name, times=10_000)])
    assert isinstance(outcome.error, errors.ThrottledError)
    assert outcome.error.resume_at is not None
    assert len(outcome.server.log) == 4
    assert max(outcome.sleeps) <= 120


@pytest.mark.parametrize("name", ["business_80001", "business_80002", "business_80006"])
def test_a18_metas_wait_is_obeyed_or_reported(name: str) -> None:
    short = list_inbox([f"{name}:1"])
    assert short.is_complete
    assert short.sleeps == [60.0]
    long = list_inbox([f"{name}:19"])
    assert isinstance(long.error, errors.ThrottledError)
    assert (long.error.wait_seconds, long.sleeps, len(long.server.log)) == (1140.0, [], 1)


def test_a18_repeated_blocks_stop_the_account() -> None:
    def refuse(context: FaultContext) -> Refusal | None:
        return (
            Refusal(613, "no", headers={"Retry-After": "50"}) if context.call.number % 2 else None
        )

    outcome = list_inbox(
        [Fault(FaultKind("often", "", "", refuse=refuse))], account=make_inbox(500)
    )
    assert (outcome.sleeps, len(outcome.ids)) == ([50.0, 50.0], 100)
    assert str(outcome.error).startswith("throttled until 2026-03-10T12:02:30Z: ")


def test_a21_redirect_is_not_followed() -> None:
    outcome = list_inbox(["redirect"])
    assert isinstance(outcome.error, errors.GraphError)
    assert (outcome.server.foreign_calls, len(outcome.server.log)) == ([], 1)


def test_a22_unknown_host_is_unreachable() -> None:
    endpoint = Endpoint(
        "https://graph.nowhere.invalid", "v26.0", "17", "messenger", timeout_seconds=2
    )
    with GraphClient(
        endpoint,
        Credentials("x"),
        NO_LIMIT,
        budget=CallBudget(9),
        clock=Clock(sleep=lambda _: None),
    ) as client:
        with pytest.raises(errors.UnreachableError):
            client.fetch_messages("t_1", "id", 10)
        assert client.calls["edge"] == 5


def test_a22_flapping_name_resolution_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve, asked = socket.getaddrinfo, count()

    def flap(*arguments: Any, **options: Any) -> Any:
        if next(asked) < 2:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return resolve(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", flap)
    outcome = list_inbox()
    assert outcome.is_complete
    assert outcome.client.calls["listing"] == CLEAN_CALLS + 2


def test_a23_unknown_certificate_is_not_retried(tmp_path: Path) -> None:
    outcome = list_inbox(tls=write_certificate(tmp_path))
    assert type(outcome.error) is errors.GraphError
    assert "certificate" in str(outcome.error)
    assert outcome.client.calls["listing"] == 1


@pytest.mark.parametrize("name", ["giant_body", "zip_bomb"])
def test_a24_endless_body_is_cut_off(name: str) -> None:
    outcome = list_inbox([make_fault(name, "70", times=1)])
    assert outcome.is_complete
    assert CLEAN_CALLS < outcome.client.calls["listing"] <= CLEAN_CALLS + 6


def test_a25_proxy_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert list_inbox().is_complete


def test_mixed_faults_lose_nothing() -> None:
    faults = [
        "server_error:0.1",
        "reset:0.05",
        "truncated_json:0.05",
        "throttle_613:0.05",
        "html_200:0.05",
    ]
    outcomes: list[Outcome] = [list_inbox(faults, account=make_inbox(300)) for _ in range(3)]
    assert [outcome.is_complete for outcome in outcomes] == [True] * 3
