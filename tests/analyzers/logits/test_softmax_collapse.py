import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from collapse_cli.analyzers.logits.softmax_collapse import softmax_collapse
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.kernels.accumulators import Batch, SoftmaxAbsorption
from collapse_cli.kernels.softmax_absorption import rounding_unit, training_dtype
from collapse_cli.sources.dump import memory_dump
from tests.views import at, reasons, values

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp64": torch.float64}


def analysed(arrays, metadata=None):  # type: ignore[no-untyped-def]
    return analyse_dump(memory_dump(arrays, metadata=metadata or {}), [softmax_collapse])


def with_margin(margin: float, classes: int, *, rows: int = 100) -> dict[str, torch.Tensor]:
    logits = torch.zeros(rows, classes, dtype=torch.float64)
    logits[:, 0] = margin
    return {"logits": logits, "labels": torch.zeros(rows, dtype=torch.int64)}


def share(margin: float, classes: int, dtype: torch.dtype) -> float:
    accumulator = SoftmaxAbsorption(dtype)
    accumulator.update(Batch(with_margin(margin, classes, rows=2)))
    return accumulator.absorbed / accumulator.count


# the margin at which C − 1 equal others are absorbed, to two decimals
AT = {
    "fp32": (16.64, 21.35, 27.46),
    "fp16": (7.62, 12.34, 18.45),
    "bf16": (5.55, 10.26, 16.37),
    "fp64": (36.74, 41.46, 47.56),
}


@pytest.mark.parametrize("name", AT)
@pytest.mark.parametrize(("place", "classes"), [(0, 2), (1, 113), (2, 50_257)])
def test_absorption_begins_at_the_closed_margin(name: str, place: int, classes: int) -> None:
    dtype, margin = DTYPES[name], AT[name][place]
    assert math.log((classes - 1) / rounding_unit(dtype)) == pytest.approx(margin, abs=0.006)
    step = margin * torch.finfo(dtype).eps + 0.006  # the margin itself is rounded to the dtype
    assert share(margin + step, classes, dtype) == 1.0
    assert share(margin - step, classes, dtype) == 0.0


@pytest.mark.parametrize(("margin", "headroom", "absorbed"), [(10.0, 6.64, 0.0), (20.0, -3.36, 1.0)])
def test_two_classes_in_fp32(margin: float, headroom: float, absorbed: float) -> None:
    found = values(analysed(with_margin(margin, 2), {"training_dtype": "torch.float32"}).measurements)
    assert found["headroom"] == pytest.approx(headroom, abs=0.005)
    assert found["headroom"] == pytest.approx(24 * math.log(2) - margin, rel=1e-9)
    assert (found["absorbed_share"], found["lost_gradient_share"], found["zero_loss_share"]) == (absorbed,) * 3


def test_operational_form_is_that_of_the_paper_and_a_tail_can_hide_from_the_loss() -> None:
    # margin 20, C = 113: Σe is 1 in fp32 in the dtype's own sum, the loss is one rounding step
    found = analysed(with_margin(20.0, 113), {"training_dtype": "fp32"}).measurements
    facts = at(found)["absorbed_share", "output"].evidence
    logits = with_margin(20.0, 113)["logits"].float()
    own = (logits - logits.amax(1, keepdim=True)).exp().sum(1) == 1
    assert facts["operational_share"] == own.double().mean() == 1.0
    assert values(found)["absorbed_share"] == 0.0
    assert values(found)["zero_loss_share"] == 0.0


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_random_rows_agree_with_numpy(name: str) -> None:
    g = torch.Generator().manual_seed(1)
    logits = 9.0 * torch.randn(300, 20, generator=g)
    labels = torch.randint(0, 20, (300,), generator=g)
    labels[:200] = logits[:200].argmax(1)
    found = at(analysed({"logits": logits, "labels": labels}, {"training_dtype": name}).measurements)
    cast = logits.to(DTYPES[name]).double().numpy()
    ordered = np.sort(cast, 1)
    rest = logsumexp(ordered[:, :-1] - ordered[:, -1:], 1)
    is_absorbed = rest <= math.log(rounding_unit(DTYPES[name]))
    assert 0.0 < is_absorbed.mean() < 1.0
    is_right = logits.argmax(1).numpy() == labels.numpy()
    assert found["absorbed_share", "output"].value == pytest.approx(is_absorbed.mean())
    assert found["lost_gradient_share", "output"].value == pytest.approx((is_absorbed & is_right).mean())
    median = np.sort(rest)[149] - math.log(rounding_unit(DTYPES[name]))
    assert found["headroom", "output"].value == pytest.approx(median, rel=1e-3)
    null = math.log(19) - math.log(rounding_unit(DTYPES[name]))
    assert found["headroom", "output"].null == pytest.approx(null, rel=1e-12)
    loss = torch.nn.functional.cross_entropy(logits.to(DTYPES[name]), labels, reduction="none")
    assert found["zero_loss_share", "output"].value == pytest.approx(float((loss == 0).double().mean()))


