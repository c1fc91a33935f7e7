"""RankMe of any role from its moments: of a view, of a modality."""

import torch
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.feature_moments import Moments
from collapse_cli.kernels.feature_spectrum import rankme

__all__ = ["rankme_of"]


def rankme_of(moments: Moments) -> float:
    """RankMe of the uncentred rows, from the eigenvalues of XᵀX above what float64 can tell from 0; 0 for zero rows.

    Raises:
        NotConverged: LAPACK gave up.
    """
    gram = moments.uncentred_gram
    try:
        energies = torch.linalg.eigvalsh(gram).flip(0)[: min(moments.count, gram.shape[0])].clamp_min(0.0)
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", where=moments.role, got=str(error)) from error
    floor = gram.shape[0] * torch.finfo(torch.float64).eps * energies[:1]
    return rankme(torch.where(energies > floor, energies, 0.0).sqrt())
