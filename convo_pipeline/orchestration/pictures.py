"""Pictures beside the figures: what `account_days` and `coverage` of one account say about a run's days.

One entry of Markdown an account and run, on the newest day of the run, with small PNGs inside it: the event log keeps
every one of them. It draws numbers, dates and the account's name; never a person's name or a text. Matplotlib takes a
second to load and is loaded when something is drawn. Colours are those of Okabe and Ito and cividis, for any eyes.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.derive.account_days import read_complete_range
from convo_pipeline.lake.columns import read_columns
from convo_pipeline.lake.store import Store
from convo_pipeline.query.account_days import (
    COLUMNS,
    LOOKBACK_DAYS,
    compute_first_responses,
    day_status,
    needed_days,
)
from convo_pipeline.schema import ACCOUNT_DAYS, COVERAGE, MESSAGES, Table
from convo_pipeline.tables.chart_data import (
    UNANSWERED,
    UNKNOWN,
    ChartDays,
    Floats,
    Ints,
    Row,
    choose_chart_days,
    class_waits,
    count_by_hour,
    coverage_shares,
    daily,
    mean_by_hour,
)
from convo_pipeline.tables.complete_range import CompleteRange

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
SIZE_INCHES, DOTS_PER_INCH, COLOUR_COUNT = (7.6, 2.7), 110, 48
MARGINS = {"left": 0.085, "right": 0.855, "bottom": 0.19, "top": 0.89}
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MOST_TABLE_ROWS = 14
NOT_WHOLE = "not whole"
"""A day that no run promised, of which nothing or only what came along is held, or one that was not over."""
LINKS = (
    "[messages](/assets/messages) · [coverage](/assets/coverage) · [account_days](/assets/account_days) · "
    "[runs](/runs) — definitions: `docs/metrics.md`, what red means: `docs/ui.md`"
)


@dataclass(frozen=True)
class ChartContext:
    """Whose pictures: an account, its time zone, its session gap, the days of the run, and its complete range."""

    account: str
    timezone: str
    session_gap_hours: float
    span: ChartDays
    complete_range: CompleteRange | None

    @property
    def title(self) -> str:
        days = self.span.pictured
        return f"{self.account} · {self.name(days[0]) if len(days) == 1 else self.span.title}"

    def is_promised(self, day: date) -> bool:
        return day_status(day, self.complete_range).is_complete

    def is_whole(self, day: date) -> bool:
        """Say whether all of the day is held: a run promised it, and it was over."""
        return self.is_promised(day) and day_status(day, self.complete_range).has_ended

    def name(self, day: date) -> str:
        """Name a day, and say why it is not whole."""
        if self.is_whole(day):
            return f"{day}"
        return f"{day} (not over)" if self.is_promised(day) else f"{day} (not promised)"


def picture_account(
    store: Store,
    account: str,
    days: Sequence[date],
    *,
    timezone: str = "UTC",
    session_gap_hours: float = 24,
) -> dict[str, dg.MarkdownMetadataValue]:
    """Draw the pictures of some days of an account; return the Markdown by table, none where nothing is held."""
    held = store.days(COVERAGE.name, account)
    span = choose_chart_days(days, first_day=min(held, default=None))
    subject = ChartContext(
        account, timezone, session_gap_hours, span, read_complete_range(store, account)
    )
    if not set(held).intersection(subject.span.shown):
        return {}
    return {
        ACCOUNT_DAYS.name: dg.MetadataValue.md(_account_days_page(store, subject)),
        COVERAGE.name: dg.MetadataValue.md(_coverage_page(store, subject)),
    }


# pages


def _account_days_page(store: Store, subject: ChartContext) -> str:
    rows = read_rows(store, ACCOUNT_DAYS, subject.account, subject.span.shown)
    waits = _read_waits(store, subject, rows)
    images = {
        "Messages by hour": draw_volume(store, subject),
        "Time to the first answer": draw_waits(waits, subject),
        "Volume and backlog by day": draw_backlog(rows, subject),
    }
    return _page(subject, images, _figures_table(rows, subject))


def _coverage_page(store: Store, subject: ChartContext) -> str:
    rows = read_rows(store, COVERAGE, subject.account, subject.span.shown)
    images = {"Coverage by day": draw_coverage(rows, subject)}
    return _page(subject, images, _coverage_table(rows, subject))


def _page(subject: ChartContext, images: Mapping[str, bytes], table: str) -> str:
    shown = [
        f"![{title}](data:image/png;base64,{base64.b64encode(image).decode()})"
        for title, image in images.items()
    ]
    return "\n\n".join([f"### {subject.title}", *shown, table, LINKS])


def _figures_table(rows: Mapping[date, Row], subject: ChartContext) -> str:
    heads = ("date", "in", "out", "unread", "new customers", "sessions", "judged", "median first answer",
             "answered in 24 h, of judged", "backlog")  # fmt: skip
    lines = [
        (subject.name(day), _at_least(row["inbound_count"], is_open), _at_least(row["outbound_count"], is_open),
         row["unknown_count"], spell_new_count(row, is_open), row["session_count"], row["judged_session_count"],
         spell_seconds(row["median_first_response_seconds"]), _percent(row["share_answered_24h"]),
         _at_least(row["backlog_count"], bool(row["is_backlog_lower_bound"])))
        for day, row in _newest(rows, subject.span.pictured)
        for is_open in [bool(row["unknown_count"]) or not subject.is_whole(day)]
    ]  # fmt: skip
    return _table(heads, lines)


def _at_least(count: float | None, is_least: bool) -> str:
    return f"≥ {count}" if is_least else f"{count}"


def spell_new_count(row: Row, is_least: bool) -> str:
    """Say how many customers were new: fewer where the days looked back on are not all held, more where one is unread."""
    is_most = (row["history_days"] or 0) < LOOKBACK_DAYS
    sign = {(False, False): "", (True, False): "≤ ", (False, True): "≥ ", (True, True): "≈ "}[
        is_most, is_least
    ]
    return f"{sign}{row['new_customer_count']}"


def _coverage_table(rows: Mapping[date, Row], subject: ChartContext) -> str:
    names = ("ids_listed", *STATUS_COLOURS)
    lines = [
        (subject.name(day), *(row[name] for name in names), _percent(row["share_detailed"]))
        for day, row in _newest(rows, subject.span.pictured)
    ]
    return _table(("date", *names, "with content"), lines)


def _newest(rows: Mapping[date, Row], days: Sequence[date]) -> list[tuple[date, Row]]:
    return [(day, rows[day]) for day in sorted(days, reverse=True) if day in rows][:MOST_TABLE_ROWS]


def _table(heads: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    if not lines:
        return "No messages on these days."
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)], *lines]
    return "\n".join(
        f"| {' | '.join('–' if cell is None else str(cell) for cell in row)} |" for row in rows
    )


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.0%}"


def spell_seconds(seconds: float | None) -> str | None:
    """Write a duration as people say it.

    >>> spell_seconds(42), spell_seconds(600), spell_seconds(9000), spell_seconds(200_000)
    ('42 s', '10 min', '2.5 h', '2.3 days')
    """
    if seconds is None:
        return None
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length * (2 if unit == "days" else 1):
            return f"{seconds / length:.{0 if unit == 'min' else 1}f} {unit}"
    return f"{seconds:.0f} s"


# numbers


def read_rows(store: Store, table: Table, account: str, days: Sequence[date]) -> dict[date, Row]:
    """Return a mart's row of each day that has one."""
    found = {day: store.read(table.name, account, day).to_pylist() for day in days}
    return {day: rows[0] for day, rows in found.items() if rows}


