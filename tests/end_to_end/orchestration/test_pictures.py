"""Pictures on Dagster's page: small, and about the days of the run."""

import base64
import io
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import numpy as np
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from PIL import Image

from convo_pipeline.derive.account_days import derive_account_days
from convo_pipeline.emulator.serve import EmulatorServer
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.assets import EXTRACT_JOB, NORMALISE_JOB
from convo_pipeline.orchestration.catalog import build_definitions
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.overview import overview_metadata, summarise_accounts
from convo_pipeline.orchestration.partitions import Window, range_tags
from convo_pipeline.orchestration.pictures import (
    ChartContext,
    draw_backlog,
    draw_coverage,
    draw_hours,
    format_new_count,
    mean_hours,
    picture_account,
)
from convo_pipeline.orchestration.recorded_runs import QUIET
from convo_pipeline.query.reply_rules import DEFAULT_RULES
from convo_pipeline.schema import ACCOUNT_DAYS
from convo_pipeline.settings import Settings
from convo_pipeline.state.records import Run
from convo_pipeline.tables.chart_data import choose_chart_days
from convo_pipeline.tables.complete_range import CompleteRange
from tests.support.inbox_worlds import TOKENS, Days, small_settings, small_world, three_days

BAKERY, BIKES = "bakery-instagram", "bikes-messenger"
MOST_BYTES = 60_000
NOON, LATER = datetime(2026, 11, 24, 12, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


def chart_of(days: list[date]) -> ChartContext:
    """Return the chart of complete days of the bakery."""
    return ChartContext(
        BAKERY, DEFAULT_RULES, choose_chart_days(days), CompleteRange(min(days), LATER)
    )


@pytest.fixture(scope="module")
def days() -> Days:
    return three_days()


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture(scope="module")
def settings(
    tmp_path_factory: pytest.TempPathFactory, days: Days, instance: dg.DagsterInstance
) -> Iterator[Settings]:
    """A lake of three days, made by runs."""
    with EmulatorServer(small_world(days)) as server:
        settings = small_settings(tmp_path_factory.mktemp("lake"), server, days.start)
        definitions = build_definitions(Deployment(settings, environ=TOKENS))
        for job in (EXTRACT_JOB, NORMALISE_JOB):
            result = definitions.resolve_job_def(job).execute_in_process(
                instance=instance,
                run_config=QUIET,
                tags=range_tags([BAKERY, BIKES], Window(days[0], days.today)),
            )
            assert result.success
        yield settings


def pages(instance: dg.DagsterInstance, table: str) -> dict[str, str]:
    """Return the Markdown that the page shows, by partition."""
    records = instance.fetch_materializations(dg.AssetKey(table), limit=100).records
    events = [record.asset_materialization for record in records if record.asset_materialization]
    return {
        str(event.partition): str(event.metadata["pictures"].value)
        for event in events
        if "pictures" in event.metadata
    }


def images(page: str) -> list[bytes]:
    return [
        base64.b64decode(text)
        for text in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)\)", page)
    ]


def test_pictures_are_on_the_newest_day_of_the_run(
    settings: Settings, instance: dg.DagsterInstance, days: Days
) -> None:
    for table, count in (("account_days", 3), ("coverage", 1)):
        shown = pages(instance, table)
        assert sorted(shown) == [f"{account}|{days[2]}" for account in (BAKERY, BIKES)]
        for key, page in shown.items():
            assert f"### {key.split('|')[0]} · {days[0]} to {days[2]}" in page
            assert len(images(page)) == count


