"""The model inside a checkpoint: wrapper prefixes off, state dict found, optimizer state kept apart. Pure, no torch."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from math import prod
from typing import Any, Final, TypeGuard, final

from collapse_cli.core.site import FLOATING
from collapse_cli.errors import UnreadableCheckpoint
from collapse_cli.sources.base import OptimizerGroup
from collapse_cli.sources.pickled import Opaque, StorageRef, TensorRef, UnreadableTensor

__all__ = ["Leaf", "Unwrapped", "strip_prefixes", "unwrap"]

#: Attributes under which a wrapper keeps the module it wraps: compile, FSDP, DeepSpeed, activation checkpointing.
WRAPPERS: Final = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_forward_module", "_checkpoint_wrapped_module"})
#: The one tensor torch.optim.swa_utils.AveragedModel keeps beside its `module`.
BESIDE_MODULE: Final = frozenset({"n_averaged"})
#: Keys under which trainers save the model, the surest first; an average of the weights is the model only without them.
MODEL_KEYS: Final = ("state_dict", "model_state_dict", "model", "module", "net", "params")
EMA_KEYS: Final = ("ema", "params_ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema")
#: Where an `nn.Module` keeps its tensors and children; no part of their names.
MODULE_SLOTS: Final = frozenset({"_parameters", "_buffers", "_modules"})
#: Last components of floating buffers of torch's norms and of rotary embeddings: no optimizer steps them.
BUFFERS: Final = frozenset({"running_mean", "running_var", "inv_freq"})
#: Moments that have the shape of their parameter (Adam, AMSGrad, SGD, RMSprop).
SHAPED_LIKE_PARAMETER: Final = ("exp_avg", "exp_avg_sq", "momentum_buffer", "square_avg", "max_exp_avg_sq")
#: Modules nest a few dozen levels deep; a million tensors is some five times the largest published model, all shards.
DEEPEST, MOST_TENSORS, MOST_NAME_CHARACTERS = 1_000, 1_000_000, 1 << 28
#: Hyper-parameters beyond this count are a vocabulary and not a configuration.
MOST_SETTINGS = 10_000

Leaf = TensorRef | UnreadableTensor | StorageRef
Path = tuple[str, ...]
#: Keys under which Lightning keeps what its callbacks and loops remember.
_REMEMBERED = frozenset({"callbacks", "loops"})


@final
@dataclass(frozen=True, slots=True)
class Unwrapped:
    """A checkpoint tree taken apart: tensors of the model and of everything else by name, and what is said beside them.

    `extras` holds averaged copies (`ema.<name>`), optimizer moments and stray tensors, named by their path in the tree.
    """

    model: Mapping[str, Leaf]
    optimizer: tuple[OptimizerGroup, ...] = ()
    extras: Mapping[str, Leaf] = field(default_factory=dict)
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)


def strip_prefixes(names: Iterable[str]) -> dict[str, str]:
    """Stored name → name without the components that DDP, compile, FSDP, DeepSpeed and checkpointing add.

    A leading `module` goes only if every tensor has it; the other wrappers go wherever they hold something. If two
    names would become equal, every name stays as it is.
    """
    stored = list(dict.fromkeys(names))
    clean = [_without_wrappers(name) for name in stored]
    while _all_in_module(clean):
        clean = [name.removeprefix("module.") for name in clean]
    if len(set(clean)) < len(stored):
        return {name: name for name in stored}
    return dict(zip(stored, clean, strict=True))


def _without_wrappers(name: str) -> str:
    *holders, last = name.split(".")
    return ".".join([*(part for part in holders if part not in WRAPPERS), last])


def _all_in_module(names: list[str]) -> bool:
    inside = [name for name in names if name not in BESIDE_MODULE]
    return bool(inside) and all(name.startswith("module.") and name != "module." for name in inside)


def unwrap(tree: Any, *, where: str = "", is_stripped: bool = True) -> Unwrapped:
    """The model state dict, optimizer state and other tensors of a checkpoint tree.

    Without `is_stripped` the prefixes of wrappers stay: one shard does not show whether every tensor has them.

    Raises:
        UnreadableCheckpoint: the tree is too deep or names too many tensors.
    """
    forest = _Forest(tree, where, is_stripped=is_stripped)
    optimizers = dict(_optimizers(tree))
    home, model_tree = _model_place(tree, forest)
    model = _named(model_tree, forest, {path[len(home) :] for path in optimizers if path[: len(home)] == home})
    averages: list[Path] = [
        (key,) for key in EMA_KEYS if home and home[0] != key and isinstance(tree, dict) and key in tree
    ]
    extras: dict[str, Leaf] = {}
    for path in averages:
        for name, leaf in _named(tree[path[0]], forest, ()).items():
            extras[_free(f"ema.{name}", extras, model)] = leaf
    stray = forest.leaves(tree, skipping={home, *averages, *optimizers}) if home else iter(())
    moments = chain.from_iterable(forest.leaves(state, path) for path, state in optimizers.items())
    for path, leaf in chain(stray, moments):
        if _is_of_the_trainer(tree, path, leaf):
            continue
        extras[_free(".".join(path) or "tensor", extras, model)] = leaf
    groups = chain.from_iterable(
        _groups(state, path, model, is_only=len(optimizers) == 1) for path, state in optimizers.items()
    )
    settings = _settings(tree.get("hyper_parameters")) if isinstance(tree, dict) else {}
    return Unwrapped(model, tuple(groups), extras, settings)


def _is_of_the_trainer(tree: Any, path: Path, leaf: Leaf) -> bool:
    """Whether it is a number that a trainer remembers and no part of a model: Lightning's best score may be inf."""
    is_remembered = isinstance(tree, dict) and "pytorch-lightning_version" in tree and path[0] in _REMEMBERED
    return is_remembered and isinstance(leaf, TensorRef) and prod(leaf.shape) <= 1


