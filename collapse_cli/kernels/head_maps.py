"""How many different maps the heads of a layer compute, from their correlations."""

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.spectrum import entropy_rank

__all__ = ["effective_heads"]


def effective_heads(correlations: Float[Tensor, "heads heads"]) -> float:
    """The exponential of the entropy of the eigenvalues of C/H, from 1 (one map) to the number of heads."""
    values = torch.linalg.eigvalsh(0.5 * (correlations + correlations.T)).clamp(min=0.0)
    # eigenvalues that rounding could have made would add their entropy
    return entropy_rank(torch.where(values > 1e-12 * values[-1], values, 0.0))
