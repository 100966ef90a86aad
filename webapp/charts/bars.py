"""Bar charts and histograms."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from webapp.charts.chart import (
    CHAR_WIDTH,
    TOP,
    WIDTH,
    Box,
    Chart,
    Label,
    PlotArea,
    Table,
    make_empty_chart,
    make_identity,
    make_plot_area,
    make_y_ticks,
)
from webapp.charts.scales import Scale, format_number, make_wide_scale, require_finite

_BAR_ROW: Final = 36.0


def build_bar_chart(
    title: str, bars: Sequence[tuple[str, float]], *, y_label: str, description: str = ""
) -> Chart:
    """Draw one horizontal bar per name, so that long names fit.

    Args:
        y_label: what the bars' length shows.

    Raises:
        ValueError: a number is not finite.
    """
    require_finite(value for _, value in bars)
    table = Table(("", y_label), tuple((name or "–", format_number(value)) for name, value in bars))
    if not bars:
        return make_empty_chart(title, description, table)
    scale = make_wide_scale((value for _, value in bars), from_zero=True)
    left, right = 8.0, WIDTH - 64.0
    bottom = TOP + _BAR_ROW * len(bars)
    plot = PlotArea(left, right, bottom)
    zero = plot.place_x(scale, 0.0)
    return Chart(
        title,
        description,
        make_identity(title, table),
        "charts/_bars.html",
        table,
        height=bottom + 12,
        left=left,
        right=right,
        bottom=bottom,
        y_label=y_label,
        boxes=tuple(
            _make_bar(
                name, value, y=TOP + _BAR_ROW * row, zero=zero, end=plot.place_x(scale, value)
            )
            for row, (name, value) in enumerate(bars)
        ),
        zero=zero,
    )


def build_histogram(
    title: str,
    counts: Sequence[tuple[str, int]],
    *,
    x_label: str,
    y_label: str = "count",
    edges: Sequence[str] = (),
    tones: Sequence[str] = (),
    verdict: str = "",
    description: str = "",
) -> Chart:
    """Draw how often each value, or range of values, occurs, in the given order.

    Args:
        edges: if the bars are ranges, both ends of all of them; labels then stand between bars.
        tones: style of each bar; see `.bar-<tone>` in `charts.css`.

    Raises:
        ValueError: a count is not finite.
    """
    require_finite(count for _, count in counts)
    table = Table((x_label, y_label), tuple((name, format_number(count)) for name, count in counts))
    if not any(count for _, count in counts):
        return make_empty_chart(title, description, table)
    scale = make_wide_scale((count for _, count in counts), from_zero=True)
    plot = make_plot_area(scale)
    width = (plot.right - plot.left) / len(counts)
    boxes = tuple(
        replace(
            _make_column(
                name, count, x=plot.left + place * width, width=width, plot=plot, scale=scale
            ),
            tone=tones[place] if tones else "",
        )
        for place, (name, count) in enumerate(counts)
    )
    labels = [
        Label(round(plot.left + place * width, 1), plot.bottom + 15, edge)
        for place, edge in enumerate(edges)
    ] or [Label(box.label.x, plot.bottom + 15, box.name) for box in boxes]
    return Chart(
        title,
        description,
        make_identity(title, table),
        "charts/_histogram.html",
        table,
        left=plot.left,
        right=plot.right,
        bottom=plot.bottom,
        x_label=x_label,
        y_label=y_label,
        x_ticks=tuple(_iter_fitting_labels(labels, width)),
        y_ticks=make_y_ticks(plot, scale),
        boxes=boxes,
        verdict=verdict,
    )


def _make_bar(name: str, value: float, *, y: float, zero: float, end: float) -> Box:
    text = format_number(value)
    x, width = min(zero, end), round(abs(end - zero), 1)
    return Box(
        x=x,
        y=y + 17,
        width=width,
        height=13,
        name=name,
        label=Label(round(x + width + 5, 1), y + 28, text),
        text=f"{name}: {text}",
    )


def _make_column(
    name: str, count: int, *, x: float, width: float, plot: PlotArea, scale: Scale
) -> Box:
    top = plot.place_y(scale, count)
    return Box(
        x=round(x + 0.5, 1),
        y=top,
        width=round(max(1.0, width - 1), 1),
        height=round(plot.bottom - top, 1),
        name=name,
        label=Label(round(x + width / 2, 1), top - 4, format_number(count)),
        text=f"{name}: {format_number(count)}",
    )


def _iter_fitting_labels(labels: Sequence[Label], width: float) -> Iterator[Label]:
    """Yield the labels that fit, starting with the first, spaced by the widest one."""
    widest = CHAR_WIDTH * max(len(label.text) for label in labels) + 6
    yield from labels[:: max(1, -int(-widest // width))]
