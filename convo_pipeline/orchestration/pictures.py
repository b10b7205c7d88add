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

from convo_pipeline.lake.columns import read_columns
from convo_pipeline.lake.files import Store
from convo_pipeline.schema import ACCOUNT_DAYS, COVERAGE, MESSAGES, Table
from convo_pipeline.tables.chart_data import (
    UNANSWERED,
    Floats,
    Ints,
    Row,
    Span,
    class_waits,
    count_by_hour,
    coverage_shares,
    daily,
    mean_by_hour,
    span_of,
)
from convo_pipeline.tables.metrics import COLUMNS, first_responses, needed_days

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, YELLOW, VERMILION, GREY = "#0072B2", "#E69F00", "#F0E442", "#D55E00", "#999999"
STATUS_COLOURS = {"detailed": BLUE, "beyond_20": ORANGE, "gone": GREY, "failed": VERMILION, "pending": YELLOW}
SIZE_INCHES, DOTS_PER_INCH, COLOUR_COUNT = (7.6, 2.7), 110, 48
MARGINS = {"left": 0.085, "right": 0.855, "bottom": 0.19, "top": 0.89}
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MOST_TABLE_ROWS = 14
LINKS = (
    "[messages](/assets/messages) · [coverage](/assets/coverage) · [account_days](/assets/account_days) · "
    "[runs](/runs) — definitions: `docs/metrics.md`, what red means: `docs/ui.md`"
)


@dataclass(frozen=True)
class Subject:
    """Whose pictures: an account, its time zone, its session gap, and the days of the run."""

    account: str
    timezone: str
    session_gap_hours: float
    span: Span

    @property
    def title(self) -> str:
        return f"{self.account} · {self.span.title}"


def picture_account(
    store: Store, account: str, days: Sequence[date], *, timezone: str = "UTC", session_gap_hours: float = 24
) -> dict[str, dg.MarkdownMetadataValue]:
    """Draw the pictures of some days of an account; return the Markdown by table, none where nothing is held."""
    held = store.days(COVERAGE.name, account)
    subject = Subject(account, timezone, session_gap_hours, span_of(days, first_day=min(held, default=None)))
    if not set(held).intersection(subject.span.shown):
        return {}
    return {
        ACCOUNT_DAYS.name: dg.MetadataValue.md(_account_days_page(store, subject)),
        COVERAGE.name: dg.MetadataValue.md(_coverage_page(store, subject)),
    }


# pages


def _account_days_page(store: Store, subject: Subject) -> str:
    rows = read_rows(store, ACCOUNT_DAYS, subject.account, subject.span.shown)
    messages = _read(store, MESSAGES, subject.account, subject.span.pictured, ("created_at", "direction"))
    waits = _read_waits(store, subject)
    images = {
        "Messages by hour": draw_volume(messages, subject),
        "Time to the first answer": draw_waits(waits, subject),
        "Volume and backlog by day": draw_backlog(rows, subject),
    }
    return _page(subject, images, _figures_table(rows, subject.span.pictured))


def _coverage_page(store: Store, subject: Subject) -> str:
    rows = read_rows(store, COVERAGE, subject.account, subject.span.shown)
    return _page(
        subject, {"Coverage by day": draw_coverage(rows, subject)}, _coverage_table(rows, subject.span.pictured)
    )


def _page(subject: Subject, images: Mapping[str, bytes], table: str) -> str:
    shown = [f"![{title}](data:image/png;base64,{base64.b64encode(image).decode()})" for title, image in images.items()]
    return "\n\n".join([f"### {subject.title}", *shown, table, LINKS])


def _figures_table(rows: Mapping[date, Row], days: Sequence[date]) -> str:
    heads = ("date", "in", "out", "new customers", "median first answer", "answered in 24 h", "backlog")
    lines = [
        (day, row["inbound_count"], row["outbound_count"], row["new_customer_count"],
         spell_seconds(row["median_first_response_seconds"]), _percent(row["share_answered_24h"]), row["backlog_count"])
        for day, row in _newest(rows, days)
    ]  # fmt: skip
    return _table(heads, lines)


def _coverage_table(rows: Mapping[date, Row], days: Sequence[date]) -> str:
    names = ("ids_listed", *STATUS_COLOURS)
    lines = [(day, *(row[name] for name in names), _percent(row["share_detailed"])) for day, row in _newest(rows, days)]
    return _table(("date", *names, "with content"), lines)


def _newest(rows: Mapping[date, Row], days: Sequence[date]) -> list[tuple[date, Row]]:
    return [(day, rows[day]) for day in sorted(days, reverse=True) if day in rows][:MOST_TABLE_ROWS]


def _table(heads: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    if not lines:
        return "No messages on these days."
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)], *lines]
    return "\n".join(f"| {' | '.join('–' if cell is None else str(cell) for cell in row)} |" for row in rows)


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


def _read(store: Store, table: Table, account: str, days: Sequence[date], names: Sequence[str]) -> pa.Table:
    parts = [read_columns(store, table, account, day, names) for day in days]
    return pa.concat_tables([table.schema.empty_table().select(names), *parts])


def _read_waits(store: Store, subject: Subject) -> dict[str, int]:
    """Class the first responses of the pictured days; the neighbouring days say which sessions are new."""
    first, last = needed_days(subject.span.pictured[0])[0], needed_days(subject.span.pictured[-1])[1]
    around = [first + timedelta(days=index) for index in range((last - first).days)]
    messages = _read(store, MESSAGES, subject.account, around, COLUMNS)
    found = first_responses(messages, subject.span.pictured, session_gap_hours=subject.session_gap_hours)
    return class_waits(found.seconds, found.unanswered_count)


# drawings


