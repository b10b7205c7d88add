"""The table of reasons is complete, and each of its rows is used."""

import ast
import string
from typing import get_args

import pytest

from convo_pipeline.errors import (
    CorruptError,
    GraphError,
    GraphFault,
    PayloadError,
    SettingsError,
    ThrottledError,
    WithheldError,
)
from convo_pipeline.graph.listing import Cut
from convo_pipeline.reasons import (
    ACTIONS,
    REASONS,
    REASONS_OF_ERRORS,
    RUN_REASONS,
    UNKNOWN_DETAILS,
    Connection,
    Interface,
    describe_outcome,
    reason_of,
)
from tests.support.paths import PACKAGE

RUN_DETAILS = {*UNKNOWN_DETAILS, *ACTIONS["page"]}


def test_every_reason_that_a_run_stores_has_a_row() -> None:
    assert {*RUN_REASONS, *get_args(Cut), *REASONS_OF_ERRORS.values()} <= set(REASONS)


def test_every_row_is_used() -> None:
    """Each name occurs as a text in the code outside of the table, or belongs to an error class."""
    used = set(REASONS_OF_ERRORS.values())
    for path in PACKAGE.rglob("*.py"):
        if path.name != "reasons.py":
            nodes = ast.walk(ast.parse(path.read_text()))
            used |= {node.value for node in nodes if isinstance(node, ast.Constant)}  # type: ignore[misc]
    assert set(REASONS) - used == set()


@pytest.mark.parametrize("name", sorted(RUN_REASONS))
def test_the_words_of_a_run_reason_need_no_details(name: str) -> None:
    """The ledger holds no details, so a stored reason must be readable without them."""
    reason = REASONS[name]
    texts = (reason.sentence, reason.remedy)
    fields = {field for text in texts for _, field, _, _ in string.Formatter().parse(text) if field}
    assert fields <= RUN_DETAILS
    assert "{" not in reason.describe() + reason.remedy_for()


@pytest.mark.parametrize("name", sorted(REASONS))
def test_texts_are_lower_case_clauses(name: str) -> None:
    """They are joined with `; ` and follow an account's name and a colon."""
    reason = REASONS[name]
    connections = (None, *get_args(Connection))
    details = dict.fromkeys(("what", "days", "files", "messages", "conversations"), "2 things")
    details |= dict.fromkeys(("count", "due", "until", "date", "kind", "scopes", "folder"), "x")
    details |= {"asked": "v1", "served": "v2", "other": "shop", "own": "9"}
    details |= {"alerts": "2 alerts", "since": "x", "error": "the webhook answered 500"}
    texts = {reason.describe(details)}
    for interface in get_args(Interface):
        texts |= {reason.remedy_for(each, interface, details) for each in connections}
    for text in texts:
        assert text
        assert not text.endswith(".")
        assert text[0] == text[0].lower() or text.startswith(("Meta", "Facebook Login"))


def test_a_remedy_names_a_command_in_a_terminal_and_a_click_on_the_page() -> None:
    reason = REASONS["derived_table_wrong"]
    assert reason.remedy_for().startswith("run `convo-pipeline normalize` again")
    assert reason.remedy_for(interface="page").startswith("materialize the normalised tables")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SettingsError("x"), "settings"),
        (CorruptError("x"), "store"),
        (WithheldError(GraphFault()), "missing"),
        (ThrottledError(GraphFault(4)), "throttled"),
        (GraphError(GraphFault(100)), "answer"),
        (PayloadError("x"), "answer"),
    ],
)
def test_an_error_leads_to_its_reason(error: Exception, expected: str) -> None:
    assert reason_of(error) == expected


def test_remedies_of_self_healing_reasons_are_left_out_where_a_person_must_act() -> None:
    text = describe_outcome("incomplete", ["conversation_failed", "version"])
    assert text == (
        "incomplete: one or more conversations could not be read; this version of the API is"
        " retired. To do: set `graph.version` to a newer one, then run `convo-pipeline extract`"
        " again"
    )
    assert describe_outcome("incomplete", ["message_failed"]) == (
        "incomplete: one or more messages could not be read. Nothing to do: the next run reads them"
        " again"
    )


def test_an_unknown_reason_of_another_version_is_no_error() -> None:
    assert describe_outcome("failed", ["later"], "E 5.") == "failed: no reason was stored (E 5)"
