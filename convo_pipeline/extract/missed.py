"""What a sweep finds although earlier runs had claimed to hold it: the alarm figure, which should be zero. Pure.

A message counts if it has no row and no later run would have come to look for it:
- its conversation was held from before the message was sent until after it; or
- its conversation's last activity is older than where an incremental listing ends.
It does not count where nothing was claimed: in a conversation that is due again since it failed, or new since the last
run. Where the API does not tell when a conversation was last active, nothing is claimed of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from convo_pipeline.extract.observations import ConversationObservation
from convo_pipeline.schema import RAW_MESSAGE_IDS
from convo_pipeline.state.records import ConversationState


@dataclass(frozen=True)
class Claim:
    """What the account's runs said to hold: all that was sent since, of conversations not active after."""

    since_us: int
    listed_until_us: int

    def covers(
        self, created_us: int, held: ConversationState | None, updated_us: int | None
    ) -> bool:
        """Whether a message sent then, in a conversation held so and listed with this activity, had to be there."""
        if held is not None and held.due_reason:
            return False
        is_claimed = (
            self.since_us <= created_us < self.listed_until_us
        )  # what comes during the sweep is not
        if is_claimed and updated_us is not None and updated_us < self.listed_until_us:
            return True
        if held is None or held.complete_since_us is None or held.updated_us is None:
            return False
        return (
            held.complete_since_us < created_us < held.updated_us
        )  # at its end, some of one second may be left out


def count_missed(
    claim: Claim,
    unstored: pa.Table,
    held: Mapping[str, ConversationState],
    listed: Mapping[str, ConversationObservation],
) -> int:
    """Count those of one day's messages without a row that were claimed; `held` is as before the sweep."""
    absent = unstored.select([*RAW_MESSAGE_IDS.key, "created_us"]).to_pylist()
    times = {(row["conversation_id"], row["message_id"]): row["created_us"] for row in absent}
    return sum(
        claim.covers(
            created_us, held.get(conversation_id), _updated_us(listed.get(conversation_id))
        )
        for (conversation_id, _), created_us in times.items()
    )


def _updated_us(observation: ConversationObservation | None) -> int | None:
    return observation.updated_us if observation else None
