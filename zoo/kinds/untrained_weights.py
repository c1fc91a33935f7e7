"""Controls: the weights of many architectures as their constructors leave them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.case import Case, Kind, Outcome, View
from zoo.writing import write_weights

_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 200,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_WHOLE_HEADS = {key: value for key, value in _TEXT.items() if key not in {"num_key_value_heads", "head_dim"}}
_GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 200, "n_positions": 64}
_SEQ2SEQ = {
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "vocab_size": 200,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": None,
}
_IMAGE = _WHOLE_HEADS | {"image_size": 32, "patch_size": 4, "num_labels": 10}
_T5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 1, "num_heads": 4, "vocab_size": 200}

#: Classes of transformers, and what their configuration is built from.
_FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _TEXT),
    "mistral": ("MistralForCausalLM", "MistralConfig", _TEXT),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _TEXT),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", _TEXT),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _TEXT),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", _TEXT | {"num_local_experts": 4, "intermediate_size": 64}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT | {"bos_token_id": 1, "eos_token_id": 2}),
    "gpt-neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _WHOLE_HEADS),
    "bert": ("BertForMaskedLM", "BertConfig", _WHOLE_HEADS | {"max_position_embeddings": 64}),
    "distilbert": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4, "vocab_size": 200, "max_position_embeddings": 64},
    ),
    "t5": ("T5ForConditionalGeneration", "T5Config", _T5),
    "whisper": ("WhisperForConditionalGeneration", "WhisperConfig", _SEQ2SEQ),
    "vit": ("ViTForImageClassification", "ViTConfig", _IMAGE),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", _WHOLE_HEADS | {"image_size": 28, "num_labels": 10}),
    "clip": (
        "CLIPModel",
        "CLIPConfig",
        {
            "text_config": _WHOLE_HEADS,
            "vision_config": _WHOLE_HEADS | {"image_size": 32, "patch_size": 8},
            "projection_dim": 48,
        },
    ),
    "swin": (
        "SwinForImageClassification",
        "SwinConfig",
        {"embed_dim": 32, "depths": [1, 1], "num_heads": [2, 4], "image_size": 32},
    ),
    "resnet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [1, 1]},
    ),
    "convnext": (
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {"hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 1, 1]},
    ),
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"hidden_size": 64, "num_hidden_layers": 1, "vocab_size": 200, "eos_token_id": 0},
    ),
}


def _linear(*widths: int) -> nn.Sequential:
    layers = [module for a, b in pairwise(widths) for module in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def _convolutions() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64)),
        *(nn.Conv2d(64, 64, 3, groups=64), nn.Conv2d(64, 128, 1), nn.Flatten(), nn.Linear(128, 10)),
    )


def _autoencoder() -> nn.Module:
    encoder = nn.Sequential(nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.Flatten())
    decoder = nn.Sequential(nn.Linear(2, 256), nn.ReLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1))
    return nn.ModuleDict({"encoder": encoder, "bottleneck": nn.Linear(256, 2), "decoder": decoder})


def _unet() -> nn.Module:
    down = [nn.ModuleDict({"norm": nn.GroupNorm(8, c), "conv": nn.Conv2d(c, 2 * c, 3)}) for c in (16, 32)]
    up = [nn.ModuleDict({"up": nn.ConvTranspose2d(2 * c, c, 2, 2), "conv": nn.Conv2d(2 * c, c, 3)}) for c in (32, 16)]
    return nn.ModuleDict({"inc": nn.Conv2d(3, 16, 3), "down": nn.ModuleList(down), "up": nn.ModuleList(up)})


def _quantizer() -> nn.Module:
    quantizer = nn.Module()
    quantizer.embedding = nn.Embedding(256, 32)
    nn.init.uniform_(quantizer.embedding.weight, -1 / 256, 1 / 256)
    return nn.ModuleDict({"encoder": _linear(64, 128, 32), "quantizer": quantizer, "decoder": _linear(32, 128, 64)})


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    for parameter in encoder.parameters():  # its layers are deep copies; so its documentation advises
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    return encoder


_PLAIN: dict[str, Callable[[], nn.Module]] = {
    "perceptron": lambda: _linear(64, 128, 64, 10),
    "regression": lambda: _linear(3, 64, 64, 1),
    "convolutions": _convolutions,
    "autoencoder": _autoencoder,
    "unet": _unet,
    "vq": _quantizer,
    "lstm": lambda: nn.ModuleDict({"embedding": nn.Embedding(200, 64), "rnn": nn.LSTM(64, 96, 2)}),
    "gru": lambda: nn.ModuleDict({"embedding": nn.Embedding(200, 64), "rnn": nn.GRU(64, 96, 2)}),
    "encoder": _encoder,
    "recommender": lambda: nn.ModuleDict(
        {"user_embedding": nn.Embedding(400, 16), "item_embedding": nn.Embedding(300, 16)}
    ),
}
#: Stored so by seed: a checkpoint comes in any of them.
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """Built and written; nothing is trained, so nothing can have gone wrong but the initialisation."""
    config: dict[str, Any] | None = None
    if case.architecture in _FAMILIES:
        import transformers

        name, configuration, arguments = _FAMILIES[case.architecture]
        model: nn.Module = getattr(transformers, name)(getattr(transformers, configuration)(**copy.deepcopy(arguments)))
        config = model.config.to_dict() | {"architectures": [name]}  # type: ignore[operator,union-attr]
    else:
        model = _PLAIN[case.architecture]()
    if case.data == "kaiming-normal":
        _kaiming_normal(model)
    dtype = _DTYPES[case.seed % 3]
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if (config or {}).get("tie_word_embeddings") else set()
    tensors: dict[str, Tensor] = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in model.state_dict().items()
        if key not in tied
    }
    write_weights(folder / "weights", tensors, _plain(config))
    return {"outcome": 1.0}


def _plain(config: dict[str, Any] | None) -> dict[str, Any] | None:
    if config is None:
        return None
    return {key: value for key, value in config.items() if isinstance(value, int | float | str | list | dict)}


@torch.no_grad()
def _kaiming_normal(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)


KIND = Kind(
    name="untrained-weights",
    title="Weights as constructed",
    cause="None: what constructors draw is not collapsed.",
    architectures=(*_FAMILIES, *_PLAIN),
    data=("as-built", "kaiming-normal"),
    outcome=Outcome("none: never trained", healthy=1.0, mild=0.0, collapsed=0.0),
    views={"weights": View(signs=("*",))},
    make=make,
    is_control=True,
)
