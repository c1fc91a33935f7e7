"""Blocks: which weights belong together and what is known beside them, for hand-made placements and for real names."""

import math

import pytest
import torch
from torch import nn

from collapse_cli.core.naming import Placement
from collapse_cli.core.site import Role
from collapse_cli.sources.base import OptimizerGroup
from collapse_cli.sources.effective import plan, plan_from
from collapse_cli.sources.memory import memory_checkpoint
from collapse_cli.sources.recipes import BlockRecipe

A = Role.ATTENTION_Q, Role.ATTENTION_K, Role.ATTENTION_V, Role.ATTENTION_O


def blocks(tensors, placements=None, *, config=None, adapter=None, optimizer=()) -> dict[str, BlockRecipe]:
    shaped = {name: torch.zeros(value) if isinstance(value, tuple) else value for name, value in tensors.items()}
    checkpoint = memory_checkpoint(shaped, config=config, adapter=adapter, optimizer=optimizer)
    made = plan(checkpoint) if placements is None else plan_from(checkpoint, placements)
    names = {one.site.name for one in made.weights}
    for block in made.blocks:
        assert {name for members in block.members.values() for name in members} <= names
        assert block.site.role is next(iter(block.members))
    assert len({(block.site.name, block.site.role.kind) for block in made.blocks}) == len(made.blocks)
    return {block.site.name: block for block in made.blocks}


def attention(queries: int, keys: int, width: int = 8, **norms: int) -> tuple[dict, dict]:
    shapes = {"q": (queries, width), "k": (keys, width), "v": (keys, width), "o": (width, queries)}
    tensors = {f"a.{part}_proj.weight": shape for part, shape in shapes.items()}
    placements = {name: Placement(role, 0, "a") for name, role in zip(tensors, A, strict=True)}
    for part, length in norms.items():
        tensors[f"a.{part}_norm.weight"] = (length,)
        placements[f"a.{part}_norm.weight"] = Placement(Role.ATTENTION_QK_NORM, 0, "a")
    return tensors, placements


# heads, kv heads, width of a head, by hand
HEADS = {
    "nothing is known": (attention(8, 8), {}, None),
    "number of heads": (attention(8, 8), {"n_head": 4}, (4, 4, 2)),
    "grouped, kv heads from the rows": (attention(8, 4), {"num_attention_heads": 4}, (4, 2, 2)),
    "width and number agree": (attention(16, 4), {"num_attention_heads": 4, "head_dim": 4}, (4, 1, 4)),
    "width and number contradict": (attention(16, 4), {"num_attention_heads": 8, "head_dim": 4}, None),
    "only the width": (attention(16, 8), {"head_dim": 4}, (4, 2, 4)),
    "norm per head": (attention(16, 8, q=4, k=4), {}, (4, 2, 4)),
    "norm over the projection": (attention(16, 16, q=16, k=16), {}, None),
    "hyper-parameters": (attention(8, 8), {"hyper_parameters": {"n_heads": 2}}, (2, 2, 4)),
    "a number that does not fit": (attention(8, 8), {"num_attention_heads": 3}, None),
}


@pytest.mark.parametrize(("given", "config", "expected"), HEADS.values(), ids=HEADS)
def test_heads_are_known_or_absent(given, config, expected):
    facts = blocks(*given, config=config)["a"].facts
    found = tuple(facts.get(key) for key in ("heads", "kv_heads", "head_dim"))
    assert found == (expected or (None, None, None))
    assert facts["hidden"] == 8


def test_the_query_norm_stands_first():
    tensors, placements = attention(16, 8, k=4, q=4)
    assert blocks(tensors, placements)["a"].members[Role.ATTENTION_QK_NORM] == ("a.q_norm.weight", "a.k_norm.weight")


@pytest.mark.parametrize("owner", ["a", "m"])
def test_rotary_frequencies_tell_the_width_of_a_head(owner):
    tensors, placements = attention(16, 8)
    rename = {name: name if owner == "a" else "m." + name for name in tensors}
    tensors = {rename[name]: value for name, value in tensors.items()} | {f"{owner}.rotary_emb.inv_freq": (2,)}
    block = "a" if owner == "a" else "m.a"
    placements = {rename[name]: Placement(one.role, 0, block) for name, one in placements.items()}
    placements[f"{owner}.rotary_emb.inv_freq"] = Placement(Role.BUFFER)
    facts = blocks(tensors, placements)[block].facts
    assert (facts["heads"], facts["kv_heads"], facts["head_dim"], facts["rope"]) == (4, 2, 4, True)
    assert "heads" not in blocks(tensors, placements, config={"rotary_pct": 0.25})[block].facts