def draw_volume(messages: pa.Table, subject: Subject) -> bytes:
    """Draw when people write: one day by its hours, more of them by weekday and hour."""
    if len(subject.span.pictured) == 1:
        counts = {
            name: count_by_hour(
                messages.filter(pc.equal(messages["direction"], direction))["created_at"], subject.timezone
            )
            for name, direction in (("in", "inbound"), ("out", "outbound"))
        }
        return draw_day({name: found.sum(axis=0) for name, found in counts.items()}, subject)
    counted = count_by_hour(messages["created_at"], subject.timezone)
    return draw_hours(mean_by_hour(counted, subject.span.pictured, subject.timezone), subject)


def draw_day(counts: Mapping[str, Ints], subject: Subject) -> bytes:
    """Draw one day's messages in and out by hour."""

    def draw(figure: "Figure", axes: "Axes") -> None:
        for (name, hours), colour, shift in zip(counts.items(), (BLUE, ORANGE), (-0.2, 0.2), strict=True):
            axes.bar(np.arange(24) + shift, hours, 0.4, color=colour, label=name)
        _label_hours(axes, subject)
        _count_on(axes, "messages")
        _legend(axes)

    return _draw(f"Messages by hour · {subject.title} (UTC day)", draw)


def draw_hours(means: Floats, subject: Subject) -> bytes:
    """Draw messages by hour and weekday; a weekday that the days do not hold stays grey."""

    def draw(figure: "Figure", axes: "Axes") -> None:
        top = max(1.0, float(np.nanmax(means, initial=0)))
        image = axes.imshow(means, cmap="cividis", aspect="auto", vmin=0, vmax=top)
        axes.set_facecolor("#dddddd")
        axes.set_yticks(range(7), WEEKDAYS)
        _label_hours(axes, subject)
        figure.colorbar(image, ax=axes, label="messages an hour", pad=0.02)

    return _draw(f"Messages by hour and weekday · {subject.title}", draw)


def draw_waits(waits: Mapping[str, int], subject: Subject) -> bytes:
    """Draw how many sessions had their first answer how soon."""

    def draw(figure: "Figure", axes: "Axes") -> None:
        labels = [label if label == UNANSWERED else f"≤ {label}" for label in waits]
        colours = [VERMILION if label == UNANSWERED else BLUE for label in waits]
        bars = axes.bar(labels, list(waits.values()), color=colours, width=0.75)
        axes.bar_label(bars, fontsize=9)
        _count_on(axes, "sessions")
        axes.set_xlabel("wait for a person's first answer")

    return _draw(f"Time to the first answer · {subject.title}", draw)


def draw_backlog(rows: Mapping[date, Row], subject: Subject) -> bytes:
    """Draw messages in and out by day, and how many conversations wait at each day's end."""
    days = subject.span.shown

    def draw(figure: "Figure", axes: "Axes") -> None:
        places = np.arange(len(days))
        axes.bar(places - 0.2, daily(rows, days, "inbound_count"), 0.4, color=BLUE, label="in")
        axes.bar(places + 0.2, daily(rows, days, "outbound_count"), 0.4, color=ORANGE, label="out")
        backlog = daily(rows, days, "backlog_count", np.nan)
        axes.plot(places, backlog, color="black", marker="o", markersize=3, linewidth=1.2, label="waiting")
        _count_on(axes, "messages, conversations")
        _label_days(axes, subject.span)
        _legend(axes)

    return _draw(f"Volume and backlog by day · {_shown_title(subject)}", draw)


def draw_coverage(rows: Mapping[date, Row], subject: Subject) -> bytes:
    """Draw what became of each day's ids, as shares, and how many there were."""
    days = subject.span.shown

    def draw(figure: "Figure", axes: "Axes") -> None:
        places, bottom = np.arange(len(days)), np.zeros(len(days))
        for status, shares in coverage_shares(rows, days).items():
            heights = np.nan_to_num(shares) * 100
            if heights.any():
                axes.bar(places, heights, 0.85, bottom=bottom, color=STATUS_COLOURS[status], label=status)
            bottom = bottom + heights
        axes.set_ylim(0, 112)
        axes.set_yticks(range(0, 101, 25))
        axes.set_ylabel("% of message ids")
        if len(days) <= 31:
            for place, count in enumerate(daily(rows, days, "ids_listed")):
                axes.text(place, 103, f"{count:.0f}" if count else "", ha="center", fontsize=7, color="#444444")
        _label_days(axes, subject.span)
        if bottom.any():
            _legend(axes)

    return _draw(f"Coverage by day, number of ids on top · {_shown_title(subject)}", draw)


def _count_on(axes: "Axes", label: str) -> None:
    """Count on the vertical axis: whole numbers from 0, with room for what stands on the bars."""
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]) * 1.08)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_ylabel(label)


def _label_hours(axes: "Axes", subject: Subject) -> None:
    axes.set_xticks(range(0, 24, 3), [f"{hour:02}:00" for hour in range(0, 24, 3)])
    axes.set_xlabel(f"hour ({subject.timezone})")


def _shown_title(subject: Subject) -> str:
    return f"{subject.account} · {subject.span.shown[0]} to {subject.span.shown[-1]}"


def _label_days(axes: "Axes", span: Span) -> None:
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
    axes.set_title(title, loc="left", fontsize=10, y=1.0)  # told where, nobody measures every label to find out
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    canvas.draw()
    return shrink(np.asarray(canvas.buffer_rgba()), COLOUR_COUNT)


def shrink(pixels: "np.typing.NDArray[np.uint8]", colour_count: int) -> bytes:
    """Return an image as a PNG of few colours."""
    from PIL import Image

    image = Image.fromarray(pixels[..., :3])
    buffer = io.BytesIO()
    image.quantize(colour_count, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
