"""Pictures of `account_days` and `coverage` for Dagster's page: one account and a run's days.

A picture page is one Markdown entry with small PNGs, because the event log keeps all of them. It
shows numbers, dates and the account's name, never a person's name or a text. Matplotlib takes a
second to load, so it is imported when something is drawn. Colours are from Okabe-Ito and cividis,
which colour-blind readers can tell apart.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.derive.account_days import read_complete_range, read_rules
from convo_pipeline.errors import ConvoError
from convo_pipeline.lake.columns import read_columns
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.metadata import TablePartition
from convo_pipeline.orchestration.names import Names
from convo_pipeline.orchestration.partitions import key_of
from convo_pipeline.orchestration.steps import StepResult
from convo_pipeline.query.account_days import (
    COLUMNS,
    compute_first_responses,
    day_status,
    needed_days,
)
from convo_pipeline.query.reply_rules import DEFAULT_RULES, LOOKBACK_DAYS, ReplyRules
from convo_pipeline.reasons import Interface, describe_error
from convo_pipeline.schema import ACCOUNT_DAYS, COVERAGE, MESSAGES, Table
from convo_pipeline.tables.chart_data import (
    REACTED,
    UNANSWERED,
    UNKNOWN,
    ChartDays,
    Floats,
    Ints,
    Row,
    choose_chart_days,
    class_waits,
    count_by_hour,
    count_weekdays,
    coverage_shares,
    daily,
    mean_by_hour,
)
from convo_pipeline.tables.complete_range import CompleteRange

PICTURES = "pictures"
"""Key of the metadata that holds a page of pictures."""
PICTURED = (ACCOUNT_DAYS.name, COVERAGE.name)
"""The tables whose pages show pictures."""
BLUE, ORANGE, YELLOW, VERMILION, GREY = "#0072B2", "#E69F00", "#F0E442", "#D55E00", "#999999"
STATUS_COLOURS = {
    "detailed": BLUE,
    "beyond_20": ORANGE,
    "gone": GREY,
    "failed": VERMILION,
    "pending": YELLOW,
}
DIRECTIONS = {"inbound": ("in", BLUE), "outbound": ("out", ORANGE), "unknown": ("unread", GREY)}
BAR_OFFSETS, BAR_WIDTH = (-0.28, 0, 0.28), 0.28
SIZE_INCHES, DOTS_PER_INCH, COLOUR_COUNT = (7.6, 2.7), 110, 48
MARGINS = {"left": 0.085, "right": 0.855, "bottom": 0.19, "top": 0.89}
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MOST_TABLE_ROWS = 14
LINKS = (
    "[messages](/assets/messages) · [coverage](/assets/coverage) ·"
    " [account_days](/assets/account_days) · [runs](/runs) — definitions: `docs/metrics.md`, what"
    " red means: `docs/ui.md`"
)


@dataclass(frozen=True)
class ChartContext:
    """The account, days and settings that all pictures of a page share."""

    account: str
    rules: ReplyRules
    days: ChartDays
    complete_range: CompleteRange | None

    @property
    def timezone(self) -> str:
        return self.rules.timezone or "UTC"

    @property
    def title(self) -> str:
        pictured = self.days.pictured
        name = self.label(pictured[0]) if len(pictured) == 1 else self.days.title
        return f"{self.account} · {name}"

    @property
    def shown_title(self) -> str:
        return f"{self.account} · {self.days.shown[0]} to {self.days.shown[-1]}"

    def is_covered(self, day: date) -> bool:
        """Whether complete runs cover the day, as far as it was over."""
        return day_status(day, self.complete_range).is_complete

    def is_complete(self, day: date) -> bool:
        """Whether complete runs cover the day and it was over at the last of them."""
        return self.is_covered(day) and day_status(day, self.complete_range).has_ended

    def label(self, day: date) -> str:
        """Return the day, with a note if it is not complete."""
        if self.is_complete(day):
            return f"{day}"
        return f"{day} (not over)" if self.is_covered(day) else f"{day} (incomplete)"


def draw_pictures(
    deployment: Deployment, store: Store, account: str, days: Sequence[date], result: StepResult
) -> dict[TablePartition, dg.MarkdownMetadataValue]:
    """Draw an account's pictures of some days, for the newest of them; none if the account failed.

    Tables are complete without pictures, so a text replaces a picture that cannot be drawn.
    """
    if not days or account in result.failures:
        return {}

    def draw() -> dict[str, dg.MarkdownMetadataValue]:
        try:
            zone = deployment.settings.account(account).timezone
            rules = replace(read_rules(store, deployment.settings, account), timezone=zone)
            return picture_account(store, account, days, rules=rules)
        except ConvoError:
            raise
        except Exception as error:
            why = explain_no_picture(error, deployment.interface)
            return dict.fromkeys(PICTURED, dg.MetadataValue.md(f"No pictures: {why}."))

    pages = result.attempt(account, draw) or {}
    return {(table, key_of(account, max(days))): page for table, page in pages.items()}


def explain_no_picture(error: Exception, interface: Interface) -> str:
    """Return why a picture cannot be drawn, with the command if its libraries are missing."""
    if isinstance(error, ModuleNotFoundError):
        return '`pip install "convo-pipeline[plots]"`'
    return describe_error(error, interface)


def find_pictures(
    instance: dg.DagsterInstance, names: Names, account: str, days: Sequence[date]
) -> dict[TablePartition, dg.MarkdownMetadataValue]:
    """Return the pictures of the newest day that an earlier run drew; drawing costs more."""
    pages: dict[TablePartition, dg.MarkdownMetadataValue] = {}
    for table in PICTURED if days else ():
        key = key_of(account, max(days))
        records = dg.AssetRecordsFilter(names.asset_key(table), asset_partitions=[key])
        for record in instance.fetch_materializations(records, limit=1).records:
            event = record.asset_materialization
            page = event.metadata.get(PICTURES) if event else None
            if isinstance(page, dg.MarkdownMetadataValue):
                pages[table, key] = page
    return pages


def picture_account(
    store: Store,
    account: str,
    days: Sequence[date],
    *,
    rules: ReplyRules = DEFAULT_RULES,
) -> dict[str, dg.MarkdownMetadataValue]:
    """Draw the pictures of some days; return Markdown by table, nothing if no day is stored."""
    stored_days = store.days(COVERAGE.name, account)
    chart = ChartContext(
        account,
        rules,
        choose_chart_days(days, first_day=min(stored_days, default=None)),
        read_complete_range(store, account),
    )
    shown = chart.days.shown
    if not set(stored_days).intersection(shown):
        return {}
    figures = read_rows(store, ACCOUNT_DAYS, account, shown)
    coverage = read_rows(store, COVERAGE, account, shown)
    account_days_images = {
        "Messages by hour": _draw_volume(store, chart),
        "Time to the first response": _draw_waits(_read_waits(store, chart, figures), chart),
        "Volume and backlog by day": draw_backlog(figures, chart),
    }
    coverage_images = {"Coverage by day": draw_coverage(coverage, chart)}
    return {
        ACCOUNT_DAYS.name: _page(chart, account_days_images, _figures_table(figures, chart)),
        COVERAGE.name: _page(chart, coverage_images, _coverage_table(coverage, chart)),
    }


# pages


def _page(chart: ChartContext, images: Mapping[str, bytes], table: str) -> dg.MarkdownMetadataValue:
    embedded = [embed_picture(title, image) for title, image in images.items()]
    return dg.MetadataValue.md("\n\n".join([f"### {chart.title}", *embedded, table, LINKS]))


def embed_picture(title: str, image: bytes) -> str:
    """Return a PNG as Markdown."""
    return f"![{title}](data:image/png;base64,{base64.b64encode(image).decode()})"


def _figures_table(rows: Mapping[date, Row], chart: ChartContext) -> str:
    heads = ("date", "in", "out", "unread", "new customers", "sessions", "measured",
             "median first response", "answered in 24 h, of measured", "backlog")  # fmt: skip
    lines = []
    for day, row in _newest(rows, chart):
        is_minimum = bool(row["unknown_count"]) or not chart.is_complete(day)
        share = row["share_answered_24h"]
        lines.append(
            (
                chart.label(day),
                _at_least(row["inbound_count"], is_minimum),
                _at_least(row["outbound_count"], is_minimum),
                row["unknown_count"],
                format_new_count(row, is_minimum),
                row["session_count"],
                row["measured_session_count"],
                format_seconds(row["median_first_response_seconds"]),
                None if share is None else f"{share:.0%}",
                _at_least(row["backlog_count"], bool(row["is_backlog_lower_bound"])),
            )
        )
    return markdown_table(heads, lines)


def _at_least(count: float | None, is_minimum: bool) -> str:
    return f"≥ {count}" if is_minimum else f"{count}"


def format_new_count(row: Row, is_minimum: bool) -> str:
    """Return the number of new customers with its certainty.

    Without all earlier days there may be fewer (≤); with unread messages more (≥); with both, ≈.
    """
    is_maximum = (row["history_days"] or 0) < LOOKBACK_DAYS
    signs = {(True, False): "≤ ", (False, True): "≥ ", (True, True): "≈ "}
    return f"{signs.get((is_maximum, is_minimum), '')}{row['new_customer_count']}"


def _coverage_table(rows: Mapping[date, Row], chart: ChartContext) -> str:
    names = ("ids_listed", *STATUS_COLOURS)
    lines = []
    for day, row in _newest(rows, chart):
        share = row["share_detailed"]
        percent = None if share is None else f"{share:.0%}"
        lines.append((chart.label(day), *(row[name] for name in names), percent))
    return markdown_table(("date", *names, "with content"), lines)


def _newest(rows: Mapping[date, Row], chart: ChartContext) -> list[tuple[date, Row]]:
    newest_first = sorted(chart.days.pictured, reverse=True)
    return [(day, rows[day]) for day in newest_first if day in rows][:MOST_TABLE_ROWS]


def markdown_table(heads: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    if not lines:
        return "No messages on these days."
    table = [heads, ["---", *["---:"] * (len(heads) - 1)], *lines]
    return "\n".join(
        f"| {' | '.join('–' if cell is None else str(cell) for cell in line)} |" for line in table
    )


def format_seconds(seconds: float | None) -> str | None:
    """Format a duration in its largest unit.

    >>> format_seconds(42), format_seconds(600), format_seconds(9000), format_seconds(200_000)
    ('42 s', '10 min', '2.5 h', '2.3 days')
    """
    if seconds is None:
        return None
    if seconds >= 2 * 86_400:
        return f"{seconds / 86_400:.1f} days"
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


# numbers


def read_rows(store: Store, table: Table, account: str, days: Sequence[date]) -> dict[date, Row]:
    """Return the row of a one-row table for each day that has one."""
    tables = {day: store.read(table.name, account, day).to_pylist() for day in days}
    return {day: rows[0] for day, rows in tables.items() if rows}


def _read_messages(
    store: Store, account: str, days: Sequence[date], names: Sequence[str]
) -> pa.Table:
    parts = [read_columns(store, MESSAGES, account, day, names) for day in days]
    return pa.concat_tables([MESSAGES.schema.empty_table().select(names), *parts])


def _read_waits(store: Store, chart: ChartContext, rows: Mapping[date, Row]) -> dict[str, int]:
    """Count the first responses of the pictured days by waiting time.

    Messages of neighbouring days show which sessions are new. A day that no complete run covers
    holds only its longest sessions, so its waits count as unknown.
    """
    rules, pictured = chart.rules, [day for day in chart.days.pictured if day in rows]
    covered = [day for day in pictured if chart.is_covered(day)]
    uncovered_count = sum(
        int(rows[day]["session_count"] or 0) for day in pictured if day not in covered
    )
    first = needed_days(chart.days.pictured[0], rules)[0]
    until = needed_days(chart.days.pictured[-1], rules)[1]
    days = [first + timedelta(days=index) for index in range((until - first).days)]
    responses = compute_first_responses(
        _read_messages(store, chart.account, days, COLUMNS),
        covered,
        complete_range=chart.complete_range,
        rules=rules,
    )
    unknown_count = responses.unknown_count + uncovered_count
    return class_waits(
        responses.seconds,
        responses.unanswered_count,
        responses.acknowledged_count,
        unknown_count,
    )


def mean_hours(store: Store, chart: ChartContext) -> Floats:
    """Return mean messages per hour as weekday × hour, over the hours that complete runs cover.

    Other hours may lack messages and would make the means too small.
    """
    if chart.complete_range is None:
        return np.full((7, 24), np.nan)
    days = [day for day in chart.days.pictured if chart.is_covered(day)]
    until = chart.complete_range.until
    times = _read_messages(store, chart.account, days, ("created_at",))["created_at"]
    times = times.filter(pc.less(times, pa.scalar(until, times.type)))
    return mean_by_hour(count_by_hour(times, chart.timezone), days, chart.timezone, until)


# drawings


def _draw_volume(store: Store, chart: ChartContext) -> bytes:
    """Draw the messages of one day by hour, or of several days by weekday and hour."""
    if len(chart.days.pictured) > 1:
        return draw_hours(mean_hours(store, chart), chart)
    names = ("created_at", "direction")
    messages = _read_messages(store, chart.account, chart.days.pictured, names)
    directions = pc.fill_null(messages["direction"], "unknown")
    figure, axes = new_chart(f"Messages by hour · {chart.title} (UTC day)")
    for (direction, (label, colour)), offset in zip(DIRECTIONS.items(), BAR_OFFSETS, strict=True):
        times = messages.filter(pc.equal(directions, direction))["created_at"]
        counts: Ints = count_by_hour(times, chart.timezone).sum(axis=0)
        axes.bar(np.arange(24) + offset, counts, BAR_WIDTH, color=colour, label=label)
    _label_hours(axes, chart)
    scale_counts(axes, "messages")
    add_legend(axes)
    return to_png(figure)


def draw_hours(means: Floats, chart: ChartContext) -> bytes:
    """Draw mean messages by hour and weekday, with the number of days behind each mean.

    Hours without complete data are grey.
    """
    figure, axes = new_chart(f"Messages by hour and weekday · {chart.title}")
    days = [day for day in chart.days.pictured if chart.is_covered(day)]
    until = chart.complete_range.until if chart.complete_range else datetime.max.replace(tzinfo=UTC)
    counts = count_weekdays(days, chart.timezone, until)
    top = max(1.0, float(np.nanmax(means, initial=0)))
    image = axes.imshow(means, cmap="cividis", aspect="auto", vmin=0, vmax=top)
    axes.set_facecolor("#dddddd")
    axes.set_yticks(
        range(7),
        [f"{name} ×{count}" for name, count in zip(WEEKDAYS, counts, strict=True)],
        fontsize=8,
    )
    note = f", means of {len(days)} of {len(chart.days.pictured)} days, ×n: n hours or more each"
    _label_hours(axes, chart, note + ("; grey: incomplete" if np.isnan(means).any() else ""))
    figure.colorbar(image, ax=axes, label="in + out + unread an hour", pad=0.02)
    return to_png(figure)


def _draw_waits(waits: Mapping[str, int], chart: ChartContext) -> bytes:
    """Draw the number of sessions by the wait for their first response."""
    title = f"Time to the first response, {sum(waits.values())} sessions"
    figure, axes = new_chart(f"{title} · {chart.title}")
    special = {UNANSWERED: VERMILION, REACTED: YELLOW, UNKNOWN: GREY}
    colours = [special.get(label, BLUE) for label in waits]
    bars = axes.bar(list(waits), list(waits.values()), color=colours, width=0.75)
    axes.bar_label(bars, fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    scale_counts(axes, "sessions")
    axes.set_xlabel("wait for the first response of a person")
    return to_png(figure)


def draw_backlog(rows: Mapping[date, Row], chart: ChartContext) -> bytes:
    """Draw messages in and out by day, and the conversations that wait at the end of each day."""
    figure, axes = new_chart(f"Volume and backlog by day · {chart.shown_title}")
    days = chart.days.shown
    positions = np.arange(len(days))
    for (direction, (label, colour)), offset in zip(DIRECTIONS.items(), BAR_OFFSETS, strict=True):
        counts = daily(rows, days, f"{direction}_count")
        axes.bar(positions + offset, counts, BAR_WIDTH, color=colour, label=label)
    backlog = daily(rows, days, "backlog_count", np.nan)
    is_exact = daily(rows, days, "is_backlog_lower_bound") == 0
    axes.plot(positions, backlog, color="black", linewidth=1.2)
    for label, fill, is_drawn in (
        ("waiting", "black", is_exact),
        ("waiting, ≥", "white", ~is_exact),
    ):
        values = np.where(is_drawn, backlog, np.nan)
        if not np.isnan(values).all():
            style = {"color": "black", "markerfacecolor": fill, "markersize": 3.5}
            axes.plot(positions, values, "o", label=label, **style)
    _hatch_incomplete(axes, chart)
    scale_counts(axes, "messages, conversations")
    _label_days(axes, chart.days)
    add_legend(axes)
    return to_png(figure)


def draw_coverage(rows: Mapping[date, Row], chart: ChartContext) -> bytes:
    """Draw the shares of each day's message ids by status, and how many ids there are."""
    figure, axes = new_chart(f"Coverage by day, number of ids on top · {chart.shown_title}")
    days = chart.days.shown
    positions, bottom = np.arange(len(days)), np.zeros(len(days))
    for status, shares in coverage_shares(rows, days).items():
        heights = np.nan_to_num(shares) * 100
        if heights.any():
            colour = STATUS_COLOURS[status]
            axes.bar(positions, heights, 0.85, bottom=bottom, color=colour, label=status)
        bottom = bottom + heights
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 25))
    axes.set_ylabel("% of message ids")
    if len(days) <= 31:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        style = {"ha": "center", "fontsize": 7, "color": "#444444", "bbox": box}
        for position, count in enumerate(daily(rows, days, "ids_listed")):
            axes.text(position, 103, f"{count:.0f}" if count else "", **style)
    _hatch_incomplete(axes, chart)
    _label_days(axes, chart.days)
    if bottom.any():
        add_legend(axes)
    return to_png(figure)


