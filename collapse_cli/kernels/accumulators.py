"""Sufficient statistics of the rows of a dump: fed batch by batch, mergeable, float64; one door to all of them.

Split the rows anywhere, feed the parts, merge, and it is the whole; an empty accumulator is neutral; the order of the
batches does not matter. Rows with NaN or infinity are counted by `Extremes` and in nothing else. State lies on the
device of the rows, what is read on the CPU.
"""

from collapse_cli.kernels.batches import UNLABELLED, Batch, row_hash
from collapse_cli.kernels.class_moments import ClassMoments
from collapse_cli.kernels.cross_moments import CrossMoments
from collapse_cli.kernels.extremes import Extremes
from collapse_cli.kernels.feature_moments import Moments
from collapse_cli.kernels.folds import Accumulator, Folds
from collapse_cli.kernels.reservoir import Sample

__all__ = [
    "UNLABELLED",
    "Accumulator",
    "Batch",
    "ClassMoments",
    "CrossMoments",
    "Extremes",
    "Folds",
    "Moments",
    "Sample",
    "row_hash",
]
