"""The HTML page: self-contained, harmless, whole, small, and drawn where the numbers are."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from collapse_cli.core.manual import Manual, Reference
from collapse_cli.core.metric import Limit, Measurement, Metric
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import Coverage, Failure, Part, Report, Skip, to_json
from collapse_cli.core.site import Role, Site
from collapse_cli.core.text import plain, tail
from collapse_cli.render import RENDERERS, SUFFIXES, Look
from collapse_cli.render.html_format import IndexRow, index
from tests.html_pages import Node, findings_of, parsed
from tests.reports import HOSTILE, LAW, RANK, RATIO, REPORTS, hostile, partial, ratio, report, subject, suppressed

ROOT = Path(__file__).parents[2]
every_report = pytest.mark.parametrize("name", REPORTS)


def html(given: Report, look: Look = Look()) -> str:
    return RENDERERS["html"](given, look)


def stack(count: int) -> tuple[Site, ...]:
    return tuple(Site(f"layers.{layer}.w", (64, 64), "F32", layer, Role.MLP_IN) for layer in range(count))


def page_of(*measurements: Measurement, layers: int = 4, manuals: tuple[Manual, ...] = (RANK, LAW)) -> Node:
    one = subject(sites=stack(layers), measurements=measurements, coverage=Coverage(layers, layers, layers))
    return parsed(html(report(one, manuals=manuals)))


def figure(page: Node, title: str) -> Node:
    (found,) = [one for one in page.all("figure") if one.one("figcaption").text.strip().startswith(title)]
    return found


def heights(path: Node) -> list[float]:
    return [float(y) for _x, y in re.findall(r"([\d.]+) ([\d.]+)", path.attributes["d"])]


# --- self-contained -----------------------------------------------------------------------------------------------


@every_report
def test_one_style_and_one_script_and_the_policy_allows_no_other(name: str) -> None:
    page = parsed(html(REPORTS[name](), Look(show_suppressed=True)))
    scripts = [one for one in page.all("script") if one.attributes.get("type") != "application/json"]
    (style,), (script,) = page.all("style"), scripts
    digests = [
        "sha256-" + base64.b64encode(hashlib.sha256(one.text.encode()).digest()).decode() for one in (script, style)
    ]
    (policy,) = [
        one for one in page.all("meta") if one.attributes.get("http-equiv", "").lower() == "content-security-policy"
    ]
    assert policy.attributes["content"] == (
        f"default-src 'none'; script-src '{digests[0]}'; style-src '{digests[1]}'; base-uri 'none'; form-action 'none'"
    )
    assert page.one("head").parts.index(policy) < page.one("head").parts.index(style), "the policy holds from there on"


@every_report
def test_nothing_is_loaded_and_no_attribute_acts(name: str) -> None:
    text = html(REPORTS[name](), Look(show_suppressed=True))
    for node in parsed(text).walk():
        assert "style" not in node.attributes
        assert not [key for key in node.attributes if key.startswith("on") or key in ("src", "srcset", "action")]
        link = node.attributes.get("href", "#")
        assert link.startswith(("#", "https://")), link
        assert link.startswith("#") or node.tag == "a", "addresses are links that a person follows"
    assert "@import" not in text
    assert "url(" not in text


def test_the_same_report_gives_the_same_page() -> None:
    assert html(partial()) == html(partial())
    assert SUFFIXES[".html"] == "html"


def test_torch_is_not_imported(tmp_path: Path) -> None:
    stored = tmp_path / "report.json"
    stored.write_text(to_json(partial()), encoding="utf-8")
    code = (
        "import sys; sys.modules['torch'] = None; from pathlib import Path\n"
        "from collapse_cli.core.report import from_json; from collapse_cli.render import RENDERERS, Look\n"
        f"print(len(RENDERERS['html'](from_json(Path({str(stored)!r}).read_text()), Look())))\n"
        "assert 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10_000


def test_the_templates_are_part_of_the_package() -> None:
    folder = ROOT / "collapse_cli" / "render" / "html_report" / "templates"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packed = {path for glob in settings["package-data"]["collapse_cli"] for path in (ROOT / "collapse_cli").glob(glob)}
    assert set(folder.iterdir()) <= packed
    assert (folder / "report.html").is_file()


# --- harmless -----------------------------------------------------------------------------------------------------


def test_no_name_becomes_markup_or_ends_the_embedded_data() -> None:
    names = [*HOSTILE, "'\"><svg onload=x>", "</script><script>alert(2)</script>", "</title>", "--><b>", "重み/größe"]
    curve = {"spectrum": {"rank": [1, 2, 3], "value": [3.0, 2.0, 1.0], "null_edge": [2.5] * 3}}
    measured = tuple(replace(ratio(f"{name}.w", 0.01), evidence=curve | {name: name}) for name in names)
    sites = tuple(Site(one.site, (4, 4), name, layer) for layer, (one, name) in enumerate(zip(measured, names)))  # noqa: B905
    for name in names:
        one = subject(
            name,
            status="partial",
            sites=sites,
            measurements=measured,
            skips=(Skip(name, name, name), Skip(None, name, name)),
            failures=(Failure(name, name, name, name),),
            parts=(Part(name, name, name),),
        )
        text = html(report(one, one))
        page = parsed(text)
        assert {node.tag for node in page.walk()} <= ALLOWED
        assert len(page.all("script")) == 2
        data = next(node for node in page.all("script") if node.attributes.get("type") == "application/json")
        assert not set("<>&") & set(data.text)
        curves = json.loads(data.text)["curves"]
        assert {len(group["curves"]) for group in curves.values()} == {len(names)}
        shown = {cell.text for cell in page.one("main").all("th", "site")}
        assert {tail(f"{other}.w", 400) for other in names} <= shown


ELEMENTS = """
html head meta title style body a svg symbol path circle rect g text use header p strong h1 h2 h3 h4 h5 div dl dt dd
nav ul li form label input fieldset legend output main section table caption thead tbody tr th td em span article
figure figcaption select option details summary code br footer script pre i
"""
ALLOWED = set(re.findall(r"\w+", ELEMENTS))


def test_a_name_of_three_hundred_characters_is_shown_whole() -> None:
    name = "block/" * 49 + "weight"
    assert name in html(report(subject(measurements=(ratio(name, 0.01),))))


def test_only_web_addresses_become_links() -> None:
    papers = tuple(
        Reference(f"paper {i}", url) for i, url in enumerate(("javascript:alert(1)", "data:,x", "https://a.b/c"))
    )
    page = parsed(
        html(report(subject(measurements=(ratio("w", 0.01),)), manuals=(replace(RANK, references=papers), LAW)))
    )
    assert [link.attributes["href"] for link in page.one("p", "papers").all("a")] == ["https://a.b/c"]
    assert "paper 0" in page.one("p", "papers").text


# --- accessible ---------------------------------------------------------------------------------------------------


@every_report
def test_tables_have_captions_and_scopes_and_drawings_have_labels(name: str) -> None:
    page = parsed(html(REPORTS[name](), Look(show_suppressed=True)))
    for table in page.all("table"):
        assert table.one("caption").text.strip()
        assert {head.attributes.get("scope") for head in table.all("th")} <= {"row", "col"}
        widths = {len([cell for cell in row.walk() if cell.tag in ("th", "td")]) for row in table.all("tr")}
        assert len(widths) == 1, "every row has as many cells as the head"
    for drawing in page.all("svg"):
        attributes = drawing.attributes
        assert attributes.get("aria-hidden") == "true" or (attributes["role"] == "img" and attributes["aria-label"])
    levels = [int(node.tag[1]) for node in page.walk() if re.fullmatch("h[1-6]", node.tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [node.attributes["id"] for node in page.walk() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    assert {link.attributes["href"][1:] for link in page.all("a") if link.attributes["href"][0] == "#"} <= set(ids)


# --- what it says -------------------------------------------------------------------------------------------------


def test_a_finding_comes_with_evidence_null_limit_source_explanation_remedy_and_papers() -> None:
    page = parsed(html(partial()))
    verdict = " ".join(page.one("div", "verdict").text.split())
    assert verdict == "Incomplete 1 error, 1 analysis failed, 1 skipped. Exit 2 (1 with --allow-partial)."
    card = page.one("article", "card")
    said = " ".join(card.text.split())
    for words in (
        "error effective-rank/effective_rank_ratio",
        "Uses 1.06 of 64 directions; a random matrix of this shape uses 51.3.",
        "< 0.05 fewer than one direction in twenty",
        "Gaussian matrix of the same shape",
        "Share of the available directions the matrix uses.",
        "directions 1.064",
        "Lower the learning rate of this block; then look for dead inputs.",
        "Counts the directions a matrix uses.",
        "Why it matters",
        "Roy & Vetterli. The effective rank. EUSIPCO 2007",
    ):
        assert words in said
    row = [cell.text.strip() for cell in card.one("tbody").all("tr")[0].walk() if cell.tag in ("th", "td")]
    assert row[:4] == ["layers.1.mlp.up_proj.weight", "1", "0.0166", "0.802"]


def test_findings_come_before_what_was_checked_and_drawings_after() -> None:
    page = parsed(html(partial()))
    order = [link.attributes["href"] for link in page.one("nav").all("a")]
    assert order == [f"#s1-{part}" for part in ("findings", "failures", "checked", "skips", "measurements")]
    places = [node.attributes.get("id") for node in page.walk() if node.tag == "h3"]
    assert [f"#{place}" for place in places if place] == order


def test_without_findings_the_page_says_what_was_checked() -> None:
    whole = report(subject(measurements=(ratio("head.weight", 0.9), ratio("layers.0.mlp.up_proj.weight", 0.7))))
    page = parsed(html(whole))
    clear = page.one("div", "clear").text
    assert "No finding" in clear
    assert "1 analyzer took 2 measurements of 1 metric" in clear
    assert "limit in force: 1" in clear
    assert not page.all("article")
    assert "Analysed 3 of 3 wanted tensors" in page.one("main").text


@pytest.mark.parametrize("name", ["empty", "nothing-accepted", "failed"])
def test_nothing_analysed_is_never_called_clear(name: str) -> None:
    page = parsed(html(REPORTS[name]()))
    measured = [one for one in REPORTS[name]().subjects if one.measurements]
    assert len(page.all("div", "sound")) == len(measured)


def test_a_metric_that_waits_for_an_intent_is_not_counted_as_judged() -> None:
    bound = replace(RATIO, warn=replace(RATIO.warn, intent=frozenset({"classifier"})), error=None)
    manual = replace(RANK, metrics=(bound,))
    one = subject(measurements=(ratio("head.weight", 0.9),))
    assert "limit in force: 0" in html(report(one, manuals=(manual,)))
    assert "limit in force: 1" in html(report(one, manuals=(manual,), policy=Policy(intent="classifier")))


def test_suppressed_findings_are_counted_and_shown_only_when_asked_for() -> None:
    hidden, shown = html(suppressed()), html(suppressed(), Look(show_suppressed=True))
    assert "Suppressed findings" not in hidden
    assert "1 suppressed finding not shown" in hidden
    assert parsed(hidden).all("article") == parsed(shown).all("article") == []
    (table,) = [one for one in parsed(shown).all("table") if "do not count" in one.one("caption").text]
    assert "layers.1.mlp.up_proj.weight" in table.text
    assert "known" in table.text
    assert not parsed(shown).all("path", "mark"), "what does not count is not marked in a drawing"


def test_findings_of_one_rule_are_one_card_worst_first() -> None:
    values = {"b": 0.04, "a": 0.01, "c": 0.03, "d": 0.2}
    cards = parsed(html(report(subject(measurements=tuple(ratio(*pair) for pair in values.items()))))).all("article")
    assert [[row.text for row in card.all("th", "site")] for card in cards] == [["a", "c", "b"], ["d"]]
    assert len(parsed(html(hostile())).all("article")) == len(HOSTILE)


def test_the_manual_stands_once_and_later_findings_lead_to_it() -> None:
    one = subject(measurements=(ratio("a", 0.01), ratio("b", 0.2)))
    page = parsed(html(report(one, replace(one, id="other"))))
    (manual,) = page.all("details", "manual")
    links = [link.attributes["href"] for part in page.all("p", "manual") for link in part.all("a")]
    assert links == [f"#{manual.attributes['id']}"] * 3


def test_several_subjects_have_a_table_that_leads_to_each() -> None:
    page = parsed(html(report(subject("a", measurements=(ratio("w", 0.01),)), subject("b"))))
    rows = page.all("table")[0].one("tbody").all("tr")
    assert [row.one("th").text for row in rows] == ["a", "b"]
    assert [heading.text for heading in page.all("h2")] == ["Subjects", "a", "b", "How this report was made"]


def test_values_have_four_significant_digits() -> None:
    page = page_of(ratio("layers.0.w", 0.123456789, 0.8))
    assert "0.1235" in page.text
    assert "0.12346" not in page.text


def test_a_run_names_its_members_and_its_sites_keep_their_layer() -> None:
    steps = list(range(0, 2_400, 100))
    slope = Metric("slope", "1", "Slope.", "higher", Limit("below", 0.0, "a fall"), None, "no trend")
    manual = Manual("trend", "runs", "Trend", "established", "Does it move?", (slope,), "Stop.", ())
    curve = {"trend": {"step": steps, "value": [1.0 - step / 4_800 for step in steps]}}
    rule = "effective-rank/effective_rank_ratio"
    measured = tuple(
        Measurement("trend", "slope", f"layers.{layer}.w#rule={rule}", -0.1, 0.0, curve) for layer in range(2)
    )
    parts = tuple(Part(f"ckpt-{step}", f"runs/ckpt-{step}", None) for step in (0, 100))
    whole = subject("ckpt-0..ckpt-100", kind="run", sites=stack(2), measurements=measured, parts=parts)
    page = parsed(html(report(whole, manuals=(manual,))))
    (members,) = [table for table in page.all("table") if "in order" in table.one("caption").text]
    assert [row.one("th").text for row in members.one("tbody").all("tr")] == ["ckpt-0", "ckpt-100"]
    cells = [[cell.text for cell in row.all("td")] for row in page.one("article").one("tbody").all("tr")]
    assert [row[0] for row in cells] == ["0", "1"]
    assert len(figure(page, f"Trend · {rule}").all("option")) == 2


# --- drawings -----------------------------------------------------------------------------------------------------


def test_the_profile_puts_value_null_and_limits_to_scale() -> None:
    values = [0.8, 0.6, 0.4, 0.02]
    page = page_of(*(ratio(f"layers.{layer}.w", value, 0.8) for layer, value in enumerate(values)))
    drawn = figure(page, RATIO_RULE)
    at = {kind: heights(drawn.one("path", kind)) for kind in ("curve", "null", "warning", "error") if kind != "error"}
    at["error"] = heights(next(path for path in drawn.all("path", "level") if "error" in path.classes))
    zero = next(
        float(text.attributes["y"]) - 4
        for text in drawn.all("text")
        if text.text == "0" and float(text.attributes["x"]) < 58
    )
    scale = (zero - at["null"][0]) / 0.8
    assert [(zero - y) / scale for y in at["curve"]] == pytest.approx(values, abs=0.002)
    assert (zero - at["warning"][0]) / scale == pytest.approx(0.3, abs=0.002)
    assert (zero - at["error"][0]) / scale == pytest.approx(0.05, abs=0.002)
    marks = drawn.all("path", "mark")
    assert [mark.one("title").text for mark in marks] == ["error: layer 3: 0.02 at layers.3.w"]


RATIO_RULE = "effective-rank/effective_rank_ratio"


def test_several_sites_of_a_layer_are_a_median_and_a_band() -> None:
    values = {0: (0.5, 0.6, 0.9), 1: (0.4, 0.7, 0.8)}
    sites = tuple(Site(f"l{layer}.{i}", (8, 8), "F32", layer) for layer in values for i in range(3))
    measured = tuple(ratio(f"l{layer}.{i}", value) for layer, taken in values.items() for i, value in enumerate(taken))
    page = parsed(html(report(subject(sites=sites, measurements=measured))))
    drawn = figure(page, RATIO_RULE)
    assert [title.text for title in drawn.all("title")] == [
        "layer 0: median 0.6, 0.5 to 0.9 at 3 sites",
        "layer 1: median 0.7, 0.4 to 0.8 at 3 sites",
    ]
    band, curve = heights(drawn.one("path", "band")), heights(drawn.one("path", "curve"))
    assert max(band[:2]) < min(curve), "the greatest values lie above the median"
    assert min(band[2:]) > max(curve)


def test_a_curve_has_at_most_128_points_with_both_ends() -> None:
    page = page_of(*(ratio(f"layers.{layer}.w", 0.5 + layer / 1000, 0.8) for layer in range(300)), layers=300)
    points = [title.text for title in figure(page, RATIO_RULE).all("title")]
    assert len(points) == 128
    assert points[0].startswith("layer 0: 0.5")
    assert points[-1].startswith("layer 299: 0.799")


def test_the_spectrum_is_drawn_log_log_with_the_edge_of_noise() -> None:
    spectrum = {"rank": [1.0, 2.0, 4.0], "value": [4.0, 2.0, 1.0], "null_edge": [2.0] * 3}
    drawn = figure(page_of(replace(ratio("layers.0.w", 0.5), evidence={"spectrum": spectrum})), "Spectrum")
    curve = re.findall(r"([\d.]+) ([\d.]+)", drawn.one("path", "curve").attributes["d"])
    (x0, y0), (x1, y1), (x2, y2) = ((float(x), float(y)) for x, y in curve)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2), "doublings are equally wide"
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.2)
    assert heights(drawn.one("path", "null"))[0] == pytest.approx(y1, abs=0.1)
    assert [title.text for title in drawn.all("title")] == ["rank 1: 4", "rank 2: 2", "rank 4: 1"]


@pytest.mark.parametrize(
    "evidence",
    [
        {"by_length": {"length": [16.0, 64.0, 256.0], "cosine": [0.1, 0.2, 0.3], "null": [0.0, 0.0, 0.0]}},
        {"prefix": [1, 2, 4], "by_prefix": [0.1, 0.5, 0.9]},
        {"step": [1, 2, 3], "value": [3.0, 2.0, 1.0]},
        {"run": {"generation": [0, 1, 2], "value": [3.0, 2.0, 1.0]}},
    ],
    ids=["length", "prefix", "step", "generation"],
)
def test_every_kind_of_curve_in_the_evidence_is_drawn(evidence: dict[str, object]) -> None:
    page = page_of(replace(ratio("layers.0.w", 0.5), evidence=evidence))
    assert len(page.one("main").all("figure")[0].all("circle")) == 3


@pytest.mark.parametrize(
    "evidence",
    [
        {"spectrum": "flat"},
        {"spectrum": {"rank": [1, 2], "value": [1.0]}},
        {"spectrum": {"rank": [1, 2, 3], "value": [0.0, 0.0, 0.0]}},
        {"spectrum": {"rank": [1, 2, 3], "value": [1.0, None, 2.0]}},
        {"step": [1, 2, 3], "value": [1e308, -1e308, 0.0]},
        {"step": [1, 2, 3], "value": [True, False, True]},
    ],
    ids=str,
)
def test_what_is_no_curve_is_not_drawn(evidence: dict[str, object]) -> None:
    assert not page_of(replace(ratio("layers.0.w", 0.5), evidence=evidence)).one("main").all("figure")


@pytest.mark.parametrize(
    "values", [(1e308, -1e308), (5e-324, 0.0), (1e-300, 1e300), (-3.0, -3.0), (0.0, 1e-9)], ids=str
)
def test_extreme_values_are_drawn_inside_the_frame(values: tuple[float, float]) -> None:
    free = replace(RATIO, warn=None, error=None)
    measured = [replace(ratio(f"layers.{layer}.w", value), null=None) for layer, value in enumerate((*values, 0.5))]
    page = page_of(*measured, manuals=(replace(RANK, metrics=(free,)),))
    for y in heights(figure(page, RATIO_RULE).one("path", "curve")):
        assert 11.9 <= y <= 184.1


def test_the_heat_map_is_strongest_where_a_metric_is_worst_and_leaves_out_the_flat() -> None:
    metrics = tuple(replace(RATIO, name=name, better=better, warn=None, error=None) for name, better in BETTER)
    manual = replace(RANK, metrics=metrics)
    rising = (0.1, 0.4, 0.9)
    measured = [
        Measurement("effective-rank", name, f"layers.{layer}.w", 0.5 if name == "flat" else value)
        for name, _better in BETTER
        for layer, value in enumerate(rising)
    ]
    drawn = figure(page_of(*measured, layers=3, manuals=(manual,)), "Metric × layer")
    rows = [text.text.partition("/")[2] for text in drawn.all("text", "rule")]
    assert rows == ["higher", "lower", "neither"]
    shades = [int(cell.attributes["class"][1:]) for cell in drawn.all("rect")]
    assert shades[:3] == sorted(shades[:3], reverse=True), "where higher is better the least value is the worst"
    assert shades[3:6] == sorted(shades[3:6]) == shades[6:]
    assert (max(shades), min(shades)) == (7, 0)


BETTER = (("higher", "higher"), ("lower", "lower"), ("neither", None), ("flat", None))


def test_small_differences_look_small_on_the_heat_map() -> None:
    metrics = tuple(replace(RATIO, name=name, warn=None, error=None) for name in ("a", "b"))
    measured = [
        Measurement("effective-rank", name, f"layers.{layer}.w", 0.8 + layer / 1000)
        for name in ("a", "b")
        for layer in range(3)
    ]
    drawn = figure(page_of(*measured, layers=3, manuals=(replace(RANK, metrics=metrics),)), "Metric × layer")
    assert {cell.attributes["class"] for cell in drawn.all("rect")} == {"h0"}


def deep(metrics: int, *, ill: bool) -> Report:
    """300 layers with so many metrics, a spectrum each, most of them findings when ill."""
    declared = tuple(replace(RATIO, name=f"effective_rank_ratio_{index}") for index in range(metrics))
    curve = {
        "rank": [float(rank) for rank in range(1, 129)],
        "value": [round(1.2345 / rank, 6) for rank in range(1, 129)],
        "null_edge": [0.1234] * 128,
    }
    measured = [
        Measurement(
            "effective-rank",
            metric.name,
            f"model.layers.{layer}.mlp.up_proj.weight",
            (0.31 - 0.001 * layer) if ill else 0.81234 - 0.0001234 * layer * index,
            0.80161234,
            {"directions": 51.23456 * layer} | ({"spectrum": curve} if index == 0 else {}),
        )
        for layer in range(300)
        for index, metric in enumerate(declared)
    ]
    sites = tuple(Site(f"model.layers.{layer}.mlp.up_proj.weight", (4096, 4096), "BF16", layer) for layer in range(300))
    one = subject(sites=sites, measurements=tuple(measured), coverage=Coverage(300, 300, 300))
    return report(one, manuals=(replace(RANK, metrics=declared), LAW))


@pytest.mark.parametrize(("metrics", "ill"), [(20, False), (20, True), (100, False)], ids=["sound", "ill", "hundred"])
def test_three_hundred_layers_fit_into_two_megabytes(metrics: int, ill: bool) -> None:
    text = html(deep(metrics, ill=ill))
    assert len(text.encode()) < 2_000_000
    if ill:
        assert "in the JSON report" in text
        assert {rule for rule, _site in findings_of(text)} == {f"{RATIO_RULE}_{index}" for index in range(metrics)}
    elif metrics == 20:
        values = [cell for table in parsed(text).all("table", "numbers") for cell in table.all("td")]
        assert len(values) == 300 * (20 + 1), "every measurement, and the layer"


# --- the page over many reports -------------------------------------------------------------------------------------


def row(name: str, **changes: object) -> IndexRow:
    return replace(IndexRow(name, f"subjects/{name}.html", "pass", 0, 0, 0, "complete", 1_234_567, 0.41), **changes)  # type: ignore[arg-type]


def test_the_index_ranks_worst_first_and_leads_to_every_page() -> None:
    rows = [
        row("sound"),
        row("also sound"),
        row("partial", status="partial", outcome="incomplete"),
        row("warned", warnings=3),
        row("worse", errors=2, warnings=9, outcome="fail"),
        row("bad", errors=2, outcome="fail"),
        row("unread", status="failed", outcome="incomplete", failures=1),
    ]
    page = parsed(index(rows, title="runs/"))
    found = [one.one("th").text for one in page.one("tbody").all("tr")]
    assert found == ["unread", "worse", "bad", "warned", "partial", "also sound", "sound"]
    assert page.one("h1").text == "runs/"
    assert "1.23 MB" in page.one("tbody").text
    links = [link.attributes["href"] for link in page.one("tbody").all("a")]
    assert links[-2:] == ["subjects/also%20sound.html", "subjects/sound.html"]


def test_no_name_of_a_subject_acts_in_the_index() -> None:
    rows = [row(name, link=name) for name in (*HOSTILE, "javascript:alert(1)", "half\ud800", "a#b?c", "")]
    text = index(rows, title="<script>")
    page = parsed(text)
    assert len(page.all("script")) == 2
    links = {link.attributes["href"] for link in page.one("tbody").all("a")}
    assert "javascript%3Aalert%281%29" in links
    assert "a%23b%3Fc" in links
    assert not [link for link in links if re.search(r"[:?#<>\s]", link)]
    assert plain(HOSTILE[0]) in text
    assert "No subject was found" in index([], title="empty")


def test_what_was_measured_and_not_judged_is_not_called_sound() -> None:
    free = replace(RANK, metrics=(replace(RATIO, warn=None, error=None),))
    one = subject(measurements=(ratio("head.weight", 0.9),))
    page = parsed(html(report(one, manuals=(free,))))
    assert "Nothing was judged" in page.one("div", "clear").text
    assert not page.all("div", "sound")
    assert len(parsed(html(report(one))).all("div", "sound")) == 1
