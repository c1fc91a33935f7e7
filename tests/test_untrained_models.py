"""A model as its constructor leaves it is not collapsed: the whole command finds nothing in it, and did look."""

import copy
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from collapse_cli.core.report import Subject
from collapse_cli.runs import ScanOptions, scan

os.environ.setdefault("HF_HUB_OFFLINE", "1")

_TEXT = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "vocab_size": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT = {"n_embd": 96, "n_layer": 2, "n_head": 4, "vocab_size": 256, "n_positions": 64}
_ENDS = {"bos_token_id": 1, "eos_token_id": 2}
_SEQ2SEQ = {
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "vocab_size": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": None,
}
_IMAGE = _TEXT | {"image_size": 32, "patch_size": 4, "num_labels": 10}
_MLA = {
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "q_lora_rank": 32,
    "kv_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "v_head_dim": 24,
    "qk_nope_head_dim": 24,
    "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
}
_ATTENTION = {"qk-spectrum", "head-redundancy", "embedding-table", "effective-rank", "dead-units", "duplicate-units"}
_MIXTURE = {"expert-similarity", "router-weights"}
_SEEN = {"effective-rank", "stable-rank", "dead-units", "normalization-scale"}

#: class, configuration class, its arguments, analyzers that have something to measure, rules that may be broken
PRETRAINED = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _TEXT, _ATTENTION, set()),
    "mistral": ("MistralForCausalLM", "MistralConfig", _TEXT, _ATTENTION, set()),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _TEXT, _ATTENTION, set()),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", _TEXT, _ATTENTION, set()),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _TEXT, _ATTENTION, set()),
    "mixtral": (
        "MixtralForCausalLM",
        "MixtralConfig",
        _TEXT | {"num_local_experts": 4, "intermediate_size": 64},
        _MIXTURE | {"qk-spectrum"},
        set(),
    ),
    "deepseek_v3": ("DeepseekV3ForCausalLM", "DeepseekV3Config", _TEXT | _MLA, _MIXTURE, set()),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT | _ENDS, _ATTENTION, set()),
    "gpt_neox": (
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        {key: value for key, value in _TEXT.items() if key not in {"num_key_value_heads", "head_dim"}},
        _ATTENTION,
        set(),
    ),
    "bloom": (
        "BloomForCausalLM",
        "BloomConfig",
        {"hidden_size": 96, "n_layer": 2, "n_head": 4, "vocab_size": 256},
        _ATTENTION,
        set(),
    ),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        _TEXT | {"ffn_dim": 160, "max_position_embeddings": 64, "word_embed_proj_dim": 96},
        _ATTENTION,
        set(),
    ),
    "bert": ("BertForMaskedLM", "BertConfig", _TEXT, _ATTENTION, set()),
    "distilbert": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"dim": 96, "hidden_dim": 160, "n_layers": 2, "n_heads": 4, "vocab_size": 256},
        _ATTENTION,
        set(),
    ),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"d_model": 96, "d_kv": 24, "d_ff": 160, "num_layers": 2, "num_heads": 4, "vocab_size": 256},
        _ATTENTION,
        set(),
    ),
    "pegasus": (
        "PegasusForConditionalGeneration",
        "PegasusConfig",
        _SEQ2SEQ | {"max_position_embeddings": 256},
        _ATTENTION,
        set(),
    ),
    "whisper": ("WhisperForConditionalGeneration", "WhisperConfig", _SEQ2SEQ, _ATTENTION, set()),
    "vit": ("ViTForImageClassification", "ViTConfig", _IMAGE, {"qk-spectrum", "head-redundancy"}, set()),
    "vitmae": (
        "ViTMAEForPreTraining",
        "ViTMAEConfig",
        _IMAGE
        | {
            "decoder_hidden_size": 64,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 128,
        },
        {"qk-spectrum", "head-redundancy"},
        set(),
    ),
    "dinov2": (
        "Dinov2ForImageClassification",
        "Dinov2Config",
        _TEXT | {"image_size": 28, "num_labels": 5},
        {"qk-spectrum", "head-redundancy"},
        set(),
    ),
    "clip": (
        "CLIPModel",
        "CLIPConfig",
        {"text_config": _TEXT, "vision_config": _TEXT | {"image_size": 32, "patch_size": 8}, "projection_dim": 48},
        _ATTENTION,
        set(),
    ),
    "swin": (
        "SwinForImageClassification",
        "SwinConfig",
        {"embed_dim": 32, "depths": [1, 1], "num_heads": [2, 4], "image_size": 32},
        _SEEN,
        set(),
    ),
    "resnet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [2, 1]},
        _SEEN,
        set(),
    ),
    "convnext": (
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {"hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 1, 1]},
        _SEEN,
        set(),
    ),
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"hidden_size": 96, "num_hidden_layers": 1, "vocab_size": 256, "eos_token_id": 0},
        {"embedding-table", "effective-rank"},
        set(),
    ),
}


def findings(path: Path, expected: set[str], tolerated: set[str]) -> list[tuple[str, str, str]]:
    """What the scan found beside what is tolerated; it must have been complete and have measured what is expected."""
    subject: Subject
    (subject,) = scan([path], options=ScanOptions(device="cpu")).subjects
    assert (subject.status, subject.failures) == ("complete", ())
    assert subject.coverage.read == subject.coverage.wanted
    assert expected - {measurement.analyzer for measurement in subject.measurements} == set()
    return [
        (f.measurement.rule, f.measurement.site, f.message)
        for f in subject.findings
        if f.measurement.rule not in tolerated
    ]