def test_the_newest_event_of_a_table_has_pictures(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    for table in ("account_days", "coverage"):
        event = instance.get_latest_materialization_event(dg.AssetKey(table))
        assert event is not None
        assert event.asset_materialization is not None
        assert "pictures" in event.asset_materialization.metadata


def test_every_picture_is_a_small_png(settings: Settings, instance: dg.DagsterInstance) -> None:
    found = [
        image
        for table in ("account_days", "coverage")
        for page in pages(instance, table).values()
        for image in images(page)
    ]
    assert len(found) == 8
    for content in found:
        image = Image.open(io.BytesIO(content))
        assert (image.format, len(content) < MOST_BYTES) == ("PNG", True)
        assert len(image.convert("RGB").getcolors(1 << 16)) > 4


def test_the_table_below_the_pictures_shows_the_mart(
    settings: Settings, instance: dg.DagsterInstance, days: Days
) -> None:
    page = pages(instance, "coverage")[f"{BIKES}|{days[2]}"]
    assert f"| {days[2]} | 9 | 9 | 0 | 0 | 0 | 0 | 100% |\n| {days[1]} | 6 |" in page


def test_a_single_day_is_shown_by_its_hours(settings: Settings, days: Days) -> None:
    with closing(Store(settings.store)) as store:
        page = picture_account(store, BIKES, [days[1]])["account_days"].value
        assert f"### {BIKES} · {days[1]}\n" in str(page)
        assert str(days[1]) in str(page)
        assert f"| {days[0]} |" not in str(page)


def test_a_day_without_rows_has_no_picture(settings: Settings, days: Days) -> None:
    with closing(Store(settings.store)) as store:
        assert picture_account(store, BIKES, [days[0] - timedelta(days=300)]) == {}
        assert picture_account(store, "nobody", [days[0]]) == {}


def test_a_failed_picture_fails_no_day(settings: Settings, days: Days) -> None:
    accounts = [
        account.model_copy(update={"timezone": "Nowhere/At_All"}) for account in settings.accounts
    ]
    deployment = Deployment(settings.model_copy(update={"accounts": accounts}), environ=TOKENS)
    with dg.DagsterInstance.ephemeral() as instance:
        result = (
            build_definitions(deployment)
            .resolve_job_def(NORMALISE_JOB)
            .execute_in_process(
                instance=instance,
                run_config=QUIET,
                tags=range_tags([BIKES], Window(days[0], days.today)),
            )
        )
        assert result.success
        for table in ("account_days", "coverage"):
            (page,) = pages(instance, table).values()
            assert page.startswith(
                "No pictures: a defect of this program (ArrowInvalid in"
                " convo_pipeline/tables/chart_data.py"
            )


def test_pictures_hold_no_text_name_or_id(
    settings: Settings, instance: dg.DagsterInstance, days: Days
) -> None:
    words = "".join(
        re.sub(r"base64,[^)]+", "", page)
        for table in ("account_days", "coverage")
        for page in pages(instance, table).values()
    )
    with closing(Store(settings.store)) as store:
        rows = [
            row
            for account in (BAKERY, BIKES)
            for row in store.read("messages", account, days[2]).to_pylist()
        ]
    names = ("text", "sender_name", "sender_username", "sender_id", "message_id", "conversation_id")
    secrets = {row[name] for row in rows for name in names if row[name]}
    assert len(secrets) > 20
    assert {secret for secret in secrets if secret in words} == set()


def overviews(instance: dg.DagsterInstance) -> list[dg.AssetMaterialization]:
    """Return the materialisations of the overview, newest first."""
    records = instance.fetch_materializations(dg.AssetKey("overview"), limit=10).records
    return [record.asset_materialization for record in records if record.asset_materialization]


def test_the_overview_shows_all_accounts_in_one_picture_and_one_table(
    settings: Settings, instance: dg.DagsterInstance, days: Days
) -> None:
    """It is drawn again only if something has changed, whichever account the last run had."""
    (first,) = overviews(instance)
    assert first.partition is None
    page = str(first.metadata["overview"].value)
    assert len(images(page)) == 1
    start = settings.accounts[0].start_date
    missing, count = (days[0] - start).days, (days.today - start).days
    for account, messages in ((BAKERY, 12), (BIKES, 18)):
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {account} |")]
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        gaps = f"{missing}, since {start}"
        assert cells[:2] == [f"{count - missing} of {count}", gaps]
        assert cells[2].endswith(" complete")
        assert cells[4:] == [str(messages), "100%", "0", "0", "0 conversations"]
    figures = {name: first.metadata[name].value for name in ("accounts", "gap_days", "messages")}
    assert figures == {"accounts": 2, "gap_days": 2 * missing, "messages": 30}
    definitions = build_definitions(Deployment(settings, environ=TOKENS))
    tags = range_tags([BIKES], Window(days[0], days.today))
    idle = definitions.resolve_job_def(NORMALISE_JOB).execute_in_process(
        instance=instance, run_config=QUIET, tags=tags
    )
    assert idle.success
    assert overviews(instance) == [first]
    graph, loading = definitions.resolve_asset_graph(), LoadingContextForTest(instance)
    stale = CachingStaleStatusResolver(instance, graph, loading)
    assert stale.get_status(dg.AssetKey("overview")).value == "FRESH"
    job = definitions.resolve_implicit_global_asset_job_def()
    by_hand = job.get_subset(asset_selection={dg.AssetKey("overview")})
    assert by_hand.execute_in_process(instance=instance, run_config=QUIET).success
    assert overviews(instance)[0].metadata["overview"] == first.metadata["overview"]


def test_the_overview_names_the_worst_accounts_first_and_reads_no_files_of_many(
    settings: Settings, days: Days
) -> None:
    """The last night of one account failed. More than 200 accounts have no columns of messages."""
    bakery = settings.accounts[0]
    more = [bakery.model_copy(update={"name": f"new-{number:03}"}) for number in range(200)]
    with closing(Store(settings.store)) as store:
        at = datetime.now(UTC)
        failed = Run("night", BIKES, "nightly", at, outcome="failed", calls={"listing": 7})
        store.state.save_run(failed)
        for accounts, names in (
            (settings.accounts, [BIKES, BAKERY]),
            ((*settings.accounts, *more), None),
        ):
            deployment = Deployment(settings.model_copy(update={"accounts": tuple(accounts)}))
            summaries = summarise_accounts(deployment, store)
            metadata = overview_metadata(deployment, store, summaries)
            lines = str(metadata["overview"].value).splitlines()
            shown = [line for line in lines if line.startswith("| ") and "---" not in line][1:]
            assert len(shown) == min(len(accounts), 50)
            assert ("messages" in metadata) == (names is not None)
            assert len(images("\n".join(lines))) == 1
            if names:
                assert [line.split(" | ")[0] for line in shown] == [f"| {name}" for name in names]
                assert f"{at:%Y-%m-%d %H:%M} failed | 7 |" in shown[0]
            else:
                assert any("And 152 more accounts" in line for line in lines)
                assert "never read" in shown[0]
        store.state.save_run(replace(failed, outcome="running"))


def test_figures_are_plottable_numbers(
    settings: Settings, instance: dg.DagsterInstance, days: Days
) -> None:
    records = instance.fetch_materializations(dg.AssetKey("coverage"), limit=100).records
    events = {record.partition_key: record.asset_materialization for record in records}
    event = events[f"{BIKES}|{days[2]}"]
    assert event is not None
    assert (event.metadata["ids_listed"].value, event.metadata["share_detailed_percent"].value) == (
        9,
        100.0,
    )


def test_missing_weekdays_differ_from_quiet_ones() -> None:
    monday = date(2026, 11, 23)
    chart = chart_of([monday, monday + timedelta(days=1)])
    means = np.full((7, 24), np.nan)
    means[:2] = 0
    quiet, unknown = draw_hours(means, chart), draw_hours(np.full((7, 24), 0.0), chart)
    assert quiet != unknown


NUMBERS = {column.name for column in ACCOUNT_DAYS.columns if column.required} - {
    "responsiveness_version"
}
QUIET_DAY = dict.fromkeys(NUMBERS, 0) | {"inbound_count": 3}
THREE = [date(2026, 11, 23) + timedelta(days=index) for index in range(3)]


@pytest.mark.parametrize("change", [{"unknown_count": 2}, {"is_backlog_lower_bound": True}])
def test_a_day_with_unread_messages_differs(change: dict[str, object]) -> None:
    known = dict.fromkeys(THREE, QUIET_DAY)
    changed = known | {THREE[0]: QUIET_DAY | change}
    assert draw_backlog(known, chart_of(THREE)) != draw_backlog(changed, chart_of(THREE))


@pytest.mark.parametrize(
    "complete_range", [CompleteRange(THREE[1], LATER), CompleteRange(THREE[0], NOON), None]
)
@pytest.mark.parametrize("held", [THREE, THREE[1:2]])
def test_an_incomplete_day_differs(complete_range: CompleteRange | None, held: list[date]) -> None:
    whole, broken = chart_of(THREE), replace(chart_of(THREE), complete_range=complete_range)
    ids = {"ids_listed": 4, "detailed": 4, "beyond_20": 0, "gone": 0, "failed": 0, "pending": 0}
    for draw, row in ((draw_backlog, QUIET_DAY), (draw_coverage, ids)):
        rows = dict.fromkeys(held, row)
        assert draw(rows, whole) != draw(rows, broken)


def test_the_title_of_an_incomplete_day_says_so() -> None:
    titles = [
        replace(chart_of([day]), complete_range=CompleteRange(THREE[1], NOON)).title
        for day in THREE
    ]
    assert titles == [
        f"{BAKERY} · {day} ({why})"
        for day, why in zip(THREE, ("incomplete", *["not over"] * 2), strict=True)
    ]


def test_new_customers_are_shown_with_their_certainty() -> None:
    rows: list[dict[str, float | None]] = [
        {"history_days": days, "new_customer_count": 3} for days in (28, 27)
    ]
    assert [format_new_count(row, flag) for row in rows for flag in (False, True)] == [
        "3",
        "≥ 3",
        "≤ 3",
        "≈ 3",
    ]


def test_uncovered_hours_are_not_averaged(settings: Settings, days: Days) -> None:
    """Each day has three messages more at noon than the day before."""
    all_days = [days[index] for index in range(3)]
    with closing(Store(settings.store)) as store:
        for since, expected in ((0, [3, 6, 9]), (1, [None, 6, 9])):
            chart = replace(
                chart_of(all_days), account=BIKES, complete_range=CompleteRange(days[since], LATER)
            )
            means = mean_hours(store, chart)
            found = [means[day.weekday(), 12] for day in all_days]
            assert [None if np.isnan(mean) else mean for mean in found] == expected
        assert np.isnan(mean_hours(store, replace(chart, complete_range=None))).all()


def test_the_table_names_incomplete_days(settings: Settings, days: Days) -> None:
    """The run covers three days; the complete range is then cut to the last one."""
    with closing(Store(settings.store)) as store:
        runs = store.state.runs(BAKERY)
        for run in runs:
            store.state.save_run(replace(run, since=days[2]))
        derive_account_days(store, BAKERY)
        pages = picture_account(store, BAKERY, [days[1], days[2]])
        page, coverage = (str(pages[table].value) for table in ("account_days", "coverage"))
        for run in runs:
            store.state.save_run(run)
        derive_account_days(store, BAKERY)
    assert "| sessions | measured |" in page
    assert f"| {days[1]} (incomplete) | ≥ " in page
    assert f"| {days[1]} (incomplete) |" in coverage
