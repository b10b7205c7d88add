"""What `check` says about setups as users reported them: each finding names the next step."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.case_runs import CaseRun, serve_case
from tests.support.case_worlds import instagram, me, message, people, refusal

PAGE = "100200300"


def messenger(**others: Any) -> dict[str, Any]:
    customer, page = {"id": "7", "name": "Ada"}, {"id": PAGE, "name": "Bakery"}
    row = {"id": "m", "created_time": "@-9m", "from": customer, "to": {"data": [page]}}
    conversation = {
        "id": "t", "updated_time": "@-9m", "participants": {"data": [customer, page]},
        "messages": [row | {"message": "hi"}],
    }  # fmt: skip
    return {
        "platform": "messenger", "page_id": PAGE, "conversations": [conversation], **others,
    }  # fmt: skip


LOGIN = instagram({"participants": people("9", "1"), "messages": [message("a", "9", "1")]})


def everywhere(body: object, status: int = 400) -> dict[str, Any]:
    return {"path": "*", "status": status, "body": body}


def error(code: int, text: str, kind: str = "OAuthException", **others: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": text, "type": kind, **others}}


def shown(run: CaseRun, *words: str) -> str:
    return " ".join(run.run("check", *words).output.split())


UNSUPPORTED = error(100, "Unsupported request - method type: get", "IGApiException")
WRONG_PROOF = error(100, "Invalid appsecret_proof provided in the API argument")
NO_PROOF = error(100, "API calls from the server require an appsecret_proof argument")
BAD_TOKEN = error(190, "Invalid OAuth access token - Cannot parse access token")

REMEDIES: dict[str, tuple[dict[str, Any], str, str]] = {
    # name: (inbox, words of the finding, words of the remedy)
    "tester's invitation is pending": (
        LOGIN | {"answers": [everywhere(UNSUPPORTED)]}, "invitation", "Tester invites",
    ),
    "tester's invitation is pending, in another language": (
        LOGIN | {"answers": [everywhere(error(100, "Solicitud no admitida", "IGApiException"))]},
        "invitation", "Tester invites",
    ),
    "the account may be read, its inbox not": (
        LOGIN | {"answers": [{"path": "me/conversations", "status": 403, "body": refusal(200)}]},
        "Advanced Access", "Tester invites",
    ),
    "the app is not live: an empty inbox": (
        LOGIN | {"conversations": []}, "the inbox is empty", "switch the app to Live",
    ),
    "the app is not live: an empty inbox of a Page": (
        messenger(conversations=[]), "the inbox is empty", "switch the app to Live",
    ),
    "the app is not live: 200": (
        messenger(answers=[everywhere(error(200, "API access blocked."), 403)]),
        "it is not live", "switch the app to Live",
    ),
    "the app is not live: 3": (
        messenger(answers=[everywhere(error(3, "Application does not have the capability"))]),
        "it is not live", "switch the app to Live",
    ),
    "another app's secret": (
        messenger(answers=[everywhere(WRONG_PROOF)]), "the app secret", "App settings, Basic",
    ),
    "no app secret": (
        messenger(answers=[everywhere(NO_PROOF)]), "the app secret is missing", "`app_secret_env`",
    ),
    "another app's secret, Instagram Login": (
        LOGIN | {"answers": [everywhere(WRONG_PROOF)]}, "the app secret",
        "API setup with Instagram login",
    ),
    "a token of Instagram Login at a Page": (
        messenger(answers=[everywhere(BAD_TOKEN)]), "not at this host", "graph.instagram.com",
    ),
    "a Page's token at Instagram Login": (
        LOGIN | {"answers": [everywhere(BAD_TOKEN, 401)]}, "not at this host",
        "graph.facebook.com",
    ),
    "an Instagram account's id in the place of the Page's": (
        messenger(
            answers=[
                {"path": PAGE, "status": 400,
                 "body": error(100, "(#100) Tried accessing nonexisting field (category)")}
            ]
        ),
        f"page_id {PAGE} is not a Page", "About, Page transparency",
    ),
    "a Page's id in the place of the Instagram account's": (
        LOGIN | {"answers": [everywhere(refusal(100, 33), 404)]}, "does not exist",
        'page_id = "me"',
    ),
    "a user's token": (
        messenger(answers=[everywhere(error(210, "A page access token is required"))]),
        "a Page token is needed", "/me/accounts",
    ),
    "a system user's token": (
        messenger(answers=[everywhere(error(190, "x", error_subcode=2069032))]),
        "a Page token is needed", "/me/accounts",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REMEDIES)
def test_a_finding_names_the_cause_and_the_next_step(name: str, tmp_path: Path) -> None:
    world, cause, step = REMEDIES[name]
    with serve_case(world, tmp_path) as run:
        text = shown(run)
        assert cause in text
        assert step in text
        assert run.run("check").exit_code == 1
        assert "EAAInvented" not in text


def test_a_run_has_its_own_reason_for_a_wrong_app_secret(tmp_path: Path) -> None:
    with serve_case(messenger(answers=[everywhere(WRONG_PROOF)]), tmp_path) as run:
        assert run.extract().reasons == ("app_secret",)
        assert "the app secret is missing or belongs to another app" in run.run("status").output


def second_account(run: CaseRun, page_id: str) -> None:
    """Add an account `other` with this page_id to the configuration."""
    text = run.config.read_text()
    block = text[text.index("[[accounts]]") :].replace('name = "acc"', 'name = "other"')
    block = re.sub(r'page_id = "\d+"', f'page_id = "{page_id}"', block)
    run.config.write_text(text + block)


COVERS_OTHER = {
    "debug_token names the Page": [
        {"path": "debug_token",
         "body": {"data": {"type": "PAGE", "profile_id": "555", "is_valid": True, "scopes": []}}},
    ],
    "debug_token names the Page in the scopes": [
        {"path": "debug_token", "body": {"data": {"type": "PAGE", "is_valid": True, "scopes": [],
         "granular_scopes": [{"scope": "pages_messaging", "target_ids": ["555"]}]}}},
    ],
    "debug_token is refused, the Page is not visible": [
        {"path": "debug_token", "status": 400, "body": refusal(100)},
        {"path": PAGE, "status": 400, "body": refusal(100, 33)}, me({"id": "555"}),
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", COVERS_OTHER)
def test_swapped_ids_name_the_other_account(case: str, tmp_path: Path) -> None:
    with serve_case(messenger(answers=COVERS_OTHER[case]), tmp_path) as run:
        second_account(run, "555")
        text = shown(run, "acc")
        assert "the one of the account other" in text
        assert "exchange `page_id` or `token_env`" in text


def test_a_token_of_a_page_without_account_is_no_swap(tmp_path: Path) -> None:
    answers = COVERS_OTHER["debug_token names the Page"]
    with serve_case(messenger(answers=answers), tmp_path) as run:
        text = shown(run)
        assert "does not cover this Page (it covers 555)" in text


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 400, "body": refusal(100, 2018001)},
        {"status": 404, "body": refusal(100, 2018001)},
        {"status": 400, "body": refusal(100, 33)},
        {"status": 400, "body": refusal(551)},
        {"status": 400, "body": refusal(100)},
        {"body": {"data": []}},
        {"body": []},
    ],
)
def test_find_of_somebody_without_a_conversation_exits_with_3(
    answer: dict[str, Any], tmp_path: Path
) -> None:
    found = {"path": f"{PAGE}/conversations", "user_id": "77", **answer}
    with serve_case(messenger(answers=[found]), tmp_path) as run:
        result = run.run("find", "acc", "77")
        assert result.exit_code == 3
        assert "no conversation with 77" in result.output


@pytest.mark.parametrize("body", [refusal(100, 33), refusal(100), refusal(10), refusal(200)])
def test_find_in_a_refused_inbox_is_an_error(body: object, tmp_path: Path) -> None:
    refused = {"path": f"{PAGE}/conversations", "status": 400, "body": body}
    with serve_case(messenger(answers=[refused]), tmp_path) as run:
        result = run.run("find", "acc", "77")
        assert result.exit_code == 1
        assert "no conversation" not in result.output


def test_the_own_id_is_read_from_a_bare_list(tmp_path: Path) -> None:
    answer = me([{"user_id": "9", "username": "user9"}])
    with serve_case(LOGIN | {"answers": [answer]}, tmp_path) as run:
        assert run.extract().outcome == "complete"
        assert run.sql("select direction from messages") == [("outbound",)]
        text = shown(run)
        assert " 9 " in text
        assert "instagram_business_basic" not in text


def test_the_facts_of_a_token_cannot_control_the_terminal(tmp_path: Path) -> None:
    hostile = "\x1b[31m" + "x" * 100_000
    granted = {"scope": "pages_messaging", "target_ids": [hostile, "555"]}
    facts = {"type": "PA\nGE", "scopes": [hostile, 7, None], "granular_scopes": [granted]}
    answer = {"path": "debug_token", "body": [{"data": facts}]}
    with serve_case(messenger(answers=[answer]), tmp_path) as run:
        result = run.run("check")
        assert "the token is a pa ge token; a Page token is needed" in result.output
        assert "it covers 555)" in result.output
        assert "\x1b" not in result.output
        assert len(result.output) < 2_000


def test_the_id_of_the_conversations_is_shown_where_the_api_returns_another_one(
    tmp_path: Path,
) -> None:
    answer = me({"id": "26000000000000001", "username": "user9"})
    with serve_case(LOGIN | {"answers": [answer]}, tmp_path) as run:
        run.extract()
        result = run.run("check")
        text = " ".join(result.output.split())
        assert result.exit_code == 0
        assert "returns 26000000000000001 as the own id, but the conversations show 9" in text


@pytest.mark.parametrize("field", ["username", "id"])
def test_a_refused_field_of_the_linked_account_is_no_wrong_page(field: str, tmp_path: Path) -> None:
    text = f"(#100) Tried accessing nonexisting field ({field}) on node type (IGUser)"
    refused = {"path": PAGE, "fields_has": "{id", "status": 400, "body": error(100, text)}
    linked = {"path": PAGE, "body": {"id": PAGE, "instagram_business_account": {"id": "9"}}}
    world = LOGIN | {"page_id": PAGE, "answers": [refused, linked]}
    with serve_case(world, tmp_path) as run:
        result = run.run("check")
        assert "is not a Page" not in result.output
        assert result.exit_code == 0
