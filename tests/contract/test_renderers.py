"""What every format promises: the same findings, nothing that acts, nothing that crashes."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import unicodedata
from collections.abc import Callable
from urllib.parse import unquote
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collapse_cli.core.report import Coverage, Failure, Report, Skip, from_json, json_schema, to_json
from collapse_cli.core.text import plain
from collapse_cli.render import FORMATS, RENDERERS, SUFFIXES, Look
from tests.html_pages import findings_of
from tests.reports import HOSTILE, REPORTS, deep, hostile, partial, ratio, report, subject

MADE = {name: make() for name, make in REPORTS.items()}
every_format = pytest.mark.parametrize("form", FORMATS)
every_report = pytest.mark.parametrize("name", REPORTS)
LOOKS = {
    "default": Look(),
    "all": Look(show_all=True),
    "quiet": Look(is_quiet=True),
    "narrow": Look(width=40),
    "wide": Look(width=200, show_all=True),
}


#: A workflow command of ours: in properties no colon and no comma is literal.
OWN_COMMAND = re.compile(r"::(?:error|warning|notice) title=([^,:]+)(?:,file=([^,:]+),line=1)?::(.+)")


def rendered(form: str, given: Report, look: Look = Look()) -> str:
    return RENDERERS[form](given, look)


def unsafe(text: str) -> set[str]:
    return {one for one in text if one != "\n" and unicodedata.category(one) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}


@every_format
@every_report
@pytest.mark.parametrize("look", LOOKS)
def test_every_report_renders_without_a_character_that_a_terminal_obeys(form: str, name: str, look: str) -> None:
    text = rendered(form, MADE[name], LOOKS[look])
    assert unsafe(text) == set()
    assert text.encode("utf-8")
    assert text == "" or text.endswith("\n")


def test_colour_is_the_only_thing_that_controls_a_terminal() -> None:
    text = rendered("table", hostile(), Look(width=100, has_color=True))
    coloured = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "\x1b[" in text
    assert unsafe(coloured) == set()
    assert [line.rstrip() for line in coloured.splitlines()] == rendered("table", hostile()).splitlines()


@every_format
def test_no_name_becomes_a_workflow_command(form: str) -> None:
    for line in rendered(form, hostile(), Look(width=200, show_all=True)).splitlines():
        if form == "github":
            assert OWN_COMMAND.fullmatch(line)
        else:
            assert not line.lstrip().startswith("::")
        if form not in ("json", "jsonl"):
            assert "##[" not in line


def test_rich_markup_in_a_name_is_text() -> None:
    assert "[red]x[/red]" in rendered("table", hostile(), Look(width=200))


def test_a_formula_in_a_name_is_neutralised_in_every_text_column_of_the_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(rendered("csv", hostile()))))
    cells = [value for row in rows for key, value in row.items() if key not in ("value", "null", "limit_bound")]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    assert {"'=cmd().weight", "'@everyone.weight"} <= {row["site"] for row in rows}


def test_markup_in_a_name_does_not_reach_markdown() -> None:
    text = rendered("md", hostile())
    outside_code = re.sub(r"`[^`\n]*`", "", text)
    assert not re.search(r"(?<!\\)[<\[]", outside_code)
    widths = {len(re.split(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("| ")}
    assert widths == {7}, "a name with a bar in it adds no column"


def found_in(form: str, text: str) -> set[tuple[str, str]]:
    """The (rule, site) of every finding that a format states, sites as shown."""
    if form == "json":
        whole = json.loads(text)["subjects"]
        return {pair(finding["measurement"]) for one in whole for finding in one["findings"]}
    if form == "jsonl":
        records = [json.loads(line) for line in text.splitlines()]
        return {pair(record["measurement"]) for record in records if record["type"] == "finding"}
    if form == "csv":
        rows = csv.DictReader(io.StringIO(text))
        return {(f"{row['analyzer']}/{row['metric']}", row["site"]) for row in rows if row["severity"]}
    if form == "html":
        return findings_of(text)
    if form in ("sarif", "github", "gitlab", "junit"):
        return found_by_ci(form, text)
    if form == "card":
        return {(m[2], m[1]) for m in re.finditer(r"^\| (?:error|warning|info) \| `(\S+)` \| `(\S+)` ", text, re.M)}
    if form == "concise":
        return {(m[2], m[1]) for m in re.finditer(r"^\S+: (\S+): (?:error|warning|info): (\S+) ", text, re.M)}
    if form == "md":
        return {(m[2], m[1]) for m in re.finditer(r"^\| (?:error|warning|info) \| `(\S+)` \| `(\S+)` ", text, re.M)}
    found, rule = set(), ""
    for line in text.splitlines():
        if head := re.match(r" [✖▲●] (?:error|warning|info) +(\S+)", line):
            rule = head[1]
        elif site := re.match(r" {11}(\S+) +[\d.,e+-]+ +(?:random|null) ", line):
            found.add((rule, site[1]))
    return found


def found_by_ci(form: str, text: str) -> set[tuple[str, str]]:
    if form == "sarif":
        results = json.loads(text)["runs"][0]["results"]
        return {(one["ruleId"], one["locations"][0]["logicalLocations"][0]["fullyQualifiedName"]) for one in results}
    if form == "github":
        found = {OWN_COMMAND.fullmatch(line) for line in text.splitlines()}
        return {(m[1], m[3].split(": ")[1]) for m in found if m and "/" in m[1]}
    if form == "gitlab":
        issues = [(one["check_name"], one["description"].split(": ")[1]) for one in json.loads(text)]
        return {(rule, site) for rule, site in issues if not rule.endswith(("/failed", "/not-analysed"))}
    return {(name, line.split(": ")[1]) for _, name, lines in failures(text) for line in lines}


def failures(text: str) -> list[tuple[str, str, list[str]]]:
    """Subject, rule and lines of the failures of a JUnit report."""
    cases = ElementTree.fromstring(text).iter("testcase")
    return [
        (case.get("classname", ""), case.get("name", ""), (failure.text or "").split("\n"))
        for case in cases
        for failure in case.iter("failure")
    ]


#: Names as they are, not as an attack: what quoting, separating and encoding get wrong.
AWKWARD = (
    "say \"hi\" and 'bye'.weight",
    "a, b; c: d.weight",
    "two\nlines\r\n.weight",
    "100%25 %0A %2C ${{ x }}.weight",
    "größe.重み.🎈.weight",
    "\x00\x07\x1b[31m\x85.weight",
    "<b>&amp;</b>]]>.weight",
    "\ufffe\uffff.weight",
    "/".join(["deep"] * 58) + "/x.weight",
)


def awkward() -> Report:
    """One subject a name, which is its path too, with one finding."""
    assert max(map(len, AWKWARD)) == 298
    return report(*(subject(f"runs/{name}", measurements=(ratio(name, 0.01),)) for name in AWKWARD))


def stated(form: str, text: str, rule: str, subject_id: str, site: str) -> bool:
    """Whether a format states this finding of this subject, names as that format shows them."""
    subject_shown, site_shown = plain(subject_id), plain(site)
    if form == "json":
        subjects = {one["id"]: one["findings"] for one in json.loads(text)["subjects"]}
        return [pair(one["measurement"]) for one in subjects[subject_id]] == [(rule, site)]
    if form == "jsonl":
        found = [json.loads(line) for line in text.splitlines()]
        return any(one.get("subject") == subject_id and pair(one["measurement"]) == (rule, site)
                   for one in found if one["type"] == "finding")  # fmt: skip
    if form == "csv":
        rows = csv.DictReader(io.StringIO(text))
        return any(
            (row["subject"], row["site"], row["severity"]) == (subject_shown, site_shown, "error") for row in rows
        )
    if form == "sarif":
        log = json.loads(text)["runs"][0]
        places = [(one["ruleId"], one["locations"][0]) for one in log["results"]]
        return any(
            name == rule
            and unquote(place["physicalLocation"]["artifactLocation"]["uri"]) == subject_id
            and place["logicalLocations"][0]["fullyQualifiedName"] == site_shown
            for name, place in places
        )
    if form == "github":
        found = [OWN_COMMAND.fullmatch(line) for line in text.splitlines()]
        opening = f"{subject_shown}: {site_shown}: "
        return any(m and unquote(m[1]) == rule and unquote(m[2] or "") == subject_shown
                   and unquote(m[3]).startswith(opening) for m in found)  # fmt: skip
    if form == "gitlab":
        return any(
            one["location"]["path"] == subject_shown and one["description"].startswith(f"{rule}: {site_shown}: ")
            for one in json.loads(text)
        )
    if form == "junit":
        shown = (
            site_shown.replace("\ufffe\uffff", "\\ufffe\\uffff"),
            subject_shown.replace("\ufffe\uffff", "\\ufffe\\uffff"),
        )
        return any(
            (name, one) == (rule, shown[1]) and lines[0].startswith(f"error: {shown[0]}: ")
            for one, name, lines in failures(text)
        )
    if form in ("md", "card"):
        return f"| error | `{site_shown}` | `{rule}` |" in text
    if form == "concise":
        return f"{subject_shown}: {site_shown}: error: {rule} " in text
    return rule in text and site_shown in (html.unescape(text) if form == "html" else text)


@every_format
def test_an_awkward_name_is_stated_in_every_format_as_one_finding(form: str) -> None:
    whole = awkward()
    text = rendered(form, whole, Look(width=2_000))
    assert unsafe(text) == set()
    for one in whole.subjects:
        (finding,) = one.findings
        assert stated(form, text, finding.measurement.rule, one.id, finding.measurement.site), one.id


def pair(measurement: dict[str, str]) -> tuple[str, str]:
    return f"{measurement['analyzer']}/{measurement['metric']}", measurement["site"]


@every_format
@pytest.mark.parametrize("make", [partial, lambda: deep(9)], ids=["partial", "nine-layers"])
def test_every_format_states_the_same_findings(form: str, make: Callable[[], Report]) -> None:
    whole = make()
    expected = {(f.measurement.rule, f.measurement.site) for one in whole.subjects for f in one.findings}
    found = found_in(form, rendered(form, whole, Look(width=160)))
    if form == "table":
        prefix = "model.layers." if len(expected) > 1 else ""
        found = {(rule, site.replace("…", prefix)) for rule, site in found}
    assert found == expected


@every_format
def test_a_failure_a_skip_and_an_unread_tensor_are_stated_in_every_format(form: str) -> None:
    whole = report(
        subject(
            status="partial",
            measurements=(ratio("head.weight", 0.9),),
            skips=(Skip(None, "blocks.3.weight", "its shard is missing"),),
            failures=(Failure("effective-rank", "blocks.4.weight", "NotConverged", "did not converge"),),
        )
    )
    for look in (Look(width=160), Look(width=160, is_quiet=True)):
        text = rendered(form, whole, look)
        for said in ("blocks.3.weight", "its shard is missing", "blocks.4.weight", "NotConverged", "did not converge"):
            assert said in text


@every_report
def test_json_comes_back_equal_and_validates_against_its_schema(name: str) -> None:
    whole = MADE[name]
    text = to_json(whole, indent=2)
    assert from_json(text) == whole
    assert from_json(text.encode()) == whole
    assert to_json(from_json(text), indent=2) == text
    jsonschema.validate(json.loads(text), json_schema(), cls=jsonschema.Draft202012Validator)


def test_json_refuses_what_is_not_json_or_not_a_report() -> None:
    text = to_json(partial())
    for broken in (
        text.replace("0.01663", "NaN", 1),
        text[:-1],
        "[]",
        text.replace('"severity": "error"', '"severity": "x"'),
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - pydantic and json, each with its own words
            from_json(broken)


NAMES = st.one_of(st.sampled_from(HOSTILE[:-1]), st.text(max_size=12))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


FACTS = st.one_of(NUMBERS, st.integers(-(2**53), 2**53), NAMES, st.lists(NUMBERS, max_size=3), st.none())
#: Keys of evidence are words of an analyzer, whole characters; its values may be names out of a file.
EVIDENCE = st.dictionaries(st.text(max_size=8), FACTS, max_size=3)


@given(names=st.lists(NAMES, max_size=4, unique=True), value=NUMBERS, null=NUMBERS, evidence=EVIDENCE)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_report_comes_back_equal_and_renders_harmlessly(
    names: list[str], value: float, null: float, evidence: dict[str, object]
) -> None:
    one = ratio("x", value, null)
    measured = tuple(type(one)(one.analyzer, one.metric, name, value, null, dict(evidence)) for name in names)
    skips = tuple(Skip(None, name, name) for name in names)
    whole = report(subject(measurements=measured, skips=skips, coverage=Coverage(len(names), len(names), len(names))))
    assert from_json(to_json(whole)) == whole
    for form in FORMATS:
        assert unsafe(rendered(form, whole, Look(show_all=True))) == set()


#: The sample object of the documentation: keys and their order.
CONTRACT = {
    "": "schema_version tool provenance manuals subjects verdict exit_code",
    "tool": "name version",
    "provenance": "started seconds command python torch device seed intent analyzers policy plugins",
    "provenance.policy": "file digest",
    "manuals.0": "name family title confidence text metrics remedy references",
    "manuals.0.metrics.0": "name unit says better warn error null",
    "manuals.0.metrics.0.warn": "side bound source",
    "manuals.0.references.0": "cite url",
    "subjects.0": "id path kind format digest bytes status coverage sites measurements findings skips failures",
    "subjects.0.coverage": "sites wanted read",
    "subjects.0.sites.0": "name shape dtype layer role",
    "subjects.0.measurements.0": "analyzer metric site value null evidence",
    "subjects.0.findings.0": "severity measurement limit message remedy fingerprint suppressed",
    "subjects.0.findings.0.limit": "side bound source",
    "subjects.0.skips.0": "analyzer site reason",
    "subjects.0.failures.0": "analyzer site error message",
    "verdict": "outcome fail_on findings suppressed failures skips",
    "verdict.findings": "error warning info",
    "verdict.suppressed": "accept baseline",
}


@pytest.mark.parametrize("where", CONTRACT)
def test_json_keys_are_those_of_the_contract_in_its_order_and_more_only_as_additions(where: str) -> None:
    node = json.loads(to_json(partial()))
    for step in where.split(".") if where else []:
        node = node[int(step) if step.isdigit() else step]
    expected = CONTRACT[where].split()
    assert [key for key in node if key in expected] == expected


def test_jsonl_says_what_each_line_is_and_ends_with_the_verdict() -> None:
    records = [json.loads(line) for line in rendered("jsonl", partial()).splitlines()]
    kinds = ["run", "subject", "measurement", "measurement", "measurement", "finding", "skip", "failure", "verdict"]
    assert [record["type"] for record in records] == kinds
    assert all(record["subject"] == "runs/7/rank_collapse.safetensors" for record in records[2:-1])
    assert records[-1]["exit_code"] == 2


def test_every_suffix_names_a_format() -> None:
    assert set(SUFFIXES.values()) <= set(FORMATS)


def test_a_name_that_is_harmless_stays_as_it_is() -> None:
    for name in ("model.layers.0.weight", "größe.重み", "a::b", "x#q", "C#"):
        assert plain(name) == name
