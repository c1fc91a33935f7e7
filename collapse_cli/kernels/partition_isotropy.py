"""How evenly the partition function of unit rows is over directions."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged

__all__ = ["partition_isotropy"]

#: float64 products of one block: 32 MiB.
_BLOCK_ENTRIES = 1 << 22


def partition_isotropy(
    unit_rows: Float[Tensor, "rows features"], unit_gram: Float[Tensor, "features features"]
) -> float:
    """The ratio min Z(c)/max Z(c), Z(c) = Σexp(cᵀz), over both signs of the eigenvectors c of Σzzᵀ.

    References: Mu & Viswanath, All-but-the-Top (2018).

    Raises:
        NotConverged: LAPACK gave up.
    """
    try:
        _, directions = torch.linalg.eigh(unit_gram)
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", where="features", got=str(error)) from error
    width = unit_gram.shape[0]
    plus = torch.zeros(width, dtype=torch.float64)
    minus = torch.zeros(width, dtype=torch.float64)
    for block in torch.split(unit_rows, max(1, _BLOCK_ENTRIES // max(width, 1))):
        # |cᵀz| ≤ 1: nothing overflows
        products = block @ directions
        plus += products.exp().sum(0)
        minus += products.neg_().exp_().sum(0)
    sums = torch.cat((plus, minus))
    return float(sums.min() / sums.max())