# --- the tree --------------------------------------------------------------------------------------------------------


def _children(node: Any) -> Iterator[tuple[str | None, Any]]:
    """What a value holds, with the component it adds to a name; None where it adds none."""
    if isinstance(node, dict):
        for index, (key, value) in enumerate(node.items()):
            is_slot = isinstance(key, str) and key in MODULE_SLOTS and isinstance(value, dict)
            plain = str(key) if isinstance(key, str | int | float | bool | None) else str(index)
            yield None if is_slot else plain, value
    elif isinstance(node, list | tuple | set | frozenset):
        for index, value in enumerate(node):
            yield str(index), value
    elif isinstance(node, Opaque):
        for value in (node.entries, node.args, node.items):
            yield None, value
        # a class with slots saves a pair: its `__dict__` and its slots
        for value in node.state if isinstance(node.state, tuple) else (node.state,):
            yield None, value


@final
class _Forest:
    """A tree with every container that leads to a tensor marked; shared and circular containers are looked at once."""

    def __init__(self, tree: Any, where: str, *, is_stripped: bool) -> None:
        self.where, self.is_stripped = where, is_stripped
        self._fertile = _fertile(tree)
        self._tensors = self._characters = 0

    def holds(self, node: Any) -> bool:
        """Whether the value is a container with a tensor somewhere inside."""
        return id(node) in self._fertile

    def leaves(self, node: Any, path: Path = (), *, skipping: Collection[Path] = ()) -> Iterator[tuple[Path, Leaf]]:
        """Every tensor below a value with its path, in order; containers on the way to themselves are left out."""
        if isinstance(node, Leaf):
            yield path, node
        if path in skipping:
            return
        open_nodes: list[tuple[int, Path, Iterator[tuple[str | None, Any]]]] = []
        if self.holds(node):
            open_nodes.append((id(node), path, _children(node)))
        above = {id(node)}
        while open_nodes:
            identity, here, children = open_nodes[-1]
            component, child = next(children, (None, _END))
            below = here if component is None else (*here, component)
            if child is _END:
                above.discard(identity)
                open_nodes.pop()
            elif below in skipping and component is not None:
                continue
            elif isinstance(child, Leaf):
                self._count(below)
                yield below, child
            elif self.holds(child) and id(child) not in above:
                if len(open_nodes) >= DEEPEST:
                    raise UnreadableCheckpoint(f"its values nest more than {DEEPEST:,} deep", where=self.where)
                above.add(id(child))
                open_nodes.append((id(child), below, _children(child)))

    def _count(self, path: Path) -> None:
        self._tensors += 1
        self._characters += sum(map(len, path))
        if self._tensors > MOST_TENSORS:
            raise UnreadableCheckpoint(f"it names more than {MOST_TENSORS:,} tensors", where=self.where)
        if self._characters > MOST_NAME_CHARACTERS:
            what = f"the names of its tensors have more than {MOST_NAME_CHARACTERS:,} characters"
            raise UnreadableCheckpoint(what, where=self.where)


