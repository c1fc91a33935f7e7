"""Which findings have one cause: the rules by which many alarms become one diagnosis. Data, tested on the zoo.

A cause stands before those that it brings about or that are told from it only by what they lack: what is special
first, what any collapse leaves behind last.
"""

from dataclasses import dataclass
from typing import Final, Literal, final

__all__ = ["CAUSES", "Cause"]


@final
@dataclass(frozen=True, slots=True)
class Cause:
    """One kind of collapse: the rules that name it, tellingest first, and those that follow from it.

    Rules are globs over `<analyzer>/<metric>`. `reach` says how far consequences go from the sites of the signs:
    `site` to the same tensor or hook point and to its layer, `onward` to these and to all that comes after them,
    `subject` everywhere.
    """

    kind: str
    title: str
    signs: tuple[str, ...]
    explains: tuple[str, ...] = ()
    reach: Literal["site", "onward", "subject"] = "site"


#: What is left of a weight whose directions or rows are gone.
_WEIGHTS = (
    "effective-rank/*",
    "stable-rank/*",
    "conditioning/*",
    "random-matrix/*",
    "dead-units/*",
    "duplicate-units/*",
    "head-redundancy/*",
    "qk-spectrum/*",
    "weight-outliers/*",
    "dtype-range/*",
    "sparsity/*",
    "normalization-scale/*",
    "head-geometry/*",
    "embedding-table/*",
    "codebook-geometry/*",
    "router-weights/*",
    "expert-similarity/*",
    "lora-spectrum/*",
)
#: What is left of features that no longer tell samples apart.
_FEATURES = (
    "constant-features/*",
    "effective-rank-features/*",
    "rankme/*",
    "isotropy/*",
    "lidar/*",
    "coding-rate/*",
    "alignment-uniformity/*",
    "variance-covariance/*",
    "cross-correlation/*",
    "multi-view/*",
    "predictor-alignment/*",
    "equivariance-collapse/*",
    "variability/*",
    "class-means/*",
    "self-duality/*",
    "nearest-centre/*",
    "depth-collapse/*",
    "subclass-collapse/*",
    "imbalanced-geometry/*",
    "regression-collapse/*",
    "pair-margin/*",
    "group-collapse/*",
    "layer-probe/*",
    "dead-activations/*",
    "activation-density/*",
    "hubness/*",
    "modality-gap/*",
    "cross-modal-alignment/*",
    "layer-redundancy/*",
    "prediction-collapse/*",
    "token-similarity/*",
)

