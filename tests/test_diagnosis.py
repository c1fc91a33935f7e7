"""Findings with one cause are one diagnosis: which is the primary one, what follows from it, and what stays apart."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collapse_cli.analyzers import catalogue
from collapse_cli.core.causes import CAUSES, Cause
from collapse_cli.core.finding import Finding, Severity, Suppression, fingerprint
from collapse_cli.core.metric import Limit, Measurement
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import SCHEMA_VERSION, Coverage, Subject, from_json, json_schema, to_json
from collapse_cli.core.site import Site
from collapse_cli.decision import Measured, decide
from collapse_cli.diagnosis import diagnosed
from tests.diagnosed_reports import ill
from tests.reports import RANK, ratio, report, subject

E, W, I = Severity.ERROR, Severity.WARNING, Severity.INFO  # noqa: E741
#: Four layers of two modules, an embedding in front, a head behind, and a part of a tensor.
NAMES = ("embed.weight", *(f"layers.{layer}.{leaf}" for layer in range(4) for leaf in ("a.weight", "b.bias")), "head.x")
SITES = tuple(Site(name, (8, 8), "F32", int(name[7]) if name.startswith("layers") else None) for name in NAMES)
#: First the special one, then the general one whose signs it shares; each reaches another way.
SPECIAL = Cause("special", "Special", ("s/first", "s/second"), ("x/*",), "site")
GENERAL = Cause("general", "General", ("g/*", "s/*"), ("x/*", "y/*"), "onward")
WHOLE = Cause("whole", "Whole", ("w/*",), ("*",), "subject")
LOCAL = Cause("local", "Local", ("l/*",), ("x/*",), "site")


def one(rule: str, severity: Severity = E, site: str = "layers.1.a.weight", *, suppressed: bool = False) -> Finding:
    analyzer, _, metric = rule.partition("/")
    measured = Measurement(analyzer, metric, site, 1.0)
    why = Suppression("accept", "known") if suppressed else None
    return Finding(
        severity, measured, Limit("above", 0.0, "s"), "m", "r", fingerprint(analyzer, metric, "a", site), why
    )


def told(*findings: Finding, causes: tuple[Cause, ...] = (SPECIAL, GENERAL, WHOLE, LOCAL)) -> list[list[str]]:
    """By diagnosis its kind, then `rule@site` of the primary finding and of its consequences."""
    whole = Subject("a", "a", "checkpoint", "f", None, 0, "complete", Coverage(0, 0, 0), SITES, findings=findings)
    found = diagnosed(whole, (RANK,), causes)
    names = {finding.fingerprint: f"{finding.measurement.rule}@{finding.measurement.site}" for finding in findings}
    return [[one.kind, names[one.primary], *(names[mark] for mark in one.consequences)] for one in found.diagnoses]


# --- which finding names a diagnosis --------------------------------------------------------------------------------


def test_the_worst_is_primary_whatever_its_cause() -> None:
    assert [one[0] for one in told(one("s/first", W), one("w/x", E))] == ["whole"]
    (kind, primary, *rest) = told(one("s/first", W), one("w/x", E))[0]
    assert (kind, primary, rest) == ("whole", "w/x@layers.1.a.weight", ["s/first@layers.1.a.weight"])


def test_among_equals_the_cause_that_stands_first() -> None:
    found = told(one("g/a", site="embed.weight"), one("s/second", site="head.x"))
    assert [group[:2] for group in found] == [["special", "s/second@head.x"], ["general", "g/a@embed.weight"]]


def test_then_the_most_telling_sign_then_the_first_in_depth() -> None:
    second, late, early = (
        *(one("s/second", site="embed.weight"), one("s/first", site="layers.3.a.weight")),
        one("s/first", site="layers.0.a.weight"),
    )
    assert told(second, late, early) == [
        ["special", "s/first@layers.0.a.weight", "s/first@layers.3.a.weight", "s/second@embed.weight"]
    ]


def test_a_part_of_a_tensor_and_a_module_stand_where_their_tensor_does() -> None:
    for derived in ("layers.0.b.bias#expert=3", "layers.0.b"):
        (group,) = told(one("s/first", site="layers.2.a.weight"), one("s/first", site=derived))
        assert group[1] == f"s/first@{derived}"


def test_a_cause_takes_its_signs_from_a_general_cause_and_not_the_other_way_round() -> None:
    found = told(one("s/first", W), one("s/third", E))
    assert found == [["general", "s/third@layers.1.a.weight", "s/first@layers.1.a.weight"]]


def test_what_follows_is_in_the_order_of_the_cause_and_one_rule_at_all_its_sites() -> None:
    ((_, _, *rest),) = told(one("g/a"), one("x/y", W), one("s/first", W), one("g/b", W))
    assert [name.partition("@")[0] for name in rest] == ["g/b", "s/first", "x/y"]
    sites = ("layers.0.a.weight", "layers.1.a.weight", "layers.2.a.weight")
    ((_, _, *rest),) = told(
        one("l/a", E, sites[0]), one("l/b", W, sites[0]), one("l/c", W, sites[1]), one("l/b", W, sites[2])
    )
    assert rest == [f"l/b@{sites[0]}", f"l/b@{sites[2]}", f"l/c@{sites[1]}"]


# --- how far consequences go ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sign", "reached"),
    [
        ("l/x", ("layers.1.a.weight", "layers.1.a.weight#expert=3", "layers.1.a.bias", "layers.1.b.bias", "layers.1")),
        ("g/x", ("layers.1.a.weight", "layers.1.b.bias", "layers.3.b.bias", "layers.2.a.weight#q", "head.x")),
        ("w/x", (*NAMES, "elsewhere", "#checkpoint")),
    ],
)
def test_reach(sign: str, reached: tuple[str, ...]) -> None:
    everywhere = (*NAMES, "layers.1.a.weight#expert=3", "layers.1.a.bias", "layers.1", "layers.2.a.weight#q")
    for site in dict.fromkeys((*everywhere, *reached)):
        found = told(one(sign), one("x/y", W, site))
        is_onward = sign == "g/x" and site.startswith(("layers.1", "layers.2", "layers.3"))
        if site in reached or is_onward or sign == "w/x":
            assert found == [[found[0][0], f"{sign}@layers.1.a.weight", f"x/y@{site}"]], site
        else:
            assert [group[0] for group in found] == [found[0][0], "x"], site


def test_the_reach_is_that_of_all_signs_together() -> None:
    found = told(one("l/x"), one("l/y", W, "layers.3.a.weight"), one("x/y", W, "layers.3.b.bias"))
    assert found == [["local", "l/x@layers.1.a.weight", "l/y@layers.3.a.weight", "x/y@layers.3.b.bias"]]


def test_sites_outside_the_stack_are_no_layer_together() -> None:
    found = told(one("l/x", site="embed.weight"), one("x/y", W, "head.x"))
    assert [group[0] for group in found] == ["local", "x"]


def test_a_name_of_64_kb_is_no_work() -> None:
    name = "long." * 13_000
    whole = replace(
        subject(), sites=tuple(Site(f"{name}{at}", (1,), "F32") for at in range(20)), findings=(one("l/x"),)
    )
    tracemalloc.start()
    assert len(diagnosed(whole, ()).diagnoses) == 1
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1e8, "the modules of one such name alone would take 400 MB"


def test_what_lies_inside_a_module_without_a_layer_is_reached_from_it() -> None:
    assert len(told(one("l/x", site="quantizer"), one("x/y", W, "quantizer.embed"))) == 1
    assert len(told(one("l/x", site="quantizer.embed"), one("x/y", W, "quantizer"))) == 1
    assert len(told(one("l/x", site="quantizer"), one("x/y", W, "quantizers.embed"))) == 2


# --- what is left ---------------------------------------------------------------------------------------------------


def test_unknown_analyzers_stand_for_themselves_under_the_title_of_their_manual() -> None:
    whole = subject(measurements=(ratio("a", 0.01), ratio("b", 0.2)))
    judged = report(whole, manuals=(RANK,)).subjects[0]
    mine = replace(
        judged,
        findings=tuple(
            replace(finding, measurement=replace(finding.measurement, analyzer="house-[rule]"))
            for finding in judged.findings
        ),
    )
    (found,) = diagnosed(mine, (replace(RANK, name="house-[rule]", title="House rule"),)).diagnoses
    assert (found.kind, found.title, len(found.consequences)) == ("house-[rule]", "House rule", 1)
    assert [group[0] for group in told(one("p/a"), one("q/a"))] == ["p", "q"]


def test_suppressed_findings_are_left_out_and_explain_nothing() -> None:
    assert told(one("l/x", suppressed=True), one("x/y", W)) == [["x", "x/y@layers.1.a.weight"]]
    assert told(one("l/x", suppressed=True)) == []


RULES = ("s/first", "s/second", "g/a", "g/b", "w/a", "l/a", "l/b", "x/a", "y/a", "z/a", "z/b")
PLACES = (*NAMES, "layers.2.a.weight#expert=3", "layers.2", "#checkpoint", "gone")
ANY = st.lists(
    st.builds(
        one, st.sampled_from(RULES), st.sampled_from((E, W, I)), st.sampled_from(PLACES), suppressed=st.booleans()
    ),
    unique_by=lambda finding: finding.fingerprint,
    max_size=25,
)


@given(findings=ANY, causes=st.permutations((SPECIAL, GENERAL, WHOLE, LOCAL)))
def test_each_finding_that_counts_is_in_one_diagnosis_and_none_is_worse_than_its_primary(
    findings: list[Finding], causes: list[Cause]
) -> None:
    whole = replace(subject(), sites=SITES, findings=tuple(findings))
    found = diagnosed(whole, (RANK,), causes)
    marks = [mark for group in found.diagnoses for mark in (group.primary, *group.consequences)]
    active = {finding.fingerprint: finding for finding in findings if finding.suppressed is None}
    assert sorted(marks) == sorted(active)
    ranks = [active[group.primary].severity.rank for group in found.diagnoses]
    assert ranks == sorted(ranks, reverse=True), "worst first"
    for group, rank in zip(found.diagnoses, ranks, strict=True):
        follows = [active[mark].severity.rank for mark in group.consequences]
        assert follows == sorted(follows, reverse=True)
        assert all(one <= rank for one in follows)
    assert diagnosed(found, (RANK,), causes) == found, "said again it is the same"
    assert replace(found, diagnoses=()) == whole, "nothing else is touched"


# --- reports --------------------------------------------------------------------------------------------------------


def test_a_report_of_schema_1_0_has_none_until_it_is_judged_again() -> None:
    old = json.loads(to_json(ill()))
    old["schema_version"] = "1.0"
    for one_ in old["subjects"]:
        del one_["diagnoses"]
    stored = from_json(json.dumps(old))
    assert [one_.diagnoses for one_ in stored.subjects] == [()]
    again = decide([Measured(stored.subjects, stored.manuals, ())], Policy()).subjects
    assert [group.kind for group in again[0].diagnoses] == ["rank-collapse", "house-rule"]


def test_the_schema_describes_diagnoses() -> None:
    assert SCHEMA_VERSION == "1.1"
    schema = json_schema()["$defs"]
    assert set(schema["Diagnosis"]["properties"]) == {"kind", "title", "primary", "consequences"}
    assert schema["Subject"]["properties"]["diagnoses"]["items"] == {"$ref": "#/$defs/Diagnosis"}
    assert "diagnoses" not in schema["Subject"]["required"]


# --- the causes and the catalogue -----------------------------------------------------------------------------------

MANUALS = [analyzer.manual for analyzer in catalogue(plugins=False).analyzers]
JUDGED = {f"{manual.name}/{one.name}" for manual in MANUALS for one in manual.metrics if one.warn or one.error}
#: Judged, and a diagnosis of its own when it is found: no other rule explains it.
ALONE = {
    "naive-loss-minimisation/update_alignment",
    "tied-tensors/cloned_tensors",
    "trajectory/norm_spike",
    "trajectory/outlier_gap",
    "trend/limit_approach",
    "trend/opposed_trend",
    "weight-drift/straggler_score",
    "weight-drift/stuck_code_share",
}


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.kind)
def test_every_pattern_means_a_rule_that_can_be_a_finding(cause: Cause) -> None:
    for pattern in (*cause.signs, *cause.explains):
        assert any(fnmatchcase(rule, pattern) for rule in JUDGED), pattern


def test_every_judged_rule_is_a_sign_or_explained_or_alone() -> None:
    known = [pattern for cause in CAUSES for pattern in (*cause.signs, *cause.explains) if pattern != "*"]
    assert {rule for rule in JUDGED if not any(fnmatchcase(rule, pattern) for pattern in known)} == ALONE


def test_kinds_are_told_apart() -> None:
    kinds = [cause.kind for cause in CAUSES]
    assert len(set(kinds)) == len(kinds)
    assert len({cause.title for cause in CAUSES}) == len(kinds)
    assert all(kind == kind.lower() and " " not in kind for kind in kinds)
