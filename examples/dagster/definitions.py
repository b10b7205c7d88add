"""A Dagster project with tables of its own, and the inbox tables mounted under the prefix `inbox`.

Start it by `CONVO_CONFIG=convo.toml dagster dev -f examples/dagster/definitions.py`.
"""

import dagster as dg

from convo_pipeline.dagster import ConvoLake, build_defs

DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01", end_offset=1)
"""UTC days up to today, from the earliest start_date of the accounts."""
OF_ALL_ACCOUNTS = dg.MultiToSingleDimensionPartitionMapping("date")
"""A day of ours needs this day of every account."""


@dg.asset(
    partitions_def=DAYS,
    deps=[dg.AssetDep(["inbox", "messages"], partition_mapping=OF_ALL_ACCOUNTS)],
)
def daily_volume(context: dg.AssetExecutionContext, lake: ConvoLake) -> dg.MaterializeResult[None]:
    """Count the messages of each account on one day."""
    sql = "select account, count(*) from messages where date = ? group by account order by account"
    with lake.connect() as con:
        counts = dict(con.execute(sql, [context.partition_key]).fetchall())
    return dg.MaterializeResult(
        metadata={"dagster/partition_row_count": sum(counts.values()), **counts}
    )


@dg.asset
def messages() -> None:
    """Another table with the name of one of the inbox tables."""


@dg.asset
def nightly() -> None:
    """Another table with the name of one of the inbox schedules."""


defs = dg.Definitions.merge(
    build_defs(key_prefix="inbox", group_name="inbox"),
    dg.Definitions(
        assets=[daily_volume, messages, nightly],
        jobs=[dg.define_asset_job("extract_job", selection=[messages, nightly])],
        resources={"lake": ConvoLake()},
        executor=dg.multiprocess_executor,
    ),
)
