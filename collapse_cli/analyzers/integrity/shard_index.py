"""Whether the index of a sharded checkpoint and its shards describe the same, complete model."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, checkpoint_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.core.layout import ShardLayout
    from collapse_cli.kernels.views import Inventory

#: Names shown of each kind of fault.
_SHOWN = 8


def _count(name: str, says: str, error: Limit | None, warn: Limit | None, message: str) -> Metric:
    what = name.partition("_")[2]
    return Metric(name, what, says, better="lower", error=error, warn=warn, null="0", message=message)


MISSING_SHARDS = _count(
    "missing_shards",
    "Number of shard files that the index names and that do not exist.",
    Limit("above", 0.0, "definition: part of the model is not there"),
    None,
    "{value:.0f} of {files} shards are missing: {names}.",
)
MISSING_TENSORS = _count(
    "missing_tensors",
    "Number of tensors that are not in the shard the index names for them.",
    Limit("above", 0.0, "definition: part of the model is not where the index says"),
    None,
    "{value:.0f} of {indexed} tensors are not in their shard: {names}.",
)
UNINDEXED_TENSORS = _count(
    "unindexed_tensors",
    "Number of tensors that stand in a shard and not in the index.",
    None,
    Limit("above", 0.0, "definition: a loader ignores them or guesses"),
    "{value:.0f} tensors stand in a shard and not in the index: {names}.",
)
STRAY_SHARDS = _count(
    "stray_shards",
    "Number of weight files beside the index that it does not name.",
    None,
    Limit("above", 0.0, "definition: a loader that goes by file names reads another model"),
    "{value:.0f} weight files beside the index belong to no shard of it: {names}.",
)
CONFLICTING_TENSORS = _count(
    "conflicting_tensors",
    "Number of tensors that stand in two shards with different bytes.",
    Limit("above", 0.0, "definition: which one is loaded depends on the order of reading"),
    None,
    "{value:.0f} tensors stand in two shards with different bytes: {names}.",
)
TILING_ERRORS = _count(
    "tiling_errors",
    "Number of tensors whose chunks leave a gap or overlap.",
    Limit("above", 0.0, "definition: part of the tensor is undefined or ambiguous"),
    None,
    "The chunks of {value:.0f} tensors leave a gap or overlap: {names}.",
)
SIZE_ERROR = Metric(
    "size_error",
    "bytes",
    "The total size that the index states less the bytes of the tensors.",
    null="0",
)


def _two_shards() -> tuple[dict[str, object], dict[str, str]]:
    import torch

    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    names = ("model.embed_tokens", "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj")
    index = {f"{name}.weight": first if name == names[0] else second for name in names}
    index |= {"model.norm.weight": first, "lm_head.weight": second}
    return {name: torch.ones(4, 4) for name in index}, index


def healthy() -> Example:
    """Two shards and an index of five tensors."""
    tensors, index = _two_shards()
    files = dict.fromkeys(index.values())
    shards = {file: tuple(name for name in index if index[name] == file) for file in files}
    return Example(tensors, {"model_type": "llama"}, shards=shards, index=index)


def collapsed() -> Example:
    """The shard that held three of them is deleted."""
    tensors, index = _two_shards()
    kept = {name: file for name, file in index.items() if file.startswith("model-00001")}
    present = {name: tensors[name] for name in kept}
    shards = {next(iter(kept.values())): tuple(kept)}
    return Example(present, {"model_type": "llama"}, shards=shards, index=index)


@checkpoint_analyzer(
    name="shard-index",
    family="integrity",
    title="Shards and their index",
    metrics=(
        MISSING_SHARDS,
        MISSING_TENSORS,
        UNINDEXED_TENSORS,
        STRAY_SHARDS,
        CONFLICTING_TENSORS,
        TILING_ERRORS,
        SIZE_ERROR,
    ),
    accepts=on.checkpoint("checkpoints in several files"),
    remedy="Download or export the checkpoint again. If every shard is there and whole, rebuild the index from their "
    "headers. Move weight files that belong to another export out of the folder.",
    references=(
        Reference(
            "Wan et al. ByteCheckpoint: A Unified Checkpointing System for Large Foundation Model Development. 2024",
            "https://arxiv.org/abs/2407.20143",
        ),
        Reference(
            "Shen et al. SE-MoE: A Scalable and Efficient Mixture-of-Experts Distributed Training and Inference "
            "System. 2022",
            "https://arxiv.org/abs/2205.10034",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "transposed", "rotated", "rows_permuted"),
    reads_non_finite=True,
)
def shard_index(inventory: "Inventory") -> Iterator[Measurement | Skip]:
    """Do the index and the shards describe the same, complete model?

    ## Why it matters
    Loaders fill what they do not find with random numbers and a warning that scrolls by, or pass over what they do not
    expect. A model with a shard missing, or with half of an older export in the same folder, loads and talks nonsense.

    ## How to read it
    All counts of a whole checkpoint are 0. `missing_shards` and `missing_tensors` mean that part of the model is not
    there, `conflicting_tensors` and `tiling_errors` that part of it is there twice or in pieces that do not fit;
    these are errors. `unindexed_tensors` and `stray_shards` say that there is more in the folder than the index knows:
    a 4-bit `model.safetensors` left beside bf16 shards is the classic. The evidence lists the first names of each.

    ## Limits
    Headers and the index are compared, and the bytes of names that stand in two shards up to a budget; whether the
    numbers are right, other analyzers say. A head that the index lists and no shard holds is in order if the
    configuration ties it to the embedding. `size_error` is not judged: exporters disagree on whether tied tensors count
    twice. Shard paths that lead out of the folder are refused when the checkpoint is opened.
    """
    layout, name = inventory.layout, inventory.site.name
    if layout is None:
        yield skip(name, "single file: there is no index")
        return
    yield MISSING_SHARDS.at(
        name, len(layout.absent), 0.0, **_names(layout.absent), files=len(set(layout.index.values()))
    )
    missing = _missing(layout, is_tied=_is_tied(inventory))
    yield MISSING_TENSORS.at(name, len(missing), 0.0, **_names(missing), indexed=len(layout.index))
    for metric, found in (
        (UNINDEXED_TENSORS, _unindexed(layout)),
        (STRAY_SHARDS, layout.stray),
        (CONFLICTING_TENSORS, layout.conflicting),
        (TILING_ERRORS, layout.tiling_errors),
    ):
        yield metric.at(name, len(found), 0.0, **_names(found))
    if layout.total_size is None or layout.actual_size is None:
        yield skip(name, "size_error: the index states no total size")
        return
    sizes = {"stated": layout.total_size, "actual": layout.actual_size}
    yield SIZE_ERROR.at(name, layout.total_size - layout.actual_size, 0.0, **sizes)


def _names(found: Sequence[str]) -> dict[str, str]:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return {"names": ", ".join(found[:_SHOWN]) + more}


def _is_tied(inventory: "Inventory") -> bool:
    nested = (inner for inner in inventory.config.values() if isinstance(inner, dict))
    return any(part.get("tie_word_embeddings") is True for part in (inventory.config, *nested))


def _missing(layout: "ShardLayout", *, is_tied: bool) -> tuple[str, ...]:
    held = {file: frozenset(names) for file, names in layout.shards.items()}
    return tuple(
        tensor
        for tensor, file in layout.index.items()
        if tensor not in held.get(file, ()) and not (is_tied and tensor.endswith("lm_head.weight"))
    )


def _unindexed(layout: "ShardLayout") -> tuple[str, ...]:
    return tuple(
        tensor
        for file, tensors in layout.shards.items()
        if file not in layout.stray
        for tensor in tensors
        if tensor not in layout.index
    )