def test_normalised_margin_is_the_fifth_percentile_without_scale() -> None:
    g = torch.Generator().manual_seed(2)
    features, weight = torch.randn(400, 8, generator=g), torch.randn(5, 8, generator=g)
    labels = torch.randint(0, 5, (400,), generator=g)
    features[3] = 0.0
    arrays = {"features": features, "head_weight": weight, "logits": features @ weight.T, "labels": labels}
    measured = analysed(arrays).measurements
    found = values(measured)
    assert at(measured)["normalised_margin", "output"].evidence["zero_features"] == 1
    logits, y = arrays["logits"].double().numpy(), labels.numpy()
    own = logits[np.arange(400), y]
    others = np.where(np.arange(5) == y[:, None], -np.inf, logits).max(1)
    kept = np.arange(400) != 3
    margins = (own - others)[kept] / (features.double().norm(dim=1).numpy()[kept] * float(weight.double().norm()))
    assert found["normalised_margin"] == pytest.approx(np.sort(margins)[int(0.05 * 398)], rel=1e-3)
    assert found["normalised_margin"] < 0.0
    scaled = arrays | {"features": 3.0 * features, "head_weight": 7.0 * weight, "logits": 21.0 * arrays["logits"]}
    assert values(analysed(scaled).measurements)["normalised_margin"] == pytest.approx(
        found["normalised_margin"], rel=2e-3
    )


def test_without_the_dtype_of_training_nothing_is_judged() -> None:
    found = analysed(with_margin(40.0, 2))
    assert "lost_gradient_share" not in values(found.measurements)
    assert values(found.measurements)["absorbed_share"] == 1.0  # of the stored float64
    assert any("no training_dtype" in reason and "it would be 1" in reason for reason in reasons(found.skips))


def test_wrong_rows_keep_their_gradient() -> None:
    arrays = with_margin(30.0, 3)
    arrays["labels"][:40] = 1
    arrays["labels"][90:] = -100
    found = values(analysed(arrays | {"labels": arrays["labels"]}, {"training_dtype": "fp32"}).measurements)
    assert found["absorbed_share"] == 1.0
    # fewer than 100 labelled rows: nothing is said of labels
    assert "lost_gradient_share" not in found
    arrays = with_margin(30.0, 3, rows=200)
    arrays["labels"][:30], arrays["labels"][160:] = 1, -1
    found = values(analysed(arrays, {"training_dtype": "fp32"}).measurements)
    assert found["lost_gradient_share"] == 130 / 160


def test_logits_beyond_the_dtype_are_its_largest_number() -> None:
    arrays = with_margin(1e6, 4)
    found = at(analysed(arrays, {"training_dtype": "half"}).measurements)
    assert found["absorbed_share", "output"].evidence["overflowing_rows"] == 100
    assert found["headroom", "output"].value == pytest.approx(11 * math.log(2) + math.log(3) - 65504, rel=1e-3)


def test_masked_classes_are_left_out() -> None:
    arrays = with_margin(10.0, 4)
    arrays["logits"][:, 2:] = -torch.inf
    found = at(analysed(arrays, {"training_dtype": "fp32"}).measurements)
    assert found["headroom", "output"].value == pytest.approx(24 * math.log(2) - 10.0, rel=1e-9)
    assert found["headroom", "output"].null == pytest.approx(24 * math.log(2), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "metadata", "says"),
    [({"labels": torch.full((100,), 9)}, {}, "labels"), ({}, {"training_dtype": "int4"}, "training_dtype")],
)
def test_what_cannot_be_is_a_failure(change, metadata, says) -> None:  # type: ignore[no-untyped-def]
    failures = analysed(with_margin(1.0, 3) | change, metadata).failures
    assert [says in failure.message for failure in failures] == [True]


def test_names_of_dtypes() -> None:
    assert training_dtype(" BF16 ") is torch.bfloat16
    assert training_dtype("int8") is None


def test_streamed_and_whole_agree() -> None:
    g = torch.Generator().manual_seed(3)
    logits, labels = 12.0 * torch.randn(300, 5, generator=g), torch.randint(0, 5, (300,), generator=g)
    whole = values(analysed({"logits": logits, "labels": labels}).measurements)
    parts = [{"logits": logits[rows], "labels": labels[rows]} for rows in (slice(0, 110), slice(110, 300))]
    assert values(analyse_dump(memory_dump(*parts, metadata={}), [softmax_collapse]).measurements) == whole