def test_attention_members_and_biases_stand_in_order_and_its_norm_comes_with_it():
    tensors, placements = attention(8, 8)
    tensors = {"a.o_proj.bias": (8,), "a.k_proj.bias": (8,), "a.q_proj.bias": (8,), "n.weight": (8,), **tensors}
    placements |= {f"a.{part}_proj.bias": Placement(Role.ATTENTION_BIAS, 0, "a") for part in "okq"}
    placements["n.weight"] = Placement(Role.NORM_GAIN, 0, "n", feeds="a", norm_offset=1.0)
    block = blocks(tensors, placements)["a"]
    assert [names for role, names in block.members.items() if role in A] == [
        (f"a.{part}_proj.weight",) for part in "qkvo"
    ]
    assert block.members[Role.ATTENTION_BIAS] == ("a.q_proj.bias", "a.k_proj.bias", "a.o_proj.bias")
    assert block.facts["bias_parts"] == ["q", "k", "o"]
    assert block.members[Role.NORM_GAIN] == ("n.weight",)
    assert block.facts["norm_offset"] == 1.0
    assert block.site.layer == 0


def test_llama_by_its_real_names():
    prefix = "model.layers.3"
    tensors = {
        "model.embed_tokens.weight": (40, 8),
        f"{prefix}.input_layernorm.weight": (8,),
        **{f"{prefix}.self_attn.{part}_proj.weight": (8, 8) for part in "qo"},
        **{f"{prefix}.self_attn.{part}_proj.weight": (4, 8) for part in "kv"},
        f"{prefix}.post_attention_layernorm.weight": (8,),
        f"{prefix}.mlp.gate_proj.weight": (20, 8),
        f"{prefix}.mlp.up_proj.weight": (20, 8),
        f"{prefix}.mlp.down_proj.weight": (8, 20),
        "model.norm.weight": (8,),
        "lm_head.weight": (40, 8),
    }
    config = {"num_attention_heads": 4, "vocab_size": 38, "pad_token_id": 1, "rms_norm_eps": 1e-6, "rope_theta": 1e4}
    found = blocks(tensors, config=config)
    attention_block = found[f"{prefix}.self_attn"]
    assert {
        key: attention_block.facts[key] for key in ("heads", "kv_heads", "head_dim", "hidden", "rope", "qk_norm")
    } == {
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 2,
        "hidden": 8,
        "rope": True,
        "qk_norm": False,
    }
    assert attention_block.members[Role.NORM_GAIN] == (f"{prefix}.input_layernorm.weight",)
    assert found[f"{prefix}.mlp"].members == {
        Role.MLP_IN: (f"{prefix}.mlp.up_proj.weight",),
        Role.MLP_GATE: (f"{prefix}.mlp.gate_proj.weight",),
        Role.MLP_OUT: (f"{prefix}.mlp.down_proj.weight",),
        Role.NORM_GAIN: (f"{prefix}.post_attention_layernorm.weight",),
    }
    assert found["model.norm"].facts == {"norm_offset": 0.0, "eps": 1e-6}
    assert found["model.embed_tokens"].facts == {"vocab_size": 38, "padded_size": 40, "padding_idx": 1}
    assert found["lm_head"].facts == {"vocab_size": 38, "padded_size": 40, "is_language_model": True}


