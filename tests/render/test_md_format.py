"""Markdown: the verdict first, and never more than a job summary takes."""

from collapse_cli.render import RENDERERS, Look
from tests.reports import deep, partial


def test_verdict_subjects_findings_and_what_was_not_done() -> None:
    lines = RENDERERS["md"](partial(), Look()).splitlines()
    assert (
        lines[0] == "## collapse: Incomplete: 1 error, 1 analysis failed, 1 skipped. Exit 2 (1 with --allow-partial)."
    )
    assert "| `runs/7/rank_collapse.safetensors` | partial | 1 | 0 | analysed 3 of 3 wanted tensors" in lines[4]
    assert "### `runs/7/rank_collapse.safetensors`" in lines
    assert any(line.startswith("- failed: `power-law` `layers.1.mlp.up_proj.weight` NotConverged") for line in lines)
    assert any(line.startswith("- 1 skipped: 12 eigenvalues in the tail") for line in lines)


def test_more_than_a_job_summary_takes_is_cut_and_says_so() -> None:
    text = RENDERERS["md"](deep(8_000), Look())
    assert 800_000 < len(text.encode()) <= 901_000
    assert text.splitlines()[-1].startswith("+")
    assert text.splitlines()[-1].endswith(" more lines: the JSON report has them all")