CAUSES: Final = (
    Cause("divergence", "Training diverged", ("non-finite/*",)),
    Cause("incomplete-file", "Parts of the model are missing", ("shard-index/*", "tied-tensors/broken_ties")),
    Cause("codebook-collapse", "Codebook collapse", ("codebook-usage/*", "codebook-geometry/*"), _WEIGHTS),
    Cause("layer-collapse", "A layer was switched off", ("sparsity/*", "stable-rank/root_mean_square"), _WEIGHTS),
    Cause("numeric-underflow", "Weights below the resolution of their dtype", ("dtype-range/*",), _WEIGHTS),
    Cause("expert-collapse", "Experts are copies of each other", ("expert-similarity/*",), ("duplicate-units/*",)),
    Cause(
        "router-collapse",
        "Router collapse",
        ("expert-load/*", "router-confidence/*", "router-weights/*"),
        ("effective-rank/*", "stable-rank/*", "random-matrix/*", "dead-units/*", "duplicate-units/*"),
    ),
    Cause("adapter-collapse", "The adapter learned next to nothing", ("lora-spectrum/*",), _WEIGHTS),
    Cause(
        "head-redundancy", "Attention heads are copies or dead", ("head-redundancy/*", "head-similarity/*"), _WEIGHTS
    ),
    Cause(
        "attention-entropy-collapse",
        "Attention entropy collapse",
        ("attention-entropy/*", "qk-spectrum/*", "attention-information/*"),
        _WEIGHTS,
    ),
    Cause("token-smoothing", "Tokens became copies of each other", ("token-similarity/*",), _FEATURES, "onward"),
    Cause("length-collapse", "Length collapse", ("length-collapse/*",), _FEATURES, "subject"),
    Cause(
        "embedding-degeneration",
        "Embedding table degenerated",
        ("embedding-table/*",),
        ("effective-rank/*", "stable-rank/*", "random-matrix/*", "dead-units/*", "duplicate-units/*"),
    ),
    Cause(
        "posterior-collapse", "Posterior collapse", ("posterior-collapse/*", "mean-versus-sampled/*"), reach="subject"
    ),
    Cause("dead-latents", "Dead latents", ("dead-latents/*", "activation-density/*"), reach="subject"),
    Cause("model-collapse", "Model collapse over generations", ("generation-drift/*",), ("*",), "subject"),
    Cause("memorisation", "Samples are training data", ("memorisation/*",), reach="subject"),
    Cause(
        "condition-collapse",
        "One output per condition",
        ("same-condition-diversity/*",),
        ("sample-diversity/*", "mode-coverage/*", "precision-recall/*", "distribution-distance/*"),
        "subject",
    ),
    Cause(
        "mode-collapse",
        "Mode collapse",
        ("mode-coverage/*", "precision-recall/*", "sample-diversity/*", "distribution-distance/*"),
        reach="subject",
    ),
    Cause("forgetting", "Forgetting", ("forgetting/*",), ("*",), "subject"),
    Cause(
        "prediction-drift", "Predictions drifted to few classes", ("prediction-histogram-drift/*",), ("*",), "subject"
    ),
    Cause("merge-interference", "Merging cancels what was learned", ("merge-interference/*",), reach="subject"),
    Cause("logit-explosion", "Logits ran away", ("logit-scale/*",), ("softmax-collapse/*", "confidence/*"), "subject"),
    Cause(
        "softmax-collapse", "Softmax collapse", ("softmax-collapse/*",), ("logit-scale/*", "confidence/*"), "subject"
    ),
    Cause(
        "prediction-collapse",
        "Prediction collapse",
        ("prediction-collapse/*",),
        (*_FEATURES, "confidence/*"),
        "subject",
    ),
    Cause("cluster-collapse", "Cluster collapse", ("cluster-collapse/*",), _FEATURES, "subject"),
    Cause("overconfidence", "Overconfidence", ("confidence/*",), reach="subject"),
    Cause("dead-activations", "Units that never fire", ("dead-activations/*",), _FEATURES, "onward"),
    Cause(
        "minority-collapse",
        "Minority collapse",
        ("minority-collapse/*", "imbalanced-geometry/*"),
        ("head-geometry/*", "class-means/*", "variability/*", "dead-units/*", "duplicate-units/*", "effective-rank/*"),
        "subject",
    ),
    Cause(
        "rank-collapse",
        "Rank collapse",
        ("effective-rank/*", "stable-rank/*", "random-matrix/spike_energy", "conditioning/*"),
        (*_WEIGHTS, "minority-collapse/*"),
    ),
    Cause(
        "norm-collapse",
        "Normalisation switched channels off",
        ("normalization-scale/*",),
        ("dead-units/*", "sparsity/*"),
    ),
    Cause("dead-units", "Dead units", ("dead-units/*",), _WEIGHTS),
    Cause(
        "duplicate-units",
        "Duplicate units",
        ("duplicate-units/*",),
        ("effective-rank/*", "stable-rank/*", "conditioning/*", "random-matrix/*"),
    ),
    Cause(
        "complete-collapse",
        "Complete collapse of the features",
        (
            "constant-features/*",
            "effective-rank-features/rank_one_over_rounding",
            "alignment-uniformity/uniformity",
            "variance-covariance/vicreg_variance",
            "multi-view/view_uniformity",
            "modality-gap/cross_uniformity",
        ),
        _FEATURES,
        "onward",
    ),
    Cause("modality-gap", "Modality gap", ("modality-gap/*", "cross-modal-alignment/*"), ("hubness/*",), "subject"),
    Cause("group-collapse", "Features tell groups, not classes", ("group-collapse/*",), ("layer-probe/*",), "onward"),
    Cause(
        "equivariance-collapse",
        "Equivariance collapse",
        ("equivariance-collapse/*",),
        ("cross-correlation/*", "variance-covariance/*", "rankme/*"),
        "subject",
    ),
    Cause("class-collapse", "Classes merged", ("variability/merged_classes", "class-means/*"), _FEATURES, "onward"),
    Cause(
        "dimensional-collapse",
        "Dimensional collapse of the features",
        ("rankme/*", "cross-correlation/off_diagonal_excess", "isotropy/*", "multi-view/rank_utilisation", "lidar/*"),
        _FEATURES,
        "onward",
    ),
    Cause("optimizer-collapse", "Parameters without updates", ("optimizer-state/*",), reach="subject"),
    Cause("representation-drift", "The representation was lost", ("representation-drift/*",), reach="subject"),
)
