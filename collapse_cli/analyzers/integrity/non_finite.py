"""NaN and infinities among the stored numbers."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Role, Skip, on, skip, stored_analyzer
from collapse_cli.core.roles import ROLES, join_name

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations, Stored

NAN_COUNT = Metric(
    "nan_count",
    "entries",
    "Number of entries that are not a number.",
    better="lower",
    error=Limit("above", 0.0, "definition: every output that reads a NaN is NaN"),
    null="0",
    message="Holds {value:.0f} NaN ({pattern}), the first at {first}, in {rows} of {of_rows} rows.",
)
INF_COUNT = Metric(
    "inf_count",
    "entries",
    "Number of entries that are infinite; of a mask only +inf, for its −inf is meant.",
    better="lower",
    error=Limit("above", 0.0, "definition: an infinite weight gives an infinite output, or NaN"),
    null="0",
    message="Holds {value:.0f} infinities ({pattern}), the first entry not finite at {first}, in {rows} of "
    "{of_rows} rows.",
)
AFFECTED_ROW_SHARE = Metric(
    "affected_row_share",
    "1",
    "Share of the rows (of a vector: of its entries) that hold a NaN or an infinity.",
    better="lower",
    null="0",
)


#: Roles of a dump with a row per sample and numbers that may be none.
_ARRAYS = tuple(role.name for role in ROLES.values() if role.numbers == "float" and role.rows and not role.is_shared)


def _of_dump(point: "Activations") -> Iterator[Measurement]:
    for role, count in point.non_finite.items():
        name = join_name(point.site.name, role)
        share = count.affected / count.rows if count.rows else 0.0
        evidence: dict[str, Any] = {"entries": count.entries, "rows": count.affected, "of_rows": count.rows}
        evidence["pattern"] = "everything" if share == 1.0 else "some rows" if count.affected else "none"
        if count.first is not None:
            evidence["first"] = [count.first]
        infinite = {"positive": count.positive, "negative": count.negative}
        infinities = count.positive + (0 if role.endswith("logits") else count.negative)
        yield NAN_COUNT.at(name, count.nan, 0.0, **evidence)
        yield INF_COUNT.at(name, infinities, 0.0, **evidence, **infinite)
        yield AFFECTED_ROW_SHARE.at(name, share, 0.0, **evidence)


def _stored_ones() -> Example:
    import torch

    return Example({"encoder.layer.0.output.dense.weight": torch.ones(4, 4)}, {"model_type": "bert"})


def healthy() -> Example:
    """A 4 × 4 matrix of ones."""
    return _stored_ones()


def collapsed() -> Example:
    """The same with one NaN and one infinity, in two of its four rows."""
    example = _stored_ones()
    tensor = example.tensors["encoder.layer.0.output.dense.weight"]
    tensor[1, 2], tensor[3, 0] = float("nan"), float("inf")
    return example


@stored_analyzer(
    name="non-finite",
    family="integrity",
    title="Numbers that are none",
    metrics=(NAN_COUNT, INF_COUNT, AFFECTED_ROW_SHARE),
    accepts=on.floating(),
    remedy="Return to the last checkpoint that is finite. If whole rows or scattered entries are hit, training "
    "diverged: lower the peak rate, lengthen warm-up, clip gradients, train in bf16 instead of fp16, normalise "
    "queries and keys or add a z-loss if logits had grown, skip the batch. If one run of neighbours is hit, suspect "
    "the file: download or export it again.",
    references=(
        Reference(
            "Wortsman et al. Small-scale proxies for large-scale Transformer training instabilities. 2023",
            "https://arxiv.org/abs/2309.14322",
        ),
        Reference(
            "Zhai et al. Stabilizing Transformer Training by Preventing Attention Entropy Collapse. 2023",
            "https://arxiv.org/abs/2303.06296",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "transposed", "rows_permuted"),
    unmoved_metrics=("nan_count", "inf_count"),
    reads_non_finite=True,
    also=("activations",),
    companions=on.points(says="floating arrays of a dump", any_of=tuple((role,) for role in _ARRAYS)),
    uses=(*_ARRAYS, "mask"),
)
def non_finite(view: Any) -> Iterator[Measurement | Skip]:
    """Has any stored number stopped being a number?

    ## Why it matters
    One NaN is enough: whatever is multiplied with it or summed with it is NaN, and after a layer or two so is every
    output. Infinities become NaN at the next difference or normalisation. A checkpoint with one of them is not
    degraded, it is broken, and optimizer state with one of them breaks the model at the next step.

    ## How to read it
    Any count above zero is an error. `pattern` tells where to look: "one run" of neighbours in memory is a damaged or
    badly written file, "whole rows" is an update that went wrong for some outputs or tokens, "everything" a run that
    diverged long before it was saved. `first` is the index of the first one, `span` the first and last place in
    memory. In a scale of block-quantised weights one NaN (0xFF in e8m0) stands for a whole block. Every other analyzer
    skips what is not finite.

    Of a dump every array is a site of its own, `first` is a row, and rows that hold such a number are left out of all
    that is measured besides. −∞ is a legitimate logit, that of a class that is masked, and masked tokens may hold
    anything; attention is checked by its own analyzers.

    ## Limits
    Only what is stored is seen: a model of finite weights can still overflow when it runs in fp16. Masks are recognised
    by name; their −inf is counted as evidence and not judged. The 8-bit format e4m3 has no infinity, so that what
    overflowed on the way into it is NaN or the largest number, which `dtype-range` counts. Packed 4-bit and 6-bit
    formats cannot hold anything but finite numbers and are skipped.
    """
    if hasattr(view, "non_finite"):
        yield from _of_dump(view)
        return
    stored: Stored = view
    name, tensor = stored.site.name, stored.tensor
    if not kernels.words.is_readable(stored):
        yield skip(name, f"{stored.site.dtype} holds finite numbers only")
        return
    if tensor.numel() == 0:
        yield skip(name, "empty tensor")
        return
    found = stored.get(kernels.words.non_finite)
    of_rows = tensor.shape[0] if tensor.dim() else 1
    evidence: dict[str, Any] = {"entries": tensor.numel(), "rows": found.rows, "of_rows": of_rows}
    evidence["pattern"] = found.pattern or "none"
    if found.first is not None and found.span is not None:
        evidence |= {"first": list(found.first), "span": list(found.span)}
    is_mask = stored.site.role is Role.MASK
    infinite = {"positive": found.positive, "negative": found.negative}
    if is_mask:
        infinite["masked"] = found.negative
    yield NAN_COUNT.at(name, found.nan, 0.0, **evidence)
    infinities = found.positive if is_mask else found.positive + found.negative
    yield INF_COUNT.at(name, infinities, 0.0, **evidence, **infinite)
    yield AFFECTED_ROW_SHARE.at(name, found.rows / of_rows, 0.0, **evidence)
