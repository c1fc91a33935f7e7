"""Placements against the real names: transformers' own models on the meta device, and lists of public layouts."""

from collections import defaultdict
from functools import cache
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse_cli.core.naming import Placement, place
from collapse_cli.core.site import Role, Site
from tests.families.expected import EXPECTED
from tests.families.models import MODELS

LISTS = Path(__file__).parent.parent / "families"
FOUR = (Role.ATTENTION_Q, Role.ATTENTION_K, Role.ATTENTION_V, Role.ATTENTION_O)
DTYPES = {"torch.float32": "F32", "torch.bfloat16": "BF16", "torch.int64": "I64", "torch.bool": "BOOL"}

STORED = tuple(sorted(path.stem for path in LISTS.glob("*.txt")))
ALL = tuple(MODELS) + STORED


@cache
def sites_of(family: str) -> tuple[Site, ...]:
    return _built(family) if family in MODELS else _listed(family)


def _built(family: str) -> tuple[Site, ...]:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    if not transformers.__version__.startswith("5."):
        pytest.skip("the expected names are those of transformers 5")
    model, config, arguments = MODELS[family]
    if not hasattr(transformers, model):
        pytest.skip(f"this transformers has no {model}")
    with torch.device("meta"):
        state = getattr(transformers, model)(getattr(transformers, config)(**arguments)).state_dict()
    return tuple(Site(name, tuple(tensor.shape), DTYPES[str(tensor.dtype)]) for name, tensor in state.items())


def _listed(family: str) -> tuple[Site, ...]:
    lines = (LISTS / f"{family}.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return tuple(
        Site(name, () if shape == "-" else tuple(map(int, shape.split("x"))), dtype) for name, dtype, shape in rows
    )


def placed(family: str, **config: object) -> dict[str, Placement]:
    return place(sites_of(family), config)


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family, expected in EXPECTED.items() for name in expected]
)
def test_a_name_is_placed_where_its_model_uses_it(family: str, name: str) -> None:
    assert placed(family)[name] == EXPECTED[family][name]


#: Parameters that do multiply and have no role: scalars and vectors outside every block.
NO_ROLE = ("sinks", "D", "logit_scale", "final_logits_bias")


@pytest.mark.parametrize("family", ALL)
def test_whatever_multiplies_has_a_role(family: str) -> None:
    without = [name for name, placement in placed(family).items() if placement.role is Role.OTHER]
    assert [name for name in without if name.rpartition(".")[2] not in NO_ROLE] == []


#: Families whose layers are not the three that every other one here has.
DEPTHS = {
    **dict.fromkeys(("resnet", "swin"), 3),
    **dict.fromkeys(("convnext", "timm_convnext", "reparametrised"), 5),
    "torchvision_resnet18": 8,
    "diffusers_unet": 11,
    "diffusers_vae": 5,
    "peft_lora": 2,
    "kohya_lora": 2,
    "lightning_mlp": 2,
    "plain_cnn": 4,
    "autoencoder": 4,
    "bayes_mlp": 0,
    "simvq": 4,
    "residual_vq": 4,
}


@pytest.mark.parametrize("family", ALL)
def test_layer_numbers_run_through_the_depth(family: str) -> None:
    numbers = {placement.layer for placement in placed(family).values()} - {None}
    assert numbers == set(range(DEPTHS.get(family, 3)))


#: Latent attention stores factors of q, k and v; adapters and quantisers have no attention.
@pytest.mark.parametrize("family", [family for family in ALL if not family.startswith("deepseek")])
def test_an_attention_block_has_one_of_each_projection(family: str) -> None:
    blocks: dict[str, list[Role]] = defaultdict(list)
    feed_forward: dict[str, list[Role]] = defaultdict(list)
    for placement in placed(family).values():
        parts = placement.fused if placement.fused and placement.role in placement.fused else (placement.role,)
        blocks[placement.block] += [part for part in parts if part in FOUR]
        feed_forward[placement.block] += [part for part in parts if part in (Role.MLP_IN, Role.MLP_GATE, Role.MLP_OUT)]
    for block, roles in blocks.items():
        assert not roles or sorted(roles) == sorted(FOUR), block
    for block, roles in feed_forward.items():
        two, three = [Role.MLP_IN, Role.MLP_OUT], [Role.MLP_GATE, Role.MLP_IN, Role.MLP_OUT]
        assert not roles or sorted(roles) in (two, three), block


@pytest.mark.parametrize("family", ALL)
def test_a_norm_feeds_a_block_that_holds_weights(family: str) -> None:
    placements = placed(family)
    blocks = {placement.block for placement in placements.values() if placement.role.kind != "norm"}
    for name, placement in placements.items():
        assert not placement.feeds or any((one + ".").startswith(placement.feeds + ".") for one in blocks), name


