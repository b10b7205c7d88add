"""Lists inside conversations and messages that go on (`paging.next`), through HTTP."""

from pathlib import Path
from typing import Any

import pytest

from convo_pipeline.extract.nested_lists import DOUBTFUL_AFTER, MOST_DOUBTFUL
from tests.support.case_runs import ACCOUNT, CaseRun, serve_case

PAGE = {"id": "100200300", "name": "Example Bakery"}
ADA = {"id": "9990000000000777", "name": "Ada Invented"}
PEOPLE = {"data": [ADA, PAGE]}


def cut(rows: list[Any], after: str | None = "A") -> dict[str, Any]:
    """Return a list that has a next page; without `after` the next page has no cursor."""
    url = "https://graph.facebook.com/v26.0/m/edge?limit=25"
    if after is None:
        return {"data": rows, "paging": {"next": url}}
    return {"data": rows, "paging": {"cursors": {"after": after}, "next": f"{url}&after={after}"}}


def attachments(first: int, last: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"a{n}",
            "mime_type": "image/jpeg",
            "image_data": {"url": f"https://cdn.example/{n}"},
        }
        for n in range(first, last)
    ]


def people(count: int) -> list[dict[str, Any]]:
    return [{"id": f"7{n:03}", "name": f"P{n}"} for n in range(count)]


def world(*answers: dict[str, Any], participants: Any = PEOPLE, **parts: Any) -> dict[str, Any]:
    """Declare one conversation with one message that has these parts."""
    message = {"id": "m1", "created_time": "@-90m", "from": ADA, "to": {"data": [PAGE]}} | parts
    conversation = {"id": "t_1", "updated_time": "@-90m", "participants": participants}
    return {
        "platform": "messenger", "page_id": PAGE["id"], "answers": list(answers),
        "conversations": [conversation | {"messages": [message]}],
    }  # fmt: skip


def answer(edge: str, body: Any, status: int = 200, **others: Any) -> dict[str, Any]:
    return {"path": edge, "body": body, "status": status, **others}


def refusal(code: int) -> dict[str, Any]:
    return {"error": {"code": code, "message": "no", "type": "OAuthException"}}


LISTS = [
    ("attachments", attachments(0, 25), attachments(25, 30), "attachment_count", 30),
    ("shares", [{"id": f"s{n}"} for n in range(25)], [{"id": "s25"}], "share_count", 26),
    (
        "reactions",
        [{"reaction": "x", "users": [{"id": f"u{n}"}]} for n in range(25)],
        [{"reaction": "x", "users": [{"id": "u25"}]}],
        "reaction_count",
        26,
    ),
    ("to", people(25), [PAGE], "len(recipient_ids)", 26),
    ("tags", [{"name": f"n{n}"} for n in range(25)], [{"name": "sent"}], "len(tags)", 26),
]


@pytest.mark.parametrize(("name", "head", "rest", "count", "expected"), LISTS)
def test_every_list_of_a_message_is_read_to_its_end(
    name: str, head: list[Any], rest: list[Any], count: str, expected: int, tmp_path: Path
) -> None:
    served = world(answer(f"m1/{name}", {"data": rest}), **{name: cut(head), "message": "hi"})
    with serve_case(served, tmp_path) as run:
        assert run.extract().outcome == "complete"
        assert run.sql(f"select {count}, problem, extra from messages") == [(expected, None, None)]
        assert run.extract("full").outcome == "complete"
        assert run.sql(f"select {count}, problem from messages") == [(expected, None)]
        assert run.run("verify").exit_code == 0


def test_a_list_of_several_pages_is_read_over_an_empty_one(tmp_path: Path) -> None:
    pages = [
        answer("m1/attachments", cut(attachments(25, 50), "B"), times=1),
        answer("m1/attachments", cut([], "C"), times=1),
        answer("m1/attachments", {"data": attachments(50, 52)}, times=1),
    ]
    with serve_case(world(*pages, attachments=cut(attachments(0, 25))), tmp_path) as run:
        assert run.extract().outcome == "complete"
        assert run.sql("select attachment_count, problem from messages") == [(52, None)]
        asked = [call for call in run.api.calls if "attachments" in run.api.path(call)]
        assert [call.parameters["after"] for call in asked] == ["A", "B", "C"]


def test_a_short_list_with_a_next_page_is_read_on(tmp_path: Path) -> None:
    served = world(
        answer("m1/attachments", {"data": attachments(3, 5)}), attachments=cut(attachments(0, 3))
    )
    with serve_case(served, tmp_path) as run:
        assert run.extract().outcome == "complete"
        assert run.sql("select attachment_count, problem from messages") == [(5, None)]