def test_gpt2_by_its_real_names():
    tensors = {
        "h.0.ln_1.weight": (8,),
        "h.0.ln_1.bias": (8,),
        "h.0.attn.c_attn.weight": (8, 24),
        "h.0.attn.c_attn.bias": (24,),
        "h.0.attn.c_proj.weight": (8, 8),
        "h.0.attn.c_proj.bias": (8,),
        "h.0.mlp.c_fc.weight": (8, 32),
        "h.0.mlp.c_fc.bias": (32,),
        "h.0.mlp.c_proj.weight": (32, 8),
        "h.0.mlp.c_proj.bias": (8,),
    }
    found = blocks(tensors, config={"model_type": "gpt2", "n_head": 2})
    block = found["h.0.attn"]
    assert block.members[Role.ATTENTION_K] == ("h.0.attn.c_attn.weight#k",)
    assert block.facts["bias_parts"] == ["q", "k", "v", "o"]
    assert block.members[Role.ATTENTION_BIAS][:2] == ("h.0.attn.c_attn.bias#q", "h.0.attn.c_attn.bias#k")
    assert (block.facts["heads"], block.facts["head_dim"]) == (2, 4)
    assert found["h.0.mlp"].members[Role.MLP_BIAS] == ("h.0.mlp.c_fc.bias",)


def test_plain_linear_layers_are_chained_by_number_not_by_file_order():
    tensors = {
        "net.10.weight": (3, 6),
        "net.2.bias": (5,),
        "net.0.weight": (4, 7),
        "net.2.weight": (5, 4),
        "net.4.weight": (6, 5),
    }
    placements = {name: Placement(Role.LINEAR, block="net") for name in tensors}
    placements["net.2.bias"] = Placement(Role.LINEAR_BIAS, block="net")
    placements["net.10.weight"] = Placement(Role.HEAD, block="net.10")
    found = blocks(tensors, placements)
    chains = {name: block.members for name, block in found.items() if name.endswith("#chain")}
    assert chains == {
        "net.0.weight#chain": {Role.LINEAR: ("net.0.weight", "net.2.weight")},
        "net.2.weight#chain": {Role.LINEAR: ("net.2.weight", "net.4.weight"), Role.LINEAR_BIAS: ("net.2.bias",)},
        "net.4.weight#chain": {Role.LINEAR: ("net.4.weight", "net.10.weight")},
    }


def test_siblings_side_by_side_are_no_chain():
    tensors = {"m.query.weight": (6, 6), "m.key.weight": (6, 6), "m.value.weight": (6, 6)}
    assert blocks(tensors, {name: Placement(Role.LINEAR, block="m") for name in tensors}) == {}
    tensors = {"fc1.weight": (5, 6), "fc2.weight": (7, 6)}
    assert blocks(tensors, {name: Placement(Role.LINEAR) for name in tensors}) == {}


def test_convolutions_of_a_residual_block_by_their_real_names():
    tensors = {}
    for number, shape in ((1, (4, 8, 1, 1)), (2, (4, 4, 3, 3)), (3, (8, 4, 1, 1))):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"layer1.0.bn{number}.{leaf}"] = (shape[0],)
        tensors[f"layer1.0.conv{number}.weight"] = shape
    tensors["layer1.0.downsample.0.weight"] = (8, 8, 1, 1)
    found = blocks(tensors)
    chains = {name: block.members for name, block in found.items() if name.endswith("#chain")}
    assert {name: members[Role.CONV] for name, members in chains.items()} == {
        f"layer1.0.conv{first}.weight#chain": (f"layer1.0.conv{first}.weight", f"layer1.0.conv{first + 1}.weight")
        for first in (1, 2)
    }
    for number in (1, 2):
        members = chains[f"layer1.0.conv{number}.weight#chain"]
        assert members[Role.NORM_GAIN] == (f"layer1.0.bn{number}.weight",)
        assert members[Role.NORM_VAR] == (f"layer1.0.bn{number}.running_var",)
    assert set(found["layer1.0.bn1"].members) == {Role.NORM_GAIN, Role.NORM_BIAS, Role.NORM_MEAN, Role.NORM_VAR}


def test_a_grouped_convolution_is_no_link():
    tensors = {"b.conv1.weight": (4, 3, 3, 3), "b.conv2.weight": (4, 1, 3, 3), "b.conv3.weight": (8, 4, 1, 1)}
    found = blocks(tensors, {name: Placement(Role.CONV, block="b") for name in tensors})
    assert list(found) == ["b.conv2.weight#chain"]


