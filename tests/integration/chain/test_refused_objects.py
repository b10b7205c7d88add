"""Conversations and messages that the API refuses for a time or for good, through HTTP."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from convo_pipeline.extract.risk import find_risks
from convo_pipeline.lake.store import Store
from tests.support.case_runs import CaseRun, serve_case

PAGE = {"id": "100200300", "name": "Example Bakery"}
HTML = "<html>no</html>"
CONVERSATION_REFUSED = ("conversation_refused",)


def inbox(count: int, *answers: dict[str, Any], messages: int = 25, **others: Any) -> Any:
    """Declare conversations that need calls of their own: they have more than 20 messages."""
    conversations = []
    for index in range(count):
        ada = {"id": f"999{index}", "name": f"Ada {index}"}
        rows = [
            {
                "id": f"m{index}_{number}", "created_time": f"@-{20 + index + number}m",
                "from": ada, "to": {"data": [PAGE]}, "message": "hi",
            }
            for number in range(messages)
        ]  # fmt: skip
        conversations.append(
            {
                "id": f"t_{index}", "updated_time": f"@-{20 + index}m",
                "participants": {"data": [ada, PAGE]}, "messages": rows,
            }
        )  # fmt: skip
    return {
        "platform": "messenger", "page_id": PAGE["id"], "conversations": conversations,
        "answers": list(answers), **others,
    }  # fmt: skip


def error(code: int, subcode: int | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "error_subcode": subcode, "message": "no"}}


def refuse(path: str, status: int = 403, body: Any = None) -> dict[str, Any]:
    return {"path": path, "status": status, "body": error(10) if body is None else body}


def next_day(run: CaseRun, mode: str = "nightly", days: int = 1) -> tuple[Any, int]:
    """Run again after some days; return the report and the number of calls."""
    run.api.now += timedelta(days=days)
    before = len(run.api.calls)
    return run.extract(mode), len(run.api.calls) - before


def whole(run: CaseRun) -> set[str]:
    rows = run.sql("select conversation_id, count(*) from messages group by all")
    return {conversation_id for conversation_id, count in rows if count == 25}


def refused_ids(report: Any) -> set[str]:
    return {each["conversation_id"] for each in report.report["refused"]["first"]}


@pytest.mark.parametrize(
    "bodies",
    [
        (error(10), error(100, 33)),
        pytest.param((HTML, HTML), marks=pytest.mark.slow),
        pytest.param((error(1234567), error(803)), marks=pytest.mark.slow),
    ],
    ids=["codes", "html", "unknown"],
)
def test_twenty_refused_of_a_hundred_cost_no_other_and_two_calls_a_night(
    bodies: tuple[Any, Any], tmp_path: Path
) -> None:
    refusals = [
        refuse(f"{path}{suffix}", 403 if number % 2 else 404, bodies[number % 2])
        for number, path in enumerate(f"t_{index}" for index in range(100) if index % 10 in (1, 2))
        for suffix in ("", "/messages")
    ]
    expected = {f"t_{index}" for index in range(100) if index % 10 in (1, 2)}
    (tmp_path / "idle").mkdir()
    with serve_case(inbox(100), tmp_path / "idle") as run:
        run.extract()
        idle_calls = [next_day(run, days=days)[1] for days in (0, 1, 1)]
    with serve_case(inbox(100, *refusals), tmp_path) as run:
        first = run.extract()
        assert (first.outcome, first.reasons) == ("incomplete", ("conversation_failed",))
        assert len(whole(run)) == 80
        assert refused_ids(first) == expected
        assert "20 conversations" in str(first.error)
        for days, most in zip((0, 1, 1), idle_calls, strict=True):
            report, calls = next_day(run, days=days)
            assert (report.outcome, report.reasons) == ("incomplete", CONVERSATION_REFUSED)
            assert calls <= most + 2
            assert refused_ids(report) == expected
        status = run.run("status").output.replace("\n", " ")
        assert "20 conversations" in status
        assert "no complete run" not in status


def test_refused_objects_are_requested_at_growing_intervals(tmp_path: Path) -> None:
    with serve_case(inbox(3, refuse("t_1/messages"), refuse("t_1")), tmp_path) as run:
        run.extract()
        asked = []
        for day in range(1, 40):
            before = len(run.api.calls)
            report, _ = next_day(run)
            calls = [run.api.path(call) for call in run.api.calls[before:]]
            asked += [day] * any(path.startswith("t_1") for path in calls)
            assert report.reasons == CONVERSATION_REFUSED
        assert asked == [1, 3, 7, 15, 31]


NOON = datetime(2026, 3, 9, 12, tzinfo=UTC)


def test_days_that_may_lack_messages_of_a_refused_conversation_are_not_complete(
    tmp_path: Path,
) -> None:
    """Its newest 20 messages are of today, so days up to today are not complete."""
    refusals = [refuse("t_1/messages"), refuse("t_1")]
    with serve_case(inbox(3, *refusals), tmp_path, NOON) as run, closing(store_of(run)) as store:
        run.extract()
        assert store.state.complete_range("acc") is None
        for _ in range(3):
            next_day(run)
        complete_range = store.state.complete_range("acc")
        assert complete_range is not None
        assert complete_range.since == NOON.date() + timedelta(days=1)
        known_from = run.sql("select known_from from internal.known")
        assert known_from == [(datetime(2026, 3, 11, tzinfo=UTC),)]
        run.api.world["answers"].clear()
        next_day(run, days=30)
        complete_range = store.state.complete_range("acc")
        assert complete_range is not None
        assert complete_range.since < NOON.date()


def test_a_refused_conversation_keeps_coverage_below_100_percent(tmp_path: Path) -> None:
    columns = "share_detailed, incomplete_conversation_count"
    with serve_case(inbox(3, refuse("t_1/messages"), refuse("t_1")), tmp_path, NOON) as run:
        for mode in ("window", "nightly", "full"):
            next_day(run, mode)
            assert run.sql(f"select {columns} from coverage") == [(None, 1)]
        run.api.world["answers"].clear()
        next_day(run, days=30)
        assert run.sql(f"select {columns} from coverage") == [(1.0, 0)]


def test_a_conversation_that_is_refused_by_its_id_only_keeps_coverage_below_100_percent(
    tmp_path: Path,
) -> None:
    """The listing of the second run ends above the conversation, so no response shows it."""
    share = "select incomplete_conversation_count, share_detailed from coverage"
    with serve_case(inbox(60, messages=21), tmp_path, NOON) as run:
        refused = refuse("t_59/messages", 500, error(2))
        run.api.world["answers"] = [refused]
        assert run.extract().outcome == "incomplete"
        refused |= {"status": 400, "body": error(100, 2534001)}
        run.api.world["answers"].append(refuse("t_59"))
        for _ in range(2):
            next_day(run)
            assert run.sql(share) == [(1, None)]
        run.api.world["answers"] = [refuse(path, 404, error(100, 33)) for path in ("t_59",)]
        assert next_day(run, days=30)[0].counts["conversations_vanished"] == 1
        assert run.sql(share) == [(0, 1.0)]


def test_a_refused_conversation_is_among_those_that_may_lose_messages(tmp_path: Path) -> None:
    refusals = [refuse("t_1/messages"), refuse("t_1")]
    with serve_case(inbox(3, *refusals), tmp_path, NOON) as run, closing(store_of(run)) as store:
        for mode in ("window", "capture", "nightly"):
            next_day(run, mode)
            assert find_risks(run.settings, store, "acc").refused_ids == ("t_1",)
        run.api.world["answers"].clear()
        next_day(run, days=30)
        assert find_risks(run.settings, store, "acc").refused_ids == ()


def store_of(run: CaseRun) -> Store:
    return Store(run.settings.store)


def test_an_object_that_is_readable_again_makes_the_run_complete(tmp_path: Path) -> None:
    with serve_case(inbox(3, refuse("t_1/messages"), refuse("t_1")), tmp_path) as run:
        run.extract()
        run.api.world["answers"].clear()
        report, _ = next_day(run)
        assert (report.outcome, report.report["refused"]["count"]) == ("complete", 0)
        assert whole(run) == {"t_0", "t_1", "t_2"}
        assert next_day(run)[0].outcome == "complete"


def test_many_objects_that_are_readable_again_are_read_in_one_run(tmp_path: Path) -> None:
    refusals = [refuse(f"t_{n}{suffix}") for n in range(1, 30) for suffix in ("", "/messages")]
    with serve_case(inbox(40, *refusals), tmp_path) as run:
        run.extract()
        run.api.world["answers"].clear()
        assert next_day(run)[0].outcome == "complete"
        assert len(whole(run)) == 40


def test_a_new_message_ends_the_wait_once(tmp_path: Path) -> None:
    with serve_case(inbox(3, refuse("t_1/messages"), refuse("t_1")), tmp_path) as run:
        run.extract()
        next_day(run)
        conversation = run.api.conversations["t_1"]
        at = (run.api.now + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S+0000")
        conversation["updated_time"] = at
        conversation["messages"].insert(0, conversation["messages"][0] | {
            "id": "new", "created_time": at,
        })  # fmt: skip
        run.api.now += timedelta(hours=2)
        for expected in (1, 0, 0):
            before = len(run.api.calls)
            assert run.extract("capture").reasons == CONVERSATION_REFUSED
            paths = [run.api.path(call) for call in run.api.calls[before:]]
            assert sum(path.startswith("t_1") for path in paths) == expected
        assert run.sql("select count(*) from messages where message_id = 'new'") == [(1,)]


def test_a_refused_message_is_requested_at_growing_intervals(tmp_path: Path) -> None:
    world = inbox(2, message_errors={"m0_3": {"status": 403, "body": error(10)}}, messages=10)
    bare = world["conversations"][0]["messages"][3]
    for key in ("from", "to", "message"):
        del bare[key]
    with serve_case(world, tmp_path) as run:
        report = run.extract()
        assert (report.outcome, report.reasons) == ("incomplete", ("message_failed",))
        asked = []
        for day in range(1, 10):
            before = len(run.api.calls)
            report, _ = next_day(run)
            paths = [run.api.path(call) for call in run.api.calls[before:]]
            asked += [day] * ("m0_3" in paths)
            assert report.reasons == CONVERSATION_REFUSED
        assert asked == [1, 3, 7]
        assert run.sql("select count(*) from messages") == [(20,)]
        del run.api.world["message_errors"]
        run.api.messages["m0_3"]["message"] = "here"
        report, _ = next_day(run, days=30)
        assert report.outcome == "complete"
        assert run.sql("select text from messages where message_id = 'm0_3'") == [("here",)]


def test_a_refused_message_does_not_hide_new_messages_of_its_conversation(tmp_path: Path) -> None:
    world = inbox(1, message_errors={"m0_3": {"status": 403, "body": error(10)}}, messages=10)
    bare = world["conversations"][0]["messages"][3]
    for key in ("from", "to", "message"):
        del bare[key]
    with serve_case(world, tmp_path) as run:
        run.extract()
        conversation = run.api.conversations["t_0"]
        at = (run.api.now + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S+0000")
        conversation["updated_time"] = at
        news = [
            {**conversation["messages"][0], "id": f"new{n}", "created_time": at} for n in range(30)
        ]
        conversation["messages"][:0] = news
        run.api.now += timedelta(hours=2)
        run.extract("capture")
        assert run.sql("select count(*) from messages where message_id like 'new%'") == [(30,)]


def test_a_conversation_that_vanished_is_not_refused(tmp_path: Path) -> None:
    with serve_case(inbox(3, refuse("t_1/messages", 404, error(100, 33))), tmp_path) as run:
        assert "deleted or not visible" in str(run.extract().error)
        run.api.world["conversations"].pop(1)
        run.api.conversations.pop("t_1")
        report, _ = next_day(run)
        assert (report.outcome, report.counts["conversations_vanished"]) == ("complete", 1)
        assert next_day(run)[0].outcome == "complete"


def test_a_conversation_that_vanished_after_a_message_was_refused_is_not_refused(
    tmp_path: Path,
) -> None:
    world = inbox(2, message_errors={"m0_3": {"status": 403, "body": error(10)}}, messages=10)
    bare = world["conversations"][0]["messages"][3]
    for key in ("from", "to", "message"):
        del bare[key]
    with serve_case(world, tmp_path) as run:
        assert run.extract().reasons == ("message_failed",)
        run.api.world["conversations"].pop(0)
        run.api.conversations.pop("t_0")
        report, _ = next_day(run)
        assert (report.outcome, report.counts["conversations_vanished"]) == ("complete", 1)


def test_a_refused_list_is_requested_at_growing_intervals(tmp_path: Path) -> None:
    world = inbox(1, refuse("m0_0/attachments"), messages=3)
    images = [{"id": f"a{n}", "image_data": {"url": "https://cdn.example/a"}} for n in range(25)]
    url = "https://graph.example/m0_0/attachments?after=A"
    world["conversations"][0]["messages"][0]["attachments"] = {
        "data": images, "paging": {"cursors": {"after": "A"}, "next": url},
    }  # fmt: skip
    with serve_case(world, tmp_path) as run:
        assert run.extract().reasons == ("message_failed",)
        asked = []
        for day in range(1, 9):
            before = len(run.api.calls)
            assert next_day(run)[0].reasons == CONVERSATION_REFUSED
            paths = [run.api.path(call) for call in run.api.calls[before:]]
            asked += [day] * ("m0_0/attachments" in paths)
        assert asked == [1, 3, 7]


def test_an_erased_conversation_leaves_the_list_of_refusals(tmp_path: Path) -> None:
    with serve_case(inbox(3, refuse("t_1/messages"), refuse("t_1")), tmp_path) as run:
        run.extract()
        forgotten = run.run("forget", "acc", "9991", "--yes")
        assert forgotten.exit_code == 0, forgotten.output
        report, _ = next_day(run)
        assert (report.outcome, report.report["refused"]["count"]) == ("complete", 0)
        files = [each for each in tmp_path.rglob("*") if each.is_file()]
        assert not [each for each in files if b't_1"' in each.read_bytes()]


BARE = ("from", "to", "message")


def bare_beyond_20(world: dict[str, Any]) -> dict[str, Any]:
    """Leave out the content of the messages beyond the newest 20, as Instagram does."""
    for conversation in world["conversations"]:
        for message in conversation["messages"][20:]:
            for key in BARE:
                del message[key]
    return world


@pytest.mark.parametrize("body", [error(2), error(-1), HTML], ids=["2", "-1", "html"])
def test_a_failing_probe_of_one_old_message_costs_no_id(body: Any, tmp_path: Path) -> None:
    failure = {"status": 500, "body": body}
    errors = {"m0_20": failure} | {f"m0_{n}": {"body": error(9000001)} for n in range(21, 25)}
    world = bare_beyond_20(inbox(1, message_errors=errors))
    with serve_case(world, tmp_path) as run:
        assert run.extract().outcome == "complete"
        assert whole(run) == {"t_0"}


def test_a_probe_that_always_fails_costs_no_id_and_is_repeated(tmp_path: Path) -> None:
    errors = {
        f"m{c}_{n}": {"status": 500, "body": error(2)} for c in range(6) for n in range(20, 25)
    }
    world = bare_beyond_20(inbox(6, message_errors=errors))
    with serve_case(world, tmp_path) as run:
        assert run.extract().reasons == ("message_failed",)
        assert len(whole(run)) == 6
        for n in errors:
            run.api.world["message_errors"][n] = {"body": error(9000001)}
        assert next_day(run)[0].outcome == "complete"


def test_messages_of_an_erased_person_keep_the_ranks_of_the_others(tmp_path: Path) -> None:
    """The API counts them among the newest 20, so their places are not requested again."""
    errors = {f"m0_{n}": {"body": error(9000001)} for n in range(20, 25)}
    world = inbox(1, message_errors=errors)
    conversation, bo = world["conversations"][0], {"id": "888", "name": "Bo"}
    conversation["participants"]["data"].append(bo)
    for message in conversation["messages"][1:9:2]:
        message["from"] = bo
    bare_beyond_20(world)
    with serve_case(world, tmp_path) as run:
        assert run.extract().outcome == "complete"
        assert run.run("forget", "acc", "888", "--yes").exit_code == 0
        for mode in ("nightly", "full"):
            before = len(run.api.calls)
            report, _ = next_day(run, mode)
            assert (report.outcome, report.counts["suppressed_messages"]) == ("complete", 4)
            paths = [run.api.path(call) for call in run.api.calls[before:]]
            assert len([path for path in paths if path.startswith("m0_")]) <= 1, "one probe"
        rows = "select detail_status, count(*) from raw_message_details group by all order by 1"
        assert run.sql(rows) == [("beyond_20", 5), ("detailed", 16)]
        files = [each for each in tmp_path.rglob("*") if each.is_file()]
        assert not [each for each in files if b'"m0_1"' in each.read_bytes()]


ANSWERS = {
    "10": (403, error(10)),
    "10/2534077": (400, error(10, 2534077)),
    "200/2534041": (403, error(200, 2534041)),
    "230": (403, error(230)),
    "3": (400, error(3)),
    "368": (400, error(368)),
    "100": (400, error(100)),
    "100/33": (404, error(100, 33)),
    "803": (404, error(803)),
    "36103": (400, error(36103)),
    "1234567": (400, error(1234567)),
    "in_200": (200, error(10)),
    "html_403": (403, HTML),
    "html_404": (404, HTML),
    "html_500": (500, HTML),
    "2": (500, error(2)),
    "1": (500, error(1)),
    "empty": (200, {}),
    "text": (200, "no"),
    "list_of_text": (200, {"data": "no"}),
}


def test_each_answer_to_an_own_call_costs_its_conversation_alone(tmp_path: Path) -> None:
    """Conversations are refused in turn with those that are readable."""
    answers = dict(zip(range(1, 2 * len(ANSWERS), 2), ANSWERS.values(), strict=True))
    refusals = [
        refuse(f"t_{index}{edge}", *answer)
        for index, answer in answers.items()
        for edge in ("", "/messages")
    ]
    readable = {f"t_{index}" for index in range(0, 2 * len(ANSWERS), 2)}
    with serve_case(inbox(2 * len(ANSWERS), *refusals), tmp_path) as run:
        assert run.extract().outcome == "incomplete"
        assert whole(run) == readable
        counts = dict(run.sql("select conversation_id, count(*) from messages group by all"))
        assert [counts[f"t_{index}"] for index in answers] == [20] * len(ANSWERS)
        run.api.world["answers"].clear()
        assert next_day(run, days=30)[0].outcome == "complete"
        assert len(whole(run)) == 2 * len(ANSWERS)


@pytest.mark.slow
@pytest.mark.parametrize("answer", ANSWERS)
def test_any_answer_to_an_own_call_costs_its_conversation_alone(
    answer: str, tmp_path: Path
) -> None:
    status, body = ANSWERS[answer]
    refusals = [refuse(place, status, body) for place in ("t_1", "t_1/messages")]
    with serve_case(inbox(4, *refusals), tmp_path) as run:
        report = run.extract()
        assert report.outcome == "incomplete"
        assert set(report.reasons) <= {"conversation_failed", "empty_edge"}
        assert whole(run) == {"t_0", "t_2", "t_3"}
        assert ("t_1", 20) in run.sql("select conversation_id, count(*) from messages group by all")
        assert next_day(run)[0].outcome == "incomplete"
        run.api.world["answers"].clear()
        assert next_day(run, days=30)[0].outcome == "complete"
        assert len(whole(run)) == 4


@pytest.mark.parametrize("answer", ["10", "200/2534041", "100", "368", "1234567", "html_403", "1"])
def test_any_answer_to_a_messages_own_call_costs_it_alone(answer: str, tmp_path: Path) -> None:
    status, body = ANSWERS[answer]
    world = inbox(2, messages=5, message_errors={"m0_3": {"status": status, "body": body}})
    bare = world["conversations"][0]["messages"][3]
    for key in BARE:
        del bare[key]
    with serve_case(world, tmp_path) as run:
        report = run.extract()
        assert (report.outcome, report.reasons) == ("incomplete", ("message_failed",))
        detailed = "select count(*) from messages where detail_status = 'detailed'"
        assert run.sql(detailed) == [(9,)]
        report, _ = next_day(run)
        assert report.outcome == "incomplete"


@pytest.mark.parametrize("nested", [error(10), error(100, 33), {"data": []}, {}, None, "no", 5])
def test_messages_that_are_no_list_are_read_by_a_call_of_its_own(
    nested: Any, tmp_path: Path
) -> None:
    broken = {"conversation": "t_1", "times": 1, "body": nested}
    with serve_case(inbox(3, nested_error=broken), tmp_path) as run:
        run.extract()
        run.extract()
        assert len(whole(run)) == 3
