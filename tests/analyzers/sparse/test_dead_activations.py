import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.sparse.dead_activations import collapsed, dead_activations
from collapse_cli.core.finding import Severity
from tests.contract.examples import judged
from tests.view_dumps import findings, measured, results
from tests.views import reasons


def gaussian(rows: int = 2000, units: int = 16, *, bias: float = 0.0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(0).standard_normal((rows, units)) + bias)


def values(arrays: dict[str, torch.Tensor], **metadata: str) -> dict[str, float]:
    return {metric: m.value for metric, m in measured(dead_activations, arrays, **metadata).items()}


def test_shares_are_those_of_numpy() -> None:
    x = gaussian()
    x[:, 3], x[:, 4], x[7], x[9] = -1.0, 1.0, -2.0, -2.0
    x[[7, 9], 4] = 1.0
    x[11] = -1.0
    on = x.numpy() > 0
    expected = {
        "dead_unit_share": (~on.any(0)).mean(),
        "always_on_share": on.all(0).mean(),
        "active_fraction": on.mean(),
        "dead_row_share": (~on.any(1)).mean(),
    }
    assert expected["dead_unit_share"] == 1 / 16
    for arrays, metadata in (({"sparse": x.relu()}, {}), ({"features": x.relu()}, {"activation": "ReLU"})):
        assert values(arrays, **metadata) == pytest.approx(expected, rel=1e-12)


def test_gaussian_pre_activations() -> None:
    """Half on, and the same variance above and below: .500 and about 1."""
    x = gaussian()
    found = values({"features": x}, activation="pre-relu")
    assert (found["dead_unit_share"], found["always_on_share"]) == (0.0, 0.0)
    assert found["active_fraction"] == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(32_000))
    positive, negative = x[x > 0].numpy(), x[x < 0].numpy()
    assert found["state_variance_ratio"] == pytest.approx(positive.var() / negative.var(), rel=1e-9)
    assert found["state_variance_ratio"] == pytest.approx(1.0, abs=0.06)
    assert findings(dead_activations, {"features": x}, activation="pre-relu") == []
    assert findings(dead_activations, {"sparse": x.relu()}) == []


def test_a_bias_switches_the_layer_off_or_makes_it_linear() -> None:
    off, on = {"sparse": gaussian(bias=-10.0).relu()}, {"sparse": gaussian(bias=10.0).relu()}
    assert values(off) == {
        "dead_unit_share": 1.0,
        "always_on_share": 0.0,
        "active_fraction": 0.0,
        "dead_row_share": 1.0,
    }
    assert values(on) == {"dead_unit_share": 0.0, "always_on_share": 1.0, "active_fraction": 1.0, "dead_row_share": 0.0}
    assert findings(dead_activations, off) == [Severity.ERROR]
    assert findings(dead_activations, on) == [Severity.WARNING]
    one_side = reasons(results(dead_activations, {"features": gaussian(bias=10.0)}, activation="pre-relu"))
    assert one_side == ["state_variance_ratio: the entries above or those below 0 are missing or constant"]


def test_a_layer_of_which_one_unit_fires_once_is_not_constant() -> None:
    x = torch.zeros(1000, 50)
    x[3, 3] = 1.0
    assert findings(dead_activations, {"sparse": x}) == [Severity.INFO]


def test_gelu_is_no_relu() -> None:
    x = torch.nn.functional.gelu(gaussian())
    assert reasons(results(dead_activations, {"sparse": x}))[0].startswith("not a ReLU output: 50")
    few = gaussian().relu()
    few.view(-1)[:32] = -1.0  # one in a thousand
    assert "dead_unit_share" in values({"sparse": few})
    few.view(-1)[32] = -1.0
    assert values({"sparse": few}) == {}


def test_features_are_taken_only_where_the_activation_is_named() -> None:
    expected = ["features whose activation the metadata do not give as relu or pre-relu"]
    assert reasons(results(dead_activations, {"features": gaussian().relu()})) == expected
    assert reasons(results(dead_activations, {"features": gaussian().relu()}, activation="gelu")) == expected


def test_few_rows_are_skipped() -> None:
    assert reasons(results(dead_activations, {"sparse": torch.zeros(999, 4)})) == [
        "999 finite rows of 4 units, needs 1,000"
    ]


def test_messages_have_their_numbers() -> None:
    (found,) = judged(dead_activations, collapsed()).findings
    assert found.message == (
        "32 of 32 units are off in all of 1000 rows; where all are, the layer passes on a constant."
    )
