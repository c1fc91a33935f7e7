"""Placements against the real names: transformers' own models on the meta device, and stored lists of public layouts."""

from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse_cli.core.naming import Placement, place
from collapse_cli.core.site import Role, Site

LISTS = Path(__file__).parent.parent / "families"
DTYPES = {"torch.float32": "F32", "torch.bfloat16": "BF16", "torch.int64": "I64", "torch.bool": "BOOL"}

_WIDTHS = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_GPT = {
    **{"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 128, "n_positions": 16},
    **{"bos_token_id": 0, "eos_token_id": 0},
}
_MOE = {"num_experts": 4, "moe_intermediate_size": 24, "num_experts_per_tok": 2}
_SEQ2SEQ = {
    **{"d_model": 32, "encoder_layers": 3, "decoder_layers": 3, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": 128, "pad_token_id": 0},
    **{"bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0, "forced_eos_token_id": None},
}
_MLA = {
    **{"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    **{"q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "qk_nope_head_dim": 8},
    **{"num_key_value_heads": 4, "first_k_dense_replace": 1},
}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4, "vocab_size": 128}
_CLIP = {
    "text_config": _WIDTHS,
    "vision_config": {**_WIDTHS, "image_size": 32, "patch_size": 8},
    "projection_dim": 16,
}
_DISTIL = {"dim": 32, "hidden_dim": 48, "n_layers": 3, "n_heads": 4, "vocab_size": 128}

#: class, configuration class, its arguments
MODELS = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _WIDTHS),
    "mistral": ("MistralForCausalLM", "MistralConfig", _WIDTHS),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _WIDTHS),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _WIDTHS),
    "qwen2_moe": ("Qwen2MoeForCausalLM", "Qwen2MoeConfig", _WIDTHS | _MOE | {"shared_expert_intermediate_size": 24}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", _WIDTHS),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", _WIDTHS),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _WIDTHS),
    "mixtral_stacked": ("MixtralForCausalLM", "MixtralConfig", _WIDTHS | {"num_local_experts": 4}),
    "gpt_oss": ("GptOssForCausalLM", "GptOssConfig", _WIDTHS | {"num_local_experts": 4}),
    "llama4": ("Llama4ForCausalLM", "Llama4TextConfig", _WIDTHS | {"num_local_experts": 4, "intermediate_size_mlp": 48}),
    "deepseek_v3": ("DeepseekV3ForCausalLM", "DeepseekV3Config", _WIDTHS | _MLA),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT),
    "gptj": ("GPTJForCausalLM", "GPTJConfig", _GPT | {"rotary_dim": 4}),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _WIDTHS),
    "bloom": ("BloomForCausalLM", "BloomConfig", {"hidden_size": 32, "n_layer": 3, "n_head": 4, "vocab_size": 128}),
    "falcon": ("FalconForCausalLM", "FalconConfig", _WIDTHS | {"num_kv_heads": 1}),
    "opt": ("OPTForCausalLM", "OPTConfig", _WIDTHS | {"ffn_dim": 48, "max_position_embeddings": 16, "word_embed_proj_dim": 32}),
    "bert": ("BertForMaskedLM", "BertConfig", _WIDTHS),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", _WIDTHS),
    "distilbert": ("DistilBertForSequenceClassification", "DistilBertConfig", _DISTIL),
    "t5": ("T5ForConditionalGeneration", "T5Config", _T5),
    "t5_gated": ("T5ForConditionalGeneration", "T5Config", _T5 | {"feed_forward_proj": "gated-gelu"}),
    "bart": ("BartForConditionalGeneration", "BartConfig", _SEQ2SEQ),
    "whisper": ("WhisperForConditionalGeneration", "WhisperConfig", _SEQ2SEQ),
    "vit": ("ViTForImageClassification", "ViTConfig", _WIDTHS | {"image_size": 32, "patch_size": 8, "num_labels": 5}),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", _WIDTHS | {"image_size": 28, "num_labels": 5}),
    "clip": ("CLIPModel", "CLIPConfig", _CLIP),
    "resnet": ("ResNetForImageClassification", "ResNetConfig", {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 1]}),
    "convnext": ("ConvNextForImageClassification", "ConvNextConfig", {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}),
    "swin": ("SwinForImageClassification", "SwinConfig", {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "image_size": 32}),
    "mamba": ("MambaForCausalLM", "MambaConfig", {"hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 128, "eos_token_id": 0}),
}
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
    return tuple(Site(name, () if shape == "-" else tuple(map(int, shape.split("x"))), dtype) for name, dtype, shape in rows)


def placed(family: str, **config: object) -> dict[str, Placement]:
    return place(sites_of(family), config)


Q, K, V, O = Role.ATTENTION_Q, Role.ATTENTION_K, Role.ATTENTION_V, Role.ATTENTION_O  # noqa: E741
QKV = (Q, K, V)
P = Placement
L = "model.layers.1"
UNET = "down_blocks.0.attentions.1.transformer_blocks.0"

#: What each chosen name means, written down from the models' own forward passes.
EXPECTED: dict[str, dict[str, Placement]] = {
    "llama": {
        "model.embed_tokens.weight": P(Role.EMBEDDING, block="model.embed_tokens"),
        f"{L}.self_attn.q_proj.weight": P(Q, layer=1, block=f"{L}.self_attn"),
        f"{L}.self_attn.o_proj.weight": P(O, layer=1, block=f"{L}.self_attn"),
        f"{L}.mlp.gate_proj.weight": P(Role.MLP_GATE, layer=1, block=f"{L}.mlp"),
        f"{L}.mlp.up_proj.weight": P(Role.MLP_IN, layer=1, block=f"{L}.mlp"),
        f"{L}.mlp.down_proj.weight": P(Role.MLP_OUT, layer=1, block=f"{L}.mlp"),
        f"{L}.input_layernorm.weight": P(
            Role.NORM_GAIN, layer=1, block=f"{L}.input_layernorm", feeds=f"{L}.self_attn"
        ),
        f"{L}.post_attention_layernorm.weight": P(
            Role.NORM_GAIN, layer=1, block=f"{L}.post_attention_layernorm", feeds=f"{L}.mlp"
        ),
        "model.norm.weight": P(Role.NORM_GAIN, block="model.norm"),
        "lm_head.weight": P(Role.HEAD, block="lm_head"),
    },
    "qwen2": {f"{L}.self_attn.q_proj.bias": P(Role.ATTENTION_BIAS, layer=1, block=f"{L}.self_attn")},
    "qwen3": {f"{L}.self_attn.q_norm.weight": P(Role.ATTENTION_QK_NORM, layer=1, block=f"{L}.self_attn")},
    "gemma2": {
        f"{L}.post_attention_layernorm.weight": P(
            Role.NORM_GAIN, layer=1, block=f"{L}.post_attention_layernorm", norm_offset=1.0
        ),
        f"{L}.pre_feedforward_layernorm.weight": P(
            Role.NORM_GAIN, layer=1, block=f"{L}.pre_feedforward_layernorm", feeds=f"{L}.mlp", norm_offset=1.0
        ),
        "model.norm.weight": P(Role.NORM_GAIN, block="model.norm", norm_offset=1.0),
    },
    "phi3": {
        f"{L}.self_attn.qkv_proj.weight": P(Q, layer=1, block=f"{L}.self_attn", fused=QKV),
        f"{L}.mlp.gate_up_proj.weight": P(
            Role.MLP_GATE, layer=1, block=f"{L}.mlp", fused=(Role.MLP_GATE, Role.MLP_IN)
        ),
    },
    "mixtral_stacked": {
        f"{L}.mlp.gate.weight": P(Role.ROUTER, layer=1, block=f"{L}.mlp"),
        f"{L}.mlp.experts.gate_up_proj": P(
            Role.EXPERT_GATE,
            layer=1,
            block=f"{L}.mlp.experts",
            fused=(Role.EXPERT_GATE, Role.EXPERT_IN),
            stacked=True,
        ),
        f"{L}.mlp.experts.down_proj": P(Role.EXPERT_OUT, layer=1, block=f"{L}.mlp.experts", stacked=True),
    },
    "mixtral": {
        f"{L}.block_sparse_moe.gate.weight": P(Role.ROUTER, layer=1, block=f"{L}.block_sparse_moe"),
        f"{L}.block_sparse_moe.experts.11.w1.weight": P(
            Role.EXPERT_GATE, layer=1, block=f"{L}.block_sparse_moe.experts", index=11
        ),
        f"{L}.block_sparse_moe.experts.0.w3.weight": P(
            Role.EXPERT_IN, layer=1, block=f"{L}.block_sparse_moe.experts", index=0
        ),
        f"{L}.block_sparse_moe.experts.0.w2.weight": P(
            Role.EXPERT_OUT, layer=1, block=f"{L}.block_sparse_moe.experts", index=0
        ),
        f"{L}.post_attention_layernorm.weight": P(
            Role.NORM_GAIN, layer=1, block=f"{L}.post_attention_layernorm", feeds=f"{L}.block_sparse_moe"
        ),
    },
    "gpt_oss": {
        f"{L}.mlp.experts.gate_up_proj": P(
            Role.EXPERT_GATE,
            layer=1,
            block=f"{L}.mlp.experts",
            fused=(Role.EXPERT_GATE, Role.EXPERT_IN),
            fused_order="interleaved",
            layout="in_out",
            stacked=True,
        ),
        f"{L}.mlp.experts.gate_up_proj_bias": P(Role.EXPERT_BIAS, layer=1, block=f"{L}.mlp.experts", stacked=True),
        f"{L}.mlp.router.bias": P(Role.ROUTER_BIAS, layer=1, block=f"{L}.mlp"),
    },
    "llama4": {
        f"{L}.feed_forward.experts.down_proj": P(
            Role.EXPERT_OUT, layer=1, block=f"{L}.feed_forward.experts", layout="in_out", stacked=True
        ),
        f"{L}.feed_forward.experts.gate_up_proj": P(
            Role.EXPERT_GATE,
            layer=1,
            block=f"{L}.feed_forward.experts",
            fused=(Role.EXPERT_GATE, Role.EXPERT_IN),
            layout="in_out",
            stacked=True,
        ),
    },
    "deepseek_v3": {
        f"{L}.self_attn.kv_b_proj.weight": P(Role.LINEAR, layer=1, block=f"{L}.self_attn"),
        f"{L}.self_attn.o_proj.weight": P(O, layer=1, block=f"{L}.self_attn"),
        f"{L}.mlp.gate.e_score_correction_bias": P(Role.ROUTER_BIAS, layer=1, block=f"{L}.mlp"),
        f"{L}.mlp.shared_experts.up_proj.weight": P(Role.MLP_IN, layer=1, block=f"{L}.mlp.shared_experts"),
        "model.layers.0.mlp.up_proj.weight": P(Role.MLP_IN, layer=0, block="model.layers.0.mlp"),
    },
    "deepseek_v3_fp8": {
        f"{L}.mlp.experts.10.up_proj.weight": P(Role.EXPERT_IN, layer=1, block=f"{L}.mlp.experts", index=10),
        f"{L}.mlp.experts.10.up_proj.weight_scale_inv": P(
            Role.SCALE, layer=1, block=f"{L}.mlp.experts.10.up_proj"
        ),
    },
    "gpt2": {
        "transformer.wpe.weight": P(Role.POSITION, block="transformer.wpe"),
        "transformer.h.1.attn.c_attn.weight": P(
            Q, layer=1, block="transformer.h.1.attn", layout="in_out", fused=QKV
        ),
        "transformer.h.1.mlp.c_proj.weight": P(Role.MLP_OUT, layer=1, block="transformer.h.1.mlp", layout="in_out"),
        "transformer.h.1.ln_2.weight": P(
            Role.NORM_GAIN, layer=1, block="transformer.h.1.ln_2", feeds="transformer.h.1.mlp"
        ),
    },
    "gpt2_hub": {
        "h.1.attn.bias": P(Role.MASK, layer=1, block="h.1.attn"),
        "h.1.attn.masked_bias": P(Role.MASK, layer=1, block="h.1.attn"),
        "h.1.attn.c_attn.bias": P(Role.ATTENTION_BIAS, layer=1, block="h.1.attn", layout="in_out", fused=QKV),
        "wte.weight": P(Role.EMBEDDING, block="wte"),
    },
    "nanogpt": {
        "transformer.h.1.attn.c_attn.weight": P(Q, layer=1, block="transformer.h.1.attn", fused=QKV),
        "transformer.h.1.attn.c_proj.weight": P(O, layer=1, block="transformer.h.1.attn"),
    },
    "pythia": {
        "gpt_neox.layers.1.attention.query_key_value.weight": P(
            Q, layer=1, block="gpt_neox.layers.1.attention", fused=QKV, fused_order="by_head"
        ),
        "gpt_neox.layers.1.attention.bias": P(Role.MASK, layer=1, block="gpt_neox.layers.1.attention"),
        "gpt_neox.layers.1.attention.rotary_emb.inv_freq": P(
            Role.BUFFER, layer=1, block="gpt_neox.layers.1.attention.rotary_emb"
        ),
        "embed_out.weight": P(Role.HEAD, block="embed_out"),
    },
    "bloom": {
        "transformer.h.1.self_attention.query_key_value.weight": P(
            Q, layer=1, block="transformer.h.1.self_attention", fused=QKV, fused_order="by_head"
        ),
        "transformer.word_embeddings.weight": P(Role.EMBEDDING, block="transformer.word_embeddings"),
    },
    "opt": {
        "model.decoder.layers.1.fc1.weight": P(Role.MLP_IN, layer=1, block="model.decoder.layers.1"),
        "model.decoder.layers.1.final_layer_norm.weight": P(
            Role.NORM_GAIN,
            layer=1,
            block="model.decoder.layers.1.final_layer_norm",
            feeds="model.decoder.layers.1",
        ),
        "model.decoder.embed_positions.weight": P(Role.POSITION, block="model.decoder.embed_positions"),
    },
    "bart": {
        "model.encoder.layers.1.final_layer_norm.weight": P(
            Role.NORM_GAIN, layer=1, block="model.encoder.layers.1.final_layer_norm"
        ),
    },
    "whisper": {
        "proj_out.weight": P(Role.HEAD, block="proj_out"),
        "model.decoder.layers.1.encoder_attn.k_proj.weight": P(
            K, layer=1, block="model.decoder.layers.1.encoder_attn"
        ),
        "model.encoder.conv1.weight": P(Role.CONV, block="model.encoder"),
    },
    "bert": {
        "bert.encoder.layer.1.attention.self.query.weight": P(Q, layer=1, block="bert.encoder.layer.1.attention"),
        "bert.encoder.layer.1.attention.output.dense.weight": P(O, layer=1, block="bert.encoder.layer.1.attention"),
        "bert.encoder.layer.1.intermediate.dense.weight": P(Role.MLP_IN, layer=1, block="bert.encoder.layer.1"),
        "bert.encoder.layer.1.output.dense.weight": P(Role.MLP_OUT, layer=1, block="bert.encoder.layer.1"),
        "bert.encoder.layer.1.attention.output.LayerNorm.weight": P(
            Role.NORM_GAIN, layer=1, block="bert.encoder.layer.1.attention.output.LayerNorm"
        ),
        "cls.predictions.decoder.weight": P(Role.HEAD, block="cls.predictions.decoder"),
        "cls.predictions.transform.dense.weight": P(Role.LINEAR, block="cls.predictions.transform"),
    },
    "roberta": {
        "classifier.dense.weight": P(Role.LINEAR, block="classifier"),
        "classifier.out_proj.weight": P(Role.HEAD, block="classifier.out_proj"),
    },
    "distilbert": {
        "distilbert.transformer.layer.1.ffn.lin2.weight": P(
            Role.MLP_OUT, layer=1, block="distilbert.transformer.layer.1.ffn"
        ),
        "pre_classifier.weight": P(Role.LINEAR),
        "classifier.bias": P(Role.HEAD_BIAS, block="classifier"),
    },
    "t5_gated": {
        "decoder.block.1.layer.1.EncDecAttention.q.weight": P(
            Q, layer=1, block="decoder.block.1.layer.1.EncDecAttention"
        ),
        "encoder.block.1.layer.1.DenseReluDense.wi_0.weight": P(
            Role.MLP_GATE, layer=1, block="encoder.block.1.layer.1.DenseReluDense"
        ),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": P(
            Role.POSITION, layer=0, block="encoder.block.0.layer.0.SelfAttention"
        ),
        "encoder.block.1.layer.0.layer_norm.weight": P(
            Role.NORM_GAIN,
            layer=1,
            block="encoder.block.1.layer.0.layer_norm",
            feeds="encoder.block.1.layer.0.SelfAttention",
        ),
        "shared.weight": P(Role.EMBEDDING, block="shared"),
    },
    "timm_vit": {
        "blocks.1.attn.qkv.weight": P(Q, layer=1, block="blocks.1.attn", fused=QKV),
        "blocks.1.ls1.gamma": P(Role.LAYER_SCALE, layer=1, block="blocks.1.ls1"),
        "blocks.1.norm1.weight": P(Role.NORM_GAIN, layer=1, block="blocks.1.norm1", feeds="blocks.1.attn"),
        "cls_token": P(Role.EMBEDDING, block="cls_token"),
        "pos_embed": P(Role.POSITION, block="pos_embed"),
        "patch_embed.proj.weight": P(Role.CONV, block="patch_embed"),
        "head.weight": P(Role.HEAD, block="head"),
    },
    "transformers4_vit": {
        "vit.encoder.layer.1.attention.attention.key.weight": P(K, layer=1, block="vit.encoder.layer.1.attention"),
        "vit.encoder.layer.1.layernorm_after.weight": P(
            Role.NORM_GAIN, layer=1, block="vit.encoder.layer.1.layernorm_after", feeds="vit.encoder.layer.1"
        ),
    },
    "dinov2": {
        "dinov2.encoder.layer.1.layer_scale1.lambda1": P(
            Role.LAYER_SCALE, layer=1, block="dinov2.encoder.layer.1.layer_scale1"
        ),
        "dinov2.embeddings.position_embeddings": P(Role.POSITION, block="dinov2.embeddings.position_embeddings"),
    },
    "clip": {
        "text_model.encoder.layers.1.mlp.fc1.weight": P(
            Role.MLP_IN, layer=1, block="text_model.encoder.layers.1.mlp"
        ),
        "logit_scale": P(Role.OTHER),
        "visual_projection.weight": P(Role.LINEAR),
    },
    "openai_clip": {
        "visual.transformer.resblocks.1.attn.in_proj_weight": P(
            Q, layer=1, block="visual.transformer.resblocks.1.attn", fused=QKV
        ),
        "transformer.resblocks.1.mlp.c_proj.weight": P(
            Role.MLP_OUT, layer=1, block="transformer.resblocks.1.mlp"
        ),
        "text_projection": P(Role.LINEAR, layout="in_out"),
        "token_embedding.weight": P(Role.EMBEDDING, block="token_embedding"),
    },
    "torchvision_resnet18": {
        "layer1.1.conv2.weight": P(Role.CONV, layer=1, block="layer1.1"),
        "layer2.0.downsample.0.weight": P(Role.CONV, layer=2, block="layer2.0.downsample"),
        "layer2.0.downsample.1.weight": P(Role.NORM_GAIN, layer=2, block="layer2.0.downsample.1"),
        "bn1.running_var": P(Role.NORM_VAR, block="bn1"),
        "bn1.num_batches_tracked": P(Role.NORM_COUNT, block="bn1"),
        "fc.weight": P(Role.HEAD, block="fc"),
    },
    "timm_convnext": {
        "stages.2.blocks.1.mlp.fc1.weight": P(Role.MLP_IN, layer=3, block="stages.2.blocks.1.mlp"),
        "stages.2.blocks.1.gamma": P(Role.LAYER_SCALE, layer=3, block="stages.2.blocks.1"),
        "stages.2.blocks.1.conv_dw.weight": P(Role.CONV, layer=3, block="stages.2.blocks.1"),
        "stages.2.downsample.0.weight": P(Role.NORM_GAIN, layer=2, block="stages.2.downsample.0"),
        "head.fc.weight": P(Role.HEAD, block="head.fc"),
    },
    "convnext": {
        "convnext.encoder.stages.2.layers.1.pwconv2.weight": P(
            Role.MLP_OUT, layer=3, block="convnext.encoder.stages.2.layers.1"
        ),
        "convnext.encoder.stages.2.layers.1.layer_scale_parameter": P(
            Role.LAYER_SCALE, layer=3, block="convnext.encoder.stages.2.layers.1"
        ),
    },
    "diffusers_unet": {
        f"{UNET}.attn2.to_k.weight": P(K, layer=1, block=f"{UNET}.attn2"),
        f"{UNET}.attn1.to_out.0.weight": P(O, layer=1, block=f"{UNET}.attn1"),
        f"{UNET}.ff.net.0.proj.weight": P(
            Role.MLP_IN, layer=1, block=f"{UNET}.ff", fused=(Role.MLP_IN, Role.MLP_GATE)
        ),
        f"{UNET}.norm3.weight": P(Role.NORM_GAIN, layer=1, block=f"{UNET}.norm3", feeds=f"{UNET}.ff"),
        "down_blocks.0.resnets.1.time_emb_proj.weight": P(Role.LINEAR, layer=1, block="down_blocks.0.resnets.1"),
        "mid_block.resnets.1.conv1.weight": P(Role.CONV, layer=6, block="mid_block.resnets.1"),
        "up_blocks.0.resnets.0.conv_shortcut.weight": P(Role.CONV, layer=7, block="up_blocks.0.resnets.0"),
        "time_embedding.linear_1.weight": P(Role.LINEAR, block="time_embedding"),
    },
    "diffusers_vae": {
        "encoder.mid_block.attentions.0.to_out.0.weight": P(O, layer=3, block="encoder.mid_block.attentions.0"),
        "decoder.mid_block.resnets.0.conv1.weight": P(Role.CONV, layer=0, block="decoder.mid_block.resnets.0"),
        "post_quant_conv.weight": P(Role.CONV),
    },
    "mamba": {
        "backbone.layers.1.mixer.A_log": P(Role.SSM_A, layer=1, block="backbone.layers.1.mixer"),
        "backbone.layers.1.mixer.dt_proj.weight": P(Role.SSM_DT, layer=1, block="backbone.layers.1.mixer"),
        "backbone.layers.1.mixer.in_proj.weight": P(Role.LINEAR, layer=1, block="backbone.layers.1.mixer"),
        "backbone.layers.1.norm.weight": P(
            Role.NORM_GAIN, layer=1, block="backbone.layers.1.norm", feeds="backbone.layers.1.mixer"
        ),
        "backbone.embeddings.weight": P(Role.EMBEDDING, block="backbone.embeddings"),
    },
    "simvq": {
        "quantize.embedding.weight": P(Role.CODEBOOK, block="quantize"),
        "quantize.embedding_proj.weight": P(Role.CODEBOOK_PROJECTION, block="quantize"),
    },
    "residual_vq": {
        "quantizer.layers.2._codebook.embed": P(Role.CODEBOOK, block="quantizer.layers.2", index=2),
        "quantizer.layers.2._codebook.cluster_size": P(Role.CODEBOOK_USAGE, block="quantizer.layers.2", index=2),
        "quantizer.layers.2._codebook.embed_avg": P(Role.BUFFER, block="quantizer.layers.2"),
    },
    "peft_lora": {
        "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight": P(
            Role.ADAPTER_A, layer=1, block="base_model.model.model.layers.1.self_attn.q_proj"
        ),
        "base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector": P(
            Role.ADAPTER_SCALE, layer=1, block="base_model.model.model.layers.1.self_attn.q_proj"
        ),
        "base_model.model.model.embed_tokens.lora_embedding_B": P(
            Role.ADAPTER_B, block="base_model.model.model.embed_tokens"
        ),
    },
    "kohya_lora": {
        "lora_te_text_model_encoder_layers_1_self_attn_q_proj.alpha": P(
            Role.ADAPTER_SCALE, layer=1, block="lora_te_text_model_encoder_layers_1_self_attn_q_proj"
        ),
        "lora_te_text_model_encoder_layers_1_self_attn_q_proj.lora_up.weight": P(
            Role.ADAPTER_B, layer=1, block="lora_te_text_model_encoder_layers_1_self_attn_q_proj"
        ),
    },
    "nn_transformer_encoder": {
        "encoder.layers.1.linear1.weight": P(Role.MLP_IN, layer=1, block="encoder.layers.1"),
        "encoder.layers.1.norm1.weight": P(Role.NORM_GAIN, layer=1, block="encoder.layers.1.norm1"),
        "fc.weight": P(Role.HEAD, block="fc"),
    },
    "bayes_mlp": {
        "fc1.weight_mu": P(Role.POSTERIOR_MU, block="fc1"),
        "fc1.weight_rho": P(Role.POSTERIOR_SIGMA, block="fc1"),
        "fc1.bias_rho": P(Role.POSTERIOR_SIGMA, block="fc1.bias"),
        "optimizer.state.17.exp_avg": P(Role.OPTIMIZER_M, block="optimizer.state.17"),
        "optimizer.state.17.exp_avg_sq": P(Role.OPTIMIZER_V, block="optimizer.state.17"),
        "optimizer.state.17.step": P(Role.OPTIMIZER_STEP, block="optimizer.state.17"),
    },
    "lightning_mlp": {
        "model.net.3.weight": P(Role.LINEAR, layer=1, block="model.net"),
        "model.net.1.weight": P(Role.NORM_GAIN, block="model.net.1"),
        "model.net.5.weight": P(Role.HEAD, block="model.net.5"),
        "model.net.5.bias": P(Role.HEAD_BIAS, block="model.net.5"),
        "loss.class_counts": P(Role.CLASS_COUNTS, block="loss"),
    },
    "plain_cnn": {
        "conv2.weight": P(Role.CONV, layer=1),
        "fc1.weight": P(Role.LINEAR, layer=2),
        "fc3.weight": P(Role.HEAD, block="fc3"),
    },
    "autoencoder": {"decoder.2.weight": P(Role.LINEAR, layer=3, block="decoder")},
    "reparametrised": {
        "a.0.weight_v": P(Role.LINEAR, layer=0, block="a"),
        "a.0.weight_g": P(Role.SCALE, layer=0, block="a.0"),
        "a.1.parametrizations.weight.original1": P(Role.CONV, layer=1, block="a"),
        "a.2.weight_orig": P(Role.LINEAR, layer=2, block="a"),
        "a.2.weight_v": P(Role.BUFFER, layer=2, block="a.2"),
        "a.3.parametrizations.weight.original": P(Role.LINEAR, layer=3, block="a"),
        "a.4.weight_mask": P(Role.MASK, block="a.4"),
        "a.5.qweight": P(Role.SCALE, block="a.5"),
    },
    "llama_meta": {
        "layers.1.feed_forward.w2.weight": P(Role.MLP_OUT, layer=1, block="layers.1.feed_forward"),
        "output.weight": P(Role.HEAD, block="output"),
    },
}


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family, expected in EXPECTED.items() for name in expected]
)
def test_a_name_is_placed_where_its_model_uses_it(family: str, name: str) -> None:
    assert placed(family)[name] == EXPECTED[family][name]