@pytest.mark.parametrize("family", PRETRAINED)
def test_a_family_of_models_as_constructed(family: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    name, configuration, arguments, expected, tolerated = PRETRAINED[family]
    torch.manual_seed(0)
    model = getattr(transformers, name)(getattr(transformers, configuration)(**copy.deepcopy(arguments)))
    # one dtype each keeps it fast; over the table every one is met many times
    dtype = (torch.float32, torch.bfloat16, torch.float16)[list(PRETRAINED).index(family) % 3]
    model.to(dtype).save_pretrained(tmp_path)
    assert findings(tmp_path, expected, tolerated) == []


def _linear(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _initialised(model: nn.Module, initialise: Callable[[torch.Tensor], object]) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            initialise(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def _classifier() -> nn.Module:
    layers = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64)
    return nn.Sequential(
        *layers, nn.Conv2d(64, 64, 3, groups=64), nn.Conv2d(64, 128, 1), nn.Flatten(), nn.Linear(128, 10)
    )


def _autoencoder() -> nn.Module:
    encoder = nn.Sequential(nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.Flatten())
    decoder = nn.Sequential(nn.Linear(2, 256), nn.ReLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1))
    return nn.ModuleDict({"encoder": encoder, "bottleneck": nn.Linear(256, 2), "decoder": decoder})


def _unet() -> nn.Module:
    down = [nn.ModuleDict({"norm": nn.GroupNorm(8, c), "conv": nn.Conv2d(c, 2 * c, 3)}) for c in (32, 64)]
    up = [nn.ModuleDict({"up": nn.ConvTranspose2d(2 * c, c, 2, 2), "conv": nn.Conv2d(2 * c, c, 3)}) for c in (64, 32)]
    return nn.ModuleDict({"inc": nn.Conv2d(3, 32, 3), "down": nn.ModuleList(down), "up": nn.ModuleList(up)})


def _recurrent(cell: Callable[..., nn.Module]) -> nn.Module:
    return nn.ModuleDict({"embedding": nn.Embedding(300, 64), "rnn": cell(64, 96, 2), "fc": nn.Linear(96, 300)})


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(96, 4, 192, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    for parameter in encoder.parameters():  # its layers are deep copies; so its documentation advises
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    return encoder


def _quantizer(*, boxed: bool) -> nn.Module:
    quantizer = nn.Module()
    quantizer.embedding = nn.Embedding(256, 32)
    if boxed:
        nn.init.uniform_(quantizer.embedding.weight, -1 / 256, 1 / 256)
        quantizer.register_buffer("cluster_size", torch.zeros(256))
    return nn.ModuleDict({"encoder": _linear(64, 128, 32), "quantizer": quantizer})


def _sinusoidal() -> nn.Module:
    angles = torch.arange(512.0)[:, None] / 10000 ** (torch.arange(0, 64, 2) / 64)
    model = nn.ModuleDict({"embed": nn.Embedding(200, 64), "head": nn.Linear(64, 200)})
    model.register_buffer("pos_encoding", torch.cat([angles.sin(), angles.cos()], 1))
    model.register_buffer("causal_mask", torch.tril(torch.ones(64, 64)).bool())
    return model


def _masked() -> nn.Module:
    """Convolutions that read the past only: most taps are zero by design."""
    model = nn.Sequential(nn.Conv2d(32, 32, 5, bias=False), nn.Conv2d(32, 64, 3, bias=False))
    for layer in model:
        size = layer.kernel_size[0]
        layer.weight.data[:, :, size // 2 + 1 :] = 0.0
        layer.weight.data[:, :, size // 2, size // 2 :] = 0.0
    return model


PLAIN: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "regression": (lambda: _linear(3, 64, 64, 1), {"effective-rank"}),
    "two_classes": (lambda: nn.Linear(784, 2), {"non-finite"}),
    "orthogonal": (lambda: _initialised(_linear(64, 128, 128, 10), nn.init.orthogonal_), {"conditioning"}),
    "xavier": (lambda: _initialised(_linear(64, 128, 128, 10), nn.init.xavier_uniform_), {"conditioning"}),
    "kaiming": (lambda: _initialised(_classifier(), nn.init.kaiming_uniform_), _SEEN),
    "truncated": (lambda: _initialised(_classifier(), lambda w: nn.init.trunc_normal_(w, std=0.02)), _SEEN),
    "dirac": (lambda: _initialised(nn.Sequential(nn.Conv2d(32, 32, 3)), nn.init.dirac_), {"dead-units"}),
    "classifier": (_classifier, _SEEN),
    "autoencoder": (_autoencoder, {"dead-units"}),
    "unet": (_unet, _SEEN),
    "lstm": (lambda: _recurrent(nn.LSTM), {"embedding-table", "effective-rank"}),
    "gru": (lambda: _recurrent(nn.GRU), {"embedding-table", "effective-rank"}),
    "encoder": (_encoder, {"effective-rank", "normalization-scale"}),
    "recommender": (
        lambda: nn.ModuleDict({"user_embedding": nn.Embedding(400, 16), "item_embedding": nn.Embedding(300, 16)}),
        {"embedding-table"},
    ),
    "factorised": (lambda: _linear(256, 8, 256), {"effective-rank"}),
    "quantizer": (lambda: _quantizer(boxed=False), {"codebook-geometry"}),
    "quantizer_in_its_box": (lambda: _quantizer(boxed=True), {"codebook-geometry"}),
    "sinusoidal": (_sinusoidal, {"random-matrix"}),
    "masked": (_masked, {"dead-units"}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_module_as_constructed(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    build, expected = PLAIN[name]
    torch.manual_seed(0)
    state = build().state_dict()
    tensors = {key: (value.to(dtype) if value.is_floating_point() else value) for key, value in state.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    assert findings(tmp_path / "model.safetensors", expected, set()) == []