@pytest.mark.parametrize("code", [1, 2, 10, 200, 100, 368, 803, 1234567])
def test_a_list_that_cannot_be_read_on_is_marked_and_costs_nothing_else(
    code: int, tmp_path: Path
) -> None:
    refused = answer("m1/attachments", refusal(code), 500 if code < 10 else 403)
    served = world(refused, attachments=cut(attachments(0, 25)), message="hi")
    with serve_case(served, tmp_path) as run:
        assert run.extract().outcome == "incomplete"
        query = "select text, attachment_count, problem from messages"
        assert run.sql(query) == [("hi", 25, "list_cut")]
        refused |= {"body": {"data": attachments(25, 26)}, "status": 200}
        run.api.world["answers"][0] |= refused
        run.extract("full")
        assert run.sql(query) == [("hi", 26, None)]


@pytest.mark.parametrize(
    "body",
    [cut([{"id": "a0"}], "A"), cut([], "A"), {"data": "nothing"}, "<html>"],
    ids=["same_page", "same_cursor", "no_list", "html"],
)
def test_a_list_that_does_not_end_is_marked(body: object, tmp_path: Path) -> None:
    served = world(answer("m1/attachments", body), attachments=cut(attachments(0, 25)))
    with serve_case(served, tmp_path) as run:
        assert run.extract().outcome == "incomplete"
        assert run.sql("select attachment_count, problem from messages") == [(25, "list_cut")]
        assert len([path for path in run.paths() if "attachments" in path]) <= 5


def test_a_list_with_ever_new_cursors_is_bounded(tmp_path: Path) -> None:
    pages = [
        answer("m1/attachments", cut(attachments(25 + n, 26 + n), f"C{n}"), times=1)
        for n in range(150)
    ]
    with serve_case(world(*pages, attachments=cut(attachments(0, 25))), tmp_path) as run:
        run.extract()
        ((count, problem),) = run.sql("select attachment_count, problem from messages")
        assert (count, problem) == (125, "list_cut")


@pytest.mark.parametrize("count", [30, 20])
def test_a_list_without_a_usable_cursor_is_read_from_its_first_page(
    count: int, tmp_path: Path
) -> None:
    """A list that lacks items of the first response is not whole."""
    head = answer("m1/attachments", {"data": attachments(0, count)})
    with serve_case(world(head, attachments=cut(attachments(0, 25), None)), tmp_path) as run:
        report = run.extract()
        found = run.sql("select attachment_count, problem from messages")
        right = (30, None, "complete") if count == 30 else (25, "list_cut", "incomplete")
        assert (*found[0], report.outcome) == right
        assert all("after" not in call.parameters for call in run.api.calls)


@pytest.mark.parametrize("data", [{}, {"data": attachments(0, 1)}])
@pytest.mark.parametrize("is_refused", [False, True])
def test_an_error_in_the_place_of_a_list_is_not_an_empty_list(
    is_refused: bool, data: dict[str, Any], tmp_path: Path
) -> None:
    own = answer("m1/attachments", {"data": attachments(0, 3)})
    refused = answer("m1/attachments", refusal(10), 403)
    served = world(refused if is_refused else own, attachments=refusal(2) | data, message="hi")
    with serve_case(served, tmp_path) as run:
        report = run.extract()
        found = run.sql("select text, attachment_count, problem from messages")
        if is_refused:
            assert (report.outcome, found) == ("incomplete", [("hi", len(data), "list_cut")])
        else:
            assert (report.outcome, found) == ("complete", [("hi", 3, None)])


def test_a_list_that_was_absent_before_is_marked_if_it_cannot_be_read_on(tmp_path: Path) -> None:
    served = world(answer("m1/attachments", refusal(100), 404), message="hi")
    with serve_case(served, tmp_path) as run:
        run.extract()
        assert run.sql("select attachment_count, problem from messages") == [(0, None)]
        run.api.messages["m1"]["attachments"] = cut(attachments(0, 25))
        run.extract("full")
        assert run.sql("select attachment_count, problem from messages") == [(25, "list_cut")]


def test_a_whole_list_is_not_replaced_by_a_part_of_it(tmp_path: Path) -> None:
    rest = answer("m1/attachments", {"data": attachments(25, 30)}, times=1)
    gone = answer("m1/attachments", refusal(100), 404)
    with serve_case(world(rest, gone, attachments=cut(attachments(0, 25))), tmp_path) as run:
        assert run.extract().outcome == "complete"
        run.extract("full")
        assert run.sql("select attachment_count, problem from messages") == [(30, None)]


class KilledError(BaseException):
    """The process was killed."""