def _read(
    store: Store, table: Table, account: str, days: Sequence[date], names: Sequence[str]
) -> pa.Table:
    parts = [read_columns(store, table, account, day, names) for day in days]
    return pa.concat_tables([table.schema.empty_table().select(names), *parts])


def _read_waits(store: Store, subject: ChartContext, rows: Mapping[date, Row]) -> dict[str, int]:
    """Class the first responses of the pictured days; the neighbouring days say which sessions are new.

    Of a day that no run promised only some sessions are held, those that went on longest: their waits are not counted.
    """
    pictured = [day for day in subject.span.pictured if day in rows]
    promised = [day for day in pictured if subject.is_promised(day)]
    unpromised_count = sum(
        int(rows[day]["session_count"] or 0) for day in pictured if day not in promised
    )
    gap = subject.session_gap_hours
    first, last = (
        needed_days(subject.span.pictured[0], gap)[0],
        needed_days(subject.span.pictured[-1], gap)[1],
    )
    around = [first + timedelta(days=index) for index in range((last - first).days)]
    messages = _read(store, MESSAGES, subject.account, around, COLUMNS)
    found = compute_first_responses(
        messages, promised, complete_range=subject.complete_range, session_gap_hours=gap
    )
    return class_waits(
        found.seconds, found.unanswered_count, found.unknown_count + unpromised_count
    )


# drawings


