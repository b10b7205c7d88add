"""Small declared inboxes for `case_server`, built from people and messages."""

from typing import Any

OWN_USERNAME = "user9"


def person(person_id: str) -> dict[str, Any]:
    return {"id": person_id, "username": f"user{person_id}"}


def people(*ids: str) -> dict[str, Any]:
    return {"data": [person(each) for each in ids]}


def message(message_id: str, sender: str | None, *recipients: str) -> dict[str, Any]:
    own: dict[str, Any] = {"id": message_id, "created_time": "@-10m", "message": "hi"}
    if sender:
        own["from"] = person(sender)
    return own | ({"to": people(*recipients)} if recipients else {})


def instagram(*conversations: dict[str, Any], **others: object) -> dict[str, Any]:
    """Declare an inbox of Instagram Login; each conversation needs `messages` only."""
    listed = [
        {"id": f"c{index}", "updated_time": "@-10m", **each}
        for index, each in enumerate(conversations)
    ]
    return {"platform": "instagram", "page_id": "me", "conversations": listed, **others}


def me(body: object, status: int = 200, **others: object) -> dict[str, Any]:
    """Declare what the account's own node answers."""
    return {"path": "me", "status": status, "body": body, **others}


def refusal(code: int, subcode: int | None = None) -> dict[str, Any]:
    error = {"code": code, "error_subcode": subcode, "message": "no", "type": "OAuthException"}
    return {"error": {key: value for key, value in error.items() if value is not None}}


REFUSED = me(refusal(10), 403)
