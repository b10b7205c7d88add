"""Good answers as values, and what each kind of call expects in one. Pure; a shape it does not know is a PayloadError."""

from dataclasses import dataclass
from datetime import datetime

from convo_pipeline.errors import PayloadError
from convo_pipeline.graph.pages import Page, read_page


@dataclass(frozen=True)
class Identity:
    """Who the account is inside its conversations; None where the API does not say."""

    own_id: str | None = None
    own_username: str | None = None


@dataclass(frozen=True)
class Answer:
    """One good answer; `version` is the one that really served."""

    body: object
    server_time: datetime
    byte_count: int
    version: str | None


def read_list(answer: Answer) -> Page:
    """Read a page of a list."""
    return read_page(answer.body, answer.server_time)


def read_found(answer: Answer) -> Page:
    """Read a look-up by user: a list of at most one, or the conversation itself (Meta's guide shows only an id)."""
    if (
        isinstance(answer.body, dict)
        and "data" not in answer.body
        and isinstance(answer.body.get("id"), str)
    ):
        return Page((answer.body,), None, answer.server_time)
    return read_list(answer)


def read_node(answer: Answer) -> Answer:
    """Check that an object came."""
    if not isinstance(answer.body, dict) or not answer.body:
        raise PayloadError("the answer is not an object")
    return answer


def read_identity(value: object) -> Identity:
    """Read `{id, username}`; `/me` of Instagram Login calls the id `user_id`."""
    if not isinstance(value, dict):
        return Identity()
    own_id, username = value.get("user_id") or value.get("id"), value.get("username")
    is_id = isinstance(own_id, str | int) and not isinstance(own_id, bool) and own_id != ""
    return Identity(
        str(own_id) if is_id else None, username if isinstance(username, str) and username else None
    )