def test_experts_stand_in_the_order_of_their_numbers_and_shared_ones_apart():
    tensors = {f"m.experts.{number}.{leaf}.weight": (4, 4) for number in (10, 9, 0) for leaf in ("w1", "w2", "w3")}
    roles = {"w1": Role.EXPERT_GATE, "w2": Role.EXPERT_OUT, "w3": Role.EXPERT_IN}
    placements = {
        name: Placement(roles[name.split(".")[3]], 0, "m.experts", index=int(name.split(".")[2])) for name in tensors
    }
    tensors |= {"m.shared_experts.w1.weight": (4, 4), "m.gate.weight": (3, 4), "m.gate.bias": (3,)}
    placements["m.shared_experts.w1.weight"] = Placement(Role.EXPERT_GATE, 0, "m.experts")
    placements["m.gate.weight"] = Placement(Role.ROUTER, 0, "m.gate")
    placements["m.gate.bias"] = Placement(Role.ROUTER_BIAS, 0, "m.gate")
    found = blocks(tensors, placements)
    assert list(found["m.experts"].members) == [Role.EXPERT_IN, Role.EXPERT_GATE, Role.EXPERT_OUT]
    for role, leaf in ((Role.EXPERT_GATE, "w1"), (Role.EXPERT_IN, "w3"), (Role.EXPERT_OUT, "w2")):
        assert found["m.experts"].members[role] == tuple(f"m.experts.{number}.{leaf}.weight" for number in (0, 9, 10))
    assert found["m.experts"].facts == {"experts": 3}
    assert found["m.gate"].members == {Role.ROUTER: ("m.gate.weight",), Role.ROUTER_BIAS: ("m.gate.bias",)}


def test_stacked_experts_are_one_block():
    tensors = {"e.gate_up": (12, 6, 8), "e.down": (12, 4, 6)}
    placements = {
        "e.gate_up": Placement(
            Role.EXPERT_IN, 1, "e", layout="in_out", stacked=True, fused=(Role.EXPERT_GATE, Role.EXPERT_IN)
        ),
        "e.down": Placement(Role.EXPERT_OUT, 1, "e", layout="in_out", stacked=True),
    }
    members = blocks(tensors, placements)["e"].members
    assert members[Role.EXPERT_GATE] == tuple(f"e.gate_up#expert={number}.gate" for number in range(12))
    assert members[Role.EXPERT_IN] == tuple(f"e.gate_up#expert={number}.in" for number in range(12))
    assert members[Role.EXPERT_OUT] == tuple(f"e.down#expert={number}" for number in range(12))


def test_a_codebook_level_is_a_block_with_its_usage():
    tensors = {
        f"vq.{level}.{leaf}": shape for level in (0, 1) for leaf, shape in (("embed", (1, 16, 4)), ("usage", (1, 16)))
    }
    placements = {
        name: Placement(
            Role.CODEBOOK if name.endswith("embed") else Role.CODEBOOK_USAGE, None, "vq", index=int(name[3])
        )
        for name in tensors
    }
    found = blocks(tensors, placements, config={"use_cosine_sim": True})
    assert found["vq.1.embed"].members == {Role.CODEBOOK: ("vq.1.embed",), Role.CODEBOOK_USAGE: ("vq.1.usage",)}
    assert found["vq.1.embed"].facts == {"projected": False, "level": 1, "cosine": True}


LORA = {"base_model.model.m.q_proj.lora_A.weight": (4, 10), "base_model.model.m.q_proj.lora_B.weight": (12, 4)}
SCALES = {
    "alpha over rank": ({"r": 4, "lora_alpha": 8}, 2.0),
    "rank-stabilised": ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4.0),
    "alpha of one module": ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"q_proj": 2}}, 0.5),
    "alpha of another module": ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"k_proj": 2}}, 2.0),
    "unknown": ({}, None),
}


@pytest.mark.parametrize(("adapter", "scale"), SCALES.values(), ids=SCALES)
def test_an_adapter_is_its_two_factors_and_their_scale(adapter, scale):
    (name, block), *rest = blocks(LORA, adapter=adapter).items()
    assert rest == []
    assert name == "base_model.model.m.q_proj.lora_A#delta"
    assert block.members == {Role.ADAPTER_A: (next(iter(LORA)),), Role.ADAPTER_B: (list(LORA)[1],)}
    assert (block.facts["r"], block.facts["kind"], block.facts["target"]) == (4, "lora", "m.q_proj")
    assert block.facts.get("lora_scale") == scale


