"""Whether every expert can be chosen, judged by the router's own weights."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Role, Skip, block_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.neighbours import CosineExtremes
    from collapse_cli.kernels.views import Block, Weight

GAUSSIAN = "a Gaussian router of the same shape"
#: A row shorter than this share of the root mean square row cannot move a softmax against the others.
_DEAD = 1e-3
#: Two rows at this cosine rank every token alike.
_DUPLICATE = 0.99
#: Where chance alone brings two of so many rows that close, a close pair says nothing.
_CROWDED = 0.9

ROUTER_NORM_CV = Metric(
    "router_norm_cv",
    "1",
    "Standard deviation over mean of the row norms.",
    better="lower",
    null=GAUSSIAN + ": 1/√(2d)",
    warn=Limit("above", 1.5, "zoo: beyond every healthy model (up to 0.13); two dead rows in three give 1.4"),
    message="Row norms spread by {value:.3g} of their mean, {smallest:.3g} to {largest:.3g}; chance gives {null:.3g}.",
)
DEAD_ROUTER_SHARE = Metric(
    "dead_router_share",
    "share",
    "Share of the experts whose row is shorter than a thousandth of the root mean square row.",
    better="lower",
    null=GAUSSIAN + ": 0",
    warn=Limit("above", 0.0, "definition: such a row gives the same logit to every token; 0 in all healthy models"),
    message="{dead} of {experts} experts have a dead row in the router (first: {indices}): no token can ask for them.",
)
ROUTER_MAX_COSINE = Metric(
    "router_max_cosine",
    "1",
    "The largest cosine between the rows of two experts.",
    better="lower",
    null=GAUSSIAN + ": the cosine that one of its pairs is expected to exceed",
)
DUPLICATE_ROUTER_SHARE = Metric(
    "duplicate_router_share",
    "share",
    "Share of the experts with a partner whose row is at a cosine of 0.99 or more.",
    better="lower",
    null=GAUSSIAN + ": 0",
    warn=Limit("above", 0.0, "definition: both experts are chosen by the same tokens; 0 in all healthy models"),
    message="{duplicates} of {experts} experts share their direction in the router with another (first pair: "
    "{closest}); chance gives none.",
)
ROUTER_EFFECTIVE_RANK = Metric(
    "router_effective_rank",
    "directions",
    "The exponential of the entropy of the energies λ/Σλ of the router.",
    better="higher",
    null=GAUSSIAN,
    warn=Limit("below", 1.1, "zoo: beyond every healthy model (6 and more of 8); 98 % of the energy in one direction"),
    message="The router of {experts} experts acts in {value:.3g} directions; chance gives {null:.3g}.",
)
BIAS_SPREAD = Metric("bias_spread", "1", "Largest minus smallest bias of an expert.", better="lower", null="no bias: 0")
INIT_LIKENESS = Metric(
    "init_likeness",
    "p",
    "Kolmogorov-Smirnov p-value of the entries against a Gaussian, where norms and cosines are those of chance too.",
    null="uniform in [0,1], or larger, because the rms is the sample's own",
)

_CONFIG = {"model_type": "mixtral", "num_local_experts": 8, "hidden_size": 128, "num_hidden_layers": 1}


def healthy() -> Example:
    """A Gaussian router of eight experts with a small balancing bias."""
    import torch

    generator = torch.Generator().manual_seed(0)
    path = "model.layers.0.block_sparse_moe.gate."
    rows = 0.02 * torch.randn(8, 128, generator=generator)
    bias = 0.01 * torch.randn(8, generator=generator)
    return Example({f"{path}weight": rows, f"{path}e_score_correction_bias": bias}, _CONFIG)


def collapsed() -> Example:
    """One layer with eight equal rows, one with a single row that is not zero."""
    import torch

    generator = torch.Generator().manual_seed(0)
    row = 0.02 * torch.randn(1, 128, generator=generator)
    single = torch.zeros(8, 128)
    single[2] = row[0]
    tensors = {
        f"model.layers.{i}.block_sparse_moe.gate.weight": rows for i, rows in enumerate((row.repeat(8, 1), single))
    }
    return Example(tensors, {**_CONFIG, "num_hidden_layers": 2})


@block_analyzer(
    name="router-weights",
    family="experts",
    title="Weights of the router",
    metrics=(
        ROUTER_NORM_CV,
        DEAD_ROUTER_SHARE,
        ROUTER_MAX_COSINE,
        DUPLICATE_ROUTER_SHARE,
        ROUTER_EFFECTIVE_RANK,
        BIAS_SPREAD,
        INIT_LIKENESS,
    ),
    accepts=on.block("router", Role.ROUTER, says="routers of at least four experts"),
    remedy="Add a load-balancing loss or a balancing bias and a router z-loss; give dead rows a new start at the mean "
    "norm of the others; let experts choose tokens; normalise the router's rows.",
    references=(
        Reference(
            "Chen et al. Sparse MoE as the New Dropout: Scaling Dense and Self-Slimmable Transformers. 2023",
            "https://arxiv.org/abs/2303.01610",
        ),
        Reference(
            "Li et al. Merge, Then Compress: Demystify Efficient SMoE with Hints from Its Routing Policy. 2023",
            "https://arxiv.org/abs/2310.01334",
        ),
        Reference(
            "Shen et al. SE-MoE: A Scalable and Efficient Mixture-of-Experts Distributed Training and Inference "
            "System. 2022",
            "https://arxiv.org/abs/2205.10034",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "rows_permuted"),
    unmoved_metrics=(
        "router_norm_cv",
        "dead_router_share",
        "router_max_cosine",
        "duplicate_router_share",
        "router_effective_rank",
        "init_likeness",
    ),
)
def router_weights(block: "Block") -> Iterator[Measurement | Skip]:
    """Can every expert of this mixture be chosen, and by tokens of its own?

    ## Why it matters
    The router gives every expert a logit, the product of its row with the token. A row of zeros gives the same logit
    whatever the token, two rows in one direction choose the same tokens, and a router of one direction ranks all
    experts by a single number. Experts behind such rows are paid for and not used.

    ## How to read it
    `dead_router_share` and `duplicate_router_share` count such rows; chance gives none. `router_max_cosine` is read
    against its null, the largest cosine among as many random rows. `router_effective_rank` near the number of experts
    is a router that can tell its experts apart. `bias_spread` is the range of the balancing bias in units of the
    scores: a large one overrules the token. `init_likeness` is given only where norms and cosines look like chance; a
    large value reads "looks untrained", which for a fixed random router is the design.

    ## Limits
    Weights are not load: how often an expert is chosen needs recorded routing. A vector that is added to all rows
    changes no softmax, but raises every cosine and lowers the rank; the evidence `common_energy` says how large it is
    (1: nothing else). An untrained router with uniform entries is not recognised by `init_likeness`. A learned
    temperature or normalised inputs change the scale of the logits, not what is measured here.
    """
    site, router = block.site.name, block.one(Role.ROUTER)
    if "skip" in block.facts:
        yield skip(site, str(block.facts["skip"]))
        return
    if router is None or min(router.matrix.shape) == 0 or router.matrix.shape[0] < 4:
        yield skip(site, f"{0 if router is None else router.matrix.shape[0]} experts < 4")
        return
    yield from _rows(site, router)
    yield from _directions(site, router)
    yield from _bias(block)


def _rows(site: str, router: "Weight") -> Iterator[Measurement | Skip]:
    norms = router.get(kernels.spectrum.row_norms)
    experts, width = router.matrix.shape
    root_mean_square = float(norms.square().mean().sqrt())
    dead = ((norms < _DEAD * root_mean_square) | (norms == 0.0)).nonzero().flatten().tolist()
    evidence = {"experts": experts, "smallest": float(norms.min()), "largest": float(norms.max())}
    if root_mean_square > 0.0:
        spread = float(norms.std(correction=0) / norms.mean())
        yield ROUTER_NORM_CV.at(site, spread, (2 * width) ** -0.5, **evidence)
    else:
        yield skip(site, "router_norm_cv: all rows are zero")
    yield DEAD_ROUTER_SHARE.at(site, len(dead) / experts, 0.0, dead=len(dead), indices=dead[:16], **evidence)


def _directions(site: str, router: "Weight") -> Iterator[Measurement | Skip]:
    experts, width = router.matrix.shape
    extremes = kernels.neighbours.cosine_extremes(router.matrix, thresholds=(_DUPLICATE,))
    chance = kernels.neighbours.largest_cosine_null(experts, width)
    closest = list(extremes.closest)
    yield ROUTER_MAX_COSINE.at(site, extremes.maximum, chance, closest=closest, experts=experts, width=width)
    if chance > _CROWDED:
        yield skip(site, f"duplicate_router_share: chance brings two of {experts} rows of {width} numbers that close")
    else:
        found = int((extremes.nearest >= _DUPLICATE).sum())
        yield DUPLICATE_ROUTER_SHARE.at(
            site, found / experts, 0.0, duplicates=found, closest=closest, experts=experts, width=width
        )
    if not kernels.spectrum.has_exact_spectrum(router):
        yield skip(site, f"router_effective_rank: min side {min(experts, width)}, no exact spectrum")
    else:
        energies = router.get(kernels.spectrum.singular_values).square()
        yield ROUTER_EFFECTIVE_RANK.at(
            site,
            kernels.spectrum.entropy_rank(energies),
            kernels.random_matrix.effective_rank_lambda_null(experts, width),
            experts=experts,
            width=width,
            common_energy=_common_energy(router),
        )
    yield from _likeness(site, router, extremes)


def _common_energy(router: "Weight") -> float:
    """Share of the squared norm that is the mean row, repeated."""
    whole = router.get(kernels.spectrum.frobenius) ** 2
    mean = router.matrix.double().mean(0)
    return router.matrix.shape[0] * float(mean.square().sum()) / whole if whole > 0.0 else 0.0


def _likeness(site: str, router: "Weight", extremes: "CosineExtremes") -> Iterator[Measurement | Skip]:
    experts, width = router.matrix.shape
    norms = router.get(kernels.spectrum.row_norms)
    mean, spread, null = float(norms.mean()), float(norms.std(correction=0)), (2 * width) ** -0.5
    # a sample deviation errs by 1/√(2(E−1)) of itself; a hundred times as many pairs reach the cosine of one in 100
    is_even = spread <= null * mean * (1.0 + 3.0 * (2 * (experts - 1)) ** -0.5)
    is_spread = extremes.maximum <= kernels.neighbours.largest_cosine_null(10 * experts, width)
    if mean == 0.0 or not (is_even and is_spread):
        yield skip(site, "init_likeness: norms or cosines are not those of a Gaussian router")
        return
    distance, p_value = router.get(kernels.normality.gaussian_likeness)
    yield INIT_LIKENESS.at(site, p_value, distance=distance, entries=experts * width)


def _bias(block: "Block") -> Iterator[Measurement | Skip]:
    bias = block.one(Role.ROUTER_BIAS)
    if bias is None or bias.tensor.numel() == 0:
        yield skip(block.site.name, "bias_spread: no bias")
        return
    values = bias.tensor.double()
    largest, smallest = float(values.max()), float(values.min())
    yield BIAS_SPREAD.at(block.site.name, largest - smallest, 0.0, largest=largest, smallest=smallest)
