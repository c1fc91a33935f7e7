"""How model families name their tensors: patterns of module paths, in one table per family. Data only.

A *path* is a tensor's name without its leaf (`…self_attn.q_proj` of `…self_attn.q_proj.weight`), or the whole name of a
bare parameter (`…mlp.experts.gate_up_proj`). The layouts are those of the public checkpoints; every fused order is the
order in which the family's own forward pass splits the tensor.
"""

from dataclasses import dataclass
from typing import Literal, final

from collapse_cli.core.site import Role

__all__ = [
    "BARE_PARAMETERS",
    "EMBEDDING",
    "FAMILIES",
    "FEEDS",
    "HEAD",
    "HEAD_OF_A_PLAIN_MODEL",
    "NORM",
    "PLAIN_GAIN_WITNESSES",
    "POSITION",
    "QUANTISATION",
    "STAGES",
    "UNIT_OFFSET",
    "Family",
    "Feed",
    "Rule",
]

_Q, _K, _V, _O = Role.ATTENTION_Q, Role.ATTENTION_K, Role.ATTENTION_V, Role.ATTENTION_O
_QKV = (_Q, _K, _V)
_IN, _GATE, _OUT = Role.MLP_IN, Role.MLP_GATE, Role.MLP_OUT
_GATED = (_GATE, _IN)
_EXPERT_GATED = (Role.EXPERT_GATE, Role.EXPERT_IN)

#: A numbered layer that holds linear maps directly, so that it is their block.
_LAYER = r"(?:layers?|blocks?|h|encoder_layers?|decoder_layers?)\.\d+"


@final
@dataclass(frozen=True, slots=True)
class Rule:
    """One pattern: modules `tail` inside a block whose path ends in `block` have this role.

    Both are regular expressions; the named groups `block` and `index` of the whole become the fields of that name. An
    empty `tail` means the block is the module itself. `fused` holds when the sibling `halved_by` (relative to the
    block) takes half of what this module gives, or always where `halved_by` is empty. An order of `thirds` stands for
    `by_head` if rows = 3 × columns and for `unknown` otherwise: grouped queries are stored in other ways.
    """

    block: str
    tail: str
    role: Role
    fused: tuple[Role, ...] = ()
    order: Literal["by_kind", "by_head", "interleaved", "unknown", "thirds"] = "by_kind"
    layout: Literal["out_in", "in_out"] = "out_in"
    halved_by: str = ""
    stacked: bool = False
    above: int = 0  # how many components of the matched path lie below the block that is reported


@final
@dataclass(frozen=True, slots=True)
class Family:
    """The rules of one naming tradition; they apply only if some path is a `witness` (empty: always)."""

    name: str
    rules: tuple[Rule, ...]
    witness: str = ""


@final
@dataclass(frozen=True, slots=True)
class Feed:
    """A pre-norm: the norm `norm` scales what its sibling `target` reads.

    `target` and `evidence` are relative to the norm's parent module (`.` is the parent itself, `^` climbs out of the
    numbered layer to the module that holds the stack). All of `evidence` must exist and none of `absent`, because
    post-norm models share names with pre-norm ones.
    """

    norm: str
    target: str
    evidence: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


_MOE_BLOCK = r"(?:mlp|block_sparse_moe|feed_forward|ffn|moe|mixer)"

