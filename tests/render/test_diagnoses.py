"""A diagnosis in every format: the finding that names it first and in full, then what follows from it, all there."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections import Counter
from dataclasses import replace

import pytest
from rich.cells import cell_len

from collapse_cli.batch.summary import index_row
from collapse_cli.core.diagnosis import Diagnosis
from collapse_cli.core.report import Report, from_json, to_json
from collapse_cli.render import FORMATS, RENDERERS, Look
from collapse_cli.render.diagnoses import diagnoses_words, groups_of, kinds_words
from collapse_cli.render.html_format import index
from tests.diagnosed_reports import DIAGNOSED, HOUSE, STABLE, ill, with_diagnoses
from tests.html_pages import findings_of, parsed
from tests.reports import RANK, REPORTS, hostile, partial, ratio, report, subject

RATIO_RULE, STABLE_RULE, HOUSE_RULE = (
    "effective-rank/effective_rank_ratio",
    "stable-rank/stable_rank",
    "house-rule/drift",
)
#: Site, rule and what each finding is to the one that names the diagnosis, in the order of the diagnoses.
LAYERS = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(3)]
TOLD = [
    (LAYERS[0], RATIO_RULE, ""),
    (LAYERS[1], RATIO_RULE, f"as at {LAYERS[0]}"),
    (LAYERS[2], RATIO_RULE, f"as at {LAYERS[0]}"),
    *((layer, STABLE_RULE, f"follows from {RATIO_RULE}") for layer in LAYERS),
    ("head.weight", HOUSE_RULE, ""),
]


def shown(form: str, given: Report | None = None, **look: object) -> str:
    return RENDERERS[form](given or ill(), Look(**look))  # type: ignore[arg-type]


def test_the_groups_of_the_example() -> None:
    rank, house = groups_of(ill().subjects[0])
    assert [one.measurement.site for one in rank.first] == LAYERS[:2], "those of the rule and severity of the primary"
    assert [one.severity.value for one in rank.follows] == ["warning"] * 4
    assert (house.findings[0].measurement.rule, house.follows) == (HOUSE_RULE, ())
    assert diagnoses_words(ill().subjects[0]) == "2 diagnoses (7 findings)"
    assert kinds_words(ill().subjects[0]) == "rank-collapse, +1 more"


def test_a_report_that_somebody_edited_loses_no_finding() -> None:
    one = ill().subjects[0]
    first, house = one.diagnoses
    for diagnoses in (
        (Diagnosis("k", "T", "gone", first.consequences), house),
        (replace(first, consequences=(*first.consequences, first.primary, "gone")), first, house),
        (house,),
    ):
        found = [finding for group in groups_of(replace(one, diagnoses=diagnoses)) for finding in group.findings]
        assert Counter(finding.fingerprint for finding in found) == Counter(f.fingerprint for f in one.findings)
    twice = replace(one, findings=(*one.findings, replace(one.findings[0])))
    assert sum(len(group.findings) for group in groups_of(twice)) == len(one.findings) + 1


# --- table ----------------------------------------------------------------------------------------------------------

BLOCK = """\
 ✖ error   Rank collapse   rank-collapse · 4 findings follow
           effective-rank/effective_rank_ratio   limit < 0.05   2 sites   layer 0 ▂▂█ 2
           model.layers.0.mlp.up_proj.weight   0.04      Uses 2.56 of 64 directions; a random matrix of this shape uses 51.3.
           model.layers.1.mlp.up_proj.weight   0.02      Uses 1.28 of 64 directions; a random matrix of this shape uses 51.3.
           → Lower the learning rate of this block; then look for dead inputs.   collapse explain effective-rank
           └ also: ▲ warning effective-rank/effective_rank_ratio   model.layers.2.mlp.up_proj.weight: 0.2 < 0.3
                   ▲ warning stable-rank/stable_rank               3 sites, worst 1.01 < 1.1

 ✖ error   House <rule>   house-rule
           house-rule/drift   limit > 2
           head.weight   3      Too far.
           → Ask the house.   collapse explain house-rule

