"""Who "we" are where the API refuses to say: inferred from what the conversations show. Pure.


On Instagram the account's id inside conversations is not the Page's. Where it cannot be asked for, it is the one
participant common to at least two conversations that is also `from` of one message and in `to` of another.
"""

from dataclasses import dataclass, field

from convo_pipeline.base.json_text import readable_id


@dataclass
class OwnIdClues:
    """What was seen of people so far; feed it conversations, then ask `verdict`."""

    _first_conversation: dict[str, str] = field(default_factory=dict)
    _in_several: set[str] = field(default_factory=set)
    _senders: set[str] = field(default_factory=set)
    _recipients: set[str] = field(default_factory=set)

    def add_conversation(self, conversation_id: str, row: dict[str, object]) -> None:
        for participant_id in _ids(row.get("participants")):
            if (
                self._first_conversation.setdefault(participant_id, conversation_id)
                != conversation_id
            ):
                self._in_several.add(participant_id)

    def add_message(self, row: object) -> None:
        if isinstance(row, dict):
            self._senders.update(_ids(row.get("from")))
            self._recipients.update(_ids(row.get("to")))

    def verdict(self) -> str | None:
        """Return the account's own id, or None while more than one or nobody fits."""
        fitting = self._in_several & self._senders & self._recipients
        return next(iter(fitting)) if len(fitting) == 1 else None


def _ids(value: object) -> list[str]:
    """Return the ids of `{"data": [..]}`, a list or a single object."""
    if isinstance(value, dict) and "data" in value:
        value = value["data"]
    entries = value if isinstance(value, list) else [value]
    return [entry_id for entry in entries if (entry_id := readable_id(entry)) is not None]