def draw_volume(store: Store, subject: ChartContext) -> bytes:
    """Draw when people write: one day by its hours, more of them by weekday and hour."""
    if len(subject.span.pictured) > 1:
        return draw_hours(mean_hours(store, subject), subject)
    messages = _read(
        store, MESSAGES, subject.account, subject.span.pictured, ("created_at", "direction")
    )
    counts = {
        name: count_by_hour(
            messages.filter(_is_direction(messages, direction))["created_at"], subject.timezone
        )
        for name, direction in (("in", "inbound"), ("out", "outbound"), ("unread", None))
    }
    return draw_day({name: found.sum(axis=0) for name, found in counts.items()}, subject)


def mean_hours(store: Store, subject: ChartContext) -> Floats:
    """Return messages an hour by weekday and hour, over the hours that a run promised and that were over.

    What is held of others would make the means too small.
    """
    if subject.complete_range is None:
        return np.full((7, 24), np.nan)
    days, until = (
        [day for day in subject.span.pictured if subject.is_promised(day)],
        subject.complete_range.until,
    )
    written = _read(store, MESSAGES, subject.account, days, ("created_at",))["created_at"]
    is_before = pc.less(written, pa.scalar(until, written.type))
    return mean_by_hour(
        count_by_hour(written.filter(is_before), subject.timezone), days, subject.timezone, until
    )


def _is_direction(messages: pa.Table, direction: str | None) -> pa.ChunkedArray:
    return (
        pc.is_null(messages["direction"])
        if direction is None
        else pc.equal(messages["direction"], direction)
    )


def draw_day(counts: Mapping[str, Ints], subject: ChartContext) -> bytes:
    """Draw one day's messages by hour: in, out, and unread ones, which may be either."""

    def draw(figure: "Figure", axes: "Axes") -> None:
        for (name, hours), colour, shift in zip(
            counts.items(), (BLUE, ORANGE, GREY), (-0.28, 0, 0.28), strict=True
        ):
            axes.bar(np.arange(24) + shift, hours, 0.28, color=colour, label=name)
        _label_hours(axes, subject)
        _count_on(axes, "messages")
        _legend(axes)

    return _draw(f"Messages by hour · {subject.title} (UTC day)", draw)


def draw_hours(means: Floats, subject: ChartContext) -> bytes:
    """Draw messages by hour and weekday; an hour that the days do not hold, or not yet, stays grey."""

    def draw(figure: "Figure", axes: "Axes") -> None:
        top = max(1.0, float(np.nanmax(means, initial=0)))
        image = axes.imshow(means, cmap="cividis", aspect="auto", vmin=0, vmax=top)
        axes.set_facecolor("#dddddd")
        axes.set_yticks(range(7), WEEKDAYS)
        _label_hours(axes, subject, "; grey: not held" if np.isnan(means).any() else "")
        figure.colorbar(image, ax=axes, label="messages an hour", pad=0.02)

    return _draw(f"Messages by hour and weekday · {subject.title}", draw)


def draw_waits(waits: Mapping[str, int], subject: ChartContext) -> bytes:
    """Draw how many sessions had their first answer how soon."""

    def draw(figure: "Figure", axes: "Axes") -> None:
        colours = [{UNANSWERED: VERMILION, UNKNOWN: GREY}.get(label, BLUE) for label in waits]
        bars = axes.bar(list(waits), list(waits.values()), color=colours, width=0.75)
        axes.bar_label(bars, fontsize=9)
        axes.tick_params(axis="x", labelsize=8)
        _count_on(axes, "sessions")
        axes.set_xlabel("wait for a person's first answer")

    return _draw(f"Time to the first answer · {subject.title}", draw)


def draw_backlog(rows: Mapping[date, Row], subject: ChartContext) -> bytes:
    """Draw messages in and out by day, and how many conversations wait at each day's end."""
    days = subject.span.shown

    def draw(figure: "Figure", axes: "Axes") -> None:
        places = np.arange(len(days))
        for name, colour, shift in (
            ("inbound", BLUE, -0.28),
            ("outbound", ORANGE, 0),
            ("unknown", GREY, 0.28),
        ):
            label = {"inbound": "in", "outbound": "out", "unknown": "unread"}[name]
            axes.bar(
                places + shift, daily(rows, days, f"{name}_count"), 0.28, color=colour, label=label
            )
        backlog = daily(rows, days, "backlog_count", np.nan)
        is_known = daily(rows, days, "is_backlog_lower_bound") == 0
        axes.plot(places, backlog, color="black", linewidth=1.2)
        for label, fill, values in (
            ("waiting", "black", np.where(is_known, backlog, np.nan)),
            ("waiting, ≥", "white", np.where(is_known, np.nan, backlog)),
        ):
            if not np.isnan(values).all():
                axes.plot(
                    places,
                    values,
                    "o",
                    color="black",
                    markerfacecolor=fill,
                    markersize=3.5,
                    label=label,
                )
        _hatch(axes, subject)
        _count_on(axes, "messages, conversations")
        _label_days(axes, subject.span)
        _legend(axes)

    return _draw(f"Volume and backlog by day · {_shown_title(subject)}", draw)


