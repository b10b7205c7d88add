"""Fifteen questions of a service desk, answered by the product and by pandas over the raw JSON."""

from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from convo_pipeline.query.connection import connect
from tests.support.desk_oracle import read_raw, sessions_of, threads, turns_of, waiting_of
from tests.support.desk_worlds import CLOCKS, make_lake

MESSAGES = """
SELECT
    count(*) FILTER (direction = 'inbound') AS inbound,
    count(*) FILTER (direction = 'outbound') AS outbound,
    count(*) FILTER (direction IS NULL) AS unread,
    mode(hour(created_at_local)) FILTER (hour(created_at_local) IS NOT NULL) IS NOT NULL AS is_local
FROM messages WHERE account = $account
"""
LOCAL = """
SELECT local_date, inbound_count, outbound_count, active_conversation_count
FROM local_days WHERE account = $account ORDER BY 1
"""
DAYS = """
SELECT
    sum(automated_count)::BIGINT AS automated, sum(unsure_automated_count)::BIGINT AS undecided,
    sum(session_count)::BIGINT AS questions, sum(measured_session_count)::BIGINT AS measured,
    sum(answered_session_count)::BIGINT AS answered,
    sum(acknowledged_session_count)::BIGINT AS acknowledged,
    sum(in_hours_session_count)::BIGINT AS in_hours,
    sum(out_of_hours_session_count)::BIGINT AS out_of_hours,
    arg_max(backlog_count, date) AS backlog
FROM account_days WHERE account = $account
"""
RESPONSES = """
SELECT
    list_sort(coalesce(list(first_response_seconds) FILTER (is_answered_in_time), [])) AS waits,
    median(first_response_seconds) FILTER (is_answered_in_time) AS median_seconds,
    median(first_response_business_seconds) FILTER (is_answered_in_time AND is_in_business_hours)
        AS median_business_seconds,
    list_sort(coalesce(list(DISTINCT conversation_id) FILTER (is_unanswered), [])) AS waiting
FROM sessions WHERE account = $account
"""
HOURS = """
SELECT isodow(created_at_local) AS weekday, hour(created_at_local) AS hour, count(*) AS messages
FROM messages WHERE direction = 'inbound' AND account = $account GROUP BY ALL ORDER BY ALL
"""
TURNS = """
SELECT count(*) FILTER (is_answered) AS answered, count(*) FILTER (is_answered = false) AS not_yet,
    count(*) FILTER (is_answered IS NULL) AS unknown
FROM response_turns WHERE account = $account
"""


def ask_product(root: Path, account: str) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    with connect(root) as con:
        for query in (MESSAGES, DAYS, RESPONSES, TURNS):
            (row,) = con.sql(query, params={"account": account}).to_arrow_table().to_pylist()
            names = {"answered": "answered_turns"} if query == TURNS else {}
            answers |= {names.get(name, name): value for name, value in row.items()}
        for name, query in (("local days", LOCAL), ("hours", HOURS)):
            answers[name] = con.sql(query, params={"account": account}).fetchall()
    return answers


def ask_pandas(root: Path, account: str) -> dict[str, Any]:
    rows = read_raw(root, account)
    counts = rows["who"].value_counts()
    answers: dict[str, Any] = {
        "inbound": counts.get("customer", 0), "outbound": counts.get("us", 0),
        "unread": counts.get("unread", 0), "is_local": True,
    }  # fmt: skip
    by_day = rows.groupby([moment.date() for moment in rows["local"]])
    answers["local days"] = [
        (day, (each["who"] == "customer").sum(), (each["who"] == "us").sum(),
         each["conversation_id"].nunique())
        for day, each in by_day
    ]  # fmt: skip
    hours: dict[tuple[int, int], int] = defaultdict(int)
    for moment in rows["local"][rows["who"] == "customer"]:
        hours[moment.isoweekday(), moment.hour] += 1
    answers["hours"] = [(*key, count) for key, count in sorted(hours.items())]
    kinds = [each["kind"] for thread in threads(rows) for each in thread]
    turns = [turn["answer"] for turn in turns_of(rows)]
    sessions = [each for each in sessions_of(rows) if each["state"] != "nudge"]
    measured = [each for each in sessions if each["state"] in ("answered", "open")]
    waits = sorted(each["wait"] for each in measured if each["wait"] is not None)
    business = [each["business"] for each in measured if each["wait"] and each["is_in_hours"]]
    return answers | {
        "automated": kinds.count("robot"),
        "undecided": kinds.count("unsure"),
        "questions": len(sessions),
        "measured": len(measured),
        "answered": len(waits),
        "acknowledged": sum(each["state"] == "acknowledged" for each in sessions),
        "in_hours": sum(each["is_in_hours"] for each in measured),
        "out_of_hours": sum(not each["is_in_hours"] for each in measured),
        "answered_turns": turns.count("person"),
        "not_yet": turns.count("none"),
        "unknown": turns.count("unread") + turns.count("unsure"),
        "waits": waits,
        "median_seconds": median(waits) if waits else None,
        "median_business_seconds": median(business) if business else None,
        "waiting": sorted(str(each[0]["conversation_id"]) for each in waiting_of(rows)),
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_product_and_pandas_give_the_same_answers(tmp_path: Path) -> None:
    seen: dict[str, int] = defaultdict(int)
    for seed in range(10):
        root = tmp_path / str(seed)
        make_lake(root, seed)
        for account in CLOCKS:
            product, pandas = ask_product(root, account), ask_pandas(root, account)
            backlog = product.pop("backlog")
            assert product == pandas, (seed, account)
            assert backlog == len(set(pandas["waiting"]) - {"old"})  # it waited for 28 days
            for name in ("automated", "undecided", "acknowledged", "answered", "unread"):
                seen[name] += pandas[name]
    assert all(seen.values()), seen
