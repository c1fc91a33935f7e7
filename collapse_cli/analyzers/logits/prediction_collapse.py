"""Whether answers depend on the input, and which classes get them."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip
from collapse_cli.errors import BadValues

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.accumulators import LogitRows
    from collapse_cli.kernels.prediction_counts import PredictionCounts
    from collapse_cli.kernels.views import Activations

NEED = "logit_rows"
MIN_ROWS = 100
#: Rows per class from which a class that is not answered is not just a class that was not asked for.
ROWS_PER_CLASS = 10
#: Labelled rows outside the most frequent class that a predictor must miss before it is called constant.
MIN_OTHERS = 10
#: Classes up to which there is one linear programme for each.
MOST_CLASSES = 2_000
#: Classes to be reached times classes answered: 250,000 take a quarter of a minute.
MOST_PAIRS = 250_000
MOST_POINTS = 128
#: Information of logits that vary by 10⁻³: below it the softmax is the same for every row.
NO_INFORMATION = 1e-6
#: Poisson deviations of the right answers from chance, from which they depend on the input after all.
MIN_DEVIATIONS = 5.0

MARGINAL_ENTROPY = Metric(
    "prediction_marginal_entropy",
    "1",
    "Entropy of the mean prediction over log C: 1 where all classes are answered equally.",
    better="higher",
    null="the labels' own marginal, else equal classes: 1",
)
INFORMATION = Metric(
    "prediction_information",
    "nats",
    "Entropy of the mean prediction less the mean entropy: what an answer tells about the input.",
    better="higher",
    null="an output independent of the input: 0",
    error=Limit("below", NO_INFORMATION, "closed form: 0 where every row has the same prediction"),
    message="The output does not depend on the input: {rows} rows have one and the same prediction "
    "({value:.2g} nats of information, entropy {mean_entropy:.3g}).",
)
UNUSED_CLASSES = Metric(
    "unused_classes",
    "1",
    "Share of classes that are never the largest logit.",
    better="lower",
    null="answers drawn from the label shares (else equal): mean (1 − π_c)^N",
)
TOP_CLASS_SHARE = Metric(
    "top_class_share",
    "1",
    "Share of rows that go to the class answered most.",
    better="lower",
    null="share of the most frequent label, else 1/C",
)
TOP_CLASS_EXCESS = Metric(
    "top_class_excess",
    "1",
    "(top share − largest label share)/(1 − largest label share), over labelled rows.",
    better="lower",
    null="answers as frequent as the labels: 0",
    error=Limit("above", 1.0 - 1e-9, "closed form: one class is answered for every row"),
    message="All {labelled} labelled rows get the same answer, class {top_class}, of {label_classes} classes that are "
    "asked for.",
)
LABEL_DIVERGENCE = Metric(
    "label_divergence",
    "nats",
    "KL divergence of the mean prediction from the label shares, one label added to each class.",
    better="lower",
    warn=Limit(
        "above",
        0.2,
        "zoo: healthy classifiers stay below 0.02, those that answer half of ten classes begin at 0.4",
        intent=frozenset({"classifier"}),
    ),
    message="The answers are not as frequent as the labels: {value:.3g} nats apart (by chance {null:.3g}).",
    null="label shares estimated from N draws: (C − 1)/2N",
)
FREQUENCY_SLOPE = Metric(
    "frequency_slope",
    "1",
    "Slope of the accuracy of a class on the logarithm of its number of training samples.",
    better="lower",
    null="accuracy that does not depend on frequency: 0",
)
RECENCY_BIAS = Metric(
    "recency_bias",
    "1",
    "How often the classes that only the last group has are answered, over how often they are right.",
    better="lower",
    null="as often as they are labels: 1",
)
UNREACHABLE_CLASSES = Metric(
    "unreachable_classes",
    "1",
    "Share of classes that no weighting of the answered ones has as its Fréchet mean.",
    better="lower",
    null="0: every class is answered, or lies among answered ones",
)
CLASSWISE = f"{UNUSED_CLASSES.name}, {LABEL_DIVERGENCE.name}, {FREQUENCY_SLOPE.name}, {UNREACHABLE_CLASSES.name}"


def healthy() -> Example:
    """Four classes in two tasks, balanced, most answered right."""
    import torch

    labels = torch.arange(200) % 4
    noise = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    return _example(4.0 * torch.nn.functional.one_hot(labels, 4) + noise, labels)


def collapsed() -> Example:
    """The same labels, one answer."""
    import torch

    return _example(torch.tensor([4.0, 0.0, 0.0, 0.0]).repeat(200, 1), torch.arange(200) % 4)


def _example(logits: "Tensor", labels: "Tensor") -> Example:
    import torch

    places = torch.arange(4.0)
    arrays = {
        "head/logits": logits,
        "head/labels": labels,
        "head/groups": labels // 2,
        "head/class_counts": torch.tensor([400, 200, 100, 50]),
        "head/label_distance": (places[:, None] - places).abs(),
    }
    return Example(arrays, metadata={})


@activation_analyzer(
    name="prediction-collapse",
    family="logits",
    title="Prediction collapse",
    metrics=(
        MARGINAL_ENTROPY,
        INFORMATION,
        UNUSED_CLASSES,
        TOP_CLASS_SHARE,
        TOP_CLASS_EXCESS,
        LABEL_DIVERGENCE,
        FREQUENCY_SLOPE,
        RECENCY_BIAS,
        UNREACHABLE_CLASSES,
    ),
    accepts=on.points("logits", says="hook points with logits"),
    remedy="Adjust the logits by the log class frequency or balance the loss; in adaptation without labels add a term "
    "for the marginal entropy and restart a teacher that collapsed; in continual learning replay older classes.",
    references=(
        Reference(
            "Zhou et al. UNEM: UNrolled Generalized EM for Transductive Few-Shot Learning. 2024",
            "https://arxiv.org/abs/2412.16739",
        ),
        Reference(
            "Döbler, Marsden & Yang. Robust Mean Teacher for Continual and Gradual Test-Time Adaptation. 2022",
            "https://arxiv.org/abs/2211.13081",
        ),
        Reference(
            'Udandarao et al. No "Zero-Shot" Without Exponential Data: Pretraining Concept Frequency Determines '
            "Multimodal Model Performance. 2024",
            "https://arxiv.org/abs/2404.04125",
        ),
        Reference(
            "Moon et al. Online Class Incremental Learning on Stochastic Blurry Task Boundary via Mask and Visual "
            "Prompt Tuning. 2023",
            "https://arxiv.org/abs/2308.09303",
        ),
        Reference(
            "Knyazev et al. Graph Density-Aware Losses for Novel Compositions in Scene Graph Generation. 2020",
            "https://arxiv.org/abs/2005.08230",
        ),
        Reference(
            "Long et al. Training-Free Unsupervised Prompt for Vision-Language Models. 2024",
            "https://arxiv.org/abs/2404.16339",
        ),
        Reference(
            "Roberts et al. Geometry-Aware Adaptation for Pretrained Models. 2023", "https://arxiv.org/abs/2307.12226"
        ),
        Reference(
            "Radhakrishnan, Belkin & Uhler. Wide and Deep Neural Networks Achieve Optimality for Classification. 2022",
            "https://arxiv.org/abs/2204.14126",
        ),
        Reference(
            "Wang et al. Taming Mode Collapse in Score Distillation for Text-to-3D Generation. 2024",
            "https://arxiv.org/abs/2401.00909",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=(NEED,),
    uses=("labels", "groups", "class_counts", "label_distance"),
    unmoved_by=("samples_permuted", "shifted"),
    # the transformations also move the classes of the two arrays without rows
    unmoved_metrics=(
        MARGINAL_ENTROPY.name,
        INFORMATION.name,
        UNUSED_CLASSES.name,
        TOP_CLASS_SHARE.name,
        TOP_CLASS_EXCESS.name,
        LABEL_DIVERGENCE.name,
        RECENCY_BIAS.name,
    ),
)
def prediction_collapse(point: "Activations") -> Iterator[Measurement | Skip]:
    """Does the model answer with few classes, or frequent or recent ones, whatever the input?

    ## Why it matters
    Adaptation without labels, class imbalance and sequential tasks all have the same easy way out: answer what was
    frequent or what came last. The loss may look fine, and the accuracy of a common class even rises, while the answer
    no longer depends on the question.

    ## How to read it
    `prediction_information` is the mutual information of input and answer: 0 for one answer to everything as well as
    for an undecided shrug, up to log C for certain and balanced answers. `prediction_marginal_entropy` is to be read
    beside its null, the marginal of the labels. `top_class_excess` is 0 where the favourite answer is as frequent as
    the most frequent label and 1 for a constant predictor. `frequency_slope` above 0 says that rare classes are paid
    for; `recency_bias` above 1 that the newest are preferred. `unused_classes` and `unreachable_classes` are what is
    lost altogether.

    ## Limits
    With imbalanced labels a low entropy is right, hence the nulls. A vocabulary needs millions of rows before unused
    tokens mean anything: below ten rows a class the class-wise metrics are skipped. Soft and hard marginals may
    disagree; both are given. With labels of one class only, certain answers hold no information and nothing is said;
    without labels that cannot be known. Logits are taken as the softmax gets them: similarities before their
    temperature look undecided. Of equal logits the first class counts as the answer (evidence `tied_rows`). Groups that
    are no sequence of tasks have no newest classes.
    """
    site, found = point.site.name, point.read(NEED)
    if found.impossible_labels:
        raise BadValues(
            "labels",
            expected=f"should be classes of the logits (0 to {found.width - 1}), or -1 or -100 for no class",
            got=f"{found.impossible_labels:,} are neither",
            hint="labels count from 0 in the order of the logits",
        )
    if found.count < MIN_ROWS:
        yield skip(site, f"{found.count:,} rows with two finite logits < {MIN_ROWS}")
        return
    facts: dict[str, Any] = {
        "rows": found.count,
        "classes": found.width,
        "labelled": found.labelled,
        "dtype": point.dtypes["logits"],
    }
    yield from _marginal(point, found, facts)
    yield from _favourite(site, found, facts)
    if found.count < ROWS_PER_CLASS * found.width:
        yield skip(site, f"{CLASSWISE}: {found.count:,} rows < {ROWS_PER_CLASS} × {found.width:,} classes")
    else:
        yield from _classwise(point, found, facts)
    yield _recency(point, found, facts)


def _shares(found: "LogitRows") -> "Tensor | None":
    """π, the share of every class among the labels; None with too few of them."""
    labels = found.classes.labels.double()
    return labels / labels.sum() if found.labelled >= MIN_ROWS else None


def _without_labels(point: "Activations", found: "LogitRows") -> str:
    return f"{found.labelled:,} labelled rows < {MIN_ROWS}" if "labels" in point.shapes else "no labels"


def _marginal(point: "Activations", found: "LogitRows", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    site, entropy = point.site.name, kernels.answer_shares.entropy
    marginal, shares, width = entropy(found.classes.mass), _shares(found), math.log(found.width)
    hard = entropy(found.classes.decided.double()) / width
    null = 1.0 if shares is None else entropy(shares) / width
    facts = facts | {"decided_entropy": hard, "mean_entropy": found.entropy_mean, "masked": found.masked}
    by_group = _entropy_by_group(found.classes)
    yield MARGINAL_ENTROPY.at(site, min(1.0, marginal / width), null, **facts, **by_group)
    if shares is not None and int((shares > 0.0).sum()) < 2:
        yield skip(site, f"{INFORMATION.name}: all {found.labelled:,} labels are of one class")
        return
    information = max(0.0, marginal - found.entropy_mean)  # the entropies agree to rounding where there is none
    right, by_chance = _right(found)
    if information < NO_INFORMATION and right - by_chance > MIN_DEVIATIONS * math.sqrt(max(by_chance, 1.0)):
        reason = f"{right:,} answers are right where chance gives {by_chance:.4g}, from logits too small for a softmax"
        yield skip(site, f"{INFORMATION.name}: {reason}")
        return
    yield INFORMATION.at(site, information, 0.0, **facts)


def _right(found: "LogitRows") -> tuple[int, float]:
    """Right answers, and as many as answers and labels of these frequencies give if they are independent."""
    answered, labels = found.classes.decided_labelled.double(), found.classes.labels.double()
    return int(found.classes.right.sum()), float(answered @ labels) / max(found.labelled, 1)


def _entropy_by_group(classes: "PredictionCounts") -> dict[str, Any]:
    mass = classes.group_mass
    if mass is None or not 2 <= mass.shape[0] <= MOST_POINTS:
        return {"groups": classes.groups.numel()}
    entropies = [kernels.answer_shares.entropy(row) / math.log(mass.shape[1]) for row in mass]
    return {"group": classes.groups.tolist(), "by_group": entropies}


def _favourite(site: str, found: "LogitRows", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    decided, shares = found.classes.decided, _shares(found)
    facts = facts | {"top_class": int(decided.argmax()), "tied_rows": found.tied}
    top = float(decided.max()) / found.count
    if shares is None:
        yield TOP_CLASS_SHARE.at(site, top, 1.0 / found.width, **facts)
        yield skip(site, f"{TOP_CLASS_EXCESS.name}: fewer than {MIN_ROWS} labels")
        return
    largest, labels = float(shares.max()), found.classes.labels
    facts = facts | {"label_classes": int((labels > 0).sum())}
    facts = facts | {"majority_agreement": float(decided[labels.argmax()]) / found.count}
    yield TOP_CLASS_SHARE.at(site, top, largest, **facts)
    others = found.labelled - int(labels.max())
    if others < MIN_OTHERS:
        yield skip(site, f"{TOP_CLASS_EXCESS.name}: {others} labels outside the most frequent class < {MIN_OTHERS}")
        return
    answered = found.classes.decided_labelled
    excess = (float(answered.max()) / found.labelled - largest) / (1.0 - largest)
    yield TOP_CLASS_EXCESS.at(site, excess, 0.0, **facts | {"top_class": int(answered.argmax())})


def _classwise(point: "Activations", found: "LogitRows", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    site, shares, counted = point.site.name, _shares(found), found.classes
    unused = int((counted.decided == 0).sum())
    drawn = counted.mass.new_full((found.width,), 1.0 / found.width) if shares is None else shares
    null = kernels.answer_shares.unused_by_chance(drawn, found.count)
    yield UNUSED_CLASSES.at(site, unused / found.width, null, **facts, unused=unused)
    if shares is None:
        yield skip(site, f"{LABEL_DIVERGENCE.name}, {FREQUENCY_SLOPE.name}: {_without_labels(point, found)}")
    else:
        divergence = kernels.answer_shares.divergence_from_labels(counted.mass, counted.labels)
        agreement = float(counted.decided.double() @ shares) / found.count
        null = (found.width - 1) / (2.0 * found.labelled)
        yield LABEL_DIVERGENCE.at(site, divergence, null, **facts, frequency_agreement=agreement)
        yield _slope(point, found, facts)
    yield _unreachable(point, found, facts)


def _slope(point: "Activations", found: "LogitRows", facts: dict[str, Any]) -> Measurement | Skip:
    site, counts = point.site.name, point.arrays.get("class_counts")
    if counts is None:
        return skip(site, f"{FREQUENCY_SLOPE.name}: no class_counts")
    right, labels = found.classes.right, found.classes.labels
    slope = kernels.answer_shares.frequency_slope(right, labels, counts.double())
    if slope is None:
        return skip(site, f"{FREQUENCY_SLOPE.name}: fewer than three classes, or all as frequent")
    facts = facts | {"standard_error": slope.standard_error, "compared_classes": slope.classes}
    rarest = kernels.answer_shares.rarest_recall(right, labels)
    return FREQUENCY_SLOPE.at(site, slope.value, 0.0, **facts, rarest_recall=rarest)


def _recency(point: "Activations", found: "LogitRows", facts: dict[str, Any]) -> Measurement | Skip:
    site, counted = point.site.name, found.classes
    if "groups" not in point.shapes or found.labelled < MIN_ROWS:
        reason = "no groups" if "groups" not in point.shapes else _without_labels(point, found)
        return skip(site, f"{RECENCY_BIAS.name}: {reason}")
    newest = kernels.answer_shares.newest_classes(counted.groups, counted.first_group)
    if newest is None:
        return skip(site, f"{RECENCY_BIAS.name}: one group, or no class that the last group alone has")
    true = int(counted.labels[newest].sum())
    predicted = int(counted.decided_labelled[newest].sum())
    facts = facts | {
        "last_group": int(counted.groups.max()),
        "newest_classes": int(newest.sum()),
        "newest_labels": true,
    }
    return RECENCY_BIAS.at(site, predicted / true, 1.0, **facts)


def _unreachable(point: "Activations", found: "LogitRows", facts: dict[str, Any]) -> Measurement | Skip:
    site, name = point.site.name, UNREACHABLE_CLASSES.name
    distances = point.arrays.get("label_distance")
    if distances is None:
        return skip(site, f"{name}: no label_distance")
    if found.width > MOST_CLASSES:
        return skip(site, f"{name}: {found.width:,} classes > {MOST_CLASSES:,}")
    if distances.shape[0] != found.width or not bool(distances.isfinite().all()):
        return skip(site, f"{name}: label_distance is not finite, or not of the {found.width:,} classes")
    is_answered = found.classes.decided > 0
    answered = int(is_answered.sum())
    if answered * (found.width - answered) > MOST_PAIRS:
        return skip(
            site, f"{name}: {found.width - answered:,} classes to be reached from {answered:,} > {MOST_PAIRS:,}"
        )
    reachable = kernels.frechet_means.reachable_classes(distances, is_answered)
    lost = int((~reachable).sum())
    return UNREACHABLE_CLASSES.at(site, lost / found.width, 0.0, **facts, answered=answered, unreachable=lost)
