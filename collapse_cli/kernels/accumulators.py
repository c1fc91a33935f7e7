"""Sufficient statistics of the rows of a dump: fed batch by batch, mergeable, float64; one door to all of them.

Split the rows anywhere, feed the parts, merge, and it is the whole; an empty accumulator is neutral; the order of the
batches does not matter. Rows with NaN or infinity are counted by `Extremes` and in nothing else. State lies on the
device of the rows, what is read on the CPU.
"""

from collapse_cli.kernels.attempts import Attempts
from collapse_cli.kernels.attention_marginals import AttentionMarginals
from collapse_cli.kernels.attention_rows import AttentionRows
from collapse_cli.kernels.batches import UNLABELLED, Batch, row_hash
from collapse_cli.kernels.categorical_posterior import CategoricalPosterior
from collapse_cli.kernels.channel_moments import ChannelMoments
from collapse_cli.kernels.class_moments import ClassMoments
from collapse_cli.kernels.counts import Counts
from collapse_cli.kernels.cross_moments import CrossMoments
from collapse_cli.kernels.extremes import Extremes
from collapse_cli.kernels.feature_moments import Moments
from collapse_cli.kernels.folds import Accumulator, Folds
from collapse_cli.kernels.gaussian_posterior import GaussianPosterior
from collapse_cli.kernels.head_gram import HeadGram
from collapse_cli.kernels.length_bins import LengthBins
from collapse_cli.kernels.logit_columns import LogitColumns
from collapse_cli.kernels.logit_rows import LogitRows
from collapse_cli.kernels.nearest_training import NearestTraining
from collapse_cli.kernels.quantiles import Quantiles
from collapse_cli.kernels.reservoir import Sample
from collapse_cli.kernels.soft_assignments import SoftAssignments
from collapse_cli.kernels.softmax_absorption import SoftmaxAbsorption
from collapse_cli.kernels.token_moments import TokenMoments
from collapse_cli.kernels.token_sample import TokenSample
from collapse_cli.kernels.top_entries import TopEntries
from collapse_cli.kernels.unit_activity import UnitActivity

__all__ = [
    "UNLABELLED",
    "Accumulator",
    "Attempts",
    "AttentionMarginals",
    "AttentionRows",
    "Batch",
    "CategoricalPosterior",
    "ChannelMoments",
    "ClassMoments",
    "Counts",
    "CrossMoments",
    "Extremes",
    "Folds",
    "GaussianPosterior",
    "HeadGram",
    "LengthBins",
    "LogitColumns",
    "LogitRows",
    "Moments",
    "NearestTraining",
    "Quantiles",
    "Sample",
    "SoftAssignments",
    "SoftmaxAbsorption",
    "TokenMoments",
    "TokenSample",
    "TopEntries",
    "UnitActivity",
    "row_hash",
]