FAMILIES: tuple[Family, ...] = (
    Family(
        "mixture of experts: Mixtral, DeepSeek, Qwen-MoE, OLMoE, gpt-oss, Llama 4, Granite-MoE, Switch",
        (
            Rule(r"shared_experts?", r"gate_proj|w1", _GATE),
            Rule(r"shared_experts?", r"up_proj|w3", _IN),
            Rule(r"shared_experts?", r"down_proj|w2", _OUT),
            Rule(r"experts", r"(?P<index>\d+)\.(?:w1|gate_proj)", Role.EXPERT_GATE),
            Rule(r"experts", r"(?P<index>\d+)\.(?:w3|up_proj)", Role.EXPERT_IN),
            Rule(r"experts", r"(?P<index>\d+)\.(?:w2|down_proj)", Role.EXPERT_OUT),
            Rule(r"experts", r"expert_(?P<index>\d+)\.wi_0", Role.EXPERT_GATE),
            Rule(r"experts", r"expert_(?P<index>\d+)\.wi(?:_1)?", Role.EXPERT_IN),
            Rule(r"experts", r"expert_(?P<index>\d+)\.wo", Role.EXPERT_OUT),
            Rule(r"experts", r"(?P<index>\d+)\.(?:fc1|0|c_fc|lin1)", Role.EXPERT_IN),
            Rule(r"experts", r"(?P<index>\d+)\.(?:fc2|2|c_proj|lin2)", Role.EXPERT_OUT),
            Rule(r"experts", r"(?P<index>\d+)\.\w+\.(?:fc1|0|c_fc)", Role.EXPERT_IN),
            Rule(r"experts", r"(?P<index>\d+)\.\w+\.(?:fc2|2|c_proj)", Role.EXPERT_OUT),
            Rule(r"experts", r"gate_up_proj", Role.EXPERT_GATE, fused=_EXPERT_GATED, stacked=True),
            Rule(r"experts", r"gate_proj|w1", Role.EXPERT_GATE, stacked=True),
            Rule(r"experts", r"up_proj|w3", Role.EXPERT_IN, stacked=True),
            Rule(r"experts", r"down_proj|w2", Role.EXPERT_OUT, stacked=True),
            Rule(r"block_sparse_moe", r"input_linear", Role.EXPERT_GATE, fused=_EXPERT_GATED, stacked=True),
            Rule(r"block_sparse_moe", r"output_linear", Role.EXPERT_OUT, stacked=True),
            Rule(_MOE_BLOCK, r"shared_expert_gate", Role.LINEAR),
            Rule(_MOE_BLOCK, r"(?:gate|router)\.e_score_correction", Role.ROUTER_BIAS),
            Rule(_MOE_BLOCK, r"gate|gate\.wg|router|router\.layer|router\.classifier|router\.gate", Role.ROUTER),
        ),
        witness=r"(?:.*\.)?(?:experts|block_sparse_moe)(?:\..*)?",
    ),
    Family(
        "multi-head latent attention: DeepSeek-V2, -V3",
        (
            # low-rank factors: the product of two of them is a projection, each alone is not
            Rule(r"self_attn", r"q_a_proj|q_b_proj|kv_a_proj_with_mqa|kv_b_proj", Role.LINEAR),
        ),
        witness=r"(?:.*\.)?self_attn\.kv_a_proj_with_mqa",
    ),
    Family(
        "Llama, Mistral, Qwen, Gemma, Phi-3; OPT, BART, Whisper, CLIP, wav2vec 2.0; ViT, DINOv2 of transformers 5",
        (
            Rule(r"self_attn", r"qkv_proj|W_pack", _Q, fused=_QKV),
            Rule(r"mlp", r"gate_up_proj", _GATE, fused=_GATED),
            Rule(r"self_attn|encoder_attn|cross_attn|attention|attn", r"q_proj", _Q),
            Rule(r"self_attn|encoder_attn|cross_attn|attention|attn", r"k_proj", _K),
            Rule(r"self_attn|encoder_attn|cross_attn|attention|attn", r"v_proj", _V),
            Rule(r"self_attn|encoder_attn|cross_attn|attention|attn", r"o_proj|out_proj", _O),
            Rule(r"mlp|feed_forward", r"gate_proj", _GATE),
            Rule(r"mlp|feed_forward|ffn", r"up_proj", _IN),
            Rule(r"mlp|feed_forward|ffn", r"down_proj", _OUT),
            Rule(r"feed_forward", r"intermediate_dense", _IN),
            Rule(r"feed_forward", r"output_dense", _OUT),
            Rule(r"text_model", r"head", Role.LINEAR),  # SigLIP: a projection of the pooled text
        ),
    ),
    Family(
        "Llama as Meta stores it",
        (
            Rule(r"attention", r"wq", _Q),
            Rule(r"attention", r"wk", _K),
            Rule(r"attention", r"wv", _V),
            Rule(r"attention", r"wo", _O),
            Rule(r"feed_forward", r"w1", _GATE),
            Rule(r"feed_forward", r"w3", _IN),
            Rule(r"feed_forward", r"w2", _OUT),
        ),
    ),
    Family(
        "GPT-2",
        (
            Rule(r"crossattention", r"q_attn", _Q, layout="in_out"),
            Rule(r"crossattention", r"c_attn", _K, fused=(_K, _V), layout="in_out"),
            Rule(r"attn", r"c_attn", _Q, fused=_QKV, layout="in_out"),
            Rule(r"attn|crossattention", r"c_proj", _O, layout="in_out"),
            Rule(r"mlp", r"c_fc", _IN, layout="in_out"),
            Rule(r"mlp", r"c_proj", _OUT, layout="in_out"),
        ),
        witness=r"(?:.*\.)?h\.\d+\.attn\.c_attn",
    ),
    Family(
        "GPT-J",
        (Rule(r"mlp", r"fc_in", _IN), Rule(r"mlp", r"fc_out", _OUT)),
    ),
    Family(
        "GPT-NeoX and Pythia, BLOOM, Falcon, ChatGLM",
        (
            Rule(r"encoder\.layers\.\d+\.self_attention", r"query_key_value", _Q, fused=_QKV),
            Rule(r"attention|self_attention|self_attn", r"query_key_value", _Q, fused=_QKV, order="thirds"),
            Rule(r"attention|self_attention|self_attn", r"dense", _O),
            Rule(r"mlp", r"dense_h_to_4h", _IN, fused=_GATED, halved_by="dense_4h_to_h"),
            Rule(r"mlp", r"dense_4h_to_h", _OUT),
        ),
        witness=r"(?:.*\.)?query_key_value",
    ),
    Family(
        "OPT, BART, Whisper: feed-forward maps lie in the layer",
        (Rule(_LAYER, r"fc1", _IN), Rule(_LAYER, r"fc2", _OUT)),
        witness=rf"(?:.*\.)?{_LAYER}\.(?:self_attn|attn|attention)\..*",
    ),
    Family(
        "BERT, RoBERTa, MiniLM, ViT before transformers 5",
        (
            Rule(r"attention\.(?:self|attention)|crossattention\.self", r"query", _Q, above=1),
            Rule(r"attention\.(?:self|attention)|crossattention\.self", r"key", _K, above=1),
            Rule(r"attention\.(?:self|attention)|crossattention\.self", r"value", _V, above=1),
            Rule(r"attention|crossattention", r"output\.dense", _O),
            Rule(_LAYER, r"intermediate\.dense", _IN),
            Rule(_LAYER, r"output\.dense", _OUT),
        ),
    ),
    Family(
        "DistilBERT",
        (
            Rule(r"attention", r"q_lin", _Q),
            Rule(r"attention", r"k_lin", _K),
            Rule(r"attention", r"v_lin", _V),
            Rule(r"attention", r"out_lin", _O),
            Rule(r"ffn", r"lin1", _IN),
            Rule(r"ffn", r"lin2", _OUT),
        ),
    ),
    Family(
        "T5",
        (
            Rule(r"SelfAttention|EncDecAttention|TransientGlobalSelfAttention", r"q", _Q),
            Rule(r"SelfAttention|EncDecAttention|TransientGlobalSelfAttention", r"k", _K),
            Rule(r"SelfAttention|EncDecAttention|TransientGlobalSelfAttention", r"v", _V),
            Rule(r"SelfAttention|EncDecAttention|TransientGlobalSelfAttention", r"o", _O),
            Rule(r"DenseReluDense|mlp", r"wi_0", _GATE),
            Rule(r"DenseReluDense|mlp", r"wi|wi_1", _IN),
            Rule(r"DenseReluDense|mlp", r"wo", _OUT),
            Rule(r"SelfAttention", r"relative_attention_bias", Role.POSITION),
        ),
    ),
    Family(
        "ConvNeXt",
        (
            Rule(r"layers\.\d+|blocks\.\d+", r"pwconv1", _IN),
            Rule(r"layers\.\d+|blocks\.\d+", r"pwconv2", _OUT),
            Rule(r"features\.\d+\.\d+\.block", r"3", _IN),
            Rule(r"features\.\d+\.\d+\.block", r"5", _OUT),
        ),
        witness=r"(?:.*\.)?(?:dwconv|conv_dw|layer_scale)",
    ),
    Family(
        "diffusers and latent diffusion",
        (
            Rule(r"attn\w*|attentions\.\d+", r"to_q", _Q),
            Rule(r"attn\w*|attentions\.\d+", r"to_k", _K),
            Rule(r"attn\w*|attentions\.\d+", r"to_v", _V),
            Rule(r"attn\w*|attentions\.\d+", r"to_out\.0", _O),
            Rule(r"attn\w*", r"add_[qkv]_proj|to_add_out", Role.LINEAR),  # the second stream of a joint attention
            Rule(r"attentions\.\d+", r"query", _Q),
            Rule(r"attentions\.\d+", r"key", _K),
            Rule(r"attentions\.\d+", r"value", _V),
            Rule(r"attentions\.\d+", r"proj_attn", _O),
            Rule(r"attn_1|attn\.\d+", r"q", _Q),
            Rule(r"attn_1|attn\.\d+", r"k", _K),
            Rule(r"attn_1|attn\.\d+", r"v", _V),
            Rule(r"attn_1|attn\.\d+", r"proj_out", _O),
            Rule(r"ff|ff_context", r"net\.0\.proj", _IN, fused=(_IN, _GATE), halved_by="net.2"),
            Rule(r"ff|ff_context", r"net\.2", _OUT),
        ),
    ),
    Family(
        "timm, DINO, OpenAI CLIP, MPT, ModernBERT, torchvision transformers",
        (
            Rule(r"attn|attention|self_attn", r"qkv|Wqkv|in_proj", _Q, fused=_QKV),
            Rule(r"attn", r"proj|out_proj|Wo|c_proj", _O),
            Rule(r"mlp", r"Wi", _GATE, fused=_GATED, halved_by="Wo"),
            Rule(r"mlp", r"Wo", _OUT),
            Rule(r"mlp", r"fc1_g", _GATE),
            Rule(r"mlp", r"fc1_x", _IN),
            Rule(r"mlp", r"fc1", _IN, fused=_GATED, order="unknown", halved_by="fc2"),
            Rule(r"mlp", r"fc2", _OUT),
            Rule(r"mlp", r"c_fc", _IN),
            Rule(r"mlp", r"c_proj", _OUT),
            Rule(r"mlp", r"w12|weights_in", _GATE, fused=_GATED),
            Rule(r"mlp", r"w3|weights_out", _OUT),
            Rule(r"encoder_layer_\d+\.mlp", r"0|linear_1", _IN),
            Rule(r"encoder_layer_\d+\.mlp", r"3|linear_2", _OUT),
        ),
    ),
    Family(
        "nn.MultiheadAttention and nn.TransformerEncoderLayer",
        (
            Rule(r"self_attn|self_attention|multihead_attn|attention|attn|mha|\w*attn\w*", r"in_proj", _Q, fused=_QKV),
            Rule(r"self_attn|self_attention|multihead_attn|attention|attn|mha|\w*attn\w*", r"out_proj", _O),
            Rule(_LAYER, r"linear1", _IN),
            Rule(_LAYER, r"linear2", _OUT),
        ),
    ),
    Family(
        "lucidrains' transformers",
        (
            Rule(r"layers\.\d+\.\d+(?:\.fn)?", r"to_qkv", _Q, fused=_QKV),
            Rule(r"layers\.\d+\.\d+(?:\.fn)?", r"to_q", _Q),
            Rule(r"layers\.\d+\.\d+(?:\.fn)?", r"to_kv", _K, fused=(_K, _V)),
            Rule(r"layers\.\d+\.\d+(?:\.fn)?", r"to_out(?:\.0)?", _O),
            Rule(r"layers\.\d+\.\d+(?:\.fn)?", r"net\.[01]", _IN),
            Rule(r"layers\.\d+\.\d+(?:\.fn)?", r"net\.[34]", _OUT),
        ),
        witness=r"(?:.*\.)?layers\.\d+\.\d+(?:\.fn)?\.to_qk?v?",
    ),
    Family(
        "Mamba, S4",
        (
            Rule(r"mixer|mamba|ssm", r"in_proj|x_proj|out_proj", Role.LINEAR),
            Rule(r"mixer|mamba|ssm", r"dt_proj|dt", Role.SSM_DT),
        ),
        witness=r"(?:.*\.)?(?:A_log|log_A_real)",
    ),
    Family(
        "vector quantisers: taming, SimVQ, EnCodec, DAC, vector-quantize-pytorch",
        (
            Rule(r"\w*quanti[sz]e\w*|\w*vq\w*", r"embedding_proj", Role.CODEBOOK_PROJECTION),
            Rule(r"\w*quanti[sz]e\w*|\w*vq\w*", r"_?(?:embedding|codebook|embed)", Role.CODEBOOK),
            Rule(
                r"\w*(?:quanti[sz]er?|vq)\w*(?:\.\w+)*?\.(?:layers|quantizers)\.(?P<index>\d+)",
                r"(?:_codebook|codebook)(?:\.embed)?",
                Role.CODEBOOK,
            ),
            Rule(r"\w*(?:quanti[sz]er?|vq)\w*", r"(?:_codebook|codebook)\.(?:embed|weight)", Role.CODEBOOK),
            Rule(r"_?codebook", r"embed", Role.CODEBOOK),
            Rule(r"codebooks\.(?P<index>\d+)", r"", Role.CODEBOOK),
            Rule(r"codebook", r"", Role.CODEBOOK),
        ),
    ),
    Family(
        "attention of other models, by the names of its parts",
        (
            Rule(r"\w*(?:attn|attention|mha)\w*", r"q|query|wq|to_q|linear_q|q_linear", _Q),
            Rule(r"\w*(?:attn|attention|mha)\w*", r"k|key|wk|to_k|linear_k|k_linear", _K),
            Rule(r"\w*(?:attn|attention|mha)\w*", r"v|value|wv|to_v|linear_v|v_linear", _V),
            Rule(r"\w*(?:attn|attention|mha)\w*", r"o|out|wo|to_out|to_out\.0|linear_out|out_linear|q_?kv_out", _O),
            Rule(r"\w*(?:attn|attention|mha)\w*", r"to_qkv|qkv|qkv_proj|wqkv", _Q, fused=_QKV, order="unknown"),
        ),
    ),
)

