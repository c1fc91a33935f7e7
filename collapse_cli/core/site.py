"""Where a value is taken: one tensor of a checkpoint or one hook point of a dump."""

from dataclasses import dataclass
from enum import StrEnum
from typing import final

__all__ = ["FLOATING", "Role", "Site"]

#: Floating dtypes by their safetensors names. A tensor of another dtype is never a weight.
FLOATING = frozenset(
    {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"}
    | {"F4", "F6_E2M3", "F6_E3M2"}
)


@final
class Role(StrEnum):
    """What a tensor does in its model. The part before the dot is the kind of block it belongs to."""

    EMBEDDING = "embedding"
    POSITION = "embedding.position"
    HEAD = "head"
    HEAD_BIAS = "head.bias"
    CLASS_COUNTS = "head.class_counts"
    ATTENTION_Q = "attention.q"
    ATTENTION_K = "attention.k"
    ATTENTION_V = "attention.v"
    ATTENTION_O = "attention.o"
    ATTENTION_BIAS = "attention.bias"
    ATTENTION_QK_NORM = "attention.qk_norm"
    MLP_IN = "mlp.in"
    MLP_GATE = "mlp.gate"
    MLP_OUT = "mlp.out"
    MLP_BIAS = "mlp.bias"
    CONV = "conv"
    CONV_BIAS = "conv.bias"
    LINEAR = "linear"
    LINEAR_BIAS = "linear.bias"
    NORM_GAIN = "norm.gain"
    NORM_BIAS = "norm.bias"
    NORM_MEAN = "norm.mean"
    NORM_VAR = "norm.var"
    NORM_COUNT = "norm.count"
    LAYER_SCALE = "norm.layer_scale"
    ROUTER = "router"
    ROUTER_BIAS = "router.bias"
    EXPERT_IN = "expert.in"
    EXPERT_GATE = "expert.gate"
    EXPERT_OUT = "expert.out"
    EXPERT_BIAS = "expert.bias"
    CODEBOOK = "codebook"
    CODEBOOK_PROJECTION = "codebook.projection"
    CODEBOOK_USAGE = "codebook.usage"
    ADAPTER_A = "adapter.a"
    ADAPTER_B = "adapter.b"
    ADAPTER_SCALE = "adapter.scale"
    SSM_A = "ssm.a"
    SSM_B = "ssm.b"
    SSM_C = "ssm.c"
    SSM_DT = "ssm.dt"
    POSTERIOR_MU = "posterior.mu"
    POSTERIOR_SIGMA = "posterior.sigma"
    OPTIMIZER_M = "optimizer.m"
    OPTIMIZER_V = "optimizer.v"
    OPTIMIZER_STEP = "optimizer.step"
    SCALE = "scale"
    MASK = "mask"
    BUFFER = "buffer"
    ACTIVATION = "activation"
    OTHER = "other"

    @property
    def kind(self) -> str:
        """Kind of block: `attention` of `attention.q`."""
        return self.value.partition(".")[0]


@final
@dataclass(frozen=True, slots=True)
class Site:
    """One tensor or hook point.

    `name` is the tensor's own; what is derived from a tensor appends `#` (`…qkv.weight#q`, `…self_attn#head=3`).
    `shape` is the stored shape, for a derived site the effective one. `dtype` is the stored dtype by its safetensors
    name (`F32`, `BF16`, `F8_E4M3`). `layer` counts from 0 along the depth of the model; `None` outside the stack.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layer: int | None = None
    role: Role = Role.OTHER

    @property
    def numel(self) -> int:
        """Number of entries."""
        total = 1
        for side in self.shape:
            total *= side
        return total

    @property
    def is_floating(self) -> bool:
        """Whether the entries are floating-point numbers."""
        return self.dtype in FLOATING