#: Parameters that do multiply and have no role: scalars and vectors outside every block.
NO_ROLE = ("sinks", "D", "logit_scale", "final_logits_bias")


@pytest.mark.parametrize("family", ALL)
def test_whatever_multiplies_has_a_role(family: str) -> None:
    for site in sites_of(family):
        if site.name.rpartition(".")[2] not in NO_ROLE:
            assert placed(family)[site.name].role is not Role.OTHER, site.name


#: Families whose layers are not the three that every other one here has.
DEPTHS = {
    **dict.fromkeys(("resnet", "swin"), 3),
    **dict.fromkeys(("convnext", "timm_convnext", "reparametrised"), 5),
    **{"torchvision_resnet18": 8, "diffusers_unet": 11, "diffusers_vae": 5, "peft_lora": 2, "kohya_lora": 2},
    **{"lightning_mlp": 2, "plain_cnn": 4, "autoencoder": 4, "bayes_mlp": 0, "simvq": 4, "residual_vq": 4},
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
        blocks[placement.block] += [part for part in parts if part in (Q, K, V, O)]
        feed_forward[placement.block] += [part for part in parts if part in (Role.MLP_IN, Role.MLP_GATE, Role.MLP_OUT)]
    for block, roles in blocks.items():
        assert not roles or sorted(roles) == sorted((Q, K, V, O)), block
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
    assert roles == [Q, Role.ADAPTER_A, Role.HEAD]
    assert place(sites)[sites[0].name].block == "model.layers.0.self_attn"


def test_an_embedding_has_no_bias_and_an_integer_is_no_weight() -> None:
    sites = [
        *(Site("embed.weight", (64, 8), "F32"), Site("embed.bias", (64,), "F32")),
        *(Site("table.weight", (64, 8), "I64"), Site("text.embedding.weight", (64, 8), "F32")),
    ]
    roles = [placement.role for placement in place(sites).values()]
    assert roles == [Role.LINEAR, Role.LINEAR_BIAS, Role.BUFFER, Role.EMBEDDING]


_WORDS = st.sampled_from(
    ["layers", "0", "17", "weight", "bias", "attn", "self_attn", "q_proj", "experts", "lora_A", "state", "exp_avg", "mlp"]
    + ["", "weight_v", "quantizer", "embed", "stages", "down_blocks", "norm", "parametrizations", "\n", "\x00", "é", "٣"]
    + ["9" * 5000, "a" * 3000, "%s", "../..", "[bold]", "(?P<block>", "codebook", "up", "block", "head", "fc", "gate"]
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
    st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2) | st.just({"model_type": [1]}),
)


@settings(max_examples=300, deadline=None)
@given(sites=st.lists(_SITES, max_size=8, unique_by=lambda site: site.name), config=_CONFIGS)
def test_hostile_names_are_placed_and_never_raise(sites: list[Site], config: dict[str, object]) -> None:
    placements = place(sites, config)
    assert list(placements) == [site.name for site in sites]


def test_a_hundred_thousand_names_take_seconds() -> None:
    from time import process_time

    def expert(layer: int, number: int, part: str) -> Site:
        return Site(f"model.layers.{layer}.mlp.experts.{number}.{part}_proj.weight", (8, 8), "BF16")

    sites = [
        expert(layer, number, part) for layer in range(60) for number in range(256) for part in ("gate", "up", "down")
    ]
    start = process_time()
    placements = place(sites)
    assert process_time() - start < 30  # measured 2 s; a search that is not remembered takes minutes
    assert placements["model.layers.59.mlp.experts.255.down_proj.weight"].index == 255