Fail: 3 errors, 4 warnings. Exit 1.
"""  # noqa: E501 - as wide as the terminal


def test_the_table_says_what_it_is_and_what_follows_a_line_a_rule() -> None:
    text = shown("table", width=130)
    assert " · 2 diagnoses (7 findings)\n" in text
    assert text[text.index(" ✖ error   Rank") :] == BLOCK
    assert STABLE.remedy not in text, "what follows needs no remedy of its own"


def test_with_all_what_follows_is_told_as_fully() -> None:
    text = shown("table", width=140, show_all=True)
    block = text[text.index("Rank collapse") :]
    assert STABLE.remedy in block
    assert re.findall(r"└ also: ▲ warning (\S+)", block) == [RATIO_RULE, STABLE_RULE]
    assert block.count("One rules.") == 1, "one sentence for three sites"


@pytest.mark.parametrize("name", DIAGNOSED)
@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("show_all", [False, True])
def test_no_line_is_wider_than_the_terminal(name: str, width: int, show_all: bool) -> None:
    lines = shown("table", DIAGNOSED[name](), width=width, show_all=show_all).splitlines()
    assert max((cell_len(line) for line in lines), default=0) <= width


@pytest.mark.parametrize("width", [40, 60, 80])
def test_rules_and_numbers_stay_whole_in_narrow_terminals(width: int) -> None:
    words = shown("table", width=width).split()
    for word in (STABLE_RULE, HOUSE_RULE, "rank-collapse", "1.01", "follow"):
        assert word in words


def test_three_hundred_ill_layers_are_one_diagnosis_with_the_worst_sites() -> None:
    text = shown("table", DIAGNOSED["deep-diagnosed"](), width=120)
    assert len(text.splitlines()) < 45
    assert "1 diagnosis (300 findings)" in text
    assert "300 sites" in text
    assert "+288 more, none worse" in text


def test_findings_of_a_report_without_diagnoses_are_shown_as_ever() -> None:
    old = replace(ill(), subjects=tuple(replace(one, diagnoses=()) for one in ill().subjects))
    for form in FORMATS:
        text = shown(form, old, width=120)
        assert "follows from" not in text
        assert "Rank collapse" not in text
        assert "diagnosis (" not in text
    text = shown("table", old, width=120)
    assert text.count("✖ error   effective-rank/effective_rank_ratio") == 1
    assert text.count(RANK.remedy) == text.count(STABLE.remedy) == text.count(HOUSE.remedy) == 1


# --- lines and rows -------------------------------------------------------------------------------------------------


def test_concise_has_the_documented_line_with_what_it_follows_from_at_its_end() -> None:
    lines = [line for line in shown("concise").splitlines() if ": error: " in line or ": warning: " in line]
    pattern = re.compile(
        r"ill\.safetensors: (\S+): (?:error|warning): (\S+) [\d.]+ [<>] [\d.]+: .*?(?: \(((?:as at|follows from).*)\))?"
    )
    found = [match.groups(default="") for line in lines if (match := pattern.fullmatch(line))]
    assert found == TOLD
    assert shown("concise").splitlines()[-2].endswith("; diagnosed: rank-collapse, house-rule")


def test_the_verdict_counts_findings_and_not_diagnoses() -> None:
    for form in ("table", "concise"):
        assert shown(form).splitlines()[-1] == "Fail: 3 errors, 4 warnings. Exit 1."


def test_csv_and_jsonl_name_the_kind_and_the_primary_finding() -> None:
    rows = [row for row in csv.DictReader(io.StringIO(shown("csv"))) if row["severity"]]
    records = [json.loads(line) for line in shown("jsonl").splitlines()]
    findings = [record for record in records if record["type"] == "finding"]
    assert [list(row)[-2:] for row in rows] == [["diagnosis", "follows_from"]] * 7
    (primary,) = [row["fingerprint"] for row in rows if row["diagnosis"] == "rank-collapse" and not row["follows_from"]]
    assert Counter((row["diagnosis"], row["follows_from"]) for row in rows) == {
        ("rank-collapse", primary): 5,
        ("rank-collapse", ""): 1,
        ("house-rule", ""): 1,
    }
    told = {row["fingerprint"]: (row["diagnosis"], row["follows_from"] or None) for row in rows}
    assert {one["fingerprint"]: (one["diagnosis"], one["follows_from"]) for one in findings} == told


def test_a_healthy_row_has_neither() -> None:
    given = with_diagnoses(report(subject(measurements=(ratio("a", 0.9),))))
    (row,) = csv.DictReader(io.StringIO(shown("csv", given)))
    assert (row["diagnosis"], row["follows_from"]) == ("", "")


def test_json_holds_the_diagnoses_and_comes_back() -> None:
    text = shown("json")
    assert from_json(text) == ill()
    first = json.loads(text)["subjects"][0]["diagnoses"][0]
    assert list(first) == ["kind", "title", "primary", "consequences"]
    assert len(first["consequences"]) == 5


# --- for people -----------------------------------------------------------------------------------------------------


def test_markdown_has_a_heading_a_diagnosis_and_a_line_a_rule_that_follows() -> None:
    lines = shown("md").splitlines()
    assert "#### error: Rank collapse (`rank-collapse`, 4 findings follow)" in lines
    assert "#### error: House \\<rule\\> (`house-rule`)" in lines
    assert "- also warning: `stable-rank/stable_rank`, 3 sites, worst 1.01 \\< 1.1" in lines
    assert f"- also warning: `{RATIO_RULE}`, `{LAYERS[2]}`: 0.2 \\< 0.3" in lines
    assert sum(line.startswith("| error |") for line in lines) == 3
    assert not [line for line in lines if line.startswith("| warning |")]
    (row,) = [line for line in lines if line.startswith("| `ill.safetensors` |")]
    assert row.endswith("wanted by no analyzer); rank-collapse, +1 more |")
    everything = shown("md", show_all=True).splitlines()
    assert sum(line.startswith("| warning |") for line in everything) == 4


def test_a_card_has_a_row_a_diagnosis() -> None:
    lines = [line for line in shown("card").splitlines() if line.startswith(("| Rank", "| House"))]
    also = f"4 findings follow: `{RATIO_RULE}`, `{STABLE_RULE}` × 3"
    worst = f"| error | `{LAYERS[1]}` and 1 more site | `{RATIO_RULE}` | 0.02 \\< 0.05 |"
    assert lines[0] == f"| Rank collapse {worst} {also} |"
    assert lines[1] == "| House \\<rule\\> | error | `head.weight` | `house-rule/drift` | 3 \\> 2 |  |"


def test_html_has_a_section_a_diagnosis_and_folds_what_follows() -> None:
    page = parsed(shown("html"))
    rank, house = page.all("section", "diagnosis")
    assert rank.one("h3").text.split() == ["error", "Rank", "collapse", "rank-collapse"]
    assert house.one("h3").text.split() == ["error", "House", "<rule>", "house-rule"]
    (fold,) = rank.all("details", "follows")
    folded = fold.all("article", "card")
    first = next(node for node in rank.walk() if node.tag == "article")
    assert first.one("h4").one("span", "rule").text == RATIO_RULE
    assert first not in folded
    assert [card.one("h4").one("span", "rule").text for card in folded] == [RATIO_RULE, STABLE_RULE]
    assert fold.all("summary")[0].text.split()[:2] == ["4", "findings"]
    assert not house.all("details", "follows")
    identities = [node.attributes["id"] for node in page.walk() if "id" in node.attributes]
    assert len(set(identities)) == len(identities)
    for node in page.walk():
        target = node.attributes.get("href", "")
        assert not target.startswith("#") or target[1:] in {*identities, ""} or target.startswith("#i-")


def test_the_index_of_a_batch_names_the_first_diagnosis() -> None:
    page = parsed(index([index_row(ill()), index_row(with_diagnoses(partial()))], title="models"))
    heads = [head.text for head in page.one("thead").all("th")]
    cells = [row.all("td")[heads.index("diagnosis") - 1].text for row in page.one("tbody").all("tr")]
    assert cells == ["rank-collapse, +1 more", "rank-collapse"], "one heading of a row is no cell"


@pytest.mark.parametrize("name", DIAGNOSED)
def test_html_states_the_same_findings_with_and_without_diagnoses(name: str) -> None:
    given = DIAGNOSED[name]()
    bare = replace(given, subjects=tuple(replace(one, diagnoses=()) for one in given.subjects))
    assert findings_of(shown("html", given)) == findings_of(shown("html", bare))


# --- for CI ---------------------------------------------------------------------------------------------------------


def test_sarif_keeps_every_result_and_says_which_one_names_the_diagnosis() -> None:
    results = json.loads(shown("sarif"))["runs"][0]["results"]
    assert [(one["ruleId"], one["level"]) for one in results[:3]] == [
        (RATIO_RULE, "error"),
        (HOUSE_RULE, "error"),
        (RATIO_RULE, "error"),
    ]
    assert len(results) == 7
    told = [(one["properties"]["diagnosis"], one["properties"]["isPrimary"]) for one in results]
    assert told[:2] == [("rank-collapse", True), ("house-rule", True)]
    assert told[2:] == [("rank-collapse", False)] * 5
    primary = ill().subjects[0].diagnoses[0].primary
    assert [one["properties"].get("followsFrom") for one in results] == [None, None, *[primary] * 5]
    assert results[0]["message"]["text"].endswith("(Rank collapse; 4 findings follow)")
    assert results[1]["message"]["text"].endswith("(House <rule>)")
    assert results[-1]["message"]["text"].endswith(f"(follows from {RATIO_RULE})")


def test_github_annotates_what_names_a_diagnosis_before_the_cap() -> None:
    many = tuple(ratio(f"w{number}", 0.01) for number in range(30))
    house = replace(HOUSE.metrics[0].at("z", 3.0), analyzer="house-rule")
    given = with_diagnoses(report(subject(measurements=(*many, house)), manuals=(RANK, HOUSE)))
    lines = shown("github", given).splitlines()
    assert lines[0].startswith(f"::error title=Rank collapse%3A {RATIO_RULE},")
    assert lines[1].startswith(f"::error title=House <rule>%3A {HOUSE_RULE},")
    assert lines[2].startswith(f"::error title={RATIO_RULE},")
    assert "(as at w0)" in lines[2]
    assert len(lines) == 10


def test_gitlab_and_junit_say_it_in_their_text() -> None:
    entries = json.loads(shown("gitlab"))
    assert entries[0]["description"].startswith(f"{RATIO_RULE}: ")
    assert entries[0]["description"].endswith("(Rank collapse; 4 findings follow)")
    assert entries[-1]["description"].endswith(f"(follows from {RATIO_RULE})")
    assert len(entries) == 7
    text = shown("junit")
    assert "(Rank collapse; 4 findings follow)" in text
    assert text.count(f"(follows from {RATIO_RULE})") == 3
    assert text.count(f"(as at {LAYERS[0]})") >= 2


# --- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_no_title_or_kind_drives_a_terminal_or_a_runner(form: str) -> None:
    bad = "\x1b[2J\u202e::error::x##[error]y<script>\n"
    given = hostile()
    named = tuple(
        replace(one, diagnoses=(Diagnosis(bad, bad, one.findings[0].fingerprint, (one.findings[-1].fingerprint,)),))
        for one in given.subjects
    )
    text = shown(form, replace(given, subjects=named), width=120, show_suppressed=True)
    assert not {one for one in text if one != "\n" and unicodedata.category(one) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}
    if form in ("json", "jsonl"):
        return
    assert "##[error]y" not in text
    if form != "github":
        assert not [line for line in text.splitlines() if line.lstrip().startswith("::")]
    if form in ("html", "junit"):
        assert "y<script>" not in text


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["ill", "partial-diagnosed", "empty-diagnosed"])
def test_every_report_renders_and_stored_it_renders_alike(form: str, name: str) -> None:
    given = DIAGNOSED[name]()
    text = shown(form, given, width=100)
    assert text == shown(form, from_json(to_json(given)), width=100)


def test_suppressed_findings_are_in_no_diagnosis() -> None:
    given = with_diagnoses(REPORTS["suppressed"]())
    assert groups_of(given.subjects[0]) == []
    assert "diagnosis" not in shown("table", given)
    assert "diagnosed" not in shown("concise", given)


def test_the_documented_subject_with_its_diagnosis() -> None:
    text = shown("table", with_diagnoses(partial()), width=118)
    head, _, rest = text.partition(" ✖ error   Rank collapse   rank-collapse\n")
    assert "· 0.4 s · 1 diagnosis (1 finding)" in head
    assert rest.startswith("           effective-rank/effective_rank_ratio   limit < 0.05   layer 0 █▁ 1\n")
