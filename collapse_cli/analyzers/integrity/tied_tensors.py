"""Promised ties that are broken, and layers that are byte-for-byte copies of others."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli.analyzer import (
    Example,
    Limit,
    Measurement,
    Metric,
    Reference,
    Role,
    Skip,
    checkpoint_analyzer,
    on,
    skip,
)

if TYPE_CHECKING:
    from collapse_cli.core.site import Site
    from collapse_cli.kernels.views import Inventory

#: Fewer entries than this are equal by accident or by initialisation.
_MIN_ENTRIES = 1024
_SHOWN = 8
#: Equal by nature: masks, frequencies, tables of positions, scales.
_ALIKE = frozenset({Role.MASK, Role.BUFFER, Role.POSITION, Role.SCALE, Role.SSM_A})
#: Copies on purpose: moving averages and the slow twin of self-distillation, which begin equal.
_AVERAGES = re.compile(
    r"(?:.*[._])?(?:ema|model_ema|embed_avg|averaged|shadow|teacher|momentum|target|encoder_k)(?:[._].*)?"
)
#: A word embedding and a head with the same bytes are a tie that was kept, declared or not.
_WORD_TABLES = frozenset({Role.EMBEDDING, Role.HEAD})

BROKEN_TIES = Metric(
    "broken_ties",
    "tensors",
    "Number of tensors that are declared tied to another and stored with other bytes.",
    better="lower",
    error=Limit("above", 0.0, "definition: a loader keeps one of the two and drops the other"),
    null="0",
    message="{value:.0f} declared ties are stored twice with different bytes: {pairs}.",
)
CLONED_TENSORS = Metric(
    "cloned_tensors",
    "tensors",
    "Number of tensors with the same bytes as an earlier one of another name, without a declared tie.",
    better="lower",
    warn=Limit("above", 0.0, "definition: training never makes two tensors equal to the bit"),
    null="0",
    message="Byte-for-byte copies of other tensors ({value:.0f}): {pairs}.",
)
CLONED_SHARE = Metric(
    "cloned_share",
    "1",
    "Share of the parameters that are in such copies.",
    better="lower",
    null="0",
)


def _is_compared(site: "Site") -> bool:
    """Whether a tensor's content is asked for."""
    is_weight = site.role not in _ALIKE and site.role.kind != "optimizer"
    return site.is_floating and site.numel >= _MIN_ENTRIES and is_weight


def _language_model(*, is_grown: bool) -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(48, 32, generator=generator)
    tensors = {"model.embed_tokens.weight": embedding}
    for layer in range(2):
        for leaf in ("q_proj", "o_proj"):
            name = f"model.layers.{layer}.self_attn.{leaf}.weight"
            earlier = tensors.get(name.replace("layers.1", "layers.0"))
            tensors[name] = (
                earlier.clone() if is_grown and earlier is not None else torch.randn(32, 32, generator=generator)
            )
    tensors["lm_head.weight"] = embedding + 0.01 if is_grown else embedding.clone()
    config = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 2, "tie_word_embeddings": True}
    return Example(tensors, config)


def healthy() -> Example:
    """A head tied to its embedding, and equal to it."""
    return _language_model(is_grown=False)


def collapsed() -> Example:
    """A head that has moved away from the embedding it is tied to, and a second layer copied from the first."""
    return _language_model(is_grown=True)


@checkpoint_analyzer(
    name="tied-tensors",
    family="integrity",
    title="Ties and copies",
    metrics=(BROKEN_TIES, CLONED_TENSORS, CLONED_SHARE),
    accepts=on.checkpoint(f"floating tensors with ≥ {_MIN_ENTRIES} entries, compared by content", hashed=_is_compared),
    remedy="If a tie is broken, find out which of the two was trained, tie again and export, or declare them untied. "
    "Train copied layers, with a little noise to separate them, or declare them shared and store them once.",
    references=(
        Reference(
            "Press & Wolf. Using the Output Embedding to Improve Language Models. 2016",
            "https://arxiv.org/abs/1608.05859",
        ),
        Reference(
            "Zou, Zhang & Deng. A Multi-Level Framework for Accelerating Training Transformer Models. 2024",
            "https://arxiv.org/abs/2404.07999",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "transposed"),
    reads_non_finite=True,
)
def tied_tensors(inventory: "Inventory") -> Iterator[Measurement | Skip]:
    """Are promised ties kept, and is any layer an accidental byte-for-byte copy?

    ## Why it matters
    A configuration that ties the head to the embedding makes a loader keep one of the two. If they were stored with
    different bytes, one of them is silently lost, and with it what it had learned. A layer with the bytes of another
    was grown and never trained, or exported from the wrong variable: it is paid for and adds nothing new.

    ## How to read it
    `broken_ties` above 0 is an error whichever of the two is right. `cloned_tensors` counts the copies and not the
    originals; `pairs` in the evidence names them. A whole layer among them points to depth growth or to a model that
    was saved before its first step, since some frameworks start all layers as copies of one.

    ## Limits
    Ties are known from `tie_word_embeddings` and from storage that two names share; without a configuration broken ties
    cannot be seen. Copies that differ in one bit are no copies here: see `duplicate-units` and `head-redundancy`.
    Tensors with fewer than 1024 entries or with two distinct values (constants) are left out, as are masks, position
    tables, moving averages and their like by name, optimizer state, and an embedding equal to a head.
    """
    name = inventory.site.name
    yield _broken(inventory)
    sites = {
        site.name: site
        for site in inventory.sites
        if _is_compared(site)
        and inventory.hashes.get(site.name, ("", False))[1]
        and site.name not in inventory.ties
        and not _AVERAGES.fullmatch(site.name)
    }
    if len(sites) < 2:
        yield skip(name, "cloned_tensors, cloned_share: fewer than two tensors to compare")
        return
    pairs = _clones(inventory, sites)
    parameters = sum(site.numel for site in inventory.sites if site.is_floating and site.role.kind != "optimizer")
    copied = sum(sites[copy].numel for copy, _ in pairs)
    yield CLONED_TENSORS.at(name, len(pairs), 0.0, pairs=_said(pairs), compared=len(sites))
    yield CLONED_SHARE.at(name, copied / parameters, 0.0, copied=copied, parameters=parameters)


def _broken(inventory: "Inventory") -> Measurement | Skip:
    if not inventory.config:
        return skip(inventory.site.name, "broken_ties: no configuration says what is tied")
    tied = [pair for pair in inventory.ties.items() if all(name in inventory.hashes for name in pair)]
    if not tied:
        return skip(inventory.site.name, "broken_ties: no two stored tensors are declared tied")
    broken = [(second, first) for second, first in tied if inventory.hashes[second][0] != inventory.hashes[first][0]]
    return BROKEN_TIES.at(inventory.site.name, len(broken), 0.0, pairs=_said(broken), declared=len(tied))


def _clones(inventory: "Inventory", sites: dict[str, "Site"]) -> list[tuple[str, str]]:
    """Every copy with the first tensor that has its bytes, shape and dtype."""
    alike: dict[tuple[object, ...], list[Site]] = defaultdict(list)
    for site in sites.values():
        alike[inventory.hashes[site.name][0], site.shape, site.dtype].append(site)
    return [
        (copy.name, first.name)
        for first, *copies in alike.values()
        for copy in copies
        if not {first.role, copy.role} <= _WORD_TABLES
    ]


def _said(pairs: list[tuple[str, str]]) -> str:
    more = f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
    return ", ".join(f"{second} of {first}" for second, first in pairs[:_SHOWN]) + more