#: Bare parameters and buffers by their last component (all before it is the block).
BARE_PARAMETERS: tuple[tuple[str, Role], ...] = (
    (
        r"cls_token|class_token|class_embedding|cls_embed|dist_token|mask_token|reg_token|register_tokens?|probe",
        Role.EMBEDDING,
    ),
    (r"storage_tokens|query_tokens|masked_spec_embed|(?:soft_)?prompt_embeddings?|latents", Role.EMBEDDING),
    (
        r"\w*pos(?:ition(?:al)?)?_?emb(?:ed(?:ding)?s?)?|relative_position_bias_table|rel_pos_[hw]|pos_embed\w*",
        Role.POSITION,
    ),
    (r"ls\d?|gamma_?\d?|lambda\d?|lambda_\d|layer_?scale\w*", Role.LAYER_SCALE),
    (r"A_log|log_A_real|A_real|A_imag|Lambda_re|Lambda_im", Role.SSM_A),
    (r"log_dt|inv_dt|log_step", Role.SSM_DT),
    (r"_?(?:ema_)?cluster_size|ema_count|usage|code_usage|code_count", Role.CODEBOOK_USAGE),
    (r"class_counts?|cls_num_list|class_num_list|samples_per_class|num_per_class", Role.CLASS_COUNTS),
    (r"masked_bias|attn_mask|causal_mask|attention_mask|tril|weight_mask|bias_mask|mask", Role.MASK),
    (r"running_mean", Role.NORM_MEAN),
    (r"running_var", Role.NORM_VAR),
    (r"num_batches_tracked", Role.NORM_COUNT),
    (
        r"inv_freq|original_inv_freq|position_ids|token_type_ids|relative_position_index|relative_coords_table",
        Role.BUFFER,
    ),
    (
        r"embed_avg|embedding_avg|_?ema_w|initted|inited|embed_sum|embed_prob|freqs\w*|cos_cached|sin_cached",
        Role.BUFFER,
    ),
    (r"_u|_v|weight_u|weight_epsilon|bias_epsilon|g_idx|quant_map|nested_quant_map|bitsandbytes__\w+", Role.BUFFER),
)

