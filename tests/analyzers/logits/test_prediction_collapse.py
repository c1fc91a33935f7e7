import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy, linregress

from collapse_cli.analyzers.logits.prediction_collapse import healthy, prediction_collapse
from collapse_cli.core.metric import Measurement
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.kernels.answer_shares import rarest_recall, unused_by_chance
from collapse_cli.sources.dump import memory_dump
from tests.views import at, reasons, values


def analysed(arrays, *more):  # type: ignore[no-untyped-def]
    return analyse_dump(memory_dump(arrays, *more, metadata={}), [prediction_collapse])


def measured(arrays) -> dict[str, Measurement]:  # type: ignore[no-untyped-def]
    analysis = analysed(arrays)
    assert not analysis.failures
    return {metric: found for (metric, _), found in at(analysis.measurements).items()}


def one_hot(answers: torch.Tensor, classes: int) -> torch.Tensor:
    """Logits that are certain: every other class is masked by a number whose exponential is 0."""
    return 1e4 * torch.nn.functional.one_hot(answers, classes).double()


BALANCED = torch.arange(200) % 4


def test_balanced_certain_answers() -> None:
    found = measured({"logits": one_hot(BALANCED, 4), "labels": BALANCED})
    assert found["prediction_marginal_entropy"].value == pytest.approx(1.0, abs=1e-12)
    assert found["prediction_information"].value == pytest.approx(1.3863, abs=5e-5)
    assert found["unused_classes"].value == 0.0
    assert found["top_class_share"].value == 0.25
    assert found["top_class_excess"].value == pytest.approx(0.0, abs=1e-12)
    assert found["label_divergence"].value == pytest.approx(0.0, abs=1e-12)


def test_one_answer_to_everything() -> None:
    found = measured({"logits": one_hot(0 * BALANCED, 4), "labels": BALANCED})
    assert found["prediction_marginal_entropy"].value == 0.0
    assert found["prediction_information"].value == 0.0
    assert found["unused_classes"].value == 0.75
    assert (found["top_class_share"].value, found["top_class_excess"].value) == (1.0, 1.0)
    assert found["label_divergence"].value == pytest.approx(math.log(4), rel=1e-12)


def test_an_undecided_shrug() -> None:
    found = measured({"logits": torch.zeros(200, 4), "labels": BALANCED})
    assert found["prediction_marginal_entropy"].value == pytest.approx(1.0, abs=1e-12)
    assert found["prediction_information"].value == pytest.approx(0.0, abs=1e-12)
    assert found["top_class_share"].evidence["tied_rows"] == 200


def test_logits_without_their_temperature_are_not_called_independent() -> None:
    right = {"logits": 1e-3 * torch.nn.functional.one_hot(BALANCED, 4), "labels": BALANCED}
    says = "prediction_information: 200 answers are right where chance gives 50"
    assert any(says in reason for reason in reasons(analysed(right).skips))
    wrong = measured(right | {"labels": BALANCED.flip(0)[torch.randperm(200, generator=_seeded())]})
    assert wrong["prediction_information"].value < 1e-6


def test_random_rows_agree_with_scipy() -> None:
    g = np.random.default_rng(0)
    logits = g.standard_normal((400, 8)) + np.linspace(0, 2, 8)
    labels = g.choice(8, 400, p=np.arange(1, 9) / 36)
    labels[:30] = -1
    groups = labels.clip(0) // 2
    counts = 10 * 3 ** np.arange(8)
    arrays = {"logits": logits, "labels": labels, "groups": groups, "class_counts": counts}
    found = measured(arrays)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    known = labels[labels >= 0]
    n = np.bincount(known, minlength=8)
    share = n / n.sum()
    first = found["prediction_marginal_entropy"]
    assert first.value == pytest.approx(entropy(p.mean(0)) / math.log(8), rel=1e-12)
    assert first.null == pytest.approx(entropy(share) / math.log(8), rel=1e-12)
    by_group = [entropy(p[groups == group].mean(0)) / math.log(8) for group in range(4)]
    assert first.evidence["by_group"] == pytest.approx(by_group, rel=1e-12)
    information = entropy(p.mean(0)) - entropy(p, axis=1).mean()
    assert found["prediction_information"].value == pytest.approx(information, rel=1e-9)
    decided = np.bincount(p.argmax(1), minlength=8)
    assert found["top_class_share"].value == decided.max() / 400
    assert found["top_class_share"].null == pytest.approx(share.max())
    answered = np.bincount(p.argmax(1)[labels >= 0], minlength=8)
    excess = (answered.max() / 370 - share.max()) / (1 - share.max())
    assert found["top_class_excess"].value == pytest.approx(excess, rel=1e-12)
    assert found["unused_classes"].null == pytest.approx(((1 - share) ** 400).mean(), rel=1e-9)
    divergence = found["label_divergence"]
    assert divergence.value == pytest.approx(entropy(p.mean(0), (n + 1) / (370 + 8)), rel=1e-9)
    assert divergence.null == pytest.approx(7 / 740)
    assert divergence.evidence["frequency_agreement"] == pytest.approx((decided / 400) @ share, rel=1e-12)
    accuracy = np.array([(p.argmax(1)[labels == c] == c).mean() for c in range(8)])
    fitted = linregress(np.log(counts), accuracy)
    assert found["frequency_slope"].value == pytest.approx(fitted.slope, rel=1e-9)
    assert found["frequency_slope"].evidence["standard_error"] == pytest.approx(fitted.stderr, rel=1e-9)
    newest = (labels == 6) | (labels == 7)
    bias = np.isin(p.argmax(1)[labels >= 0], (6, 7)).sum() / newest.sum()
    assert found["recency_bias"].value == pytest.approx(bias, rel=1e-12)
    assert found["recency_bias"].evidence["newest_classes"] == 2


