"""Reports made by hand, for the renderers: each names what is special about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from collapse_cli.core.finding import Finding, Severity, fingerprint
from collapse_cli.core.manual import Manual, Reference
from collapse_cli.core.metric import Limit, Measurement, Metric
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import (
    Coverage,
    Failure,
    PolicyRecord,
    Provenance,
    Report,
    Skip,
    Subject,
    Tool,
)
from collapse_cli.core.site import Role, Site
from collapse_cli.judge import exit_code, judge, verdict

#: What a name out of a file may try: clear the screen, a formula, markup, a workflow command, a new line, a reversed
#: reading direction, half a character, a C1 control, a code fence, 64 kB.
HOSTILE = (
    "\x1b[2J\x1b]0;title\x07",
    "=cmd()",
    "<script>alert(1)</script>",
    "::error::injected",
    "##[error]injected",
    "[red]x[/red]",
    "two\nlines\r\n::error::second",
    "\u202egnp.tensor",
    "half\udc80",
    "\x9b31mred",
    "`](http://x)|a|`",
    "\u2028::warning::separator",
    "@everyone",
    "long." * 13_000,
)

WARN = Limit("below", 0.3, "sample_checkpoints/healthy")
ERROR = Limit("below", 0.05, "fewer than one direction in twenty")
RATIO = Metric(
    "effective_rank_ratio",
    "1",
    "Share of the available directions the matrix uses.",
    "higher",
    WARN,
    ERROR,
    "Gaussian matrix of the same shape",
    "Uses {directions:.3g} of 64 directions; a random matrix of this shape uses 51.3.",
)
RANK = Manual(
    "effective-rank",
    "spectrum",
    "Effective rank",
    "established",
    "Counts the directions a matrix uses.\n\n## Why it matters\n\n## How to read it\n\n## Limits",
    (RATIO,),
    "Lower the learning rate of this block; then look for dead inputs.",
    (Reference("Roy & Vetterli. The effective rank. EUSIPCO 2007", "https://ieeexplore.ieee.org/document/7098875"),),
)
LAW = Manual(
    "power-law",
    "spectrum",
    "Power-law exponent",
    "experimental",
    "Fits the tail of the spectrum.",
    (Metric("power_law_exponent", "1", "Exponent of the spectrum's tail."),),
    "Nothing to do.",
    (Reference("Clauset et al. Power-law distributions in empirical data. 2009", "https://arxiv.org/abs/0706.1062"),),
)


def ratio(site: str, value: float, null: float = 0.8016) -> Measurement:
    """A measured `effective_rank_ratio`."""
    return replace(RATIO.at(site, value, null, directions=value * 64), analyzer="effective-rank")


def subject(identity: str = "runs/7/rank_collapse.safetensors", **changes: Any) -> Subject:
    """A subject of 4 tensors of which 3 are wanted, with nothing measured unless the changes say so."""
    plain = Subject(
        id=identity,
        path=identity,
        kind="checkpoint",
        format="safetensors",
        digest="sha256:" + "0" * 64,
        bytes=35_920,
        status="complete",
        coverage=Coverage(4, 3, 3),
        sites=(
            Site("layers.0.mlp.up_proj.weight", (64, 64), "F32", 0, Role.MLP_IN),
            Site("layers.1.mlp.up_proj.weight", (64, 64), "F32", 1, Role.MLP_IN),
            Site("head.weight", (10, 64), "F32", None, Role.HEAD),
        ),
    )
    return replace(plain, **changes)


def report(*subjects: Subject, policy: Policy = Policy(), manuals: tuple[Manual, ...] = (RANK, LAW)) -> Report:
    """The subjects judged, with a provenance that never changes."""
    judged = [judge(one, manuals, policy) for one in subjects]
    outcome = verdict(judged, policy)
    provenance = Provenance(
        started="2026-03-01T09:30:00Z",
        seconds=0.41,
        command=("scan", "runs/7/rank_collapse.safetensors"),
        python="3.11.9",
        torch="2.13.0",
        device="cpu",
        seed=0,
        intent=policy.intent,
        analyzers=tuple(manual.name for manual in manuals),
        policy=PolicyRecord(None, None),
    )
    return Report(
        "1.0", Tool("collapse", "0.3.0"), provenance, manuals, tuple(judged), outcome, exit_code(outcome, policy)
    )


def partial() -> Report:
    """The example of the documentation: one error, one skip, one failure."""
    layers = [f"layers.{index}.mlp.up_proj.weight" for index in (0, 1)]
    return report(
        subject(
            status="partial",
            measurements=(ratio(layers[0], 0.8024), ratio(layers[1], 0.01663), ratio("head.weight", 0.9851, 0.9777)),
            skips=(Skip("power-law", layers[0], "12 eigenvalues in the tail, needs 50"),),
            failures=(Failure("power-law", layers[1], "NotConverged", "the fit did not converge in 100 steps"),),
        )
    )


def empty() -> Report:
    """Nothing was found to look at."""
    return report()


def nothing_accepted() -> Report:
    """A subject of which no analyzer wants anything."""
    skips = (Skip("effective-rank", None, "nothing to accept: takes weight matrices"),)
    return report(subject(status="empty", coverage=Coverage(4, 0, 0), sites=(), skips=skips))


def failed() -> Report:
    """A file that could not be read, beside one that could."""
    broken = Failure(None, None, "UnreadableCheckpoint", "cannot read b.safetensors: is empty")
    unread = subject(
        "b.safetensors", status="failed", format="unknown", digest=None, coverage=Coverage(0, 0, 0), sites=(),
        failures=(broken,),
    )  # fmt: skip
    return report(subject("a.safetensors", measurements=(ratio("head.weight", 0.5),)), unread)


def deep(layers: int = 300) -> Report:
    """A model of 300 layers, each of which is ill."""
    names = [f"model.layers.{index}.mlp.up_proj.weight" for index in range(layers)]
    return report(
        subject(
            coverage=Coverage(layers, layers, layers),
            sites=tuple(Site(name, (64, 64), "F32", index, Role.MLP_IN) for index, name in enumerate(names)),
            measurements=tuple(ratio(name, 0.01 + 1e-6 * index) for index, name in enumerate(names)),
        )
    )


def hostile() -> Report:
    """Every text that can come from a file is hostile: subject, sites, reasons, evidence, dtype."""
    measured = tuple(ratio(f"{name}.weight", 0.01) for name in HOSTILE)
    return report(
        *(
            subject(
                name,
                status="partial",
                format="safetensors",
                sites=tuple(Site(one.site, (64, 64), "F32", 0, Role.MLP_IN) for one in measured),
                measurements=measured if name == HOSTILE[0] else measured[:1],
                skips=(Skip("power-law", name, f"because {name}"), Skip(None, name, name)),
                failures=(Failure("power-law", name, "NotConverged", name), Failure(None, None, name, name)),
            )
            for name in HOSTILE
        )
    )


def suppressed() -> Report:
    """A finding that does not count."""
    from collapse_cli.core.finding import Suppression

    whole = partial()
    found = replace(whole.subjects[0].findings[0], suppressed=Suppression("baseline", "known", None))
    one = replace(whole.subjects[0], findings=(found,))
    return replace(whole, subjects=(one,), verdict=verdict([one], Policy()))


REPORTS = {
    "empty": empty,
    "nothing-accepted": nothing_accepted,
    "partial": partial,
    "failed": failed,
    "deep": deep,
    "hostile": hostile,
    "suppressed": suppressed,
}


def finding(severity: Severity = Severity.ERROR, limit: Limit = ERROR, value: float = 0.0166) -> Finding:
    """A finding made without the judge."""
    one = ratio("layers.1.mlp.up_proj.weight", value)
    mark = fingerprint(one.analyzer, one.metric, "a", one.site)
    return Finding(severity, one, limit, "Uses 1.1 of 64 directions.", RANK.remedy, mark)
