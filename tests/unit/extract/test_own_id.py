"""`extract.own_id`: who we are where the API refuses to say."""

from convo_pipeline.extract.own_id import OwnIdClues


def person(person_id: str) -> dict[str, str]:
    return {"id": person_id}


def conversation(*people: str) -> dict[str, object]:
    return {"participants": {"data": [person(each) for each in people]}}


def message(sender: str, *recipients: str) -> dict[str, object]:
    return {"from": person(sender), "to": {"data": [person(each) for each in recipients]}}


def test_the_one_in_two_conversations_who_sends_and_receives_is_us() -> None:
    clues = OwnIdClues()
    clues.add_conversation("a", conversation("ada", "us"))
    clues.add_conversation("b", conversation("ben", "us"))
    clues.add_message(message("ada", "us"))
    assert clues.verdict() is None
    clues.add_message(message("us", "ben"))
    assert clues.verdict() == "us"


def test_one_conversation_seen_twice_proves_nothing() -> None:
    clues = OwnIdClues()
    for _ in range(2):
        clues.add_conversation("a", conversation("ada", "us"))
    clues.add_message(message("us", "ada"))
    clues.add_message(message("ada", "us"))
    assert clues.verdict() is None


def test_two_that_fit_are_none() -> None:
    clues = OwnIdClues()
    for each in ("a", "b"):
        clues.add_conversation(each, conversation("agent", "us"))
    clues.add_message(message("us", "agent"))
    clues.add_message(message("agent", "us"))
    assert clues.verdict() is None
