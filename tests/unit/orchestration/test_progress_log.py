"""The progress of a long step in Dagster's log."""

from convo_pipeline.extract.report import Progress
from convo_pipeline.orchestration.progress import LINE_SECONDS, ProgressLog


def test_a_long_derivation_logs_its_remaining_time_once_a_minute() -> None:
    lines: list[str] = []
    now = [0.0]
    progress = ProgressLog(lines.append, lambda: now[0])
    progress(Progress("bakery", "days", 400))
    progress(Progress("bakery", "days done", 35))
    for _ in range(30):
        now[0] += 10
        progress(Progress("bakery", "partitions", 7))
    assert len(lines) == 30 * 10 // LINE_SECONDS
    assert lines[-1] == "bakery: 30 of 365 days derived, about 56 minutes left"


def test_an_extraction_logs_counts_because_the_number_of_conversations_is_unknown() -> None:
    lines: list[str] = []
    now = [0.0]
    progress = ProgressLog(lines.append, lambda: now[0])
    progress(Progress("bakery", "messages", 1_000))
    progress(Progress("bakery", "partitions", 3))
    now[0] += LINE_SECONDS
    progress(Progress("bikes", "conversations", 50))
    assert lines == ["accounts stored: 1; 50 conversations, 1,000 messages, 3 partitions stored"]


def test_a_log_that_cannot_be_written_stops_no_account() -> None:
    def fail(line: str) -> None:
        raise OSError("disk full")

    now = [0.0]
    progress = ProgressLog(fail, lambda: now[0])
    now[0] += LINE_SECONDS
    progress(Progress("bakery", "messages", 1))