#: What scales or packs a quantised weight, as a leaf beside it (compressed-tensors, GPTQ, AWQ, bitsandbytes, MXFP4).
QUANTISATION = (
    r"weight_scale_inv|weight_scale(?:_\d)?|input_scale|output_scale|[kqv]_scale|scales?|scale_inv|weight_zero_point|zeros"
    r"|qweight|qzeros|weight_packed|weight_shape|absmax|nested_absmax|SCB|\w+_proj_(?:blocks|scales|scale_inv)"
    r"|activation_scale|weight_global_scale|input_global_scale"
)

#: The last component of a norm's path.
NORM = r"\w*(?:norm|layrnorm)\w*|(?:\w+_)?(?:ln|bn|gn)(?:_?\w+|\d+)?|ln_?\w*|bn_?\w*|gn_?\w*"
#: Of an embedding's, and of a table of positions.
EMBEDDING = (
    r"wte|shared|\w*embed(?:ding)?s?|\w*_?emb|embed_tokens|embed_in|tok_\w+|\w+_embeddings?|tok_embeddings|lut|"
    r"token_type_embeddings|embed_tokens_per_layer"
)
POSITION = (
    r"wpe|pos|\w*pos(?:ition(?:al)?s?)?_?emb(?:ed(?:ding)?s?)?|embed_positions?|relative_attention_bias|rel_pos\w*"
)