def test_gemma_needs_its_model_type() -> None:
    name = "model.layers.0.input_layernorm.weight"
    assert placed("gemma")[name].norm_offset == 0.0
    assert placed("gemma", model_type="gemma")[name].norm_offset == 1.0
    assert placed("gemma2", model_type="llama")[name].norm_offset == 0.0
    inner = placed("gemma", model_type="paligemma", text_config={"model_type": "gemma"})
    assert inner[name].norm_offset == 1.0


def test_falcon_with_one_key_head_is_split_only_when_the_configuration_says_so() -> None:
    name = "transformer.h.0.self_attention.query_key_value.weight"
    assert placed("falcon")[name].fused_order == "unknown"
    assert placed("falcon", model_type="falcon", multi_query=True)[name].fused_order == "by_kind"
    grouped = placed("falcon", model_type="falcon", multi_query=True, new_decoder_architecture=True)
    assert grouped[name].fused_order == "unknown"


def test_a_gelu_in_the_place_of_a_geglu_is_not_split() -> None:
    sites = (Site("ff.net.0.proj.weight", (128, 32), "F32"), Site("ff.net.2.weight", (32, 128), "F32"))
    found = place(sites)["ff.net.0.proj.weight"]
    assert (found.role, found.fused) == (Role.MLP_IN, ())


def test_a_file_sorted_by_name_keeps_the_running_order() -> None:
    sites = [Site(f"net.{number}.weight", (8, 8), "F32") for number in (0, 10, 12, 2, 4)]
    layers = {name: placement.layer for name, placement in place(sites).items()}
    assert layers == {"net.0.weight": 0, "net.2.weight": 1, "net.4.weight": 2, "net.10.weight": 3, "net.12.weight": 4}


def test_wrappers_of_adapters_are_no_part_of_a_path() -> None:
    sites = [
        Site("model.layers.0.self_attn.q_proj.base_layer.weight", (8, 8), "F32"),
        Site("model.layers.0.self_attn.q_proj.lora_A.default.weight", (2, 8), "F32"),
        Site("score.modules_to_save.default.weight", (3, 8), "F32"),
    ]
    roles = [placement.role for placement in place(sites).values()]
    assert roles == [Role.ATTENTION_Q, Role.ADAPTER_A, Role.HEAD]
    assert place(sites)[sites[0].name].block == "model.layers.0.self_attn"


def test_an_embedding_has_no_bias_and_an_integer_is_no_weight() -> None:
    sites = [
        *(Site("embed.weight", (64, 8), "F32"), Site("embed.bias", (64,), "F32")),
        *(Site("table.weight", (64, 8), "I64"), Site("text.embedding.weight", (64, 8), "F32")),
    ]
    roles = [placement.role for placement in place(sites).values()]
    assert roles == [Role.LINEAR, Role.LINEAR_BIAS, Role.BUFFER, Role.EMBEDDING]


_WORDS = st.one_of(
    st.sampled_from(["layers", "0", "17", "weight", "bias", "attn", "self_attn", "q_proj", "experts", "lora_A", "mlp"]),
    st.sampled_from(
        ["state", "exp_avg", "weight_v", "quantizer", "embed", "stages", "down_blocks", "norm", "codebook"]
    ),
    st.sampled_from(["parametrizations", "up", "block", "head", "fc", "gate", "%s", "../..", "[bold]", "(?P<block>"]),
    st.sampled_from(["", "\n", "\x00", "é", "٣", "9" * 5000, "a" * 3000]),
)
_NAMES = st.lists(_WORDS, max_size=9).map(".".join) | st.text(max_size=40)
_SITES = st.builds(
    Site,
    name=_NAMES,
    shape=st.lists(st.integers(0, 6), max_size=5).map(tuple),
    dtype=st.sampled_from(["F32", "I64", "BOOL", "F8_E4M3", "what"]),
)
_CONFIGS = st.dictionaries(
    st.sampled_from(["model_type", "text_config", "multi_query", "x_config"]),
    st.none()
    | st.integers()
    | st.text(max_size=5)
    | st.lists(st.integers(), max_size=2)
    | st.just({"model_type": [1]}),
)


@settings(max_examples=300, deadline=None)
@given(sites=st.lists(_SITES, max_size=8, unique_by=lambda site: site.name), config=_CONFIGS)
def test_hostile_names_are_placed_and_never_raise(sites: list[Site], config: dict[str, object]) -> None:
    placements = place(sites, config)
    assert list(placements) == [site.name for site in sites]


def test_forty_six_thousand_names_take_seconds() -> None:
    def expert(layer: int, number: int, part: str) -> Site:
        return Site(f"model.layers.{layer}.mlp.experts.{number}.{part}_proj.weight", (8, 8), "BF16")

    sites = [
        expert(layer, number, part) for layer in range(60) for number in range(256) for part in ("gate", "up", "down")
    ]
    start = process_time()
    placements = place(sites)
    assert process_time() - start < 30  # measured 2 s; work that is quadratic in the names takes minutes
    assert placements["model.layers.59.mlp.experts.255.down_proj.weight"].index == 255
