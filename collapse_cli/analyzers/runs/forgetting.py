"""What a run of classifiers knew and has lost, and whether unlearning spares what was to be kept."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import (
    Example,
    Limit,
    Measurement,
    Metric,
    Reference,
    Skip,
    activation_series_analyzer,
    on,
    skip,
)

if TYPE_CHECKING:
    from collapse_cli.kernels.comparisons import ActivationSeries
    from collapse_cli.kernels.retention import Accuracies

__all__ = ["forgetting"]

#: Labelled rows of a task, or of a side of unlearning, from which it is told; members from which a law is fitted.
MIN_ROWS, LAW_MEMBERS = 20, 5
OF_TASKS = "forgetting, backward_transfer, forward_transfer, retention_law"
OF_UNLEARNING = "forget_kl, retain_kl, collateral, kl_growth"

FORGETTING = Metric(
    "forgetting",
    "1",
    "The best accuracy on a task before the last stage less that after it, averaged over the earlier tasks.",
    better="lower",
    warn=Limit("above", 0.3, "zoo: full rehearsal loses .03 at most, that of one to three rows a class .4 to .6"),
    error=Limit("above", 0.6, "zoo: class after class without rehearsal loses .7 to 1, next to none loses .4 to .6"),
    null="what the best of as many binomial accuracies gives by chance",
    message="On average {value:.1%} of accuracy are lost over {tasks} earlier tasks, {null:.1%} by chance; worst is "
    "task {worst_task} with {worst:.1%}.",
)
BACKWARD_TRANSFER = Metric(
    "backward_transfer",
    "1",
    "Accuracy on a task after the last stage less that right after it was learnt, averaged over the earlier tasks.",
    better="higher",
    null="0: nothing was lost or won",
)
FORWARD_TRANSFER = Metric(
    "forward_transfer",
    "1",
    "Accuracy on a task just before it is learnt less chance, averaged over the later tasks.",
    better="higher",
    null="0: chance",
)
RETENTION_LAW = Metric(
    "retention_law",
    "AICc",
    "AICc of exponential forgetting less that of a power law, of accuracy against stages since the task was learnt.",
    null="0: both laws fit alike",
)
FORGET_KL = Metric(
    "forget_kl",
    "nats",
    "The mean divergence of the answers from the first member's on rows that are to be forgotten.",
    null="0: nothing moved",
)
RETAIN_KL = Metric(
    "retain_kl",
    "nats",
    "The mean divergence of the answers from the first member's on rows that are to be kept.",
    better="lower",
    null="0: nothing moved",
)
COLLATERAL = Metric(
    "collateral",
    "1",
    "The divergence on what is to be kept over that on what is to be forgotten.",
    better="lower",
    warn=Limit("above", 1.0, "definition: what is kept moved as much as what is forgotten", inclusive=True),
    null="1: indiscriminate",
    message="The answers moved by {retain_kl:.3g} nats where they should stay and by {forget_kl:.3g} where they should "
    "change.",
)
KL_GROWTH = Metric(
    "kl_growth",
    "AICc",
    "AICc of growth of the divergence in proportion to steps less that of growth with their logarithm.",
    better="higher",
    null="0: both laws fit alike",
)


def _run(accuracy: "Sequence[Sequence[float]]") -> Example:
    """Members whose answers are right for the first so many of 100 rows of each task; ten classes."""
    import torch

    tasks = len(accuracy[0])
    labels, groups = torch.arange(100 * tasks) % 10, torch.arange(100 * tasks) // 100
    members = []
    for shares in accuracy:
        is_right = torch.arange(100).repeat(tasks) < 100 * torch.tensor(shares)[groups]
        logits = torch.nn.functional.one_hot((labels + ~is_right) % 10, 10).float()
        members.append({"logits": 3.0 * logits, "labels": labels, "groups": groups})
    return Example(members[0], metadata={}, others=tuple(members[1:]), steps=tuple(map(float, range(len(members)))))


def healthy() -> Example:
    """Five tasks, of which none is lost."""
    return _run([[0.9 if task <= stage else 0.1 for task in range(5)] for stage in range(5)])


def collapsed() -> Example:
    """Five tasks, of which only the last is known."""
    return _run([[0.9 if task == stage else 0.1 for task in range(5)] for stage in range(5)])


@activation_series_analyzer(
    name="forgetting",
    family="runs",
    title="Forgetting",
    metrics=(
        FORGETTING,
        BACKWARD_TRANSFER,
        FORWARD_TRANSFER,
        RETENTION_LAW,
        FORGET_KL,
        RETAIN_KL,
        COLLATERAL,
        KL_GROWTH,
    ),
    accepts=on.points(
        "logits",
        "groups",
        says="hook points with logits, labels and the task in groups, in an ordered run of dumps; for unlearning the "
        "groups to forget in metadata `forget_groups`",
    ),
    remedy="Replay old data (a power law of rehearsal is enough), project updates off old tasks, mask parameters, or "
    "average them with the start. In unlearning: negative preference optimisation, a term that keeps the retained "
    "answers, pruning first.",
    references=(
        Reference(
            "Chaudhry et al. Riemannian Walk for Incremental Learning: Understanding Forgetting and Intransigence. "
            "2018",
            "https://arxiv.org/abs/1801.10112",
        ),
        Reference(
            "Lopez-Paz & Ranzato. Gradient Episodic Memory for Continual Learning. 2017",
            "https://arxiv.org/abs/1706.08840",
        ),
        Reference(
            "Zhang et al. Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning. 2024",
            "https://arxiv.org/abs/2404.05868",
        ),
        Reference(
            "Gandhi et al. Catastrophic Interference is Mitigated in Naturalistic Power-Law Learning Environments. "
            "2024",
            "https://arxiv.org/abs/2401.10393",
        ),
        Reference(
            "Jia et al. Model Sparsity Can Simplify Machine Unlearning. 2023", "https://arxiv.org/abs/2304.04934"
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=("sample(logits,groups)",),
    uses=("labels", "ids"),
    unmoved_by=("samples_permuted", "scaled"),
    unmoved_metrics=("forgetting", "backward_transfer", "forward_transfer", "retention_law"),
)
def forgetting(series: "ActivationSeries") -> Iterator[Measurement | Skip]:
    """What was known and is lost, and is unlearning selective?

    ## Why it matters
    Training on new data overwrites old knowledge without any number of the new task showing it. Unlearning is asked
    for the opposite, to lose some answers and no others, and often damages all alike.

    ## How to read it
    The groups of the rows are tasks, learnt one a stage in ascending order; metadata `task` of a member says otherwise.
    `forgetting` is what was lost since each task's best stage, `backward_transfer` since the stage that taught it (both
    0 where all is kept), `forward_transfer` what earlier stages gave for free. `retention_law` above 4 reads power law,
    below −4 exponential. Where metadata `forget_groups` names groups (`1` or `1,4`), the run is one of unlearning that
    begins with the untouched model: `forget_kl` should be large, `retain_kl` small. `collateral` at 1 is damage without
    aim. `kl_growth` at −4 or below: the divergence grows in proportion to steps, the catastrophic pattern.

    ## Limits
    The best of several stages is biased upwards on small tests: the null says by how much if the stages were
    independent. A task counts with 20 labelled rows in every member; laws take five members. Chance is one over the
    number of classes. A head that favours recent classes looks like forgetting: compare nearest-mean accuracy of
    features. Divergences need the same rows in every member. A diverging `forget_kl` is not more forgetting; look
    whether the answers are still answers. At most 8,192 rows, drawn by a fixed seed.
    """
    count = len(series.members)
    if count < 2:
        yield skip(series.site.name, f"run too short: {count} of 2")
        return
    said = next((m.metadata["forget_groups"] for m in series.members if "forget_groups" in m.metadata), None)
    if said is None:
        yield skip(series.site.name, f"{OF_UNLEARNING}: no member says its forget_groups")
        yield from _tasks(series)
    else:
        yield skip(series.site.name, f"{OF_TASKS}: the run unlearns, forget_groups {said}")
        yield from _unlearning(series, said)


def _tasks(series: "ActivationSeries") -> Iterator[Measurement | Skip]:
    name, count = series.site.name, len(series.members)
    if not all("labels" in member.shapes for member in series.members):
        yield skip(name, f"{OF_TASKS}: no labels")
        return
    found = kernels.retention.accuracies(series.members, MIN_ROWS)
    if len(found.tasks) < 2:
        yield skip(name, f"{OF_TASKS}: {len(found.tasks)} tasks with {MIN_ROWS} labelled rows in every member")
        return
    facts: dict[str, Any] = {
        "tasks": len(found.tasks),
        "tasks_left_out": found.left_out,
        "stages": count,
        "rows": int(found.rows.sum()),
        "fewest_rows": int(found.rows.min()),
        "exact": all(one.read("sample(logits,groups)").is_exact for one in series.members),
    }
    learnt = _learnt(series, found)
    yield from _forgotten(name, found, learnt, facts)
    if learnt is None:
        reason = (
            f"{len(found.tasks)} tasks and {count} members do not match, and no metadata `task` says which is which"
        )
        yield skip(name, f"backward_transfer, forward_transfer, retention_law: {reason}")
        return
    yield from _transfers(name, found, learnt, facts)


def _learnt(series: "ActivationSeries", found: "Accuracies") -> list[int] | None:
    """The stage that taught every task; None where nobody says."""
    said = [member.metadata.get("task", "").strip() for member in series.members]
    if all(text.lstrip("-").isdecimal() for text in said):
        stages = {int(text): stage for stage, text in reversed(list(enumerate(said)))}
        if all(task in stages for task in found.tasks):
            return [stages[task] for task in found.tasks]
    return list(range(len(found.tasks))) if len(found.tasks) == len(series.members) else None


def _forgotten(
    name: str, found: "Accuracies", learnt: list[int] | None, facts: dict[str, Any]
) -> Iterator[Measurement | Skip]:
    shares, last = found.shares, found.shares.shape[0] - 1
    earlier = [s for s in range(len(found.tasks)) if learnt is None or learnt[s] < last]
    if not earlier:
        yield skip(name, "forgetting: all tasks are those of the last stage")
        return
    lost = {s: float(shares[:-1, s].max() - shares[-1, s]) for s in earlier}
    worst = max(lost, key=lost.__getitem__)
    # the stages that knew the task, and could each be its best by chance
    chance = [
        kernels.retention.maximisation_bias(
            float(shares[0 if learnt is None else learnt[s] :, s].mean()),
            int(found.rows[s]),
            last - (0 if learnt is None else learnt[s]),
        )
        for s in earlier
    ]
    evidence: dict[str, Any] = {"worst_task": found.tasks[worst], "worst": lost[worst]}
    if len(found.tasks) <= 128:
        evidence |= {"task": list(found.tasks), "accuracy": shares[-1].tolist(), "best": shares.amax(0).tolist()}
    yield FORGETTING.at(name, sum(lost.values()) / len(lost), sum(chance) / len(chance), **facts, **evidence)


def _transfers(
    name: str, found: "Accuracies", learnt: list[int], facts: dict[str, Any]
) -> Iterator[Measurement | Skip]:
    shares, last = found.shares, found.shares.shape[0] - 1
    backward = [float(shares[-1, s] - shares[stage, s]) for s, stage in enumerate(learnt) if stage < last]
    forward = [float(shares[stage - 1, s]) - 1.0 / found.classes for s, stage in enumerate(learnt) if stage > 0]
    if backward:
        yield BACKWARD_TRANSFER.at(name, sum(backward) / len(backward), 0.0, **facts)
    if forward:
        yield FORWARD_TRANSFER.at(name, sum(forward) / len(forward), 0.0, **facts, chance=1.0 / found.classes)
    if last + 1 < LAW_MEMBERS:
        yield skip(name, f"retention_law: run too short: {last + 1} of {LAW_MEMBERS}")
        return
    ages = range(last + 1 - min(learnt))
    known = [[float(shares[stage + age, s]) for s, stage in enumerate(learnt) if stage + age <= last] for age in ages]
    means = [sum(one) / len(one) for one in known]
    if len(means) < LAW_MEMBERS:
        yield skip(name, f"retention_law: {len(means)} ages of {LAW_MEMBERS}")
        return
    advantage = kernels.retention.retention_advantage(list(ages), means, 0.5 / int(found.rows.min()))
    curve = kernels.run_series.curve(ages, means)
    reads = "power law" if advantage >= 4 else "exponential" if advantage <= -4 else "undecided"
    yield RETENTION_LAW.at(name, advantage, 0.0, **facts, age=curve["step"], accuracy=curve["value"], reads=reads)


def _unlearning(series: "ActivationSeries", said: str) -> Iterator[Measurement | Skip]:
    name, reference = series.site.name, series.members[0]
    named = [text.strip() for text in said.split(",")]
    if not all(text.lstrip("-").isdecimal() for text in named):
        yield skip(name, f"{OF_UNLEARNING}: forget_groups {said!r} are no whole numbers")
        return
    is_forgotten = kernels.retention.is_in_groups(reference, [int(text) for text in named])
    sides = {"rows_to_forget": int(is_forgotten.sum()), "rows_to_keep": int((~is_forgotten).sum())}
    if min(sides.values()) < MIN_ROWS:
        yield skip(name, f"{OF_UNLEARNING}: {min(sides.values())} rows to forget or to keep, fewer than {MIN_ROWS}")
        return
    forgotten, kept = list[float](), list[float]()
    for label, member in zip(series.labels[1:], series.members[1:], strict=True):
        moved = kernels.retention.divergences(reference, member)
        if moved is None or not bool(moved.isfinite().all()):
            reason = "rows not paired" if moved is None else "classes masked by −∞ in one of the two"
            yield skip(name, f"{OF_UNLEARNING}: {reason}: {series.labels[0]} and {label}")
            return
        forgotten.append(float(moved[is_forgotten].mean()))
        kept.append(float(moved[~is_forgotten].mean()))
    curve = kernels.run_series.curve(series.steps[1:], forgotten)
    other = kernels.run_series.curve(series.steps[1:], kept)
    facts: dict[str, Any] = {**sides, "reference": series.labels[0], "step": curve["step"]}
    yield FORGET_KL.at(name, forgotten[-1], 0.0, **facts, by_step=curve["value"])
    yield RETAIN_KL.at(name, kept[-1], 0.0, **facts, by_step=other["value"])
    # below it the answers moved by rounding alone
    if forgotten[-1] > 1e-12:
        ratio = kept[-1] / forgotten[-1]
        yield COLLATERAL.at(name, ratio, 1.0, **sides, retain_kl=kept[-1], forget_kl=forgotten[-1])
    else:
        yield skip(name, "collateral: nothing moved where it should")
    yield from _kl_growth(series, forgotten)


def _kl_growth(series: "ActivationSeries", forgotten: list[float]) -> Iterator[Measurement | Skip]:
    steps = [step - series.steps[0] for step in series.steps[1:]]
    if len(steps) < LAW_MEMBERS:
        yield skip(series.site.name, f"kl_growth: run too short: {len(steps)} of {LAW_MEMBERS} after the reference")
        return
    advantage = kernels.retention.growth_advantage(steps, forgotten)
    reads = "linear: the catastrophic pattern" if advantage <= -4 else "logarithmic" if advantage >= 4 else "undecided"
    yield KL_GROWTH.at(series.site.name, advantage, 0.0, members=len(steps), reads=reads)