#: Heads by their path. They never lie inside a numbered layer.
HEAD = (
    (
        r"(?:.*\.)?(?:lm_head(?:\.decoder)?|embed_out|cls\.predictions\.decoder|predictions\.decoder|vocab_projector|score"
        r"|qa_outputs|cls\.seq_relationship|output_layer|generator_lm_head)"
    ),
    (
        r"(?:.*\.)?(?:classifier|heads?|head_dist|(?:mlp|cls|class|classification|linear|prediction|output|policy)_head|"
        r"last_linear|logits|(?!pre_)\w+_classifier)(?:\.(?:out_proj|fc|heads?|linear|last_layer|classifier))?"
    ),
)
#: Names that mean a head only when nothing linear follows them, at the top level of a model.
HEAD_OF_A_PLAIN_MODEL = r"fc|out|output|final|final_layer|linear|readout|fc_out|output_proj|out_proj|predictor|proj_out"

#: How layers nest, outermost first: (pattern, order of the sections). Numbered in depth order over the whole stack.
STAGES: tuple[str, ...] = (
    (
        r"(?P<stack>(?:.*\.)?)(?P<section>down_blocks|mid_block|up_blocks)(?:\.(?P<outer>\d{1,6}))?"
        r"\.(?:resnets|attentions|motion_modules)\.(?P<inner>\d{1,6})\..*"
    ),
    r"(?P<stack>(?:.*\.)?)(?P<section>down_blocks|up_blocks)\.(?P<outer>\d{1,6})\.(?P<after>downsamplers|upsamplers)\..*",
    r"(?P<stack>(?:.*\.)?)(?P<section>input_blocks|output_blocks)\.(?P<outer>\d{1,6})\..*",
    r"(?P<stack>(?:.*\.)?)(?P<section>middle_block)\.(?P<inner>\d{1,6})\..*",
    r"(?P<stack>(?:.*\.)?)(?P<section>down|up)\.(?P<outer>\d{1,6})\.(?:block|attn)\.(?P<inner>\d{1,6})\..*",
    r"(?P<stack>(?:.*\.)?)(?P<section>mid)\.(?:block|attn)_(?P<inner>\d{1,6})\..*",
    r"(?P<stack>(?:.*\.)?stages\.)(?P<outer>\d{1,6})\.(?:layers|blocks)\.(?P<inner>\d{1,6})\..*",
    r"(?P<stack>(?:.*\.)?stages\.)(?P<outer>\d{1,6})\.(?:downsampl\w+)\..*",
    r"(?P<stack>(?:.*\.)?layers\.)(?P<outer>\d{1,6})\.blocks\.(?P<inner>\d{1,6})\..*",
    r"(?P<stack>(?:.*\.)?features\.)(?P<outer>\d{1,6})\.(?P<inner>\d{1,6})\.(?:block|conv)\..*",
    r"(?P<stack>(?:.*\.)?)layer(?P<outer>[1-9])\.(?P<inner>\d{1,6})\..*",
    r"(?P<stack>(?:.*\.)?)denseblock(?P<outer>\d{1,6})\.denselayer(?P<inner>\d{1,6})\..*",
    r"(?P<stack>(?:.*\.)?blocks\.)(?P<outer>\d{1,6})\.(?P<inner>\d{1,6})\..*",
)

