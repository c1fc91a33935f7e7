"""The concise lines: the form of the documentation, to the character."""

from collapse_cli.core.report import Failure
from collapse_cli.render import RENDERERS, Look
from tests.reports import failed, partial, ratio, report, subject, suppressed

DOCUMENTED = """\
runs/7/rank_collapse.safetensors: layers.1.mlp.up_proj.weight: error: effective-rank/effective_rank_ratio 0.0166 < 0.05 (null 0.802): Uses 1.06 of 64 directions; a random matrix of this shape uses 51.3.
runs/7/rank_collapse.safetensors: layers.0.mlp.up_proj.weight: skipped: power-law: 12 eigenvalues in the tail, needs 50
runs/7/rank_collapse.safetensors: layers.1.mlp.up_proj.weight: failed: power-law: NotConverged: the fit did not converge in 100 steps
runs/7/rank_collapse.safetensors: incomplete: 1 error, 0 warnings, 1 failed, 1 skipped, 0 suppressed; analysed 3 of 3 wanted tensors (1 more wanted by no analyzer)
Incomplete: 1 error, 1 analysis failed, 1 skipped. Exit 2 (1 with --allow-partial).
"""  # noqa: E501 - the lines are as long as they are


def test_the_documented_lines() -> None:
    assert RENDERERS["concise"](partial(), Look()) == DOCUMENTED


def test_names_are_never_cut() -> None:
    name = "a" * 500 + ".weight"
    assert name in RENDERERS["concise"](report(subject(measurements=(ratio(name, 0.01),))), Look(width=40))


def test_all_shows_every_measurement_and_quiet_only_what_is_wrong() -> None:
    whole = partial()
    shown = RENDERERS["concise"](whole, Look(show_all=True)).splitlines()
    said = "head.weight: measured: effective-rank/effective_rank_ratio 0.985 (null 0.978)"
    assert f"runs/7/rank_collapse.safetensors: {said}" in shown
    quiet = RENDERERS["concise"](whole, Look(is_quiet=True)).splitlines()
    assert [line.split(": ")[2] for line in quiet[:-1]] == ["error", "failed"]


def test_an_unreadable_subject_has_its_reason_and_no_site() -> None:
    lines = RENDERERS["concise"](failed(), Look()).splitlines()
    assert "b.safetensors: failed: UnreadableCheckpoint: cannot read b.safetensors: is empty" in lines
    assert lines[-1] == "Incomplete: no findings, 1 subject could not be read. Exit 2."


def test_a_suppressed_finding_is_counted_and_not_shown() -> None:
    text = RENDERERS["concise"](suppressed(), Look())
    assert "error: effective-rank" not in text
    assert "1 suppressed; analysed" in text
    assert "1 suppressed (1 baseline, 0 accepted)" in text.splitlines()[-1]


def test_failures_of_analyzers_are_counted_apart_from_unreadable_subjects() -> None:
    lost = Failure("power-law", "head.weight", "NotConverged", "no")
    both = report(*failed().subjects, subject("c", status="partial", failures=(lost, lost)))
    line = RENDERERS["concise"](both, Look()).splitlines()[-1]
    assert line == "Incomplete: no findings, 1 subject could not be read, 2 analyses failed. Exit 2."
