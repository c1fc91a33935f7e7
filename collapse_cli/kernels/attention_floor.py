"""The least entropy that the weights of a head and the size of its tokens allow (Zhai et al. 2023, theorem 3.1)."""

import math

import torch
from torch import Tensor

from collapse_cli.kernels.attention_logits import entropy_floor

__all__ = ["entropy_floors"]


def entropy_floors(query: Tensor, key: Tensor, *, heads: int, largest_tokens: float, keys: int) -> list[float] | str:
    """Per head the floor over log `keys` at σ = ‖W_QᵀW_K‖₂·‖X‖₂²/√d_h, or why there is none.

    `query` and `key` are heads·d_h × D; with fewer keys several heads share one. `largest_tokens` is ‖X‖₂².
    """
    if query.dim() != 2 or key.dim() != 2 or query.shape[1] != key.shape[1] or min(*query.shape, *key.shape) == 0:
        return f"query_weight {tuple(query.shape)} and key_weight {tuple(key.shape)} do not multiply"
    width = query.shape[0] // heads
    if width == 0 or query.shape[0] % heads or key.shape[0] % width or heads % (key.shape[0] // width):
        return f"{query.shape[0]} query rows and {key.shape[0]} key rows do not divide into {heads} heads"
    if keys < 2 or largest_tokens <= 0.0:
        return "no finite tokens, or one key"
    queries = query.to(torch.float64).reshape(heads, width, -1)
    groups = key.to(torch.float64).reshape(-1, width, key.shape[1])
    if not (bool(queries.isfinite().all()) and bool(groups.isfinite().all())):
        return "query_weight or key_weight is not finite"
    shared = groups.repeat_interleave(heads // groups.shape[0], 0)
    # ‖W_QᵀW_K‖ = ‖R_Q·R_Kᵀ‖, R of the QR decompositions of the transposes, at most d_h × d_h
    left, right = torch.linalg.qr(queries.mT).R, torch.linalg.qr(shared.mT).R
    norms = torch.linalg.matrix_norm(left @ right.mT, ord=2)
    scale = largest_tokens / math.sqrt(width)
    return [entropy_floor(norm * scale, keys) for norm in norms.tolist()]
