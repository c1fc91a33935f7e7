"""What chosen names of every family mean, written down from the models' own forward passes."""

from collapse_cli.core.naming import Placement
from collapse_cli.core.site import Role

__all__ = ["EXPECTED"]

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
        f"{L}.input_layernorm.weight": P(Role.NORM_GAIN, layer=1, block=f"{L}.input_layernorm", feeds=f"{L}.self_attn"),
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
        f"{L}.mlp.gate_up_proj.weight": P(Role.MLP_GATE, layer=1, block=f"{L}.mlp", fused=(Role.MLP_GATE, Role.MLP_IN)),
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
        f"{L}.mlp.experts.10.up_proj.weight_scale_inv": P(Role.SCALE, layer=1, block=f"{L}.mlp.experts.10.up_proj"),
    },
    "gpt2": {
        "transformer.wpe.weight": P(Role.POSITION, block="transformer.wpe"),
        "transformer.h.1.attn.c_attn.weight": P(Q, layer=1, block="transformer.h.1.attn", layout="in_out", fused=QKV),
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
        "model.decoder.layers.1.encoder_attn.k_proj.weight": P(K, layer=1, block="model.decoder.layers.1.encoder_attn"),
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
        "text_model.encoder.layers.1.mlp.fc1.weight": P(Role.MLP_IN, layer=1, block="text_model.encoder.layers.1.mlp"),
        "logit_scale": P(Role.OTHER),
        "visual_projection.weight": P(Role.LINEAR),
    },
    "openai_clip": {
        "visual.transformer.resblocks.1.attn.in_proj_weight": P(
            Q, layer=1, block="visual.transformer.resblocks.1.attn", fused=QKV
        ),
        "transformer.resblocks.1.mlp.c_proj.weight": P(Role.MLP_OUT, layer=1, block="transformer.resblocks.1.mlp"),
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
        f"{UNET}.ff.net.0.proj.weight": P(Role.MLP_IN, layer=1, block=f"{UNET}.ff", fused=(Role.MLP_IN, Role.MLP_GATE)),
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