_END: Final = object()


def _fertile(tree: Any) -> set[int]:
    """Identities of the containers that lead to a tensor: every one visited once, then back from the leaves."""
    holders: dict[int, list[int]] = {}
    seen, pending = {id(tree)}, [tree]
    fertile: list[int] = []
    while pending:
        node = pending.pop()
        for _, child in _children(node):
            if isinstance(child, Leaf):
                fertile.append(id(node))
            elif isinstance(child, dict | list | tuple | set | frozenset | Opaque):
                holders.setdefault(id(child), []).append(id(node))
                if id(child) not in seen:
                    seen.add(id(child))
                    pending.append(child)
    reached: set[int] = set()
    while fertile:
        identity = fertile.pop()
        if identity not in reached:
            reached.add(identity)
            fertile.extend(holders.get(identity, ()))
    return reached


# --- the model -------------------------------------------------------------------------------------------------------


def _model_place(tree: Any, forest: _Forest) -> tuple[Path, Any]:
    """Path and value of the model in the tree: `()` where the whole tree is the model."""
    home: Path = ()
    node = tree
    for _ in range(4):  # `{"model": {"state_dict": {"module": …}}}` is the deepest seen in the wild
        keys = (key for key in (*MODEL_KEYS, *EMA_KEYS) if isinstance(node, dict) and forest.holds(node.get(key)))
        key = next(keys, None)
        if key is None:
            break
        home, node = (*home, key), node[key]
    return home, node


def _named(node: Any, forest: _Forest, skipping: Collection[Path]) -> dict[str, Leaf]:
    """The tensors of a model by clean name; the parts of a dictionary of state dicts are cleaned each by itself."""
    parts: dict[str, list[tuple[str, Leaf]]] = {}
    for path, leaf in forest.leaves(node, skipping=skipping):
        is_part = len(path) > 1 and isinstance(node, dict)
        parts.setdefault(path[0] if is_part else "", []).append((".".join(path[is_part:]) or "tensor", leaf))
    named: dict[str, Leaf] = {}
    for part, tensors in parts.items():
        clean = strip_prefixes(name for name, _ in tensors) if forest.is_stripped else {}
        for name, leaf in tensors:
            cleaned = clean.get(name, name)
            named[_free(f"{part}.{cleaned}" if part else cleaned, named)] = leaf
    return named


def _free(name: str, *taken: Collection[str]) -> str:
    count, free = 1, name
    while any(free in names for names in taken):
        count += 1
        free = f"{name}~{count}"
    return free


def _settings(value: Any) -> dict[str, Any]:
    """The plain part of hyper-parameters: numbers, texts, and lists and dictionaries of them."""
    left = [MOST_SETTINGS]
    plain = _plain(value, left, 8)
    return plain if isinstance(plain, dict) else {}


def _plain(value: Any, left: list[int], depth: int) -> Any:
    left[0] -= 1
    if left[0] < 0 or depth == 0:
        return None
    if isinstance(value, Opaque):
        value = value.entries | (value.state if isinstance(value.state, dict) else {})
    if isinstance(value, dict):
        pairs = ((key, _plain(item, left, depth - 1)) for key, item in value.items() if isinstance(key, str))
        return {key: item for key, item in pairs if item is not None and item != {}}
    if isinstance(value, list | tuple) and not isinstance(value, Leaf):
        return [_plain(item, left, depth - 1) for item in value[:MOST_SETTINGS]]
    return value if isinstance(value, str | int | float | bool) else None