def draw_coverage(rows: Mapping[date, Row], subject: ChartContext) -> bytes:
    """Draw what became of each day's ids, as shares, and how many there were."""
    days = subject.span.shown

    def draw(figure: "Figure", axes: "Axes") -> None:
        places, bottom = np.arange(len(days)), np.zeros(len(days))
        for status, shares in coverage_shares(rows, days).items():
            heights = np.nan_to_num(shares) * 100
            if heights.any():
                axes.bar(
                    places, heights, 0.85, bottom=bottom, color=STATUS_COLOURS[status], label=status
                )
            bottom = bottom + heights
        axes.set_ylim(0, 112)
        axes.set_yticks(range(0, 101, 25))
        axes.set_ylabel("% of message ids")
        if len(days) <= 31:
            for place, count in enumerate(daily(rows, days, "ids_listed")):
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
                axes.text(
                    place,
                    103,
                    f"{count:.0f}" if count else "",
                    ha="center",
                    fontsize=7,
                    color="#444444",
                    bbox=box,
                )
        _hatch(axes, subject)
        _label_days(axes, subject.span)
        if bottom.any():
            _legend(axes)

    return _draw(f"Coverage by day, number of ids on top · {_shown_title(subject)}", draw)


def _hatch(axes: "Axes", subject: ChartContext) -> None:
    """Hatch the days that are not whole, over what is drawn of them: an empty one is not a quiet one."""
    places = [place for place, day in enumerate(subject.span.shown) if not subject.is_whole(day)]
    for first, last in _stretches(places):
        label = NOT_WHOLE if first == places[0] else None
        axes.axvspan(
            first - 0.5,
            last + 0.5,
            facecolor="none",
            edgecolor="#777777",
            hatch="///",
            linewidth=0,
            label=label,
        )


def _stretches(places: Sequence[int]) -> list[tuple[int, int]]:
    """Join neighbours.

    >>> _stretches([0, 1, 2, 5])
    [(0, 2), (5, 5)]
    """
    firsts = [place for place in places if place - 1 not in places]
    lasts = [place for place in places if place + 1 not in places]
    return list(zip(firsts, lasts, strict=True))


def _count_on(axes: "Axes", label: str) -> None:
    """Count on the vertical axis: whole numbers from 0, with room for what stands on the bars."""
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]) * 1.08)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_ylabel(label)


def _label_hours(axes: "Axes", subject: ChartContext, note: str = "") -> None:
    axes.set_xticks(range(0, 24, 3), [f"{hour:02}:00" for hour in range(0, 24, 3)])
    axes.set_xlabel(f"hour ({subject.timezone}){note}")


def _shown_title(subject: ChartContext) -> str:
    return f"{subject.account} · {subject.span.shown[0]} to {subject.span.shown[-1]}"


def _label_days(axes: "Axes", span: ChartDays) -> None:
    """Write every so many dates; where one day is shown among others, mark it."""
    count = len(span.shown)
    step = max(1, -(-count // 10))
    ticks = range((count - 1) % step, count, step)
    axes.set_xticks(list(ticks), [f"{span.shown[place]:%d %b}" for place in ticks])
    axes.set_xlim(-0.7, count - 0.3)
    if len(span.pictured) < count:
        marked = [place for place, day in enumerate(span.shown) if day in span.pictured]
        axes.axvspan(marked[0] - 0.5, marked[-1] + 0.5, color="#e8e8e8", linewidth=0, zorder=-1)


def _legend(axes: "Axes") -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.005, 1), frameon=False, fontsize=8)


def _draw(title: str, draw: Callable[["Figure", "Axes"], None]) -> bytes:
    """Return a small PNG; nothing of matplotlib's global state is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH)
    canvas: Any = FigureCanvasAgg(figure)
    axes: Any = figure.subplots(gridspec_kw=MARGINS)
    draw(figure, axes)
    axes.set_title(
        title, loc="left", fontsize=10, y=1.0
    )  # told where, nobody measures every label to find out
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    canvas.draw()
    return shrink(np.asarray(canvas.buffer_rgba()), COLOUR_COUNT)


def shrink(pixels: "np.typing.NDArray[np.uint8]", colour_count: int) -> bytes:
    """Return an image as a PNG of few colours; an octree finds them in a tenth of the median cut's time."""
    from PIL import Image

    image = Image.fromarray(pixels[..., :3])
    buffer = io.BytesIO()
    image.quantize(colour_count, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        buffer, "PNG"
    )
    return buffer.getvalue()
