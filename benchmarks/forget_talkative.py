"""Time the erasure of a person with very many messages after a year of captures.

    python -m benchmarks.forget_talkative [--messages 20000] [--days 365] [--runs-a-day 20]
                                          [--others 1]

Goal: 60 s for a million rows. The person wrote all messages but `--others` a day. Each run's report
names conversations of others. Prints the CPU seconds of the whole erasure. It also prints those of
a simple search for each id in the text of each run, measured on some texts and scaled.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path

import pyarrow as pa

from convo_pipeline.base.json_text import dump_json
from convo_pipeline.derive.day import derive_day
from convo_pipeline.lake.ledger import add_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.privacy.forget import forget
from convo_pipeline.schema import RUNS, TABLES
from convo_pipeline.settings import Settings, StoreSettings
from convo_pipeline.state.records import AccountIdentity, Run

ACCOUNT, PERSON, OWN = "insta", "9990000000000101", "17841401111111111"
FIRST = date(2026, 1, 1)
SAMPLED = 50
"""Number of texts on which the simple search is measured."""


def table(name: str, rows: Sequence[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=TABLES[name].schema)


def fill_day(store: Store, day: date, count: int, others: int) -> list[str]:
    """Write one day of the person and of others; return the person's message ids."""
    at = datetime.combine(day, clock_time(9), tzinfo=UTC)
    people = {"theirs": PERSON, "other": "9990000000000202"}
    seen = {"first_seen_at": at, "changed_at": at}
    own = {"platform": "instagram", "page_id": "1", "own_id": OWN, "fields": "{}"}
    conversations = [
        {
            "conversation_id": name,
            "payload": dump_json(
                {"participants": {"data": [{"id": person_id}, {"id": OWN}]}}
            ).decode(),
            **own,
            **seen,
        }
        for name, person_id in people.items()
    ]
    names = [("theirs", f"m_{day:%Y%m%d}-{number:06}theirs") for number in range(count)]
    names += [("other", f"m_{day:%Y%m%d}-{number:06}other") for number in range(others)]
    ids = [
        {
            "conversation_id": conversation,
            "message_id": name,
            "created_at": at,
            "created_at_source": "message",
            "order_in_second": 0,
            **seen,
        }
        for conversation, name in names
    ]
    details = [
        {
            "conversation_id": conversation,
            "message_id": name,
            "created_at": at,
            "detail_status": "detailed",
            "fields": "{}",
            "payload": dump_json(
                {"id": name, "from": {"id": people[conversation]}, "message": f"text {name}"}
            ).decode(),
            **seen,
        }
        for conversation, name in names
    ]
    for row in ids:
        del row["changed_at"]
    store.merge("raw_conversations", ACCOUNT, day, table("raw_conversations", conversations))
    store.merge("raw_message_ids", ACCOUNT, day, table("raw_message_ids", ids))
    store.merge("raw_message_details", ACCOUNT, day, table("raw_message_details", details))
    derive_day(store, ACCOUNT, day)
    return [name for conversation, name in names if conversation == "theirs"]


def add_captures(store: Store, day: date, count: int) -> list[str]:
    """Add a day of captures to the state and the ledger; return the texts of their reports."""
    started = datetime.combine(day, clock_time(), tzinfo=UTC)
    report = {
        "beyond": [f"aWdfZAG06MTpJR01lc3NhZA2VUaHJlYWQ6{number:040}" for number in range(20)],
        "is_incremental": True,
    }
    runs = [
        Run(
            f"r{day}-{number:03}",
            ACCOUNT,
            "capture",
            started + timedelta(minutes=number),
            day,
            day,
            started,
            "complete",
            report=report,
        )
        for number in range(count)
    ]
    for run in runs:
        store.state.save_run(run)
    store.partitions.commit(RUNS, "", day, lambda stored: add_runs(RUNS.schema.empty_table(), runs))
    return [dump_json(report).decode()] * count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("messages", 20_000), ("days", 365), ("runs-a-day", 20), ("others", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    names, texts = [PERSON], []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(store=StoreSettings(root=str(Path(folder) / "lake")))
        with closing(Store(settings.store)) as store:
            store.state.set_identity(AccountIdentity(ACCOUNT, "1", "instagram", OWN))
            for index in range(arguments.days):
                day = FIRST + timedelta(days=index)
                names += fill_day(
                    store, day, arguments.messages // arguments.days, arguments.others
                )
                texts += add_captures(store, day, arguments.runs_a_day)
            row_count = sum(record.row_count for record in store.state.partitions())
            started = time.process_time()
            receipt = forget(settings, store, ACCOUNT, PERSON, datetime.now(UTC))
            cpu = time.process_time() - started
    assert receipt is not None
    assert receipt.row_counts["messages"] == len(names) - 1
    started = time.process_time()
    assert not any(name in text for text in texts[:SAMPLED] for name in names)
    plain = (time.process_time() - started) / min(SAMPLED, len(texts)) * len(texts) * 2
    print(
        f"{len(names) - 1:,} messages in {arguments.days} days, {len(texts):,} runs,"
        f" {row_count:,} rows: {cpu:.1f} s CPU"
    )
    print(f"the simple search in the runs' texts alone: {plain:.1f} s CPU")


if __name__ == "__main__":
    main()