def test_recency_needs_classes_of_their_own() -> None:
    arrays = {"logits": one_hot(BALANCED, 4), "labels": BALANCED, "groups": torch.arange(200) % 3}
    assert any("recency_bias: one group, or no class" in reason for reason in reasons(analysed(arrays).skips))
    late = measured({"logits": one_hot(2 + BALANCED % 2, 4), "labels": BALANCED, "groups": BALANCED // 2})
    assert late["recency_bias"].value == 2.0


def test_nulls_are_what_chance_gives() -> None:
    # 400 draws; the standard errors of the means are below a hundredth
    g = np.random.default_rng(1)
    uniform = torch.full((1000,), 1e-3, dtype=torch.float64)
    assert 1000 * unused_by_chance(uniform, 5000) == pytest.approx(6.72, abs=0.005)
    shares = g.dirichlet(np.ones(50))
    unused = [(g.multinomial(100, shares) == 0).mean() for _ in range(400)]
    assert unused_by_chance(torch.from_numpy(shares), 100) == pytest.approx(np.mean(unused), abs=0.01)
    found = measured({"logits": torch.zeros(5000, 100), "labels": torch.randint(0, 100, (5000,), generator=_seeded())})
    assert found["label_divergence"].null == pytest.approx(0.0099, abs=5e-5)
    assert found["label_divergence"].value == pytest.approx(0.0099, rel=0.3)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(4)


def test_classes_that_lie_between_answers_are_reachable() -> None:
    places = torch.arange(5.0)
    ends = torch.where(torch.arange(100) % 2 == 0, 0, 4)
    path = {"logits": one_hot(ends, 5), "label_distance": (places[:, None] - places).abs()}
    assert measured(path)["unreachable_classes"].value == 0.0
    equal = {"logits": one_hot(ends, 5), "label_distance": 1.0 - torch.eye(5)}
    found = measured(equal)["unreachable_classes"]
    assert (found.value, found.evidence["answered"], found.evidence["unreachable"]) == (0.6, 2, 3)


def test_rarest_tenth() -> None:
    labels = torch.tensor([5, 0, 2, *range(10, 27)])
    right = torch.where(labels == 2, 1, torch.where(labels == 5, 4, 0))
    # 19 labelled classes: the two with the fewest labels have 2 and 5
    assert rarest_recall(right, labels) == pytest.approx(5 / 7)
    assert rarest_recall(right, 0 * labels) is None


CERTAIN = one_hot(BALANCED, 4)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"logits": CERTAIN[:99]}, "99 rows with two finite logits < 100"),
        ({"logits": torch.zeros(200, 21)}, "unused_classes, label_divergence, frequency_slope, unreachable_classes"),
        ({"logits": CERTAIN}, "label_divergence, frequency_slope: no labels"),
        ({"logits": CERTAIN}, "recency_bias: no groups"),
        ({"logits": CERTAIN, "labels": BALANCED}, "frequency_slope: no class_counts"),
        ({"logits": CERTAIN, "labels": BALANCED}, "unreachable_classes: no label_distance"),
        ({"logits": CERTAIN, "labels": BALANCED, "class_counts": torch.ones(4)}, "all as frequent"),
        ({"logits": CERTAIN, "labels": 0 * BALANCED}, "prediction_information: all 200 labels are of one class"),
        ({"logits": CERTAIN, "labels": 0 * BALANCED}, "top_class_excess: 0 labels outside"),
        ({"logits": CERTAIN, "label_distance": torch.full((4, 4), torch.nan)}, "label_distance is not finite"),
    ],
)
def test_what_does_not_apply_is_said(arrays, says) -> None:  # type: ignore[no-untyped-def]
    assert any(says in reason for reason in reasons(analysed(arrays).skips))


def test_labels_that_are_no_class_are_a_failure() -> None:
    failures = analysed({"logits": torch.zeros(200, 4), "labels": BALANCED + 1}).failures
    assert [failure.message.startswith("labels should be classes") for failure in failures] == [True]


def test_streamed_and_whole_agree() -> None:
    arrays = dict(healthy().tensors)
    parts = [
        {name: tensor[rows] if tensor.shape[0] == 200 else tensor for name, tensor in arrays.items()}
        for rows in (slice(0, 70), slice(70, 200))
    ]
    fixed = {"head/class_counts", "head/label_distance"}
    second = {name: tensor for name, tensor in parts[1].items() if name not in fixed}
    whole = values(analysed(arrays).measurements)
    assert values(analysed(parts[0], second).measurements) == pytest.approx(whole, rel=1e-9)
