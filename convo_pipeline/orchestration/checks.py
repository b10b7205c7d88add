"""Checks that say what a person should do; none blocks, for a blocked run fails the good accounts too.

A check is part of the step that makes its table: one evaluation a run, which names the red partitions.
"""

from collections.abc import Iterable

import dagster as dg

from convo_pipeline.errors import StoreError
from convo_pipeline.lake.files import Store
from convo_pipeline.orchestration.partitions import split_key

MOST_NAMED = 10


NOTHING_OPEN = dg.AssetCheckSpec(
    "nothing_open",
    asset="coverage",
    description="No id of these days waits to be read, failed to be read or could not be understood.",
)


def judge_coverage(store: Store, keys: Iterable[str]) -> dg.AssetCheckResult:
    """Judge the partitions of one run in one evaluation: who is red is in the description."""
    named = {key: why for key in sorted(keys) if (why := open_reason(store, key))}
    shown = [f"{key}: {why}" for key, why in list(named.items())[:MOST_NAMED]]
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    records = [dg.TableRecord({"account": key.split("|")[0], "date": key.split("|")[1], "why": why})
               for key, why in named.items()]  # fmt: skip
    schema = dg.TableSchema(columns=[dg.TableColumn(name) for name in ("account", "date", "why")])
    return dg.AssetCheckResult(
        asset_key=NOTHING_OPEN.asset_key,
        check_name=NOTHING_OPEN.name,
        passed=not named,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(shown) + more if named else "nothing is open",
        metadata={"open": dg.MetadataValue.table(records, schema=schema), "open_count": len(named)},
    )


def open_reason(store: Store, key: str) -> str | None:
    """Say what is open in a partition and what to do; None if nothing is."""
    account, day = split_key(key)
    try:
        rows = store.read("coverage", account, day).to_pylist()
    except StoreError as error:
        return str(error)
    found = [f"{row[name]} {name}" for row in rows for name in ("pending", "failed", "rejected") if row[name]]
    if not found:
        return None
    remedy = "look at raw_rejects" if found[-1].endswith("rejected") else "materialise the raw tables of this day again"
    return f"{', '.join(found)}: {remedy}"
