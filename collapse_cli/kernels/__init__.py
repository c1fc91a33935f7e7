"""Mathematics on one site; never an analyzer, a file or a limit.

The submodules import torch, so they are loaded when an attribute of them is first asked for (SPEC 1): an analyzer
writes `kernels.spectrum.singular_values(weight)` and still imports without torch.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from collapse_cli.kernels import (
        accumulators,
        assignment,
        attention_logits,
        batches,
        class_geometry,
        codebooks,
        distribution,
        embedding_rows,
        feature_spectrum,
        frames,
        isotropy,
        low_rank,
        moments,
        neighbours,
        normality,
        power_law,
        precision,
        random_matrix,
        rank_correlation,
        similarity,
        spectrum,
        strength,
        views,
        words,
    )

_SUBMODULES = [
    "accumulators",
    "assignment",
    "attention_logits",
    "batches",
    "class_geometry",
    "codebooks",
    "distribution",
    "embedding_rows",
    "feature_spectrum",
    "frames",
    "isotropy",
    "low_rank",
    "moments",
    "neighbours",
    "normality",
    "power_law",
    "precision",
    "random_matrix",
    "rank_correlation",
    "similarity",
    "spectrum",
    "strength",
    "views",
    "words",
]

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=_SUBMODULES)