# --- the optimizer ---------------------------------------------------------------------------------------------------


def _optimizers(tree: Any) -> Iterator[tuple[Path, dict[Any, Any]]]:
    """Every `{state, param_groups}` down to a list or dictionary of optimizers, with its path."""
    seen: set[int] = set()
    pending: list[tuple[Path, Any]] = [((), tree)]
    while pending:
        path, node = pending.pop(0)
        if id(node) in seen or not isinstance(node, dict | list):
            continue
        seen.add(id(node))
        if _is_optimizer(node):
            yield path, node
        elif len(path) < 3:
            inner = [(key, value) for key, value in _children(node) if isinstance(value, dict | list)]
            pending.extend(((*path, key), value) for key, value in inner if key is not None)


def _is_optimizer(node: Any) -> TypeGuard[dict[Any, Any]]:
    return isinstance(node, dict) and isinstance(node.get("state"), dict) and isinstance(node.get("param_groups"), list)


def _groups(
    optimizer: dict[Any, Any], path: Path, model: Mapping[str, Leaf], *, is_only: bool
) -> Iterator[OptimizerGroup]:
    groups = [group for group in optimizer["param_groups"] if isinstance(group, dict)]
    settings = {
        key: plain
        for group, plain in zip(groups, map(_group_settings, groups), strict=True)
        for key in _keys(group.get("params"))
    }
    state = {key: kept for key, kept in optimizer["state"].items() if isinstance(kept, dict)}
    names = _parameter_names(groups, state, model)
    unknown = "param_" if is_only else f"{'.'.join(path)}.param_"
    for key, kept in state.items():
        place = ".".join((*path, "state", str(key)))
        moments = {str(name): f"{place}.{name}" for name, value in kept.items() if isinstance(value, TensorRef)}
        scalars = {str(name): value for name, value in kept.items() if isinstance(value, int | float | str)}
        yield OptimizerGroup(names.get(key) or f"{unknown}{key}", moments, settings.get(key, {}) | scalars)


def _keys(params: Any) -> list[Any]:
    return [key for key in params if isinstance(key, int | str)] if isinstance(params, list) else []


def _group_settings(group: dict[Any, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in group.items() if key not in ("params", "param_names")}
    return _settings(plain)


def _parameter_names(
    groups: list[dict[Any, Any]], state: Mapping[Any, dict[Any, Any]], model: Mapping[str, Leaf]
) -> dict[Any, str]:
    """Key of the state → name of the parameter, where the file or the shapes prove it; otherwise nothing."""
    if state and all(isinstance(key, str) for key in state):
        return strip_prefixes(state)
    order = [key for group in groups for key in _keys(group.get("params"))]
    if len(set(order)) < len(order):
        return {}
    given = [name for group in groups for name in _keys(group.get("param_names")) if isinstance(name, str)]
    if given and len(given) == len(order):
        return dict(zip(order, map(strip_prefixes(given).__getitem__, given), strict=True))
    parameters = _parameters(model)
    if len(order) != len(parameters):
        return {}
    paired = dict(zip(order, parameters, strict=True))
    is_proven = all(
        kept[moment].shape == paired[key][1].shape
        for key, kept in state.items()
        for moment in SHAPED_LIKE_PARAMETER
        if key in paired and isinstance(kept.get(moment), TensorRef)
    )
    return {key: name for key, (name, _) in paired.items()} if is_proven else {}


def _parameters(model: Mapping[str, Leaf]) -> list[tuple[str, TensorRef]]:
    """What an optimizer steps, in order: floating, no buffer, tied tensors once."""
    first: dict[TensorRef, str] = {}
    for name, leaf in model.items():
        if isinstance(leaf, TensorRef) and leaf.dtype in FLOATING and name.rpartition(".")[2] not in BUFFERS:
            first.setdefault(leaf, name)
    return [(name, leaf) for leaf, name in first.items()]
