import pytest
import torch

from collapse_cli.analyzer import Example
from collapse_cli.analyzers.integrity.tied_tensors import collapsed, healthy, tied_tensors
from tests.contract.examples import analysed, judged
from tests.views import at, reasons, values

LLAMA = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 2}
LEAVES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layers(count: int, *, copied: tuple[int, int] | None = None) -> dict[str, torch.Tensor]:
    tensors = {
        f"model.layers.{layer}.{leaf}.weight": draw(32, 32, seed=100 * layer + place)
        for layer in range(count)
        for place, leaf in enumerate(LEAVES)
    }
    if copied is not None:
        for leaf in LEAVES:
            tensors[f"model.layers.{copied[1]}.{leaf}.weight"] = tensors[
                f"model.layers.{copied[0]}.{leaf}.weight"
            ].clone()
    return tensors


def test_examples() -> None:
    assert values(analysed(tied_tensors, healthy()).measurements) == {
        "broken_ties": 0,
        "cloned_tensors": 0,
        "cloned_share": 0,
    }
    found = values(analysed(tied_tensors, collapsed()).measurements)
    assert (found["broken_ties"], found["cloned_tensors"]) == (1, 2)
    assert found["cloned_share"] == pytest.approx(2 * 1024 / (4 * 1024 + 2 * 48 * 32))


def test_a_copied_layer_counts_every_tensor_of_it() -> None:
    found = at(analysed(tied_tensors, Example(layers(4, copied=(2, 3)), LLAMA)).measurements)
    cloned = found["cloned_tensors", "#checkpoint"]
    assert cloned.value == len(LEAVES)
    assert (
        "model.layers.3.self_attn.q_proj.weight of model.layers.2.self_attn.q_proj.weight" in cloned.evidence["pairs"]
    )
    assert found["cloned_share", "#checkpoint"].value == pytest.approx(0.25)


TABLE = draw(64, 32, seed=7)
SAME = draw(32, 32, seed=9)
BY_NATURE = {
    "constants": {"a.weight": torch.ones(32, 32), "b.weight": torch.ones(32, 32)},
    "two values": {"a.weight": torch.eye(32), "b.weight": torch.eye(32)},
    "small": {"a.weight": SAME[:8], "b.weight": SAME[:8].clone()},
    "moving average": {"model.a.weight": SAME, "ema.model.a.weight": SAME.clone()},
    "moving average, suffix": {"a.weight": SAME, "a_ema.weight": SAME.clone()},
    "codebook and its sums": {"quantize.embed": SAME, "quantize.embed_avg": SAME.clone()},
    "embedding and head, not declared": {"model.embed_tokens.weight": TABLE, "lm_head.weight": TABLE.clone()},
    "masks": {"h.0.attn.masked_bias": SAME, "h.1.attn.masked_bias": SAME.clone()},
    "other dtype": {"a.weight": torch.zeros(32, 32), "b.weight": torch.zeros(32, 32, dtype=torch.float64)},
}


@pytest.mark.parametrize("case", BY_NATURE)
def test_what_is_equal_by_nature_is_no_clone(case: str) -> None:
    subject = judged(tied_tensors, Example(layers(2) | BY_NATURE[case], LLAMA))
    assert values(subject.measurements)["cloned_tensors"] == 0
    assert not subject.findings


def test_without_a_configuration_only_clones_are_reported() -> None:
    analysis = analysed(tied_tensors, Example(layers(2, copied=(0, 1))))
    assert values(analysis.measurements)["cloned_tensors"] == len(LEAVES)
    assert "broken_ties: no configuration says what is tied" in reasons(analysis.skips)


def test_an_undeclared_head_of_its_own_breaks_nothing() -> None:
    tensors = layers(2) | {"model.embed_tokens.weight": TABLE, "lm_head.weight": TABLE + 1}
    analysis = analysed(tied_tensors, Example(tensors, LLAMA | {"tie_word_embeddings": False}))
    assert "broken_ties" not in values(analysis.measurements)
    assert "broken_ties: no two stored tensors are declared tied" in reasons(analysis.skips)
    tied = analysed(tied_tensors, Example(tensors, LLAMA | {"tie_word_embeddings": True}))
    assert values(tied.measurements)["broken_ties"] == 1


def test_one_tensor_is_nothing_to_compare() -> None:
    analysis = analysed(tied_tensors, Example({"a.weight": SAME}))
    assert not analysis.measurements
    assert len(analysis.skips) == 2
