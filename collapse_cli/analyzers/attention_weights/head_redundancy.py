"""How many different heads an attention layer has."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Role, Skip, block_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Block

#: Cosine from which two heads count as the same map.
SAME = 0.99
#: Share of the median norm below which a head writes nothing.
DEAD = 1e-3

HEAD_SIMILARITY = Metric(
    "head_similarity",
    "1",
    "Mean absolute cosine between the maps of two different heads.",
    better="lower",
    null="Gaussian weights: √(2/π)/d, √(2/π)/√(d_h·d) between heads that share keys or values",
    warn=Limit("above", 0.8, "zoo: up to 0.05 in sound layers, 0.1 in a sound encoder, 1 in copies"),
    error=Limit("above", 0.95, "zoo: 1 in layers grown from one head; of what a head is, a tenth is left of its own"),
    message="the {heads} heads are nearly the same map: mean cosine {value:.3g} (limit {bound}, chance {null:.3g})",
)
DUPLICATE_HEAD_SHARE = Metric(
    "duplicate_head_share",
    "1",
    "Share of heads that have another one at a cosine of at least 0.99.",
    better="lower",
    null="Gaussian weights: 0",
    warn=Limit("above", 0.25, "zoo: 0 in sound layers; more than a stray pair of copies"),
    error=Limit("above", 0.75, "zoo: 1 in layers grown by copying heads, 0 in sound ones"),
    message="{duplicates} of {heads} heads repeat another one ({value:.3g}, limit {bound})",
)
EFFECTIVE_HEADS = Metric(
    "effective_heads",
    "1",
    "Exponential of the entropy of the eigenvalues of the matrix of cosines between heads: how many heads differ.",
    better="higher",
    null="Gaussian weights: close to the number of heads",
    warn=Limit(
        "below",
        0.6,
        "zoo: .99 and more in sound layers, .9 in a sound encoder, .5 in layers grown from half as many heads",
        of="null",
    ),
    error=Limit("below", 0.2, "zoo: .13 in layers of eight heads grown from one, .5 from four", of="null"),
    message="the {heads} heads act like {value:.3g} (limit {bound} of {null:.3g})",
)
DEAD_HEAD_SHARE = Metric(
    "dead_head_share",
    "1",
    "Share of heads whose output-value product is below a thousandth of the median.",
    better="lower",
    null="Gaussian weights: 0",
    warn=Limit("above", 0.25, "zoo: beyond every healthy model (0); single heads die or are pruned"),
    message="{dead} of {heads} heads write nothing ({value:.3g}, limit {bound})",
)


def _layer(*, is_copied: bool) -> Example:
    """One Llama attention layer of 16 heads of width 8."""
    import torch

    generator = torch.Generator().manual_seed(0)
    path = "model.layers.0.self_attn."
    tensors = {
        f"{path}{name}.weight": torch.randn(128, 128, generator=generator) / math.sqrt(128)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj")
    }
    if is_copied:
        for name in ("q_proj", "k_proj", "v_proj"):
            tensors[f"{path}{name}.weight"] = tensors[f"{path}{name}.weight"][:8].repeat(16, 1)
        tensors[f"{path}o_proj.weight"] = tensors[f"{path}o_proj.weight"][:, :8].repeat(1, 16)
    config = {"model_type": "llama", "num_attention_heads": 16, "num_key_value_heads": 16, "hidden_size": 128}
    return Example(tensors, config)


def healthy() -> Example:
    """Sixteen Gaussian heads."""
    return _layer(is_copied=False)


def collapsed() -> Example:
    """Sixteen copies of one head."""
    return _layer(is_copied=True)


@block_analyzer(
    name="head-redundancy",
    family="attention-weights",
    title="Redundant attention heads",
    metrics=(HEAD_SIMILARITY, DUPLICATE_HEAD_SHARE, EFFECTIVE_HEADS, DEAD_HEAD_SHARE),
    accepts=on.block(
        "attention",
        Role.ATTENTION_Q,
        Role.ATTENTION_K,
        says="attention blocks with two heads or more, their number known",
    ),
    remedy="Drop heads at random or add a diversity loss while training, re-initialise dead heads, share keys "
    "and values "
    "between heads that are alike anyway, or prune them.",
    references=(
        Reference(
            "Michel, Levy & Neubig. Are Sixteen Heads Really Better than One? 2019", "https://arxiv.org/abs/1905.10650"
        ),
        Reference(
            "Voita et al. Analyzing Multi-Head Self-Attention: Specialized Heads Do the Heavy Lifting, the Rest Can "
            "Be Pruned. 2019",
            "https://arxiv.org/abs/1905.09418",
        ),
        Reference(
            "Elhage et al. A Mathematical Framework for Transformer Circuits. Transformer Circuits Thread 2021",
            "https://transformer-circuits.pub/2021/framework/index.html",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled",),
)
def head_redundancy(block: "Block") -> Iterator[Measurement | Skip]:
    """How many different heads does the layer have?

    ## Why it matters
    Heads are meant to look at different things. Copies that were never told apart, or heads whose output is zero, cost
    memory and time and give the layer fewer ways to mix tokens than its width suggests.

    ## How to read it
    Two maps are compared, neither of which depends on the basis chosen inside a head: `#qk`, which tokens a head
    compares (W_QᵀW_K), and `#ov`, what it moves (W_O·W_V). `head_similarity` is the mean cosine, tiny for random heads
    and about 0.05 to 0.1 in sound encoders. `effective_heads` counts the different ones, `duplicate_head_share` exact
    copies. `dead_head_share` counts heads that write nothing; a pruned model has some on purpose.

    ## Limits
    Two heads with different maps can still attend alike on real data, and only recorded attention shows that. Rotary
    positions are left out, and so are biases and query and key norms. Heads that share keys or values are a little
    alike by design, which the null knows. Keys repeated to turn grouped into full attention are a design as well; the
    queries still differ. An output projection that starts at zero makes every head dead until it is trained.
    """
    site = block.site.name
    if "skip" in block.facts:
        yield skip(site, str(block.facts["skip"]))
        return
    division = block.get(kernels.attention_logits.attention_heads)
    if isinstance(division, str):
        yield skip(site, division)
        return
    if division.heads < 2:
        yield skip(site, "one head")
        return
    query, key = block.one(Role.ATTENTION_Q), block.one(Role.ATTENTION_K)
    group = division.heads // division.kv_heads
    if query is not None and key is not None:
        sides = (query.matrix.shape[1], key.matrix.shape[1])
        null = _chance(division.heads, group, sides=sides, width=division.width)
        yield from _compared(f"{site}#qk", block.get(kernels.attention_logits.query_key_products), null=null)
    products = block.get(kernels.attention_logits.output_value_products)
    value, output = block.one(Role.ATTENTION_V), block.one(Role.ATTENTION_O)
    if products is None or value is None or output is None:
        yield skip(f"{site}#ov", "companion tensor missing, or of another shape: value or output weight")
        return
    sides = (output.matrix.shape[0], value.matrix.shape[1])
    null = _chance(division.heads, group, sides=sides, width=value.matrix.shape[0] // division.kv_heads)
    yield from _dead(f"{site}#ov", products)
    yield from _compared(f"{site}#ov", products, null=null)


def _chance(heads: int, group: int, *, sides: tuple[int, int], width: int) -> float:
    """Mean ∣cos∣ of Gaussian heads: E∣z∣ = √(2/π) times the spread, larger between heads that share a factor."""
    own, shared = sides
    sharing = (group - 1) / (heads - 1)
    apart = 1.0 / math.sqrt(max(own * shared, 1))
    together = 1.0 / math.sqrt(max(own * width, 1))
    return math.sqrt(2.0 / math.pi) * ((1.0 - sharing) * apart + sharing * together)


def _compared(site: str, products: "Tensor", *, null: float) -> Iterator[Measurement | Skip]:
    cosines, norms = kernels.attention_logits.map_cosines(products)
    live, heads = cosines.shape[0], norms.numel()
    if live < 2:
        yield skip(site, f"head_similarity, duplicate_head_share, effective_heads: {live} heads that are not zero")
        return
    off_diagonal = cosines.clone().fill_diagonal_(0.0)
    mean = float(off_diagonal.abs().sum()) / (live * (live - 1))
    nearest = off_diagonal.fill_diagonal_(-1.0).amax(1)
    duplicates = int((nearest >= SAME).sum())
    yield HEAD_SIMILARITY.at(site, mean, null, heads=live, largest=float(nearest.max()))
    yield DUPLICATE_HEAD_SHARE.at(
        site, duplicates / live, 0.0, duplicates=duplicates, heads=live, zero_heads=heads - live
    )
    spectrum = kernels.attention_logits.cosine_eigenvalues(cosines)
    yield EFFECTIVE_HEADS.at(site, kernels.spectrum.entropy_rank(spectrum), float(live), heads=live)


def _dead(site: str, products: "Tensor") -> Iterator[Measurement]:
    norms = products.diagonal().clamp_min(0.0).sqrt()
    middle = float(norms.median())
    dead = norms < DEAD * middle if middle > 0.0 else norms == 0.0
    rows = dead.nonzero().flatten().tolist()
    yield DEAD_HEAD_SHARE.at(
        site, len(rows) / norms.numel(), 0.0, dead=len(rows), heads=norms.numel(), which=rows[:32], median_norm=middle
    )
