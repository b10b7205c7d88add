"""`coverage`: a worked example, and the same counts by loops over invented days."""

import random
from collections.abc import Sequence

from convo_pipeline import schema
from convo_pipeline.tables.normalize import RawDay, count_coverage
from tests.support.raw_days import SEEN, conversation_row, detail_row, id_row, table

Row = dict[str, object]


def a_day(
    ids: Sequence[Row],
    details: Sequence[Row],
    conversations: Sequence[Row] = (),
    rejects: Sequence[Row] = (),
) -> RawDay:
    rows = zip(schema.RAW, (conversations, ids, details, rejects), strict=True)
    return RawDay("instagram", "1", *(table(declared, some) for declared, some in rows))


def reject(number: int) -> Row:
    return {"digest": f"d{number}", "reason": "no id", "payload": "?", "first_seen_at": SEEN}


def counted(day: RawDay) -> list[Row]:
    return [dict(row) for row in count_coverage(day).to_pylist()]


def test_the_worked_example_of_a_day() -> None:
    """docs/metrics.md, coverage."""
    read = [detail_row(f"a{number}", {"message": "hello"}, "anna") for number in range(20)]
    lost = [
        detail_row(f"b{number}", None, "anna", detail_status="beyond_20") for number in range(4)
    ]
    other = [
        detail_row("m1", None, "ben", detail_status="gone"),
        detail_row("m2", None, "ben", detail_status="failed"),
    ]
    details = [*read, *lost, *other]
    ids = [id_row(str(row["message_id"]), str(row["conversation_id"])) for row in details] + [
        id_row("m3", "ben")
    ]
    conversations = [
        conversation_row("instagram", conversation_id=name) for name in ("anna", "ben", "cleo")
    ]
    assert counted(a_day(ids, details, conversations, [reject(1)])) == [
        {
            "ids_listed": 27,
            "detailed": 20,
            "beyond_20": 4,
            "gone": 1,
            "failed": 1,
            "pending": 1,
            "rejected": 1,
            "share_detailed": 20 / 27,
            "conversation_count": 3,
            "incomplete_conversation_count": 2,
            "at_risk_conversation_count": 1,
            "unknown_direction_count": 20,
            "unknown_kind_count": 0,
        }
    ]


def test_a_day_of_which_nothing_is_held_has_no_row() -> None:
    assert counted(a_day([], [])) == []


def test_a_day_of_rejects_alone_has_a_row_and_no_share() -> None:
    (row,) = counted(a_day([], [], [], [reject(1), reject(2)]))
    assert (row["ids_listed"], row["rejected"], row["share_detailed"]) == (0, 2, None)


def test_the_counts_agree_with_loops_over_invented_days() -> None:
    for seed in range(60):
        world = random.Random(seed)
        keys = [
            (f"c{world.randrange(4)}", f"m{number}")
            for number in range(world.choice((world.randrange(12), world.randrange(20, 110))))
        ]
        statuses = {
            key: world.choice(schema.DETAIL_STATUSES) for key in keys if world.random() < 0.8
        }
        listed = [key for key in keys if key not in statuses or world.random() < 0.9]
        named = {f"c{number}" for number in range(5) if world.random() < 0.3}
        rejects = [reject(number) for number in range(world.choice((0, 0, 2)))]
        found = counted(
            a_day(
                [id_row(message, conversation) for conversation, message in listed],
                [
                    detail_row(key[1], None, key[0], detail_status=status)
                    for key, status in statuses.items()
                ],
                [conversation_row("instagram", conversation_id=name) for name in sorted(named)],
                rejects,
            )
        )
        assert found == by_loops({*listed, *statuses}, statuses, named, len(rejects)), seed


def by_loops(
    keys: set[tuple[str, str]], statuses: dict[tuple[str, str], str], named: set[str], rejected: int
) -> list[Row]:
    """Count one message at a time."""
    row: Row = dict.fromkeys(schema.DETAIL_STATUSES, 0)
    conversations, incomplete = set(named), set()
    for key in keys:
        status = statuses.get(key, "pending")
        row[status] = int(str(row[status])) + 1
        conversations.add(key[0])
        if status != "detailed":
            incomplete.add(key[0])
    row |= {"ids_listed": len(keys), "rejected": rejected, "conversation_count": len(conversations)}
    row["share_detailed"] = int(str(row["detailed"])) / len(keys) if keys else None
    row["incomplete_conversation_count"] = len(incomplete)
    row["at_risk_conversation_count"] = sum(
        sum(key[0] == name for key in keys) > 20 for name in conversations
    )
    row |= {"unknown_direction_count": row["detailed"], "unknown_kind_count": 0}
    return [row] if conversations or rejected else []
