"""Charts: round ticks, gaps, the odd cases, and never a mark-up of others."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from django.template.loader import render_to_string
from hypothesis import given
from hypothesis import strategies as st

from webapp.charts.bars import build_bar_chart, build_histogram
from webapp.charts.chart import Chart
from webapp.charts.heat_map import Cell, build_heat_map
from webapp.charts.lines import Series, build_line_chart
from webapp.charts.scales import format_number, make_snug_scale, make_wide_scale

HOSTILE = "</title><script>alert(1)</script>\"'{{ 7 }}\u202e"
FINITE = st.floats(min_value=-1e12, max_value=1e12)


def drawn(chart: Chart) -> str:
    """Render a chart; what comes out is well-formed."""
    html = render_to_string("charts/_chart.html", {"chart": chart})
    ElementTree.fromstring(html.replace("&#x27;", "'"))
    return html


def lines(*series: Series) -> Chart:
    return build_line_chart("Length", list(series), x_label="iteration", y_label="characters")


def test_ticks_are_round_numbers_that_hold_the_data() -> None:
    """From 0.13 to 0.87 in about 5 steps: 0.74 / 5 = 0.148, so steps of 0.2 from 0 to 1."""
    scale = make_wide_scale([0.13, 0.87])
    labels = [scale.format_tick(tick) for tick in scale.ticks]
    assert labels == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]


def test_ticks_beyond_every_unit_are_written_by_powers() -> None:
    scale = make_wide_scale([1e18, 9e18])
    assert {scale.format_tick(tick) for tick in scale.ticks} >= {"2e+18", "8e+18"}


def test_shares_have_no_air_beyond_one() -> None:
    """A constant of 1 has air from 0.5 on, in steps of 0.1, and none above."""
    scale = make_wide_scale([1.0, 1.0], within=(0, 1))
    assert (scale.low, scale.high) == (0.5, 1.0)


def test_iterations_are_whole_numbers() -> None:
    assert make_snug_scale([0.0, 1.0, 2.0]).ticks == (0, 1, 2)


@given(st.lists(FINITE, min_size=1, max_size=8))
def test_every_scale_holds_its_values(values: list[float]) -> None:
    for scale in (
        make_wide_scale(values),
        make_wide_scale(values, from_zero=True),
        make_snug_scale(values),
    ):
        assert len(scale.ticks) <= 12
        assert all(-1e-6 <= scale.compute_share(value) <= 1 + 1e-6 for value in values)
        assert all(scale.format_tick(tick) for tick in scale.ticks)


@given(st.lists(st.tuples(FINITE, st.none() | FINITE), max_size=12))
def test_any_finite_points_can_be_drawn_inside_the_plot(
    points: list[tuple[float, float | None]],
) -> None:
    chart = lines(Series("all", points))
    numbers = [float(n) for line in chart.lines for n in re.findall(r"-?[\d.]+", line.path)]
    assert all(0 <= number <= chart.width for number in numbers)
    assert "nan" not in drawn(chart)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_what_no_axis_can_show_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="cannot be plotted"):
        lines(Series("one", [(1, value)]))
    with pytest.raises(ValueError, match="cannot be plotted"):
        lines(Series("one", [(value, 1)]))
    with pytest.raises(ValueError, match="cannot be plotted"):
        build_bar_chart("Bars", [("one", value)], y_label="count")
    with pytest.raises(ValueError, match="cannot be plotted"):
        build_heat_map("Map", ["a"], ["b"], {("a", "b"): Cell(value, "x")})


def test_a_missing_point_leaves_a_gap_and_a_dash_in_the_table() -> None:
    chart = lines(Series("M", [(0, 1.0), (1, 2.0), (2, None), (3, 4.0), (4, 5.0)]))
    assert chart.lines[0].path.count("M") == 2
    assert ("2", "–") in chart.table.rows


def test_a_point_between_two_gaps_is_marked() -> None:
    points: list[tuple[float, float | None]] = [(x, 1.0 if x == 50 else None) for x in range(100)]
    line = lines(Series("M", points)).lines[0]
    assert line.path == ""
    assert len(line.marks) == 1


def test_one_point_stands_in_the_middle_of_its_air() -> None:
    """One value of 100 has air from 50 to 150, in steps of 20; its x is the middle."""
    chart = lines(Series("one", [(1, 100.0)]))
    assert [tick.text for tick in chart.x_ticks] == ["1"]
    assert chart.y_ticks[0].text == "40"
    middle = round((chart.left + chart.right) / 2, 1)
    assert chart.lines[0].marks[0].path.startswith(f"M{middle} ")


def test_a_constant_is_a_straight_line() -> None:
    path = lines(Series("same", [(0, 0.0), (1, 0.0)])).lines[0].path
    heights = re.findall(r" ([\d.]+)", path)
    assert len(heights) == 2
    assert len(set(heights)) == 1


@pytest.mark.parametrize(
    "chart",
    [
        lines(),
        lines(Series("none", [])),
        lines(Series("none", [(1, None)])),
        build_bar_chart("Bars", [], y_label="count"),
        build_histogram("Scores", [], x_label="points"),
        build_histogram("Scores", [("0", 0), ("1", 0)], x_label="points"),
        build_heat_map("Map", [], [], {}),
    ],
)
def test_nothing_to_draw_is_said_in_words(chart: Chart) -> None:
    html = drawn(chart)
    assert "No data yet." in html
    assert "<svg" not in html


def test_series_differ_by_more_than_colour() -> None:
    chart = lines(*(Series(f"series {n}", [(0, n), (1, n)]) for n in range(12)))
    looks = {(line.dashes, line.swatch) for line in chart.lines}
    assert len(looks) == 12
    assert len({line.colour for line in chart.lines[:6]}) == 6


def test_a_long_line_has_few_marks() -> None:
    line = lines(Series("loss", [(x, x * 0.1) for x in range(1000)])).lines[0]
    assert len(line.marks) <= 14


def test_an_interval_is_in_the_plot_in_the_table_and_at_its_point() -> None:
    series = Series("M", [(0, 0.5), (1, 0.6)], intervals={0: (0.2, 0.9)}, counts={0: 1200})
    chart = lines(series)
    assert chart.table.columns == ("iteration", "M", "M: 95% CI", "M: n")
    assert chart.table.rows == (("0", "0.5", "0.2 to 0.9", "1,200"), ("1", "0.6", "–", "–"))
    assert chart.lines[0].marks[0].text == "M at 0: 0.5 (95% CI 0.2 to 0.9), n = 1,200"
    assert chart.lines[0].marks[1].text == "M at 1: 0.6"
    (low, high) = re.findall(r"M[\d.-]+ ([\d.]+)V([\d.]+)", chart.lines[0].intervals)[0]
    assert chart.bottom >= float(low) > float(high) >= chart.top


def test_intervals_of_several_series_do_not_cover_each_other() -> None:
    ends = {0.0: (0.2, 0.9)}
    points: list[tuple[float, float | None]] = [(0, 0.5), (1, 0.6)]
    chart = lines(*(Series(name, points, intervals=ends) for name in "MNO"))
    places = [float(re.findall(r"M([\d.]+) [\d.]+V", line.intervals)[0]) for line in chart.lines]
    assert len(set(places)) == 3
    assert chart.left < min(places) < max(places) < chart.right


def test_a_reference_is_on_the_axis_and_in_the_legend() -> None:
    chart = build_line_chart(
        "Effect",
        [Series("M", [(0, 1.2), (1, 1.1)])],
        x_label="model",
        y_label="score",
        reference=(0.0, "correct value"),
    )
    assert chart.reference is not None
    assert chart.reference.y < chart.bottom, "on the axis it could not be seen"
    html = drawn(chart)
    assert html.count('class="reference"') == 2
    assert "correct value: 0" in html


def test_models_have_their_letter_and_series_stand_beside_each_other() -> None:
    points: list[tuple[float, float | None]] = [(0, 0.5), (1, 0.5)]
    series = [Series(name, points) for name in ("a", "b")]
    chart = build_line_chart("Loss", series, x_label="model", y_label="loss", x_prefix="M")
    assert [tick.text for tick in chart.x_ticks] == ["M0", "M1"]
    assert [row[0] for row in chart.table.rows] == ["M0", "M1"]
    assert chart.lines[1].marks[1].text == "b at M1: 0.5"
    first, second = (float(line.marks[0].path[1:].split()[0]) for line in chart.lines)
    assert second - first == 5
    assert lines(*series).lines[0].path == lines(*series).lines[1].path, "other axes as before"


def test_the_bins_of_a_histogram_are_labelled_at_their_ends() -> None:
    chart = build_histogram(
        "Variance", [("0 to 2", 3), ("2 to 4", 1)], x_label="variance", edges=("0", "2", "4"),
        tones=("below", ""), verdict="Most are small.",
    )  # fmt: skip
    assert [tick.text for tick in chart.x_ticks] == ["0", "2", "4"]
    assert (chart.x_ticks[0].x, chart.x_ticks[-1].x) == (chart.left, chart.right)
    html = drawn(chart)
    assert 'class="bar bar-below"' in html
    assert '<p class="chart-verdict">Most are small.</p>' in html


def test_the_axis_of_a_share_does_not_magnify_noise() -> None:
    """0.9994 to 1.0 would have ticks of four decimals; the axis is a twentieth of the range."""
    scale = make_wide_scale([0.9994, 1.0], within=(0, 1))
    assert [scale.format_tick(tick) for tick in scale.ticks][-1] == "1.00"


def test_the_numbers_are_a_table_with_headings() -> None:
    html = drawn(lines(Series("M", [(1, 1234.5678)]), Series("N", [(2, 0.00123456)])))
    assert '<th scope="col">iteration</th><th scope="col">M</th><th scope="col">N</th>' in html
    assert '<th scope="row">1</th><td>1,235</td><td>–</td>' in html
    assert '<th scope="row">2</th><td>–</td><td>0.001235</td>' in html


def test_a_chart_names_itself_to_screen_readers() -> None:
    html = drawn(lines(Series("M", [(1, 1.0)])))
    found = re.search(r'role="img" aria-labelledby="([^"]+)"', html)
    assert found
    assert f'<title id="{found[1]}">Length: characters by iteration</title>' in html


def test_charts_of_one_title_and_other_columns_have_other_names() -> None:
    first, second = (lines(Series(name, [(1, 1.0)])) for name in "MN")
    assert first.identity != second.identity
    assert first.identity == lines(Series("M", [(1, 1.0), (2, 2.0)])).identity


def test_bars_begin_at_zero_on_both_sides() -> None:
    """From -5 to 10: zero lies a third of the way, and the bars end there."""
    chart = build_bar_chart("Change", [("down", -5), ("up", 10), ("none", 0)], y_label="points")
    down, up, none = chart.boxes
    assert chart.zero is not None
    assert down.x + down.width == pytest.approx(chart.zero, abs=0.11)
    assert up.x == chart.zero
    assert up.width == pytest.approx(2 * down.width, abs=0.2)
    assert none.width == 0


def test_a_histogram_has_a_column_for_each_count() -> None:
    chart = build_histogram("Scores", [(f"{n / 2:g}", n) for n in range(11)], x_label="points")
    heights = [box.height for box in chart.boxes]
    assert heights == sorted(heights)
    assert heights[0] == 0
    assert all(box.x + box.width <= chart.right + 0.1 for box in chart.boxes)


def test_names_of_columns_do_not_overlap() -> None:
    chart = build_histogram("Lengths", [(f"from {n}", 1) for n in range(100)], x_label="characters")
    places = [tick.x for tick in chart.x_ticks]
    assert all(after - before >= 46 for before, after in pairwise(places))


def test_a_field_carries_its_number_and_its_mark() -> None:
    cells = {
        ("a", "b"): Cell(1.0, "A", explanation="the first won"),
        ("b", "a"): Cell(-1.0, "B", mark="the verdict changed with the order"),
        ("b", "b"): Cell(None, "?"),
    }
    chart = build_heat_map("Battles", ["a", "b"], ["a", "b"], cells, scale=(-1, 1))
    assert [(box.label.text, box.tone) for box in chart.boxes] == [
        ("A", "up-3"),
        ("B", "down-3"),
        ("?", "none"),
    ]
    html = drawn(chart)
    assert html.count("marked") == 1
    assert "<td>B; the verdict changed with the order</td>" in html
    assert "<td>A; the first won</td>" in html


def test_a_scale_without_a_sign_has_one_colour() -> None:
    cells = {("a", str(n)): Cell(n, str(n)) for n in range(4)}
    chart = build_heat_map("Map", ["a"], [str(n) for n in range(4)], cells)
    assert [box.tone for box in chart.boxes] == ["up-0", "up-1", "up-2", "up-3"]


def test_words_of_others_are_never_mark_up() -> None:
    charts = [
        build_line_chart(
            HOSTILE,
            [Series(HOSTILE, [(1, 1.0)])],
            x_label=HOSTILE,
            y_label=HOSTILE,
            description=HOSTILE,
        ),
        build_bar_chart(HOSTILE, [(HOSTILE, 1.0)], y_label=HOSTILE),
        build_histogram(HOSTILE, [(HOSTILE, 1)], x_label=HOSTILE),
        build_heat_map(
            HOSTILE, [HOSTILE], [HOSTILE], {(HOSTILE, HOSTILE): Cell(1, HOSTILE, HOSTILE)}
        ),
    ]
    for chart in charts:
        html = drawn(chart)
        assert "<script" not in html
        assert "style=" not in html
        assert "{{ 7 }}" in html


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "–"),
        (0.0, "0"),
        (-0.0, "0"),
        (12_345_678.0, "12,345,678"),
        (0.5, "0.5"),
        (12_345.6, "12,346"),
        (1234.56, "1,235"),
        (-0.000_001_25, "-1.25e-06"),
    ],
)
def test_figures_keep_the_digits_that_count(value: float | None, text: str) -> None:
    assert format_number(value) == text
