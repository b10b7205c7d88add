"""The checks of `coverage` on what is not known: directions, and shapes of the API."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.checks import CHECKS, SHAPES_CHECK, evaluate_checks
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.names import UNPREFIXED
from tests.support.case_runs import ACCOUNT, TOKEN_VARIABLE, CaseRun, serve_case
from tests.support.case_worlds import REFUSED, instagram, me, message, people

DIRECTIONS = next(check for check in CHECKS if check.name == "directions_are_known")
TOLD = me({"user_id": "9", "username": "user9"})
INBOUND = message("b", "1", "9")
CANARY = "Zqxv-canary-7731"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def evaluate(run: CaseRun, instance: dg.DagsterInstance, key: dg.AssetCheckKey) -> Any:
    """Evaluate one check for all stored days, and keep the evaluation."""
    deployment = Deployment(run.settings, environ={TOKEN_VARIABLE: "EAAInvented"})
    with closing(Store(run.settings.store)) as store:
        keys = [f"{ACCOUNT}|{day}" for day in store.days("coverage", ACCOUNT)]
        (result,) = evaluate_checks(deployment, store, instance, keys, {key})
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=key.asset_key, check_name=key.name, passed=result.passed,
            severity=result.severity, metadata=result.metadata, description=result.description,
        )
    )  # fmt: skip
    return result


def pair(**others: Any) -> dict[str, Any]:
    return {"participants": people("9", "1"), "messages": [message("a", "9", "1") | others]}


OTHERS = (
    *({"participants": people("9", each), "messages": [message(each, each, "9")]} for each in "23"),
    {"participants": people("5", "6"), "messages": [message("d", "5", "6")]},
)


@pytest.mark.parametrize(
    "world",
    [
        instagram(pair(), answers=[REFUSED]),
        instagram(pair(), answers=[me({"id": "26000000000000001"})]),
        instagram(pair(), *OTHERS, answers=[TOLD]),
    ],
    ids=["refused", "app-scoped", "a conversation without the account"],
)  # fmt: skip
def test_messages_without_direction_are_told_with_account_and_remedy(
    world: dict[str, Any], tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    with serve_case(world, tmp_path) as run:
        run.extract()
        assert run.sql("select sum(unknown_direction_count) from coverage") == [(1,)]
        result = evaluate(run, instance, DIRECTIONS.key(UNPREFIXED))
        assert not result.passed
        assert result.severity == dg.AssetCheckSeverity.WARN
        (row,) = result.metadata["red"].records
        assert row.data["account"] == ACCOUNT
        assert "`convo-pipeline check`" in str(row.data["why"])
        for command in ("status", "check"):
            shown = " ".join(run.run(command).output.split())
            assert "no direction for 1 message" in shown
            assert "instagram_business_basic" in shown or command == "status"


def test_the_check_passes_when_the_own_id_is_known(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = instagram(pair(), answers=[REFUSED | {"times": 3}, TOLD])
    with serve_case(world, tmp_path) as run:
        run.extract()
        assert not evaluate(run, instance, DIRECTIONS.key(UNPREFIXED)).passed
        run.extract("nightly")
        assert evaluate(run, instance, DIRECTIONS.key(UNPREFIXED)).passed
        assert "no direction" not in run.run("status").output


def test_a_message_without_sender_is_counted_and_warns_of_nothing(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = instagram(
        {
            "participants": people("9", "1"),
            "messages": [message("a", None), INBOUND],
        },
        answers=[TOLD],
    )
    with serve_case(world, tmp_path) as run:
        run.extract()
        assert run.sql("select unknown_direction_count from coverage") == [(1,)]
        assert evaluate(run, instance, DIRECTIONS.key(UNPREFIXED)).passed


HOLOGRAM = {"attachments": {"data": [{"type": "hologram", "payload": {"url": CANARY}}]}}


@pytest.mark.parametrize(
    ("extra", "shape"),
    [
        ({"voice_transcript": {"text": CANARY}}, "messages.voice_transcript"),
        (HOLOGRAM, "attachments.type = <other>"),
        ({CANARY: CANARY}, "<unknown key>"),
        ({"shares": {"data": [{"id": "1", "poll_id": CANARY}]}}, "shares.poll_id"),
    ],
)
def test_an_unknown_shape_is_told_once(
    extra: dict[str, Any], shape: str, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = instagram(pair(), answers=[TOLD])
    with serve_case(world, tmp_path) as run:
        run.extract()
        assert evaluate(run, instance, SHAPES_CHECK.key(UNPREFIXED)).passed
        run.api.messages["a"] |= extra
        run.api.select = lambda row, fields: row
        run.extract("full")
        result = evaluate(run, instance, SHAPES_CHECK.key(UNPREFIXED))
        assert not result.passed
        assert result.severity == dg.AssetCheckSeverity.WARN
        assert shape in str(result.description)
        assert "`convo-pipeline shapes`" in str(result.description)
        assert CANARY not in str(result)
        run.extract("full")
        assert evaluate(run, instance, SHAPES_CHECK.key(UNPREFIXED)).passed
        run.api.messages["a"]["new_reaction"] = 1
        run.extract("full")
        again = evaluate(run, instance, SHAPES_CHECK.key(UNPREFIXED))
        assert "new_reaction" in str(again.description)
        assert shape not in str(again.description)


def test_an_unknown_error_code_is_told(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    refusal = {"path": "c0/messages", "status": 400, "body": {"error": {"code": 98765}}}
    long = {"participants": people("9", "1"), "messages": [
        message(f"m{number}", "9", "1") for number in range(30)
    ]}  # fmt: skip
    with serve_case(instagram(long, answers=[TOLD, refusal]), tmp_path) as run:
        run.extract()
        found = evaluate(run, instance, SHAPES_CHECK.key(UNPREFIXED))
        assert "edge.error.code = 98765" in str(found.description)


def test_unknown_kinds_of_attachments_are_counted(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    with serve_case(instagram(pair(**HOLOGRAM), answers=[TOLD]), tmp_path) as run:
        run.extract()
        assert run.sql("select unknown_kind_count from coverage") == [(1,)]
        assert CANARY in str(run.sql("select url, extra from attachments"))
        result = evaluate(run, instance, SHAPES_CHECK.key(UNPREFIXED))
        assert result.metadata["unknown_kind_count"].value == 1
