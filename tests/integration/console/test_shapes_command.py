"""`convo-pipeline shapes`: the report over a real lake, and what it never shows."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from convo_pipeline.base.clock import Clock
from convo_pipeline.extract.account import open_client
from convo_pipeline.graph.shapes import Census, render
from convo_pipeline.lake.store import Store
from tests.support.case_runs import TOKEN_VARIABLE, read_case, serve_case
from tests.support.raw_days import read_sample

CANARY = "Zqxv-canary-7731"


def world(**extra: object) -> dict[str, Any]:
    page = {"id": "100200300", "name": f"Bakery {CANARY}"}
    ada = {"id": "9990000000000777", "name": f"Ada {CANARY}"}
    message = {
        "id": f"m_{CANARY}", "created_time": "@-10m", "from": ada, "to": {"data": [page]},
        "message": f"my secret {CANARY}",
        "attachments": {"data": [{"type": "hologram", "name": CANARY, "file_url": CANARY}]},
        "tags": {"data": [{"name": CANARY}]}, **extra,
    }  # fmt: skip
    conversation = {
        "id": f"t_{CANARY}", "updated_time": "@-10m", "participants": {"data": [ada, page]},
        "messages": [message],
    }  # fmt: skip
    return {"platform": "messenger", "page_id": "100200300", "conversations": [conversation]}


def test_the_report_shows_shapes_and_marks_what_is_unknown(tmp_path: Path) -> None:
    with serve_case(world(reactions={"data": [{"id": "1", "voice_reaction": 1}]}), tmp_path) as run:
        run.extract()
        shown = run.run("shapes")
        assert shown.exit_code == 0
        assert "raw_message_details: 1" in shown.output
        assert "listing: 1 (HTTP 200 1)" in shown.output
        assert "  from.id: string 1" in shown.output
        assert "! reactions.data[].voice_reaction: integer 1" in shown.output
        assert "values !<other>:1" in shown.output


def test_nothing_personal_is_in_the_report(tmp_path: Path) -> None:
    with serve_case(world(), tmp_path) as run:
        run.extract()
        for form in ("text", "json"):
            shown = run.run("shapes", "--format", form).output
            for secret in (CANARY, "9990000000000777", "100200300"):
                assert secret not in shown
        census = json.loads(run.run("shapes", "--json").output)
        stored = {"raw_conversations": 1, "raw_message_details": 1}
        assert census["responses"] == stored | {"listing": 1}


def with_canaries(value: Any, is_key: bool = False) -> Any:
    """Return a body with a canary in each text, and in each key that names no structure."""
    if isinstance(value, dict):
        marked = {f"{key}{CANARY}": with_canaries(item, is_key) for key, item in value.items()}
        whole = {key: with_canaries(item, is_key) for key, item in value.items()}
        return whole | marked if is_key else whole
    if isinstance(value, list):
        return [with_canaries(item, is_key) for item in value]
    is_needed = isinstance(value, str) and value.startswith(("@", "20"))
    return value if is_needed or isinstance(value, bool | int | None) else f"{value} {CANARY}"


@pytest.mark.parametrize("is_key", [False, True])
@pytest.mark.parametrize("number", ["01", "08", "10", "23", "25", "28", "30"])
def test_no_canary_of_any_endpoint_is_in_the_report(
    number: str, is_key: bool, tmp_path: Path
) -> None:
    case = read_case(number)["world"]
    case["conversations"] = with_canaries(case["conversations"], is_key)
    error = {
        "code": 10, "error_subcode": 7, "message": CANARY, "type": CANARY, "fbtrace_id": CANARY,
        "error_user_title": CANARY, "error_user_msg": CANARY, "error_data": {CANARY: CANARY},
    }  # fmt: skip
    for answer in case.get("answers", ()):
        answer["body"] = with_canaries(answer["body"], is_key)
    found = {"path": f"{case['page_id']}/conversations", "user_id": "7", "status": 400}
    case["answers"] = [found | {"body": {"error": error}}, *case.get("answers", ())]
    with serve_case(case, tmp_path) as run:
        run.extract()
        run.run("find", "acc", "7")
        text, document = (run.run("shapes", "--format", each).output for each in ("text", "json"))
        assert CANARY not in text
        assert CANARY not in document
        assert "find: 1 (HTTP 400 1)" in text
        assert "error.code: integer 1; values 10:1" in text
        with closing(Store(run.settings.store)) as store:
            assert CANARY not in json.dumps(store.state.census("acc"))
            assert Census.from_json(store.state.census("acc")).responses["listing"] > 0


@pytest.mark.parametrize("is_key", [False, True])
def test_no_canary_of_debug_token_is_in_a_census(is_key: bool, tmp_path: Path) -> None:
    served = world() | {
        "answers": [
            {"path": "debug_token", "body": with_canaries(read_sample(33), is_key)},
            {"path": "me/accounts", "body": {"data": [{"id": CANARY, "access_token": CANARY}]}},
        ]
    }
    with serve_case(served, tmp_path) as run, closing(Store(run.settings.store)) as store:
        environ, clock = {TOKEN_VARIABLE: "EAAInvented"}, Clock(now=lambda: run.api.now)
        with open_client(run.settings, store, run.settings.accounts[0], environ, clock) as client:
            client.fetch_token()
            client.fetch_pages()
        shown = json.dumps(client.census.to_json()) + render(client.census)
        assert CANARY not in shown
        assert "granular_scopes" in shown


def test_errors_are_counted_by_endpoint(tmp_path: Path) -> None:
    declared = world()
    declared["answers"] = [
        {"path": "*", "times": 1, "status": 500, "body": {"error": {"code": 2, "message": "x"}}},
        {"path": "*", "times": 1, "status": 400, "body": {"error": {"code": 98765}}},
    ]
    with serve_case(declared, tmp_path) as run:
        run.extract()
        shown = run.run("shapes").output
        assert "HTTP 400 1" in shown
        assert "HTTP 500 1" in shown
        assert "! error.code: integer 2; length" not in shown
        assert "!98765:1" in shown


def test_the_census_of_several_runs_adds_up(tmp_path: Path) -> None:
    with serve_case(world(), tmp_path) as run:
        for mode in ("window", "nightly", "full"):
            run.extract(mode)
        calls = sum(len(report.calls) and sum(report.calls.values()) for report in run.reports)
        with closing(Store(run.settings.store)) as store:
            census = Census.from_json(store.state.census("acc"))
        assert sum(census.responses.values()) == calls


def test_an_empty_lake_says_what_to_run(tmp_path: Path) -> None:
    with serve_case(world(), tmp_path) as run:
        assert "convo-pipeline extract" in run.run("shapes").output
