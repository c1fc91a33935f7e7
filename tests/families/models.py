"""Families that transformers can build: class, configuration class and its arguments, at small width."""

__all__ = ["MODELS"]

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
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "vocab_size": 128,
    "n_positions": 16,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_MOE = {"num_experts": 4, "moe_intermediate_size": 24, "num_experts_per_tok": 2}
_SEQ2SEQ = {
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "vocab_size": 128,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": None,
}
_MLA = {
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "qk_nope_head_dim": 8,
    "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4, "vocab_size": 128}
_CLIP = {
    "text_config": _WIDTHS,
    "vision_config": {**_WIDTHS, "image_size": 32, "patch_size": 8},
    "projection_dim": 16,
}
_FALCON = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 128}
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
    "llama4": (
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        _WIDTHS | {"num_local_experts": 4, "intermediate_size_mlp": 48},
    ),
    "deepseek_v3": ("DeepseekV3ForCausalLM", "DeepseekV3Config", _WIDTHS | _MLA),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT),
    "gptj": ("GPTJForCausalLM", "GPTJConfig", _GPT | {"rotary_dim": 4}),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _WIDTHS),
    "bloom": ("BloomForCausalLM", "BloomConfig", {"hidden_size": 32, "n_layer": 3, "n_head": 4, "vocab_size": 128}),
    "falcon": ("FalconForCausalLM", "FalconConfig", _FALCON),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        _WIDTHS | {"ffn_dim": 48, "max_position_embeddings": 16, "word_embed_proj_dim": 32},
    ),
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
    "resnet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 1]},
    ),
    "convnext": (
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]},
    ),
    "swin": (
        "SwinForImageClassification",
        "SwinConfig",
        {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "image_size": 32},
    ),
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 128, "eos_token_id": 0},
    ),
}
