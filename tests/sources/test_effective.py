"""Effective weights against slices, loops and torch's own modules."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from collapse_cli.core.naming import Placement
from collapse_cli.core.site import Role
from collapse_cli.kernels.views import Weight
from collapse_cli.sources.base import Origin
from collapse_cli.sources.effective import Plan, plan, plan_from
from collapse_cli.sources.memory import MemoryCheckpoint, memory_checkpoint

Q, K, V = Role.ATTENTION_Q, Role.ATTENTION_K, Role.ATTENTION_V
QKV = (Q, K, V)


def built(made: Plan, tensors: dict[str, torch.Tensor]) -> dict[str, Weight]:
    """Every weight of a plan; the inputs must come out of it untouched and the sites must be true."""
    before = copy.deepcopy(tensors)
    weights = {one.site.name: one.build({name: tensors[name] for name in one.reads}) for one in made.weights}
    for name, tensor in tensors.items():
        assert torch.equal(tensor.flatten().view(torch.uint8), before[name].flatten().view(torch.uint8)), name
    for name, weight in weights.items():
        assert weight.site.name == name
        assert weight.site.shape == tuple(weight.tensor.shape), name
        assert weight.tensor.is_floating_point()
    return weights


def weights_of(tensors, placements, config=None) -> dict[str, Weight]:
    checkpoint = memory_checkpoint(tensors, config=config)
    made = plan_from(checkpoint, placements)
    assert checkpoint.reads == [], "a plan reads headers only"
    return built(made, tensors)


def numbered(*shape: int) -> torch.Tensor:
    """Row r, column c holds 1000·r + c, so that every row names itself."""
    rows = torch.arange(shape[0], dtype=torch.float32).reshape(-1, *[1] * (len(shape) - 1))
    return (1000 * rows + torch.arange(shape[-1])) if len(shape) > 1 else rows.flatten()


def rows_of(weight: Weight) -> list[int]:
    first = weight.tensor[:, 0] / 1000 if weight.tensor.dim() == 2 else weight.tensor
    return [int(row) for row in first]


def test_a_plain_tensor_is_itself_without_a_copy():
    tensor = torch.randn(3, 4).bfloat16()
    weight = weights_of({"a.weight": tensor}, {"a.weight": Placement(Role.LINEAR, layer=2)})["a.weight"]
    assert weight.tensor.data_ptr() == tensor.data_ptr()
    assert weight.tensor.dtype is torch.bfloat16
    assert (weight.site.dtype, weight.site.layer, weight.site.role) == ("BF16", 2, Role.LINEAR)


def test_integers_masks_and_scales_are_no_weights_but_counts_are():
    tensors = {
        "ids": torch.arange(4),
        "mask": torch.ones(2, 2),
        "scale": torch.ones(2),
        "bn.num_batches_tracked": torch.tensor(7),
        "empty": torch.empty(0),
    }
    placements = {
        "ids": Placement(Role.OTHER),
        "mask": Placement(Role.MASK),
        "scale": Placement(Role.SCALE),
        "bn.num_batches_tracked": Placement(Role.NORM_COUNT),
    }
    made = plan_from(memory_checkpoint(tensors), placements)
    weights = built(made, tensors)
    assert list(weights) == ["bn.num_batches_tracked"]
    assert weights["bn.num_batches_tracked"].tensor.item() == 7
    assert [(skip.analyzer, skip.site) for skip in made.skips] == [(None, "empty")]


def test_conv1d_is_a_transposed_view():
    tensor = torch.randn(3, 5)
    weight = weights_of({"c.weight": tensor}, {"c.weight": Placement(Role.MLP_IN, layout="in_out")})["c.weight"]
    assert torch.equal(weight.tensor, tensor.T)
    assert weight.tensor.data_ptr() == tensor.data_ptr()


def test_a_gpt2_projection_is_turned_before_it_is_split():
    stored = torch.randn(4, 12)
    placement = Placement(Q, block="h.0.attn", layout="in_out", fused=QKV)
    weights = weights_of({"c_attn.weight": stored}, {"c_attn.weight": placement}, {"n_head": 2})
    for index, part in enumerate("qkv"):
        weight = weights[f"c_attn.weight#{part}"]
        assert torch.equal(weight.tensor, stored[:, 4 * index : 4 * index + 4].T)
        assert weight.tensor.untyped_storage().data_ptr() == stored.untyped_storage().data_ptr()
        assert weight.site.role is QKV[index]


# rows of q, k, v by hand
LAYOUTS = {
    "by kind, no configuration": ("by_kind", (12, 4), {}, [range(4), range(4, 8), range(8, 12)]),
    "by kind, grouped": (
        "by_kind",
        (16, 8),
        {"num_attention_heads": 4, "num_key_value_heads": 2},
        [range(8), range(8, 12), range(12, 16)],
    ),
    "by kind, grouped, wide heads": (
        "by_kind",
        (32, 8),
        {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4},
        [range(16), range(16, 24), range(24, 32)],
    ),
    "by kind, one key (GPT-BigCode)": (
        "by_kind",
        (12, 8),
        {"n_head": 4, "multi_query": True},
        [range(8), range(8, 10), range(10, 12)],
    ),
    "by head (GPT-NeoX)": (
        "by_head",
        (12, 4),
        {"num_attention_heads": 2},
        [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]],
    ),
    "by head, grouped (Falcon-40B)": (
        "by_head",
        (16, 8),
        {"num_attention_heads": 4, "num_kv_heads": 2, "new_decoder_architecture": True, "multi_query": True},
        [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 12, 13], [6, 7, 14, 15]],
    ),
    "by head, one key (Falcon-7B)": (
        "by_head",
        (12, 8),
        {"num_attention_heads": 4, "num_kv_heads": 4, "multi_query": True},
        [range(8), range(8, 10), range(10, 12)],
    ),
    "interleaved": ("interleaved", (12, 4), {}, [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]),
    "of the vision tower": (
        "by_head",
        (12, 4),
        {"text_config": {"num_attention_heads": 4}, "vision_config": {"num_heads": 2}},
        [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]],
    ),
}


@pytest.mark.parametrize(("order", "shape", "config", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_qkv_and_its_bias_are_split_into_exactly_these_rows(order, shape, config, expected):
    prefix = "vision_model.0.attn.qkv" if "vision_config" in config else "h.0.attn.qkv"
    tensors = {f"{prefix}.weight": numbered(*shape), f"{prefix}.bias": numbered(shape[0])}
    placements = {
        f"{prefix}.weight": Placement(Q, block="h.0.attn", fused=QKV, fused_order=order),
        f"{prefix}.bias": Placement(Role.ATTENTION_BIAS, block="h.0.attn", fused=QKV, fused_order=order),
    }
    weights = weights_of(tensors, placements, config)
    assert list(weights) == [f"{prefix}.{leaf}#{part}" for leaf in ("weight", "bias") for part in "qkv"]
    for part, rows in zip("qkv", expected, strict=True):
        assert rows_of(weights[f"{prefix}.weight#{part}"]) == list(rows)
        assert rows_of(weights[f"{prefix}.bias#{part}"]) == list(rows)
        assert weights[f"{prefix}.bias#{part}"].site.role is Role.ATTENTION_BIAS


@pytest.mark.parametrize(
    ("order", "shape", "config"),
    [
        ("unknown", (12, 4), {"num_attention_heads": 2}),
        ("by_head", (12, 4), {}),
        ("by_kind", (16, 8), {}),
        ("by_kind", (16, 8), {"num_attention_heads": 3}),
        ("interleaved", (13, 4), {}),
    ],
)
def test_a_fused_tensor_of_unknown_layout_stays_whole(order, shape, config):
    tensors = {"qkv.weight": numbered(*shape)}
    checkpoint = memory_checkpoint(tensors, config=config)
    made = plan_from(checkpoint, {"qkv.weight": Placement(Q, block="attn", fused=QKV, fused_order=order)})
    assert list(built(made, tensors)) == ["qkv.weight"]
    assert made.skips == ()
    (block,) = made.blocks
    assert block.facts["skip"] == "fused layout unknown"
    assert set(QKV) <= set(block.members)


def test_multihead_attention_of_torch():
    torch.manual_seed(0)
    module = nn.MultiheadAttention(6, 2, batch_first=True)
    tensors = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    nn.init.normal_(module.in_proj_bias)
    placements = {
        "in_proj_weight": Placement(Q, block="attn", fused=QKV),
        "in_proj_bias": Placement(Role.ATTENTION_BIAS, block="attn", fused=(Role.ATTENTION_BIAS,) * 3),
        "out_proj.weight": Placement(Role.ATTENTION_O, block="attn"),
        "out_proj.bias": Placement(Role.ATTENTION_BIAS, block="attn"),
    }
    weights = weights_of(tensors, placements)
    x = torch.randn(1, 5, 6)
    q, k, v = (
        nn.functional.linear(x, weights[f"in_proj_weight#{part}"].tensor, weights[f"in_proj_bias#{part}"].tensor)
        .reshape(1, 5, 2, 3)
        .transpose(1, 2)
        for part in "qkv"
    )
    mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, 5, 6)
    output = nn.functional.linear(mixed, weights["out_proj.weight"].tensor, weights["out_proj.bias"].tensor)
    with torch.no_grad():
        torch.testing.assert_close(output, module(x, x, x, need_weights=False)[0], atol=1e-5, rtol=1e-5)


def test_gate_and_in_follow_one_another_in_phi3():
    tensors = {"mlp.gate_up_proj.weight": numbered(10, 3)}
    fused = (Role.MLP_GATE, Role.MLP_IN)
    weights = weights_of(tensors, {"mlp.gate_up_proj.weight": Placement(Role.MLP_IN, block="mlp", fused=fused)})
    assert rows_of(weights["mlp.gate_up_proj.weight#gate"]) == [0, 1, 2, 3, 4]
    assert rows_of(weights["mlp.gate_up_proj.weight#in"]) == [5, 6, 7, 8, 9]
    assert weights["mlp.gate_up_proj.weight#gate"].site.role is Role.MLP_GATE


def test_an_expert_stack_becomes_matrices():
    stored = torch.randn(3, 4, 6)
    tensors = {"experts.w_in": stored, "experts.w_out": stored.clone()}
    placements = {
        "experts.w_in": Placement(Role.EXPERT_IN, block="experts", stacked=True),
        "experts.w_out": Placement(Role.EXPERT_OUT, block="experts", stacked=True, layout="in_out"),
    }
    weights = weights_of(tensors, placements)
    for expert in range(3):
        assert torch.equal(weights[f"experts.w_in#expert={expert}"].tensor, stored[expert])
        assert torch.equal(weights[f"experts.w_out#expert={expert}"].tensor, stored[expert].T)
    shared = weights["experts.w_in#expert=2"].tensor.untyped_storage().data_ptr()
    assert shared == stored.untyped_storage().data_ptr()


@pytest.mark.parametrize("order", ["by_kind", "interleaved"])
def test_gate_and_in_inside_a_stack(order):
    stored = torch.randn(2, 5, 8)
    fused = (Role.EXPERT_GATE, Role.EXPERT_IN)
    placement = Placement(Role.EXPERT_IN, stacked=True, layout="in_out", fused=fused, fused_order=order)
    weights = weights_of({"experts.gate_up_proj": stored}, {"experts.gate_up_proj": placement})
    gate, up = (slice(0, 4), slice(4, 8)) if order == "by_kind" else (slice(0, None, 2), slice(1, None, 2))
    for expert in range(2):
        assert torch.equal(weights[f"experts.gate_up_proj#expert={expert}.gate"].tensor, stored[expert][:, gate].T)
        assert torch.equal(weights[f"experts.gate_up_proj#expert={expert}.in"].tensor, stored[expert][:, up].T)


def eighths(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).to(torch.float8_e4m3fn)


# 192 rows in two blocks of 128, not of 96; 1 scale per 40 columns only because it is declared
@pytest.mark.parametrize(
    ("shape", "scales", "block", "config"),
    [
        ((256, 128), (2, 1), (128, 128), {}),
        ((192, 200), (2, 2), (128, 128), {}),
        ((64, 96), (2, 3), (32, 32), {}),
        ((80, 100), (2, 3), (40, 40), {"quantization_config": {"weight_block_size": [40, 40]}}),
        ((6, 4), (6, 1), (1, 4), {}),
        ((6, 4), (6,), (1, 4), {}),
        ((6, 4), (1,), (6, 4), {}),
        ((6, 4), (), (6, 4), {}),
    ],
)
def test_fp8_is_multiplied_by_the_scale_of_its_block(shape, scales, block, config):
    torch.manual_seed(1)
    weight, scale = eighths(*shape), torch.rand(scales) + 0.5
    name = "weight_scale_inv" if len(scales) == 2 else "weight_scale"
    tensors = {f"l.{name}": scale, "l.weight": weight}
    built_ = weights_of(tensors, {"l.weight": Placement(Role.LINEAR), f"l.{name}": Placement(Role.SCALE)}, config)
    assert list(built_) == ["l.weight"]
    stored, factors = (
        weight.float().numpy().astype(np.float64),
        scale.numpy().reshape(scales if len(scales) == 2 else (-1, 1)),
    )
    expected = np.empty(shape)
    for i in range(shape[0]):
        for j in range(shape[1]):
            expected[i, j] = stored[i, j] * factors[i // block[0], j // block[1]]
    assert built_["l.weight"].tensor.dtype is torch.float32
    assert built_["l.weight"].site.dtype == "F8_E4M3"
    np.testing.assert_allclose(built_["l.weight"].tensor.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("scales", [(3, 2, 1), (3, 1, 1), (3, 1), (3,), (1,)])
def test_a_scaled_stack_of_experts(scales):
    torch.manual_seed(2)
    weight, scale = eighths(3, 256, 128), torch.rand(scales) + 0.5
    tensors = {"experts.w.weight": weight, "experts.w.weight_scale": scale}
    weights = weights_of(tensors, {"experts.w.weight": Placement(Role.EXPERT_IN, stacked=True)})
    for expert in range(3):
        per_half = scale.reshape(-1, scales[1] if len(scales) == 3 else 1)[expert if scales[0] == 3 else 0].expand(2)
        for half in range(2):
            rows = slice(128 * half, 128 * half + 128)
            expected = weight[expert].float()[rows] * per_half[half]
            assert torch.equal(weights[f"experts.w.weight#expert={expert}"].tensor[rows], expected)


@pytest.mark.parametrize(
    ("tensors", "config", "reason"),
    [
        ({"l.weight": eighths(4, 4)}, {}, "quantised without scale"),
        ({"l.qweight": torch.zeros(4, 4, dtype=torch.int32)}, {}, "quantised format not read: GPTQ or AWQ"),
        (
            {"l.qweight": torch.zeros(4, 4, dtype=torch.int32)},
            {"quantization_config": {"quant_method": "awq"}},
            "quantised format not read: awq",
        ),
        (
            {"l.weight": torch.zeros(8, 1, dtype=torch.uint8), "l.weight.absmax": torch.ones(1)},
            {},
            "quantised format not read: bitsandbytes",
        ),
    ],
)
def test_what_cannot_be_dequantised_is_said(tensors, config, reason):
    made = plan_from(memory_checkpoint(tensors, config=config), {"l.weight.absmax": Placement(Role.SCALE)})
    assert made.weights == ()
    assert [(skip.analyzer, skip.site, skip.reason) for skip in made.skips] == [(None, next(iter(tensors)), reason)]


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {f"net.{name}": tensor.detach().clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_equals_torch(dim):
    torch.manual_seed(3)
    module = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 5), dim=dim)
    with torch.no_grad():
        module.parametrizations.weight.original0.mul_(1.7)
    tensors = state_of(module)
    # the older form of the same file
    old = {
        "net.weight_g": tensors["net.parametrizations.weight.original0"],
        "net.weight_v": tensors["net.parametrizations.weight.original1"],
    }
    for stored in (tensors, old):
        weights = weights_of(stored, {"net.weight": Placement(Role.CONV, layer=4)})
        torch.testing.assert_close(weights["net.weight"].tensor, module.weight.detach(), rtol=1e-5, atol=1e-6)
        assert weights["net.weight"].site.layer == 4
        assert set(weights) <= {"net.weight", "net.bias"}


@pytest.mark.parametrize("module", [nn.Linear(6, 4), nn.Conv2d(3, 5, 2), nn.ConvTranspose2d(3, 5, 2)], ids=type)
def test_spectral_norm_equals_torch_in_evaluation_mode(module):
    torch.manual_seed(4)
    new = nn.utils.parametrizations.spectral_norm(copy.deepcopy(module)).eval()
    weights = weights_of(state_of(new), {"net.weight": Placement(Role.CONV)})
    torch.testing.assert_close(weights["net.weight"].tensor, new.weight.detach(), rtol=1e-5, atol=1e-6)
    old = nn.utils.spectral_norm(copy.deepcopy(module))
    old.eval()(torch.randn(2, 3 if old.weight.dim() == 4 else 6, *[4, 4][: old.weight.dim() - 2]))
    weights = weights_of(state_of(old), {"net.weight": Placement(Role.CONV)})
    assert not {"net.weight_u", "net.weight_v", "net.weight_orig"} & set(weights)
    torch.testing.assert_close(weights["net.weight"].tensor, old.weight.detach(), rtol=1e-5, atol=1e-6)


def test_a_pruned_weight_is_masked():
    module = nn.Linear(6, 4)
    prune.random_unstructured(module, "weight", amount=0.5)
    weights = weights_of(state_of(module), {"net.weight": Placement(Role.LINEAR)})
    assert torch.equal(weights["net.weight"].tensor, module.weight.detach())
    assert set(weights) == {"net.weight", "net.bias"}


def test_an_unknown_parametrisation_is_skipped():
    tensors = {"net.parametrizations.weight.original": torch.eye(3)}
    made = plan_from(memory_checkpoint(tensors), {})
    assert made.weights == ()
    assert made.skips[0].site == "net.parametrizations.weight.original"
    assert made.skips[0].reason.startswith("unknown parametrisation")


def test_a_projected_codebook_is_the_image_of_its_table():
    torch.manual_seed(5)
    table, projection = nn.Embedding(16, 4), nn.Linear(4, 4)
    tensors = {
        "vq.embedding.weight": table.weight.detach(),
        "vq.embedding_proj.weight": projection.weight.detach(),
        "vq.embedding_proj.bias": projection.bias.detach(),
    }
    placements = {
        "vq.embedding.weight": Placement(Role.CODEBOOK, block="vq"),
        "vq.embedding_proj.weight": Placement(Role.CODEBOOK_PROJECTION, block="vq"),
        "vq.embedding_proj.bias": Placement(Role.OTHER, block="vq"),
    }
    weights = weights_of(tensors, placements)
    expected = projection(table.weight).detach()
    torch.testing.assert_close(weights["vq.embedding.weight"].tensor, expected, rtol=1e-6, atol=1e-6)


def test_a_stack_of_codebooks_becomes_levels():
    stored = torch.randn(3, 16, 4)
    weights = weights_of({"vq.embed": stored}, {"vq.embed": Placement(Role.CODEBOOK, block="vq")})
    assert [torch.equal(weights[f"vq.embed#level={level}"].tensor, stored[level]) for level in range(3)] == [True] * 3
    single = weights_of({"vq.embed": stored[:1]}, {"vq.embed": Placement(Role.CODEBOOK, block="vq")})
    assert single["vq.embed"].site.shape == (16, 4)


def test_a_posterior_gives_its_standard_deviation():
    stored = torch.tensor([-3.0, 0.0, 2.0])
    for leaf, formula in (
        ("sigma", lambda x: x),
        ("rho", lambda x: np.log1p(np.exp(x))),
        ("logvar", lambda x: np.sqrt(np.exp(x))),
        ("log_sigma", np.exp),
    ):
        name = f"l.weight_{leaf}"
        weight = weights_of({name: stored}, {name: Placement(Role.POSTERIOR_SIGMA)})[name]
        np.testing.assert_allclose(weight.tensor.numpy(), formula(stored.double().numpy()), rtol=1e-6)


TABLES = {"embed_tokens.weight": torch.randn(8, 4), "norm.weight": torch.ones(4), "lm_head.weight": torch.randn(8, 4)}
TABLE_ROLES = {
    "embed_tokens.weight": Placement(Role.EMBEDDING, block="embed_tokens"),
    "norm.weight": Placement(Role.NORM_GAIN, block="norm"),
    "lm_head.weight": Placement(Role.HEAD, block="lm_head"),
}


def test_declared_ties_are_analysed_once_and_named_twice():
    checkpoint = memory_checkpoint(TABLES, config={"tie_word_embeddings": True})
    made = plan_from(checkpoint, TABLE_ROLES)
    assert made.ties == {"lm_head.weight": "embed_tokens.weight"}
    assert [one.site.name for one in made.weights] == ["embed_tokens.weight", "norm.weight"]
    head = next(block for block in made.blocks if block.site.name == "lm_head")
    assert head.members == {Role.HEAD: ("embed_tokens.weight",)}
    assert [site.name for site in made.sites] == list(TABLES)


@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": False}])
def test_undeclared_tables_are_two(config):
    made = plan_from(memory_checkpoint(TABLES, config=config), TABLE_ROLES)
    assert made.ties == {}
    assert len(made.weights) == 3


def test_the_same_bytes_under_two_names_are_one_tensor(monkeypatch):
    monkeypatch.setattr(MemoryCheckpoint, "origin", lambda self, name: Origin("f", 0 if name[0] in "el" else 64, 128))
    made = plan_from(memory_checkpoint(TABLES), TABLE_ROLES)
    assert made.ties == {"lm_head.weight": "embed_tokens.weight"}


def test_sites_are_located_and_patterns_override_names():
    tensors = {"blocks.0.thing": torch.randn(4, 4), "blocks.0.other": torch.randn(4, 4)}
    made = plan(memory_checkpoint(tensors), roles={"*.thing": Role.ROUTER})
    assert made.sites[0].role is Role.ROUTER
    assert made.sites[1].role is not Role.ROUTER
    assert made.weights[0].site.role is Role.ROUTER
    assert [block.site.role for block in made.blocks if block.site.role is Role.ROUTER] == [Role.ROUTER]


def test_a_consumed_tensor_keeps_the_layer_of_its_weight():
    tensors = {"l.weight": eighths(4, 4), "l.weight_scale": torch.ones(1)}
    made = plan_from(memory_checkpoint(tensors), {"l.weight": Placement(Role.LINEAR, layer=3)})
    assert [(site.layer, site.role) for site in made.sites] == [(3, Role.LINEAR), (3, Role.SCALE)]


def test_planning_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from collapse_cli.core.site import Role, Site\n"
        "from collapse_cli.core.naming import Placement\n"
        "from collapse_cli.sources.base import Origin\n"
        "from collapse_cli.sources.effective import plan_from\n"
        "class Headers:\n"
        "    config, adapter, optimizer = {}, {}, ()\n"
        "    def sites(self): return [Site('qkv.weight', (12, 4), 'BF16')]\n"
        "    def origin(self, name): return Origin('f', 0, 96)\n"
        "q, k, v = Role.ATTENTION_Q, Role.ATTENTION_K, Role.ATTENTION_V\n"
        "made = plan_from(Headers(), {'qkv.weight': Placement(q, block='a', fused=(q, k, v))})\n"
        "assert len(made.weights) == 3 and len(made.blocks) == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