def test_kinds_of_adapters():
    dora = {**LORA, "base_model.model.m.q_proj.lora_magnitude_vector": (12,)}
    assert next(iter(blocks(dora).values())).facts["kind"] == "dora"
    assert next(iter(blocks(LORA, adapter={"peft_type": "ADALORA"}).values())).facts["kind"] == "adalora"


def test_a_stored_alpha_is_the_scale_it_stands_for():
    tensors = {
        "unet.to_q.alpha": torch.tensor(2.0, dtype=torch.float16),
        "unet.to_q.lora_down.weight": torch.zeros(4, 10),
        "unet.to_q.lora_up.weight": torch.zeros(12, 4),
    }
    roles = dict(zip(tensors, (Role.ADAPTER_SCALE, Role.ADAPTER_A, Role.ADAPTER_B), strict=True))
    made = plan_from(memory_checkpoint(tensors), {name: Placement(role) for name, role in roles.items()})
    assert made.blocks[0].members[Role.ADAPTER_SCALE] == ("unet.to_q.alpha",)
    assert made.weights[0].build(tensors).tensor.item() == 0.5


def test_adam_and_adafactor():
    torch.manual_seed(0)
    row, column = torch.rand(3) + 0.1, torch.rand(5) + 0.1
    tensors = {
        "l.weight": torch.zeros(3, 5),
        "o.m": torch.zeros(3, 5),
        "o.v": torch.zeros(3, 5),
        "o.t": torch.tensor(7),
        "o.row": row,
        "o.col": column,
    }
    groups = (
        OptimizerGroup(
            "l.weight", {"exp_avg": "o.m", "exp_avg_sq": "o.v", "step": "o.t"}, {"betas": (0.9, 0.99), "eps": 1e-8}
        ),
        OptimizerGroup("k.weight", {"exp_avg_sq_row": "o.row", "exp_avg_sq_col": "o.col"}, {"step": 3}),
    )
    made = plan_from(memory_checkpoint(tensors, optimizer=groups), {"l.weight": Placement(Role.LINEAR, 5)})
    adam, adafactor = made.blocks
    assert (adam.site.name, adam.site.layer, adam.facts["kind"]) == ("l.weight#optimizer", 5, "adam")
    assert adam.members == {
        Role.OPTIMIZER_M: ("o.m",),
        Role.OPTIMIZER_V: ("o.v",),
        Role.OPTIMIZER_STEP: ("o.t",),
    }
    assert (adam.facts["betas"], adam.facts["eps"]) == ((0.9, 0.99), 1e-8)
    assert (adafactor.facts["kind"], adafactor.facts["step"]) == ("adafactor", 3)
    (name,) = adafactor.members[Role.OPTIMIZER_V]
    second = next(one for one in made.weights if one.site.name == name).build(tensors)
    # the expanded moment has the stored row means: r cᵀ / mean(r) averages to c over the rows
    torch.testing.assert_close(second.tensor.mean(0), column, rtol=1e-6, atol=0)
    torch.testing.assert_close(second.tensor.sum(1) / second.tensor.sum(), row / row.sum(), rtol=1e-6, atol=0)
    assert next(site for site in made.sites if site.name == "o.v").role is Role.OPTIMIZER_V


def test_posterior_pairs():
    tensors = {"l.weight_mu": (3, 4), "l.weight_rho": (3, 4), "l.bias_mu": (3,), "l.bias_rho": (3,)}
    placements = {
        name: Placement(Role.POSTERIOR_MU if name.endswith("mu") else Role.POSTERIOR_SIGMA, block="l")
        for name in tensors
    }
    found = blocks(tensors, placements)
    assert found["l.bias_mu#posterior"].members == {
        Role.POSTERIOR_MU: ("l.bias_mu",),
        Role.POSTERIOR_SIGMA: ("l.bias_rho",),
    }
    assert len(found) == 2


def test_blocks_stand_in_the_order_of_the_source():
    module = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False
    )
    tensors = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    made = plan(memory_checkpoint(tensors))
    order = list(tensors)
    first = [
        min(order.index(name.partition("#")[0]) for names in block.members.values() for name in names)
        for block in made.blocks
    ]
    assert first == sorted(first)
    kinds = [block.site.role.kind for block in made.blocks if block.site.layer == 1]
    assert kinds.count("attention") == kinds.count("mlp") == 1
    assert kinds.count("norm") == 2
    assert math.prod(made.weights[0].site.shape) == 64
