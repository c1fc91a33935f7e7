import numpy as np
import pytest
import torch

from collapse_cli.analyzer import Example
from collapse_cli.analyzers.integrity.sparsity import sparsity
from collapse_cli.core.finding import Severity
from tests.contract.examples import analysed, judged
from tests.views import at, reasons, values, weight

NAME = "encoder.layer.0.output.dense.weight"


def draw(*shape: int) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(0).standard_normal(shape), dtype=torch.float32)


def test_gaussian_entries() -> None:
    found = at(sparsity.run(weight(draw(1000, 1000))))
    assert (found["zero_share", "w"].value, found["nm_share", "w"].value) == (0, 0)
    assert found["tiny_share", "w"].value == pytest.approx(0.0797, abs=1e-3)
    assert found["tiny_share", "w"].null == pytest.approx(0.0797, abs=5e-5)
    assert found["tiny_share", "w"].evidence["below_1e-3"] == pytest.approx(7.98e-4, rel=0.15)


def test_a_planted_pattern_is_named() -> None:
    tensor = draw(256, 64, 4)
    order = torch.tensor(np.random.default_rng(1).permuted(np.tile(np.arange(4), (256, 64, 1)), axis=2))
    tensor[order < 2] = 0.0
    found = at(sparsity.run(weight(tensor.reshape(256, 256))))
    assert (found["zero_share", "w"].value, found["nm_share", "w"].value) == (0.5, 1.0)
    assert found["nm_share", "w"].evidence["pattern"] == "2:4"
    assert found["nm_share", "w"].evidence["axis"] == "input"


def test_a_random_mask_is_no_pattern() -> None:
    tensor = draw(1000, 1000)
    tensor[torch.tensor(np.random.default_rng(1).random((1000, 1000)) < 0.5)] = 0.0
    found = at(sparsity.run(weight(tensor)))["nm_share", "w"]
    assert found.value == pytest.approx(0.6875, abs=3e-3)
    assert found.null == pytest.approx(0.6875, abs=3e-3)
    assert not judged(sparsity, Example({NAME: tensor})).findings


@pytest.mark.parametrize(
    ("left", "expected"),
    [(0, [Severity.ERROR]), (2, [Severity.ERROR]), (3, [])],
)
def test_the_bound_of_a_dead_layer(left: int, expected: list[Severity]) -> None:
    tensor = torch.zeros(100, 100)
    tensor.view(-1)[:left] = 1.0
    findings = judged(sparsity, Example({NAME: tensor})).findings
    assert [finding.severity for finding in findings] == expected


def test_padding_rows_and_fresh_adapters_are_silent() -> None:
    table = draw(512, 64)
    table[0] = 0.0
    table[500:] = 0.0
    assert not judged(sparsity, Example({"embeddings.word_embeddings.weight": table})).findings
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    adapter = {f"{prefix}.lora_A.weight": draw(8, 64), f"{prefix}.lora_B.weight": torch.zeros(64, 8)}
    analysis = analysed(sparsity, Example(adapter, adapter={"r": 8, "lora_alpha": 16, "peft_type": "LORA"}))
    assert not [found for found in analysis.measurements if "lora_B" in found.site]


def test_a_few_strong_weights_among_faded_ones() -> None:
    tensor = 1e-3 * draw(64, 64)
    tensor[::16, ::16] = 1.0
    numbers = np.abs(tensor.double().numpy())
    expected = (numbers < 0.1 * np.sqrt(np.mean(numbers**2))).mean()
    assert values(sparsity.run(weight(tensor)))["tiny_share"] == expected
    assert [f.severity for f in judged(sparsity, Example({NAME: tensor})).findings] == [Severity.WARNING]


def test_all_zero_has_no_tiny_share() -> None:
    found = list(sparsity.run(weight(torch.zeros(64, 64))))
    assert values(found) == {"zero_share": 1.0, "nm_share": 1.0}
    assert reasons(found) == ["tiny_share: every entry is zero"]
