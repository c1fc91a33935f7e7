"""Neurons whose weights have all but vanished, on the side that hears or on the side that is heard."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from collapse_cli import kernels
from collapse_cli.analyzer import (
    Example,
    Limit,
    Measurement,
    Metric,
    Reference,
    Role,
    Skip,
    on,
    skip,
    weight_analyzer,
)

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Block, Weight

_CONVENTION = "convention: model-clinic 0.4.2, there with an absolute cut, here relative to the median norm"
#: What PyTorch's batch norm adds to a variance unless told otherwise.
_VARIANCE_EPS = 1e-5
_EXCLUDED = frozenset({Role.EMBEDDING, Role.POSITION, Role.ROUTER, Role.CODEBOOK})
_CHAINS = ("mlp", "linear", "conv")


def _share(name: str, says: str, message: str) -> Metric:
    warn, error = Limit("above", 0.01, _CONVENTION), Limit("above", 0.10, _CONVENTION)
    return Metric(name, "1", says, "lower", warn, error, "0: no row of a Gaussian matrix comes near the cut", message)


DEAD_ROW_SHARE = _share(
    "dead_row_share",
    "Share of rows (output units) whose norm is below a thousandth of the median row norm.",
    "{dead} of {rows} output units have weights below a thousandth of the median norm ({value:.3g} of all)",
)
DEAD_COLUMN_SHARE = _share(
    "dead_column_share",
    "Share of inputs (columns; of a convolution: channels) whose norm is below a thousandth of their median norm.",
    "{dead} of {columns} inputs are read with weights below a thousandth of the median norm ({value:.3g} of all)",
)
DEAD_UNIT_SHARE = _share(
    "dead_unit_share",
    "Share of hidden units whose incoming (or gate) row or whose outgoing column is dead.",
    "{dead} of {units} hidden units neither hear nor are heard: {dead_in} by their incoming, {dead_gate} by their "
    "gate, {dead_out} by their outgoing weights",
)
CONSTANT_UNIT_SHARE = Metric(
    "constant_unit_share",
    "1",
    "Share of hidden units whose incoming row is dead while their bias is alive: they put out a constant.",
    "lower",
    null="0",
)
STRENGTH_GINI = Metric(
    "strength_gini",
    "1",
    "Gini coefficient of the row norms: 0 when all units are equally strong, towards 1 when few carry the layer.",
    null="1/√(2πN), the row norms of a Gaussian matrix with N columns",
)


def _llama_mlp(dead: int) -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in {"gate_proj": (96, 32), "up_proj": (96, 32), "down_proj": (32, 96)}.items():
        matrix = torch.randn(shape, generator=generator) * 0.02
        if name != "down_proj":
            matrix[:dead] *= 1e-6
        tensors[f"model.layers.0.mlp.{name}.weight"] = matrix
    return Example(tensors, {"model_type": "llama", "hidden_size": 32, "intermediate_size": 96})


def healthy() -> Example:
    """A gated MLP of Gaussian weights."""
    return _llama_mlp(0)


def collapsed() -> Example:
    """The same with a quarter of its units decayed to a millionth."""
    return _llama_mlp(24)


@weight_analyzer(
    name="dead-units",
    family="units",
    title="Dead units",
    metrics=(DEAD_ROW_SHARE, DEAD_COLUMN_SHARE, DEAD_UNIT_SHARE, CONSTANT_UNIT_SHARE, STRENGTH_GINI),
    accepts=on.matrices(16, but=_EXCLUDED),
    companions=on.block(_CHAINS, says="MLPs and consecutive linear or convolutional layers"),
    remedy=(
        "Re-initialise dead units with small outgoing weights and go on training; lower the learning rate, lengthen "
        "warm-up, exempt biases from decay, or use a leaky activation so that they cannot die again; in sparse "
        "auto-encoders resample dead latents or train with feature choice. A model that is finished can be pruned: "
        "the units do nothing."
    ),
    references=(
        Reference(
            "Atashgahi et al. Quick and Robust Feature Selection: the Strength of Energy-efficient Sparse Training "
            "for Autoencoders. 2020",
            "https://arxiv.org/abs/2012.00560",
        ),
        Reference(
            "Shi et al. Fast Certified Robust Training with Short Warmup. 2021", "https://arxiv.org/abs/2103.17268"
        ),
        Reference(
            "Ayonrinde. Adaptive Sparse Allocation with Mutual Choice & Feature Choice Sparse Autoencoders. 2024",
            "https://arxiv.org/abs/2411.02124",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "rows_permuted"),
)
def dead_units(view: "Weight | Block") -> Iterator[Measurement | Skip]:
    """Which neurons can neither hear nor be heard?

    ## Why it matters
    A unit whose incoming weights have vanished puts out a constant, whatever the input; one whose outgoing weights
    have vanished is heard by nobody. Both are paid for at every step and contribute nothing. They appear when a rate
    that is too high pushes a ReLU out of reach of the data and weight decay then shrinks what no gradient holds.

    ## How to read it
    Dead means below a thousandth of the median norm of the rows (or columns) that are not negligible, so that a small
    layer is not called dead and a decayed unit is not missed. `dead_row_share` and `dead_column_share` look at one
    matrix. Where names tell which matrices follow one another, `dead_unit_share` looks at the hidden units between
    them, from both sides, with a batch norm in between folded in; `constant_unit_share` says how many of them still
    put out their bias. `strength_gini` far above its null means that few units carry the layer.

    ## Limits
    Only weights are seen: a ReLU unit can be dead with healthy weights, which only activations show. An input that is
    constant in the data, such as border pixels, leaves dead columns in a first layer without any harm. Smallness can
    be temporary, so confirm it over a run. Embedding tables, routers and codebooks have their own analyzers, of a
    classification or language-model head only the columns are judged, and filters with a single input channel are
    skipped because depthwise filters differ in norm by design. An all-zero matrix counts as dead throughout.
    """
    # a block has weights, a weight has not; their types cannot be named without torch
    if hasattr(view, "weights"):
        yield from _chain(cast("Block", view))
    elif _is_depthwise(view):
        yield skip(view.site.name, "one input channel per filter (depthwise)")
    else:
        yield from _matrix(view)


def _is_depthwise(weight: "Weight") -> bool:
    return len(weight.site.shape) > 2 and weight.site.shape[1] == 1


def _matrix(weight: "Weight") -> Iterator[Measurement | Skip]:
    name, (count_rows, count_columns) = weight.site.name, weight.matrix.shape
    if weight.site.role is not Role.HEAD:
        rows = weight.get(kernels.strength.dead_rows)
        yield DEAD_ROW_SHARE.at(name, _mean(rows), 0.0, dead=int(rows.sum()), rows=count_rows, first=_first(rows))
        strengths = weight.get(kernels.spectrum.row_norms)
        evidence = {"median_norm": float(strengths.median()), "max_norm": float(strengths.max())}
        yield STRENGTH_GINI.at(
            name, kernels.strength.gini(strengths), kernels.strength.gini_null(count_columns), **evidence
        )
    # a channel is read through kh·kw columns, of which masked and causal convolutions leave some at zero by design
    inputs = weight.site.shape[1] if len(weight.site.shape) > 2 else count_columns
    if inputs < 16 or count_columns % inputs:
        yield skip(name, f"dead_column_share: {inputs} input channels < 16")
        return
    columns = kernels.strength.is_dead(kernels.strength.channel_norms(weight, inputs))
    yield DEAD_COLUMN_SHARE.at(
        name, _mean(columns), 0.0, dead=int(columns.sum()), columns=inputs, first=_first(columns)
    )


def _mean(mask: "Tensor") -> float:
    return float(mask.double().mean())


def _first(mask: "Tensor") -> list[int]:
    """The first eight places where it holds."""
    return [int(place) for place in mask.nonzero().flatten()[:8]]


def _chain(block: "Block") -> Iterator[Measurement | Skip]:
    name = block.site.name
    if "skip" in block.facts:
        yield skip(name, str(block.facts["skip"]))
        return
    first, second, missing = _ends(block)
    if first is None or second is None:
        yield skip(name, f"companion tensor missing: {missing}")
        return
    units = first.matrix.shape[0]
    reason = _mismatch(first, second, units)
    if reason:
        yield skip(name, reason)
        return
    incoming = kernels.strength.is_dead(first.get(kernels.spectrum.row_norms) * _folded_gain(block, units))
    gate = block.one(Role.MLP_GATE)
    has_gate = gate is not None and gate is not first and gate.matrix.shape[0] == units
    gated = gate.get(kernels.strength.dead_rows) if gate is not None and has_gate else incoming & ~incoming
    outgoing = kernels.strength.is_dead(kernels.strength.channel_norms(second, units))
    dead = incoming | gated | outgoing
    counts = {"dead_in": int(incoming.sum()), "dead_gate": int(gated.sum()), "dead_out": int(outgoing.sum())}
    yield DEAD_UNIT_SHARE.at(
        name, _mean(dead), 0.0, dead=int(dead.sum()), units=units, **counts, first=_first(dead), gate=has_gate
    )
    shift = _shift(block, units)
    constant = incoming & ~kernels.strength.is_dead(shift) if shift is not None else incoming & ~incoming
    yield CONSTANT_UNIT_SHARE.at(
        name, _mean(constant), 0.0, constant=int(constant.sum()), units=units, bias=shift is not None
    )


def _ends(block: "Block") -> tuple["Weight | None", "Weight | None", str]:
    """The matrix into the hidden units, the one out of them, and the role that is missing if one is."""
    kind = block.site.role.kind
    if kind == "mlp":
        first = block.one(Role.MLP_IN) or block.one(Role.MLP_GATE)
        return first, block.one(Role.MLP_OUT), "mlp.in" if first is None else "mlp.out"
    role = Role.CONV if kind == "conv" else Role.LINEAR
    members: tuple[Any, ...] = (*block.all(role), *block.all(Role.HEAD), None, None)
    return members[0], members[1], "the next layer"


def _mismatch(first: "Weight", second: "Weight", units: int) -> str:
    """Why the two do not follow one another unit by unit; empty if they do."""
    if _is_depthwise(second):
        return "one input channel per filter (depthwise)"
    if units < 16 or second.matrix.shape[0] < 1:
        return f"{units} units < 16"
    # a convolution reads a channel through kh·kw columns, a linear layer behind a flattening through h·w
    is_spatial = len(first.site.shape) > 2
    inputs = second.site.shape[1] if len(second.site.shape) > 2 else second.matrix.shape[1]
    if inputs == units or (is_spatial and len(second.site.shape) == 2 and inputs % units == 0 and inputs > 0):
        return ""
    return f"{units} units, but the next layer reads {inputs}"


def _folded_gain(block: "Block", units: int) -> "Tensor | float":
    """∣γ∣/√(variance + ε) of a batch norm between the two layers; 1 without one."""
    gain, variance = (_vector(block, role, units) for role in (Role.NORM_GAIN, Role.NORM_VAR))
    folded: Tensor | float = 1.0
    if variance is not None:
        folded = (variance.clamp_min(0.0) + _VARIANCE_EPS).rsqrt()
    return folded if gain is None else folded * gain.abs()


def _shift(block: "Block", units: int) -> "Tensor | None":
    """What a unit adds whatever it hears: the shift of the batch norm, else the bias of the first layer."""
    kind = block.site.role.kind
    roles = {"mlp": (Role.MLP_BIAS,), "linear": (Role.LINEAR_BIAS,), "conv": (Role.NORM_BIAS, Role.CONV_BIAS)}
    for role in roles.get(kind, ()):
        found = _vector(block, role, units)
        if found is not None:
            return found.abs()
    return None


def _vector(block: "Block", role: Role, units: int) -> "Tensor | None":
    for weight in block.all(role):
        if weight.tensor.numel() == units:
            return weight.tensor.reshape(-1).double().cpu()
    return None
