"""How large and how wide the attention logits of each head can be, from its query and key weights."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Role, Skip, block_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Block

_DIVERGENCE = "attention logits beyond 1e4 were seen in diverging runs (Wortsman et al. 2023)"

QK_SPECTRAL_NORM = Metric(
    "qk_spectral_norm",
    "1",
    "Largest singular value of a head's logit matrix W_QᵀW_K/√d_h.",
    better="lower",
    null="Gaussian W_Q and W_K with entries of variance 1/d (four seeded draws)",
    warn=Limit(
        "above",
        150.0,
        "zoo: up to 2 times chance in sound layers, 25 in a sound encoder, 4,000 and more where all softmaxes ended in "
        "one key",
        of="null",
    ),
    error=Limit("above", 1500.0, "zoo: 4,000 times chance and more in collapsed layers", of="null"),
    message="the largest singular value of the logit matrix is {value:.3g}, chance {null:.3g} (limit {bound} times "
    "chance): the largest logit reaches {largest_logit:.3g}",
)
QK_LOGIT_STD = Metric(
    "qk_logit_std",
    "nats",
    "Frobenius norm of the logit matrix: the standard deviation of the logits of isotropic tokens of unit rms.",
    better="lower",
    null="Gaussian W_Q and W_K with entries of variance 1/d: 1",
    warn=Limit(
        "above", 60.0, "zoo: up to 1.5 in sound layers, 12 in a sound encoder, 2,400 and more in collapsed ones"
    ),
    error=Limit(
        "above",
        120.0,
        "zoo: 2,400 and more in collapsed layers; ten times the largest of a sound encoder; " + _DIVERGENCE,
    ),
    message="attention logits of random tokens spread by {value:.3g} nats (limit {bound}, chance {null:.3g}): "
    "the softmax "
    "takes one token whatever the input",
)
QK_LOGIT_BOUND = Metric(
    "qk_logit_bound",
    "nats",
    "Largest attention logit that two tokens of unit rms can give; after query and key norms, that of any two tokens.",
    better="lower",
)
ISOTROPIC_ENTROPY = Metric(
    "isotropic_entropy",
    "1",
    "Expected softmax entropy over ln T of 1,024 independent Gaussian logits with spread qk_logit_std.",
    null="the same at a spread of 1: 0.928",
)
ALIGNED_ENTROPY = Metric(
    "aligned_entropy",
    "1",
    "The same for the query that points along the largest singular direction.",
)
ENTROPY_FLOOR = Metric(
    "entropy_floor",
    "1",
    "Guaranteed least softmax entropy over ln T of 1,024 isotropic tokens, from the spectral norm alone.",
    better="higher",
)
QK_LOCALISATION = Metric(
    "qk_localisation",
    "1",
    "Squared nuclear norm over d_h times the squared Frobenius norm: share of the head's dimensions that carry "
    "its logits.",
    better="higher",
    null="Gaussian W_Q and W_K (four seeded draws): about 1 − d_h/(2d)",
    warn=Limit(
        "below", 0.1, "zoo: beyond every healthy model (0.8 and more of chance); 0.5 in a sound encoder", of="null"
    ),
    message="the logits of this head live in {value:.3g} of its {width} dimensions, chance {null:.3g} (limit "
    "{bound} of "
    "chance)",
)
QK_STABLE_RANK = Metric(
    "qk_stable_rank",
    "1",
    "Squared Frobenius norm over squared spectral norm of the logit matrix.",
    better="higher",
    null="Gaussian W_Q and W_K (four seeded draws)",
)

_CONFIG = {
    "model_type": "bert",
    "num_attention_heads": 2,
    "hidden_size": 128,
    "num_hidden_layers": 1,
}


def _layer(scale: float, rank: int) -> Example:
    """One BERT attention layer with two heads of 64: Gaussian weights, the query of a given scale and rank."""
    import torch

    generator = torch.Generator().manual_seed(0)
    path = "encoder.layer.0.attention."
    names = ("self.query", "self.key", "self.value", "output.dense")
    tensors = {f"{path}{name}.weight": torch.randn(128, 128, generator=generator) / math.sqrt(128) for name in names}
    if rank < 64:
        rows = torch.randn(2, 1, 128, generator=generator).expand(2, 64, 128)
        tensors[f"{path}self.query.weight"] = rows.reshape(128, 128) / math.sqrt(128)
    tensors[f"{path}self.query.weight"] = scale * tensors[f"{path}self.query.weight"]
    return Example(tensors, _CONFIG)


def healthy() -> Example:
    """Gaussian weights of variance 1/d."""
    return _layer(1.0, 64)


def collapsed() -> Example:
    """All query rows of a head equal, and two thousand times as long."""
    return _layer(2000.0, 1)


@block_analyzer(
    name="qk-spectrum",
    family="attention-weights",
    title="Spectrum of the attention logits",
    metrics=(
        QK_SPECTRAL_NORM,
        QK_LOGIT_STD,
        QK_LOGIT_BOUND,
        ISOTROPIC_ENTROPY,
        ALIGNED_ENTROPY,
        ENTROPY_FLOOR,
        QK_LOCALISATION,
        QK_STABLE_RANK,
    ),
    accepts=on.block(
        "attention", Role.ATTENTION_Q, Role.ATTENTION_K, says="attention blocks with a known number of heads"
    ),
    remedy="Normalise queries and keys, or divide their weights by a learned multiple of the spectral norm; lower the "
    "learning rate or lengthen warm-up; decay query and key weights; watch the bound over the run.",
    references=(
        Reference(
            "Zhai et al. Stabilizing Transformer Training by Preventing Attention Entropy Collapse. 2023",
            "https://arxiv.org/abs/2303.06296",
        ),
        Reference(
            "Wortsman et al. Small-scale proxies for large-scale Transformer training instabilities. 2023",
            "https://arxiv.org/abs/2309.14322",
        ),
        Reference("Tarzanagh et al. Transformers as Support Vector Machines. 2023", "https://arxiv.org/abs/2308.16898"),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled",),
    unmoved_metrics=("qk_localisation", "qk_stable_rank"),
)
def qk_spectrum(block: "Block") -> Iterator[Measurement | Skip]:
    """Are the attention logits of a head on the way to saturation, or confined to a few directions?

    ## Why it matters
    When query and key weights grow, the softmax puts all weight on one token, its gradient vanishes and training
    becomes unstable or stops: attention entropy collapse. When their product keeps only a few directions, the head can
    compare tokens by hardly anything. Both can be seen in the weights before the loss shows them.

    ## How to read it
    M = W_QᵀW_K/√d_h, with the gain of the norm before the block folded in, does not depend on the basis inside the
    head. `qk_logit_std` is the spread of logits between random tokens of unit rms: about 1 at initialisation, frozen
    beyond 3.7 for 1,024 tokens unless the head works with few aligned features. `qk_spectral_norm` and
    `qk_logit_bound` belong to the best aligned pair. The entropies turn these into 1 (uniform) to 0 (one token);
    `entropy_floor` is a guarantee and usually 0. `qk_localisation` and `qk_stable_rank` say how many of the head's
    dimensions take part.

    ## Limits
    Real tokens are not isotropic: a trained head of large spread can attend smoothly, and only recorded attention
    tells. Rotary positions make the matrix depend on distance: values are for distance 0. Biases are left out, and so
    is the mean that a layer norm takes away. Models that do not divide by √d_h (T5) look √d_h times smaller. With
    query and key norms only the bound means anything, and it is all that is given. The entropies are those of an
    idealised input and are experimental: they are never judged.
    """
    site = block.site.name
    if "skip" in block.facts:
        yield skip(site, str(block.facts["skip"]))
        return
    division = block.get(kernels.attention_logits.attention_heads)
    if isinstance(division, str):
        yield skip(site, division)
        return
    if block.facts.get("qk_norm") or block.all(Role.ATTENTION_QK_NORM):
        yield from _normalised(block)
        return
    inputs = (_width(block, Role.ATTENTION_Q), _width(block, Role.ATTENTION_K))
    if 0 in inputs:
        yield skip(site, "empty query or key weight")
        return
    spectra = block.get(kernels.attention_logits.logit_spectrum).tolist()
    for head, values in enumerate(spectra):
        yield from _head(f"{site}#head={head}", values, inputs=inputs, width=division.width)


def _width(block: "Block", role: Role) -> int:
    weight = block.one(role)
    return 0 if weight is None else weight.matrix.shape[1]


def _normalised(block: "Block") -> Iterator[Measurement | Skip]:
    """Only a bound is left when query and key are normalised: their gains decide, not the weights."""
    site = block.site.name
    bounds = kernels.attention_logits.normalised_logit_bound(block)
    yield skip(
        site,
        "scale cancelled by qk-norm: qk_spectral_norm, qk_logit_std, isotropic_entropy, aligned_entropy, "
        "entropy_floor, "
        "qk_localisation, qk_stable_rank",
    )
    if bounds is None:
        yield skip(site, "qk_logit_bound: no gains of the query and key norms")
    elif len(bounds) == 1:
        yield QK_LOGIT_BOUND.at(site, bounds[0], by="gains of the query and key norms")
    else:
        for head, bound in enumerate(bounds):
            yield QK_LOGIT_BOUND.at(f"{site}#head={head}", bound, by="gains of the query and key norms")


def _head(site: str, values: list[float], *, inputs: tuple[int, int], width: int) -> Iterator[Measurement | Skip]:
    """The metrics of one head from the singular values of its logit matrix, descending."""
    entropy, tokens = kernels.attention_logits.softmax_entropy, kernels.attention_logits.TOKENS
    norm, size = values[0], math.sqrt(sum(value * value for value in values))
    # two tokens of unit rms have lengths √d_q and √d_k
    reach = math.sqrt(inputs[0] * inputs[1])
    null_norm, null_rank, null_share = kernels.attention_logits.logit_matrix_null(inputs, width)
    yield QK_SPECTRAL_NORM.at(site, norm, null_norm, largest_logit=norm * reach, width=width, inputs=list(inputs))
    yield QK_LOGIT_STD.at(site, size, 1.0, freezing=math.sqrt(2.0 * math.log(tokens)), tokens=tokens)
    yield QK_LOGIT_BOUND.at(site, norm * reach, spectral_norm=norm)
    yield ISOTROPIC_ENTROPY.at(site, entropy(size), entropy(1.0), spread=size, tokens=tokens)
    aligned = norm * math.sqrt(inputs[0])
    yield ALIGNED_ENTROPY.at(site, entropy(aligned), spread=aligned, tokens=tokens)
    bound = norm * math.sqrt(inputs[0] * tokens)
    yield ENTROPY_FLOOR.at(site, kernels.attention_logits.entropy_floor(bound), logit_norm=bound, tokens=tokens)
    if size == 0.0:
        yield skip(site, "qk_localisation, qk_stable_rank: the logit matrix is zero")
        return
    shares = [value / size for value in values]
    yield QK_LOCALISATION.at(site, sum(shares) ** 2 / width, null_share, width=width, inputs=list(inputs))
    yield QK_STABLE_RANK.at(site, 1.0 / shares[0] ** 2, null_rank, width=width)
