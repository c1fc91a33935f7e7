"""Attention entropy: whether heads look at one key, or at all alike."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.accumulators import AttentionRows
    from collapse_cli.kernels.views import Activations

#: Sequences below which nothing is said.
LEAST_SEQUENCES = 8
#: Normalised entropies below and above which a head counts as collapsed or overloaded: parameters of this tool.
COLLAPSED, OVERLOADED = 0.1, 0.9
EQUAL_LOGITS = "equal logits"

ENTROPY = Metric(
    "entropy",
    "1",
    "The mean over rows of H/log v, v the keys that the row may see: 0 is one key, 1 all keys alike.",
    warn=Limit(
        "below",
        0.1,
        "zoo: sound layers have .4 to .5, those whose queries and keys learned too fast .03 to .05; as a head counts "
        "as collapsed below .1",
    ),
    error=Limit(
        "below",
        1e-3,
        "zoo: collapsed layers have 2e-4 or less, mildly collapsed ones .03 or more; a head with .99 on a sink and the "
        "rest spread evenly reads .018",
    ),
    null=EQUAL_LOGITS,
    message="Every head of this layer looks at one key: normalised entropy {value:.3g} where equal logits give 1.",
)
ENTROPY_MIN_HEAD = Metric("entropy_min_head", "1", "The same of the head where it is least.", null=EQUAL_LOGITS)
COLLAPSED_HEADS = Metric(
    "collapsed_heads",
    "1",
    f"The share of heads whose normalised entropy is below {COLLAPSED}.",
    better="lower",
    null=EQUAL_LOGITS,
)
OVERLOADED_HEADS = Metric(
    "overloaded_heads",
    "1",
    f"The share of heads whose normalised entropy is above {OVERLOADED}.",
    better="lower",
    null="initialisation, where all heads are",
)
ENTROPY_SLOPE = Metric(
    "entropy_slope",
    "1",
    "Least-squares slope of the entropy H on log v over rows: 1 spreads with the context, 0 keeps to so many keys.",
    null=EQUAL_LOGITS,
)
ENTROPY_FLOOR = Metric(
    "entropy_floor",
    "1",
    "The least normalised entropy that the projections and the size of the tokens allow, mean over heads.",
    better="higher",
    null="no projection: all logits equal",
)


def healthy() -> Example:
    """Gaussian logits of standard deviation 2 over 32 tokens."""
    import torch

    logits = 2.0 * torch.randn(8, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    return Example({"encoder.layer.0/attention": logits.softmax(3)}, metadata={})


def collapsed() -> Example:
    """Logits a hundred times too large: every query of every head on one key, chosen anew."""
    import torch

    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(0, 32, (8, 4, 32), generator=generator)
    return Example(
        {"encoder.layer.0/attention": torch.nn.functional.one_hot(chosen, 32).to(torch.float32)}, metadata={}
    )


@activation_analyzer(
    name="attention-entropy",
    family="attention",
    title="Attention entropy",
    metrics=(ENTROPY, ENTROPY_MIN_HEAD, COLLAPSED_HEADS, OVERLOADED_HEADS, ENTROPY_SLOPE, ENTROPY_FLOOR),
    accepts=on.points("attention", says="hook points with attention weights"),
    remedy="Collapse: spectral reparametrisation of the projections (σReparam), normalisation of queries and keys, a "
    "longer warm-up, a lower learning rate. Overload: an entropy regulariser per head. Inputs longer than those of "
    "training: scale the logits by √(log_T N).",
    references=(
        Reference(
            "Zhai et al. Stabilizing Transformer Training by Preventing Attention Entropy Collapse. 2023",
            "https://arxiv.org/abs/2303.06296",
        ),
        Reference("Jha & Reagen. Entropy-Guided Attention for Private LLMs. 2025", "https://arxiv.org/abs/2501.03489"),
        Reference(
            "Jin et al. Training-free Diffusion Model Adaptation for Variable-Sized Text-to-Image Synthesis. 2023",
            "https://arxiv.org/abs/2306.08645",
        ),
        Reference("Tarzanagh et al. Transformers as Support Vector Machines. 2023", "https://arxiv.org/abs/2308.16898"),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=("attention_rows",),
    uses=("query_weight", "key_weight"),
    unmoved_by=("samples_permuted",),
)
def attention_entropy(point: "Activations") -> Iterator[Measurement | Skip]:
    """Are heads one-hot (entropy collapse, unstable training) or uniform (entropic overload: a plain average)?

    ## Why it matters
    When the logits of attention grow, the softmax of every row ends in one key: gradients through it vanish, the loss
    oscillates or diverges, and the growth feeds itself. At the other end a head that weighs all keys alike is an
    average and uses none of what queries and keys learn. Both show in the entropy of the rows before they show in the
    loss.

    ## How to read it
    `entropy` is the entropy of a row over the logarithm of the number of keys it may see, averaged over rows,
    sequences and heads: 1 for equal logits, 1 − s²/(2 log v) for Gaussian logits of a small standard deviation s, 0
    for one key. `collapsed_heads` and `overloaded_heads` count heads below .1 and above .9, `by_head` in the evidence
    lists them. At initialisation all heads are overloaded. `entropy_slope` tells heads that spread over whatever
    context there is (1) from heads with a fixed number of keys (0); it needs rows that see different numbers of keys.
    `entropy_floor` is the bound of Zhai et al.: near 1 the head cannot collapse on such tokens, whatever they say.

    ## Limits
    Heads that copy the previous token and heads that park their weight on the first one are one-hot and healthy, so
    that only a layer without any other head is called collapsed, and a warning is of the mean head: read with
    `attention-information` and `attention-sink`. Without metadata `causal` a causal map is read as one that sees
    everything, and a uniform causal head then stands at .8. The floor holds when `tokens` are what the projections
    read, after normalisation; it takes the largest sequence and says nothing of biases and positions. Softmax in half
    precision leaves exact zeros, which lower the entropy a little. Only a dump of several resolutions shows a slope
    over them.
    """
    rows = point.read("attention_rows")
    rows.tally.check()
    counts = rows.sequences
    is_enough = counts >= LEAST_SEQUENCES
    name, said = point.site.name, _evidence(point, rows)
    if not bool(is_enough.any()):
        most = int(counts.max()) if counts.numel() else 0
        yield skip(name, f"{most} sequences with 8 queries or more that see 2 keys < {LEAST_SEQUENCES}")
        return
    by_head = (rows.share[is_enough] / counts[is_enough]).clamp(0.0, 1.0)
    listed = [round(value, 6) for value in by_head.tolist()[:128]]
    mean = float(by_head.mean())
    yield ENTROPY.at(name, mean, 1.0, by_head=listed, **said)
    yield ENTROPY_MIN_HEAD.at(name, float(by_head.min()), 1.0, head=int(is_enough.nonzero()[by_head.argmin()]))
    yield COLLAPSED_HEADS.at(name, float((by_head < COLLAPSED).double().mean()), 0.0, heads=by_head.numel())
    yield OVERLOADED_HEADS.at(name, float((by_head > OVERLOADED).double().mean()), 1.0, heads=by_head.numel())
    yield from _slope(point, rows, is_enough)
    yield from _floor(point, rows)


def _evidence(point: "Activations", rows: "AttentionRows") -> dict[str, Any]:
    samples, heads, queries, keys = point.shapes["attention"]
    said: dict[str, Any] = {"sequences": samples, "heads": heads, "queries": queries, "keys": keys}
    said |= {"dtype": point.dtypes["attention"], "causal": rows.visibility.is_causal, **rows.tally.evidence()}
    if rows.smoothed_sequences:
        # −Σ a·log(a + 1e-6), as the reference code of Zhai et al. has it, on a few rows of every map
        said["smoothed_nats"] = float(rows.smoothed.mean()) / rows.smoothed_sequences
    return said


def _slope(point: "Activations", rows: "AttentionRows", is_enough: Any) -> Iterator[Measurement | Skip]:
    if rows.least_keys == rows.most_keys:
        yield skip(point.site.name, f"entropy_slope: every row sees {rows.most_keys} keys")
        return
    number, x, y, xx, xy = (term[is_enough] for term in rows.regression)
    spread = xx - x * x / number
    is_spread = spread > 1e-9 * xx
    if not bool(is_spread.any()):
        yield skip(point.site.name, "entropy_slope: nearly every row sees as many keys")
        return
    slopes = ((xy - x * y / number) / spread)[is_spread]
    yield ENTROPY_SLOPE.at(
        point.site.name,
        float(slopes.mean()),
        1.0,
        by_head=[round(value, 6) for value in slopes.tolist()[:128]],
        least_keys=rows.least_keys,
        most_keys=rows.most_keys,
    )


def _floor(point: "Activations", rows: "AttentionRows") -> Iterator[Measurement | Skip]:
    missing = [role for role in ("query_weight", "key_weight") if role not in point.arrays]
    missing += [] if "tokens" in point.shapes else ["tokens"]
    if missing:
        yield skip(point.site.name, f"entropy_floor: no {', '.join(missing)}")
        return
    floors = kernels.attention_floor.entropy_floors(
        point.arrays["query_weight"],
        point.arrays["key_weight"],
        heads=point.shapes["attention"][1],
        largest_tokens=rows.largest_tokens,
        keys=rows.most_keys,
    )
    if isinstance(floors, str):
        yield skip(point.site.name, f"entropy_floor: {floors}")
        return
    listed = [float(f"{value:.4g}") for value in floors[:128]]
    yield ENTROPY_FLOOR.at(point.site.name, sum(floors) / len(floors), 1.0, by_head=listed, keys=rows.most_keys)
