"""The HTML page in a real browser: nothing complains, nothing is loaded, axe finds nothing, and its script works."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from collapse_cli.core.report import Coverage
from collapse_cli.core.site import Role, Site
from collapse_cli.render import RENDERERS, Look
from collapse_cli.render.html_format import IndexRow, index
from tests.diagnosed_reports import ill
from tests.reports import RANK, RATIO, REPORTS, ratio, report, subject

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason=f"no browser: none of {', '.join(NAMES)} is on the PATH"),
]


def drawn() -> str:
    """A report in which everything is drawn: profiles, a heat map, spectra to choose from."""
    curve = {"rank": [1.0, 2.0, 4.0], "null_edge": [0.5] * 3}
    second = replace(RATIO, name="second")
    measured = tuple(
        replace(
            ratio(f"layers.{layer}.w", 0.9 - 0.15 * layer),
            metric=metric.name,
            evidence={"spectrum": curve | {"value": [4.0 - layer / 2, 1.0, 0.25]}},
        )
        for layer in range(6)
        for metric in (RATIO, second)
    )
    sites = tuple(Site(f"layers.{layer}.w", (64, 64), "F32", layer, Role.MLP_IN) for layer in range(6))
    one = subject(sites=sites, measurements=measured, coverage=Coverage(6, 6, 6))
    return RENDERERS["html"](report(one, manuals=(replace(RANK, metrics=(RATIO, second)),)), Look())


def listed() -> str:
    rows = [
        IndexRow(f"models/{name}", f"subjects/{name}.html", outcome, count, 0, 0, "complete", 10**count, 1.5)
        for name, outcome, count in (("a", "pass", 0), ("b", "fail", 2), ("c", "fail", 10))
    ]
    return index(rows, title="models")  # type: ignore[arg-type]


PAGES = {
    **{name: lambda make=make: RENDERERS["html"](make(), Look(show_suppressed=True)) for name, make in REPORTS.items()},
    "ill": lambda: RENDERERS["html"](ill(), Look()),
    "drawn": drawn,
    "index": listed,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Chromium refuses its sandbox to root, as whom containers run
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        try:
            running = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        except playwright.Error as error:
            pytest.skip(f"{CHROMIUM} does not start: {str(error).splitlines()[0]}")
        yield running
        running.close()


class Opened:
    """One page in one window, and what it complained about and asked for."""

    def __init__(
        self, browser: Any, path: Path, *, width: int = 1280, scheme: str = "light", script: bool = True
    ) -> None:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script, offline=True
        )
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name, make in PAGES.items():
        (folder / f"{name}.html").write_text(make(), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in PAGES}


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")], ids=["wide", "narrow"])
def test_no_complaint_no_request_no_violation_no_overflow(
    browser: Any, written: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    opened = Opened(browser, written[name], width=width, scheme=scheme)
    opened.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found = axe.Axe().run(opened.page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    assert opened.complaints == []
    assert opened.requests == [written[name].as_uri()]
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    opened.page.context.close()


def test_what_an_intruder_would_load_or_run_is_refused(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    intruders = '<script>document.title = "intruder"</script><img src="https://example.org/x.png"><p style="color:red">'
    path.write_text(drawn().replace("</main>", f"{intruders}</main>"), encoding="utf-8")
    opened = Opened(browser, path)
    assert "intruder" not in opened.page.title()
    assert len([words for words in opened.complaints if "Content Security Policy" in words]) == 3
    opened.page.context.close()


def test_everything_is_readable_with_scripts_off_and_printed(browser: Any, written: dict[str, Path]) -> None:
    opened = Opened(browser, written["drawn"], script=False, scheme="dark")
    assert not opened.page.is_visible("form.filters"), "what would do nothing is not offered"
    assert opened.page.is_visible("text=layers.5.w >> nth=0")
    assert not opened.page.is_visible("table.numbers")
    opened.page.emulate_media(media="print", color_scheme="dark")
    assert opened.page.is_visible("table.numbers"), "what is folded is printed"
    paper = opened.page.locator("body").evaluate("(body) => getComputedStyle(body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    opened.page.context.close()


def test_filter_severity_and_sorting_by_keyboard(browser: Any, written: dict[str, Path]) -> None:
    opened = Opened(browser, written["deep"])
    page = opened.page
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "filter":
            break
    page.keyboard.type("layers.17.")
    assert page.locator(".card tbody tr:visible").count() == 1
    assert "rows" in page.inner_text("output")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator(".card:visible").count() == 0, "its only severity is switched off"
    page.keyboard.press("Space")
    page.fill("#filter", "")
    head = page.locator(".card thead th", has_text="layer")
    for expected, first in (("ascending", "0"), ("descending", "299")):
        head.locator("button").focus()
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == expected
        assert page.locator(".card tbody tr >> nth=0 >> td >> nth=0").inner_text() == first
    assert opened.complaints == []
    page.context.close()


def test_what_follows_is_folded_found_by_the_filter_and_printed(browser: Any, written: dict[str, Path]) -> None:
    opened = Opened(browser, written["ill"])
    page, sections = opened.page, opened.page.locator("section.diagnosis")
    assert page.locator(".card:visible").count() == 2, "a diagnosis shows the finding that names it"
    page.fill("#filter", "stable-rank/stable_rank")
    assert page.locator(".card:visible h4 .rule").all_inner_texts() == ["stable-rank/stable_rank"]
    assert (sections.nth(0).is_visible(), sections.nth(1).is_visible()) == (True, False)
    page.fill("#filter", "")
    assert page.locator(".card:visible").count() == 2, "folded again, as it was"
    page.locator("details.follows > summary").press("Enter")
    assert page.locator(".card:visible").count() == 4
    page.fill("#filter", "nothing has this name")
    assert page.locator("section.diagnosis:visible").count() == 0
    page.fill("#filter", "")
    assert page.locator(".card:visible").count() == 4, "open again, as it was"
    page.locator("input[value=warning]").uncheck()
    assert page.locator(".card:visible").count() == 2
    assert not page.locator("details.follows").is_visible(), "nothing in it is shown"
    assert opened.complaints == []
    page.context.close()
    bare = Opened(browser, written["ill"], script=False).page
    assert bare.locator(".card:visible").count() == 2
    bare.locator("details.follows > summary").click()
    assert bare.locator(".card:visible").count() == 4
    bare.context.close()
    paper = Opened(browser, written["ill"]).page
    paper.emulate_media(media="print")
    assert paper.locator(".card:visible").count() == 4, "what is folded is printed"
    paper.context.close()


def test_a_link_to_a_manual_that_is_folded_with_its_finding_opens_both(browser: Any, written: dict[str, Path]) -> None:
    page = Opened(browser, written["ill"]).page
    place = page.locator("details.follows details.manual").get_attribute("id")
    page.evaluate(f"location.hash = '{place}'")
    page.wait_for_function("document.querySelector('details.follows').open")
    assert page.locator(f"#{place}").evaluate("(one) => one.open")
    page.context.close()


def test_sizes_sort_as_numbers(browser: Any, written: dict[str, Path]) -> None:
    page = Opened(browser, written["index"]).page
    page.locator("thead button", has_text="size").click()
    assert page.locator("tbody th").all_inner_texts() == ["models/a", "models/b", "models/c"]
    page.locator("thead button", has_text="errors").click()
    page.locator("thead button", has_text="errors").click()
    assert page.locator("tbody th").all_inner_texts() == ["models/c", "models/b", "models/a"]
    page.context.close()


def test_choosing_a_site_draws_its_curve_as_the_page_would_have(browser: Any, written: dict[str, Path]) -> None:
    opened = Opened(browser, written["drawn"])
    figure = opened.page.locator("figure.choose")
    before = figure.locator("path.curve").get_attribute("d")
    names = figure.locator("option").all_inner_texts()
    figure.locator("select").select_option(index=3)
    after = figure.locator("path.curve").get_attribute("d")
    assert after != before
    assert names[3] in figure.locator("p.note").inner_text()
    titles = figure.locator("g.points title").all_text_contents()
    assert len(titles) == 3
    assert titles[1:] == ["rank 2: 1", "rank 4: 0.25"]
    figure.locator("select").select_option(index=0)
    assert figure.locator("path.curve").get_attribute("d") == before, "script and page agree to a tenth of a unit"
    opened.page.context.close()
