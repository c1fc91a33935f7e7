"""The roles of the arrays of a dump: what each is called, its axes, its kind of numbers and what it needs beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, final

from collapse_cli.core.site import FLOATING

__all__ = [
    "INDEX_NAME",
    "METADATA",
    "OUTPUT",
    "ROLES",
    "SCHEMA",
    "SCHEMA_KEY",
    "SHARD_KEY",
    "SYNONYMS",
    "DumpRole",
    "Numbers",
    "join_name",
    "split_name",
]

#: The site of an array whose name is a bare role.
OUTPUT: Final = "output"
#: Metadata under which a file says that it is a dump.
SCHEMA_KEY: Final = "collapse.schema"
SCHEMA: Final = "dump/1"
#: Metadata of a shard: its number, from 0.
SHARD_KEY: Final = "collapse.shard"
#: The file that makes a folder of shards one dump.
#:
#:     {"collapse.schema": "dump/1", "metadata": {string: string}, "shards": [{"file": name, "rows": {array: rows}}, …]}
INDEX_NAME: Final = "dump.index.json"
#: Every key of metadata that some analyzer or reader knows.
METADATA: Final = frozenset(
    {
        SCHEMA_KEY,
        SHARD_KEY,
        "model",
        "split",
        "training_dtype",
        "causal",
        "cls",
        "grid",
        "preprocessing",
        "generation",
        "step",
    }
    | {"top_k", "capacity_factor", "codebook_size", "pooling", "steps", "window", "activation", "paired", "embedding"}
    | {"curvature", "weight_decay", "task", "forget_groups"}
)

Numbers = Literal["float", "integer", "boolean", "number"]
Axes = tuple[str, ...]

#: First axes along which a dump grows, and along which shards are joined.
_ROW_AXES: Final = frozenset({"samples", "reference"})
_INTEGERS: Final = frozenset({"I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "BOOL"})


@final
@dataclass(frozen=True, slots=True)
class DumpRole:
    """What one array of a dump means.

    `shapes` are the axes it may have, by name: arrays of one site agree in the length of `samples`, `reference`,
    `classes`, `tokens` and `queries`; a last axis `...` stands for any number of axes. `is_shared`: an annotation of
    the samples and not of one site, so that the sites that lack it take it from `output`. `needs` are roles without
    which it says nothing; `metadata` are keys that are read with it.
    """

    name: str
    shapes: tuple[Axes, ...]
    numbers: Numbers
    says: str
    is_shared: bool = False
    needs: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()

    @property
    def rows(self) -> str | None:
        """The axis along which it grows: `samples` or `reference`; None for an array without rows."""
        first = self.shapes[0][0]
        return first if first in _ROW_AXES else None

    def axes(self, shape: Sequence[int]) -> Axes | None:
        """The names of the axes of an array of that shape; None if the role has no such shape."""
        for axes in self.shapes:
            if axes[-1] == "..." and len(shape) >= len(axes) - 1:
                return (*axes[:-1], *("",) * (len(shape) - len(axes) + 1))
            if len(axes) == len(shape):
                return axes
        return None

    def fault(self, shape: Sequence[int], dtype: str) -> tuple[str, str] | None:
        """What an array of that shape and dtype should be and is, if it cannot have this role."""
        if self.axes(shape) is None:
            wanted = " or ".join(" × ".join(axes) for axes in self.shapes)
            sides = " × ".join(f"{side:,}" for side in shape)
            return f"should be {wanted}", f"it is {sides}" if sides else "it is one number"
        lengths = {(axis, side) for axis, side in zip(self.axes(shape) or (), shape, strict=True) if axis}
        if len({axis for axis, _ in lengths}) < len(lengths):
            return "should be as long as wide", f"it is {' × '.join(f'{side:,}' for side in shape)}"
        if self.numbers == "float" and dtype not in FLOATING:
            return "should hold floating-point numbers", f"it holds {dtype}"
        if self.numbers in ("integer", "boolean") and dtype not in _INTEGERS:
            wanted = "whole numbers in an integer dtype" if self.numbers == "integer" else "true or false, or 1 and 0"
            return f"should hold {wanted}", f"it holds {dtype}"
        if self.numbers == "number" and dtype not in _INTEGERS | FLOATING:
            return "should hold numbers", f"it holds {dtype}"
        return None


def _role(
    name: str,
    shapes: str,
    says: str,
    *,
    numbers: Numbers = "float",
    is_shared: bool = False,
    needs: tuple[str, ...] = (),
    metadata: tuple[str, ...] = (),
) -> DumpRole:
    """A role; `shapes` is `samples features | samples tokens features`."""
    axes = tuple(tuple(shape.split()) for shape in shapes.split("|"))
    return DumpRole(name, axes, numbers, says, is_shared, needs, metadata)


_TABLE: Final = (
    _role("features", "samples features", "one row per sample", metadata=("pooling", "curvature", "embedding")),
    _role("ids", "samples", "identity of the sample: pairs two dumps row by row", numbers="integer", is_shared=True),
    _role("labels", "samples", "class of the sample", numbers="integer", is_shared=True),
    _role("targets", "samples | samples targets", "regression target", numbers="number", is_shared=True),
    _role(
        "groups",
        "samples",
        "nuisance group: site, slide, speaker, scanner, prompt set",
        numbers="integer",
        is_shared=True,
    ),
    _role("lengths", "samples", "tokens per sample", numbers="integer", is_shared=True),
    _role("view_a", "samples features", "one augmentation of each sample", needs=("view_b",)),
    _role("view_b", "samples features", "another augmentation of each sample", needs=("view_a",)),
    _role("views", "samples views features", "several augmentations of each sample"),
    _role("modality_a", "samples features_a", "embedding of each sample in one modality", needs=("modality_b",)),
    _role("modality_b", "samples features_b", "embedding of each sample in another", needs=("modality_a",)),
    _role("tokens", "samples tokens features", "token features of one layer"),
    _role("mask", "samples tokens", "which tokens are real", numbers="boolean", is_shared=True),
    _role(
        "attention",
        "samples heads queries keys",
        "attention weights; rows sum to one",
        metadata=("causal", "cls", "grid", "window"),
    ),
    _role("router_logits", "samples experts", "logits of a router", metadata=("top_k", "capacity_factor")),
    _role("expert_index", "samples chosen", "experts that were chosen", numbers="integer"),
    _role("codes", "samples ...", "vector-quantised indices", numbers="integer", metadata=("codebook_size",)),
    _role("codebook", "codes features", "the vectors that the indices name", needs=("codes",)),
    _role("assignments", "samples clusters", "soft cluster or prototype assignment"),
    _role("mu", "samples latents", "mean of the Gaussian posterior", needs=("logvar",)),
    _role("logvar", "samples latents", "log variance of the Gaussian posterior", needs=("mu",)),
    _role("logits", "samples classes", "logits of a classifier", metadata=("training_dtype",)),
    _role("sparse", "samples units", "sparse-autoencoder or post-ReLU activations", metadata=("activation",)),
    _role("samples", "samples features", "embeddings of generated data", metadata=("embedding",)),
    _role("reference", "reference features", "embeddings of real data", metadata=("embedding",)),
    _role("trajectory", "samples steps features", "denoising or recurrent trajectory", metadata=("steps",)),
    _role("head_weight", "classes features", "the classifier that reads the features"),
    _role("head_bias", "classes", "its bias", needs=("head_weight",)),
    _role("class_counts", "classes", "training samples of each class", numbers="number"),
    _role("transformation", "samples parameters", "parameters of the transformation between the views", is_shared=True),
    _role("labels_b", "samples", "second class of a mixed-up sample", numbers="integer", is_shared=True),
    _role("mix", "samples", "weight of the first class of a mixed-up sample", is_shared=True),
    _role("factors", "samples factors", "ground-truth factors or attributes", numbers="integer", is_shared=True),
    _role("token_labels", "samples tokens", "class or concept of each token", numbers="integer", is_shared=True),
    _role("correct", "samples attempts", "outcome of each attempt at a problem", numbers="boolean"),
    _role("row_field", "rows", "field or frequency block of each embedding row", numbers="integer", is_shared=True),
    _role("label_distance", "classes classes", "semantic distance between classes", is_shared=True),
    _role("fine_labels", "samples", "finer classes nested in the labels", numbers="integer", is_shared=True),
    _role("reference_labels", "reference", "mode of each reference row", numbers="integer", needs=("reference",)),
    _role("prior_mu", "samples latents", "mean of a learned prior", needs=("prior_logvar", "mu")),
    _role("prior_logvar", "samples latents", "log variance of a learned prior", needs=("prior_mu", "logvar")),
    _role("latent_logits", "samples groups latents", "categorical posterior of a world model"),
    _role("prior_logits", "samples groups latents", "categorical prior of a world model", needs=("latent_logits",)),
    _role("condition", "samples parameters", "what a conditional model is conditioned on", is_shared=True),
    _role("query_weight", "projections features", "query projection behind the attention", needs=("key_weight",)),
    _role("key_weight", "projections features", "key projection behind the attention", needs=("query_weight",)),
    _role("position_labels", "samples queries", "object of each query position", numbers="integer", is_shared=True),
)

#: Every role by its name, in the order of the reference.
ROLES: Final[Mapping[str, DumpRole]] = MappingProxyType({role.name: role for role in _TABLE})

#: What others call a role; an array of whole numbers called `y` or `targets` holds labels.
SYNONYMS: Final[Mapping[str, str]] = MappingProxyType(
    dict.fromkeys(("embeddings", "embedding", "feats", "feature", "activations", "x", "X"), "features")
    | dict.fromkeys(("label", "class_labels", "y_true"), "labels")
    | {"y": "targets", "target": "targets"}
    | {"group": "groups", "id": "ids", "length": "lengths", "attentions": "attention", "attention_mask": "mask"}
    | {"log_var": "logvar"}
)


def split_name(name: str) -> tuple[str, str]:
    """The site and the role that the name of an array gives: `encoder.layer.3/features`; a bare role is of `output`."""
    site, separator, role = name.rpartition("/")
    return (site, role) if separator and site else (OUTPUT, role)


def join_name(site: str, role: str) -> str:
    """The name of the array that holds a role of a site."""
    return f"{site}/{role}"
