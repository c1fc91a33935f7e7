"""From measurements to a verdict: in which order policy, release and baseline speak."""

from dataclasses import replace
from datetime import date

import pytest

from collapse_cli.baseline import created
from collapse_cli.core.finding import Severity
from collapse_cli.core.metric import Limit
from collapse_cli.core.policy import Accept, Allowance, Comparison, Override, Policy
from collapse_cli.decision import Decision, Measured, decide
from collapse_cli.diagnosis import diagnosed
from collapse_cli.errors import BadPolicy
from collapse_cli.judge import judge
from collapse_cli.regression import Release
from tests.reports import LAW, RANK, ratio, report, subject

DAY = date(2026, 6, 1)
ILL = subject("a", measurements=(ratio("w", 0.01), ratio("v", 0.2), ratio("u", 0.9)))
RUN = Measured((ILL,), (RANK, LAW), ("effective-rank", "power-law"))
ACCEPT = Accept("effective-rank/*", "known", "2027-01-01", sites=("w",))


def outcome(policy: Policy = Policy(), *runs: Measured, release: Release | None = None) -> Decision:
    return decide(runs or (RUN,), policy, release=release, today=DAY)


def states(decided: Decision) -> list[tuple[str, str, str]]:
    found = [one for subject in decided.subjects for one in subject.findings]
    return [(one.measurement.site, one.severity.value, one.suppressed.by if one.suppressed else "") for one in found]


def test_without_a_policy_it_is_what_the_judge_says() -> None:
    decided = outcome()
    assert decided.subjects == (diagnosed(judge(ILL, (RANK, LAW), Policy()), (RANK, LAW)),)
    assert (decided.verdict.outcome, decided.exit_code, decided.remarks) == ("fail", 1, ())


def test_accepted_and_known_findings_do_not_count_and_accepting_goes_first() -> None:
    known = created([judge(ILL, (RANK,), Policy())])
    decided = outcome(Policy(accepted=(ACCEPT,), baseline=known, fail_on=Severity.INFO))
    assert states(decided) == [("w", "error", "accept"), ("v", "warning", "baseline")]
    assert decided.verdict.suppressed == {"accept": 1, "baseline": 1}
    assert (decided.exit_code, decided.remarks) == (0, ())


def test_an_acceptance_that_is_over_brings_the_finding_and_the_verdict_back() -> None:
    decided = outcome(Policy(accepted=(replace(ACCEPT, until="2026-05-31"),)))
    assert (decided.exit_code, decided.verdict.findings["error"]) == (1, 1)
    assert decided.remarks == ('accept "effective-rank/*" (known) ended on 2026-05-31: 1 finding is back',)


def test_limits_are_changed_before_anything_is_accepted() -> None:
    harder = Override("effective-rank/*", "mine", error=0.25)
    decided = outcome(Policy(limits=(harder,), accepted=(replace(ACCEPT, sites=("v",)),)))
    assert states(decided) == [("w", "error", ""), ("v", "error", "accept")]


def test_the_intent_of_the_measuring_holds_unless_the_policy_has_one() -> None:
    bound = replace(RANK.metrics[0], warn=None, error=Limit("below", 0.05, "x", intent=frozenset({"classifier"})))
    run = Measured((ILL,), (replace(RANK, metrics=(bound,)),), ("effective-rank",))
    assert states(outcome(Policy(), run)) == [("w", "info", "")]
    assert states(outcome(Policy(), replace(run, intent="classifier"))) == [("w", "error", "")]
    assert states(outcome(Policy(intent="generative"), replace(run, intent="classifier"))) == []


OLD = Release("v1.json", report(subject("b", measurements=(ratio("w", 0.01), ratio("u", 0.97), ratio("v", 0.2)))))


def test_a_regression_fails_and_is_accepted_or_allowed_as_any_finding() -> None:
    fine = Policy(accepted=(ACCEPT,))
    assert states(outcome(fine, release=OLD)) == [("w", "error", "accept"), ("u", "error", ""), ("v", "warning", "")]
    assert outcome(fine, release=OLD).exit_code == 1
    everything = replace(fine, accepted=(replace(ACCEPT, sites=()),))
    assert outcome(everything, release=OLD).exit_code == 0
    allowed = replace(fine, comparison=Comparison(0.05, (Allowance("effective-rank/*", 0.1),)))
    assert outcome(allowed, release=OLD).exit_code == 0


def test_a_regression_is_not_hidden_by_what_was_known_as_a_warning() -> None:
    known = created([judge(ILL, (RANK,), Policy())])
    better = Release("v1.json", report(subject("a", measurements=(ratio("v", 0.25),))))
    found = outcome(Policy(baseline=known), release=better).subjects[0].findings
    (worse,) = [one for one in found if one.measurement.site == "v"]
    assert (worse.severity, worse.suppressed) == (Severity.ERROR, None)
    assert "(regressed: 0.25 in v1.json, now 0.2)" in worse.message


def test_a_release_with_nothing_in_common_is_an_error() -> None:
    stranger = Release("v1.json", report(subject("x"), subject("y")))
    with pytest.raises(BadPolicy, match=r"--compare v1.json should have a subject in common .* it has x, y"):
        outcome(Policy(), release=stranger)


def test_stale_entries_are_named_and_many_are_counted() -> None:
    sites = [f"layer.{index}" for index in range(30)]
    before = created([judge(replace(ILL, measurements=tuple(ratio(one, 0.01) for one in sites)), (RANK,), Policy())])
    now = replace(ILL, measurements=tuple(ratio(one, 0.9) for one in sites))
    said = outcome(Policy(baseline=before), replace(RUN, subjects=(now,))).remarks
    assert said[0] == "baseline entry effective-rank/effective_rank_ratio at layer.0 of a is stale: its finding is gone"
    assert said[20:] == ("10 more baseline entries are stale", "`collapse baseline prune` drops what is stale")


def test_every_run_is_judged_by_its_own_manuals() -> None:
    mild = replace(RANK, metrics=(replace(RANK.metrics[0], warn=None, error=None),))
    other = Measured((replace(ILL, id="b"),), (mild,), ("effective-rank",))
    decided = outcome(Policy(), RUN, other)
    assert [len(one.findings) for one in decided.subjects] == [2, 0]