FEEDS: tuple[Feed, ...] = (
    # Gemma 2 norms both sides of a sub-layer, so its post_attention_layernorm is a post-norm
    Feed("input_layernorm", r"self_attn|attention|self_attention|mixer"),
    Feed("pre_feedforward_layernorm", r"mlp|feed_forward"),
    Feed(
        "post_attention_layernorm",
        r"mlp|block_sparse_moe|feed_forward|ffn",
        evidence=("input_layernorm",),
        absent=("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    ),
    Feed("ln_attn", r"self_attention"),
    Feed("ln_mlp", r"mlp"),
    Feed("ln_1", r"attn|self_attention"),
    Feed("ln_2", r"mlp"),
    Feed("norm_1", r"attn"),
    Feed("norm_2", r"ffn"),
    Feed("attn_norm", r"attn"),
    Feed("mlp_norm", r"mlp"),
    Feed("attention_norm", r"attention", evidence=("attention.wq",)),
    Feed("ffn_norm", r"feed_forward", evidence=("attention.wq",)),
    Feed("norm1", r"attn", evidence=("attn.qkv", "mlp.fc2"), absent=("attn.cpb_mlp", "attn.Wqkv")),
    Feed("norm2", r"mlp", evidence=("attn.qkv", "mlp.fc2"), absent=("attn.cpb_mlp",)),
    Feed("norm1", r"attn", evidence=("attn.qkv", "mlp.w12"), absent=("attn.cpb_mlp",)),
    Feed("norm2", r"mlp", evidence=("attn.qkv", "mlp.w12"), absent=("attn.cpb_mlp",)),
    Feed("norm1", r"attention", evidence=("layer_scale1",)),
    Feed("norm2", r"mlp", evidence=("layer_scale1",)),
    Feed("norm1", r"attn1"),
    Feed("norm2", r"attn2", evidence=("norm3", "attn1")),
    Feed("norm3", r"ff", evidence=("attn1",)),
    Feed("layernorm_before", r"attention"),
    Feed("layernorm_after", r"mlp"),
    Feed("layernorm_after", r".", evidence=("intermediate.dense",)),
    Feed("layer_norm1", r"self_attn"),
    Feed("layer_norm2", r"mlp"),
    # the stack ends in a norm of its own exactly where the layers are pre-norm (OPT, Whisper, mBART; not BART)
    Feed("self_attn_layer_norm", r"self_attn", evidence=("^.final_layer_norm",)),
    Feed("self_attn_layer_norm", r"self_attn", evidence=("^.layer_norm",)),
    Feed("encoder_attn_layer_norm", r"encoder_attn", evidence=("^.layer_norm",)),
    Feed("final_layer_norm", r".", evidence=("fc1", "^.final_layer_norm")),
    Feed("final_layer_norm", r".", evidence=("fc1", "^.layer_norm")),
    Feed("layer_norm", r"SelfAttention|EncDecAttention|DenseReluDense"),
    Feed("norm", r"mixer"),
    Feed("layernorm", r".", evidence=("pwconv1",)),
    Feed("norm", r"mlp", evidence=("conv_dw",)),
    Feed("norm", r".", evidence=("dwconv", "pwconv1")),
)

#: Without a configuration, norms around the feed-forward tell Gemma 2 and 3, unless one of these tells Gemma 3n or 4,
#: whose gains are stored as they multiply. Gemma 1 has the names of Llama and needs its `model_type`.
PLAIN_GAIN_WITNESSES = frozenset({"layer_scalar", "altup", "laurel", "per_dim_scale", "per_layer_input_gate"})

#: `model_type`s whose RMS norms multiply by 1 + gain (`1.0 + self.weight` in their transformers modelling files, 5.23).
UNIT_OFFSET = frozenset(
    {"gemma", "gemma2", "gemma3", "gemma3_text", "recurrent_gemma", "t5gemma", "t5gemma2", "vaultgemma"}
    | {"nemotron", "qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"}
)
