"""The detail view: every metric of one site, and spectra whose shape can be seen."""

import io

from rich.console import Console

from collapse_cli import runs
from collapse_cli.render import Look
from collapse_cli.render.detail import plot, print_detail
from collapse_cli.render.table_format import render
from tests.test_sample_checkpoints import SAMPLES


def braille(lines: list[str]) -> list[tuple[int, int]]:
    """Row and column of every character with dots."""
    return [
        (row, column) for row, line in enumerate(lines) for column, c in enumerate(line) if 0x2800 < ord(c) <= 0x28FF
    ]


def test_a_power_law_is_a_straight_line() -> None:
    ranks = [float(2**k) for k in range(12)]
    lines = plot(ranks, [100.0 / rank for rank in ranks], width=60, height=12)
    dots = braille(lines)
    slopes = [(row - dots[0][0]) / (column - dots[0][1]) for row, column in dots if column > dots[0][1] + 10]
    assert max(slopes) - min(slopes) < 0.06
    assert lines[0].startswith("   100 │")
    assert lines[11].startswith("0.0488 │")
    assert lines[13].split() == ["1", "2,048"]


def test_the_null_edge_is_a_line_at_its_height_and_only_where_it_is_in_range() -> None:
    ranks, values = [1.0, 10.0, 100.0], [100.0, 10.0, 1.0]
    drawn = plot(ranks, values, edge=10.0, width=40, height=11)
    assert [row for row, line in enumerate(drawn[:11]) if "──" in line] == [5]
    assert not any("──" in line for line in plot(ranks, values, edge=1e6, width=40, height=11)[:11])


def test_what_has_no_logarithm_is_left_out() -> None:
    assert plot([1.0, 2.0], [0.0, -1.0]) == ["(no positive value)"]
    assert len(braille(plot([1.0, 2.0, 3.0], [5.0, 0.0, 5.0], width=30))) == 2


def test_a_constant_curve_has_a_plot() -> None:
    assert len(braille(plot([1.0, 2.0, 4.0], [3.0, 3.0, 3.0], width=40))) == 3


def test_every_metric_of_the_site_is_shown_with_its_finding_and_spectrum() -> None:
    report = runs.scan([SAMPLES / "rank_collapse.safetensors"])
    site = report.subjects[0].findings[0].measurement.site
    stream = io.StringIO()
    print_detail(Console(file=stream, width=100, no_color=True), report, report.subjects[0], site)
    text = stream.getvalue()
    mine = [one for one in report.subjects[0].measurements if one.site == site]
    assert all(one.metric in text for one in mine)
    assert "✖ numerical_rank" in text
    assert "both axes logarithmic" in text
    assert braille(text.splitlines())
    others = {one.site for one in report.subjects[0].measurements} - {site}
    assert not any(f"\n{other}   " in text for other in others)


def test_the_table_carries_the_detail_that_was_asked_for() -> None:
    report = runs.scan([SAMPLES / "healthy_mlp.safetensors"])
    asked = render(report, Look(width=90, detail="fc1.*"))
    assert "fc1.weight   256×64" in asked
    assert max(map(len, asked.splitlines())) <= 90
    assert "nothing was measured there; sites with numbers: " in render(report, Look(width=90, detail="nothing"))
    assert "logarithmic" not in render(report, Look(width=90))