# parts of drawings


def new_chart(
    title: str, panel_count: int | None = None, margins: Mapping[str, float] = MARGINS
) -> tuple[Any, Any]:
    """Return a figure and its axes, or a list of axes below each other, each as high as a chart.

    It does not use matplotlib's global state.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = SIZE_INCHES
    rows = panel_count or 1
    figure = Figure(figsize=(width, height * (0.3 + 0.7 * rows)), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(rows, 1, squeeze=False, gridspec_kw=dict(margins))[:, 0]
    panels[0].set_title(title, loc="left", fontsize=10, y=1.0)  # a fixed y saves measuring labels
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels if panel_count else panels[0]


def to_png(figure: Any) -> bytes:
    """Return the figure as a PNG of few colours; an octree is ten times as fast as a median cut."""
    from PIL import Image

    figure.canvas.draw()
    image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    buffer = io.BytesIO()
    method, dither = Image.Quantize.FASTOCTREE, Image.Dither.NONE
    image.quantize(COLOUR_COUNT, method, dither=dither).save(buffer, "PNG")
    return buffer.getvalue()


def _hatch_incomplete(axes: Any, chart: ChartContext) -> None:
    label: str | None = "incomplete"
    for position, day in enumerate(chart.days.shown):
        if not chart.is_complete(day):
            style = {"facecolor": "none", "edgecolor": "#777777", "hatch": "///", "linewidth": 0}
            axes.axvspan(position - 0.5, position + 0.5, label=label, **style)
            label = None


def scale_counts(axes: Any, label: str) -> None:
    """Use whole numbers from 0, with room above the bars for their labels."""
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]) * 1.08)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_ylabel(label)


def _label_hours(axes: Any, chart: ChartContext, note: str = "") -> None:
    axes.set_xticks(range(0, 24, 3), [f"{hour:02}:00" for hour in range(0, 24, 3)])
    axes.set_xlabel(f"hour ({chart.timezone}){note}")


def _label_days(axes: Any, days: ChartDays) -> None:
    """Label about ten dates; mark a single day among those before it."""
    count = len(days.shown)
    step = max(1, -(-count // 10))
    ticks = range((count - 1) % step, count, step)
    axes.set_xticks(list(ticks), [f"{days.shown[index]:%d %b}" for index in ticks])
    axes.set_xlabel("day (UTC)")
    axes.set_xlim(-0.7, count - 0.3)
    if len(days.pictured) < count:
        marked = [index for index, day in enumerate(days.shown) if day in days.pictured]
        style = {"color": "#e8e8e8", "linewidth": 0, "zorder": -1}
        label = f"{days.pictured[0]:%d %b}"
        axes.axvspan(marked[0] - 0.5, marked[-1] + 0.5, label=label, **style)


def add_legend(axes: Any) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.005, 1), frameon=False, fontsize=8)