def test_a_kill_between_the_two_records_of_a_list_leaves_it_marked_until_it_is_read(
    tmp_path: Path,
) -> None:
    rest = answer("m1/attachments", {"data": attachments(25, 30)})
    served = world(rest, attachments=cut(attachments(0, 25)), message="hi")
    query = "select text, attachment_count, problem from messages"
    with serve_case(served, tmp_path) as run:

        def kill() -> None:
            if any("attachments" in path for path in run.paths()):
                raise KilledError

        run.on_time = kill
        with pytest.raises(KilledError):
            run.extract()
        run.on_time = lambda: None
        run.api.world["answers"].insert(0, answer("*", refusal(190), 400))
        assert run.extract().reasons == ("token",)
        assert run.sql(query) == [("hi", 25, "list_cut")]
        run.api.world["answers"].pop(0)
        assert run.extract("capture").outcome == "complete"
        assert run.sql(query) == [("hi", 30, None)]
        assert run.run("verify").exit_code == 0


def with_shares(count: int) -> dict[str, Any]:
    """Declare messages with one share each, cursors and a `next`, as one real answer (FACTS 4)."""
    messages = [
        {
            "id": f"m{n}", "created_time": f"@-{90 + n}m", "from": ADA, "to": {"data": [PAGE]},
            "shares": cut([{"id": f"s{n}", "link": "https://example.org/"}]),
        }
        for n in range(count)
    ]  # fmt: skip
    served = world()
    served["conversations"][0]["messages"] = messages
    return served


def test_shares_whose_next_page_is_empty_are_read_on_once(tmp_path: Path) -> None:
    with serve_case(with_shares(15), tmp_path) as run:
        assert run.extract().outcome == "complete"
        assert run.sql("select distinct share_count, problem from messages") == [(1, None)]
        asked = [path for path in run.paths() if path.endswith("shares")]
        assert len(asked) == 15
        run.extract("full")
        assert len([path for path in run.paths() if path.endswith("shares")]) == 15 + 3


def test_one_share_with_a_real_next_page_among_empty_ones_is_whole(tmp_path: Path) -> None:
    served = with_shares(15)
    served["answers"].append(answer("m9/shares", {"data": [{"id": "more"}]}))
    with serve_case(served, tmp_path) as run:
        assert run.extract().outcome == "complete"
        query = "select message_id from messages where share_count = 2 and problem is null"
        assert run.sql(query) == [("m9",)]


def test_more_doubtful_lists_than_a_run_reads_on_are_marked(tmp_path: Path) -> None:
    count = DOUBTFUL_AFTER + MOST_DOUBTFUL + 7
    with serve_case(with_shares(count), tmp_path) as run:
        assert run.extract().outcome == "complete"
        marked = "select count(*) from messages where problem = 'list_cut'"
        assert run.sql(marked) == [(7,)]
        run.extract("full")
        assert run.sql(marked) == [(0,)]
        assert len([path for path in run.paths() if path.endswith("shares")]) <= count + 3


def test_participants_that_cannot_be_read_on_cost_no_message(tmp_path: Path) -> None:
    refused = answer("t_1/participants", refusal(10), 403)
    with serve_case(world(refused, participants=cut(people(25))), tmp_path) as run:
        assert run.extract().outcome == "incomplete"
        assert run.sql("select count(*) from messages") == [(1,)]
        query = "select participant_count, has_more_participants from conversation_days"
        assert run.sql(query) == [(27, True)]
        run.api.world["answers"][0] |= {"body": {"data": people(26)[25:]}, "status": 200}
        run.extract("full")
        assert run.sql(query) == [(28, False)]


def test_an_erased_person_leaves_the_later_pages_too(tmp_path: Path) -> None:
    rest = [{"id": "7999", "name": "Eve Canary"}]
    served = world(
        answer("t_1/participants", {"data": rest}),
        answer("m1/to", {"data": rest}),
        participants=cut(people(25)),
        to=cut(people(25)),
    )
    with serve_case(served, tmp_path) as run:
        run.extract()
        assert "Eve Canary" in str(run.sql("select name from participants"))
        forgotten = run.run("forget", ACCOUNT, "7999", "--yes")
        assert forgotten.exit_code == 0, forgotten.output
        run.extract("full")
        assert "Canary" not in str(run.sql("select name from participants"))
        assert all(b"Canary" not in each.read_bytes() for each in files(run))


def files(run: CaseRun) -> list[Path]:
    return [each for each in run.config.parent.rglob("*") if each.is_file()]


def test_users_of_a_reaction_that_go_on_are_marked(tmp_path: Path) -> None:
    reaction = {"reaction": "love", "users": cut([{"id": "u1"}, {"id": "u2"}])}
    with serve_case(world(reactions={"data": [reaction]}), tmp_path) as run:
        run.extract()
        query = "select reaction_count, problem, extra from messages"
        assert run.sql(query) == [(2, "list_cut", None)]
