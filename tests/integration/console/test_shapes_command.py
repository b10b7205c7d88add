"""`convo-pipeline shapes`: the report over a real lake, and what it never shows."""

import json
from pathlib import Path
from typing import Any

from tests.support.case_runs import serve_case

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
    with serve_case(world(reactions={"data": [{"voice_reaction": 1}]}), tmp_path) as run:
        run.extract()
        shown = run.run("shapes")
        assert shown.exit_code == 0
        assert "message: 1" in shown.output
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
        census = json.loads(run.run("shapes", "--format", "json").output)
        assert census["responses"] == {"conversation": 1, "message": 1}


def test_an_empty_lake_says_what_to_run(tmp_path: Path) -> None:
    with serve_case(world(), tmp_path) as run:
        assert "convo-pipeline extract" in run.run("shapes").output
