import numpy as np
import pytest
import torch

from collapse_cli.analyzers.attention.attention_sink import attention_sink
from tests.analyzers.attention.maps import drawn, evidence, found, nulls, skipped, subject

CAUSAL = {"causal": "true"}


def importance(attention: torch.Tensor, side: int) -> np.ndarray:
    """α of every map: the mean weight of each key among the rows from it on, in numpy."""
    block = np.tril(attention[:, :, :side, :side].double().numpy())
    return block.sum(2) / np.arange(side, 0, -1)


@pytest.mark.parametrize("tokens", [20, 64, 100])
def test_is_the_importance_of_the_first_token_of_the_prefix(tokens: int) -> None:
    attention = drawn(9, 3, tokens, tokens, causal=True, sharpness=3.0).float()
    attention[:, 0] = 0.1 * attention[:, 0]
    attention[:, 0, :, 0] += 0.9
    alpha = importance(attention, min(tokens, 64))
    side = alpha.shape[2]
    values = found(attention_sink, attention, CAUSAL)
    assert values["sink_strength"] == pytest.approx(alpha[..., 0].mean(), abs=1e-6)
    assert values["sink_share"] == pytest.approx((alpha[..., 0] > 0.3).mean(), abs=1e-12)
    assert 1 / 3 <= values["sink_share"] < 1
    assert values["other_sink"] == pytest.approx(alpha.mean((0, 1))[1 : side // 2].max(), abs=1e-6)
    assert evidence(attention_sink, attention, CAUSAL)["sink_strength"]["prefix"] == side


def test_uniform_causal_maps_give_the_harmonic_number() -> None:
    attention = drawn(8, 2, 80, 80, sharpness=0.0, causal=True)
    values = found(attention_sink, attention, CAUSAL)
    assert values["sink_strength"] == pytest.approx(sum(1 / i for i in range(1, 65)) / 64, rel=1e-12)
    assert values == pytest.approx(nulls(attention_sink, attention, CAUSAL), rel=1e-10)
    assert round(values["sink_strength"], 4) == 0.0741
    window = drawn(8, 2, 80, 80, sharpness=0.0, causal=True, window=8)
    metadata = {**CAUSAL, "window": "8"}
    assert found(attention_sink, window, metadata) == pytest.approx(nulls(attention_sink, window, metadata), rel=1e-10)


def test_all_on_the_first_token_and_all_on_a_later_one() -> None:
    first = torch.zeros(8, 2, 32, 32)
    first[..., 0] = 1.0
    assert found(attention_sink, first, CAUSAL) == {"sink_strength": 1.0, "sink_share": 1.0, "other_sink": 0.0}
    later = torch.eye(32).expand(8, 2, 32, 32).contiguous()
    later[:, :, 5:] = 0.0
    later[:, :, 5:, 5] = 1.0
    values = found(attention_sink, later, CAUSAL)
    assert (values["other_sink"], values["sink_share"]) == (1.0, 0.0)
    assert evidence(attention_sink, later, CAUSAL)["other_sink"]["token"] == 6


def test_identity_is_no_sink() -> None:
    values = found(attention_sink, torch.eye(64).expand(8, 1, 64, 64), CAUSAL)
    # the last three positions would pass .3; in the first half 1/33 is the most
    assert values["other_sink"] == pytest.approx(1 / 33, rel=1e-9)


def test_left_padding_moves_the_first_token() -> None:
    attention = drawn(8, 2, 70, 70, causal=True)
    clean = found(attention_sink, attention, CAUSAL)
    shifts = [0, 3, 5, 1, 4, 2, 0, 6]
    padded = torch.full((8, 2, 76, 76), torch.nan, dtype=torch.float64)
    mask = torch.zeros(8, 76, dtype=torch.bool)
    for n, shift in enumerate(shifts):
        padded[n, :, shift : shift + 70, shift : shift + 70] = attention[n]
        mask[n, shift : shift + 70] = True
    assert found(attention_sink, padded, CAUSAL, mask=mask) == pytest.approx(clean, rel=1e-12)


def test_short_and_broken_sequences_are_left_out() -> None:
    attention = drawn(10, 1, 64, 64, causal=True)
    mask = torch.ones(10, 64, dtype=torch.bool)
    mask[8, 60:] = False
    broken = torch.where(mask[:, None, None, :] & mask[:, None, :, None], attention, torch.nan)
    broken[9, 0, 7] = torch.nan
    values = found(attention_sink, broken, CAUSAL, mask=mask)
    assert values == pytest.approx(found(attention_sink, attention[:8], CAUSAL), rel=1e-12)
    assert evidence(attention_sink, broken, CAUSAL, mask=mask)["sink_strength"]["sequences"] == 8


def test_what_does_not_apply_is_said() -> None:
    assert skipped(attention_sink, drawn(8, 2, 32, 32)).startswith("not causal")
    assert "takes maps of 16 tokens" in skipped(attention_sink, drawn(8, 2, 15, 15, causal=True), CAUSAL)
    onto_another = torch.zeros(8, 2, 16, 32)
    onto_another[..., 0] = 1.0
    assert "16 queries on 32 keys" in skipped(attention_sink, onto_another, CAUSAL)
    assert skipped(attention_sink, drawn(7, 2, 16, 16, causal=True), CAUSAL).startswith("7 sequences")
    failures = subject(attention_sink, drawn(8, 2, 16, 16), CAUSAL).failures
    assert [failure.error for failure in failures] == ["BadValues"]
