"""How deep a tensor lies: its layer index, counted from 0 along the depth of the stack it belongs to."""

import re
from collections.abc import Iterable, Sequence

from collapse_cli.core import families

__all__ = ["layer_numbers", "running_order"]

_FLAGS = re.ASCII | re.DOTALL
_STAGES = tuple(re.compile(pattern, _FLAGS) for pattern in families.STAGES)
_LAYER = re.compile(
    r"(?:^|\.)(?:layers?|h|blocks?|resblocks|(?:single_)?transformer_blocks|\w+_layers|units|convs|lins|cells|hidden_states)\.(\d{1,6})\.[^.]"
    r"|(?:^|\.)encoder_layer_(\d{1,6})\.",
    _FLAGS,
)
_KOHYA_LAYER = re.compile(r"_(?:encoder_layers|layers|double_blocks|single_blocks|blocks)_(\d{1,6})_", _FLAGS)
#: Levels of a residual quantiser are numbered like layers but lie side by side.
_SIDE_BY_SIDE = re.compile(r"(?:.*\.)?\w*(?:quanti[sz]|codebook|vq)\w*\..*", _FLAGS)
_SECTIONS = {"mid_block": 1, "middle_block": 1, "mid": 1, "up_blocks": 2, "output_blocks": 2, "up": 2}
_NUMBER = re.compile(r"\d{1,6}", re.ASCII)

#: (section, stage, position in the stage); −1 where a level is not numbered
_Key = tuple[int, int, int]


def layer_numbers(paths: Iterable[str]) -> dict[str, int]:
    """The layer of every path that lies in a numbered stack; stages (ResNet, U-Net) are numbered throughout."""
    numbers: dict[str, int] = {}
    staged: dict[str, tuple[str, _Key]] = {}
    for path in paths:
        if _SIDE_BY_SIDE.fullmatch(path):
            continue
        if (place := _stage(path)) is not None:
            staged[path] = place
        elif found := _LAYER.search(path) or _KOHYA_LAYER.search(path):
            numbers[path] = int(next(group for group in found.groups() if group is not None))
    numbers.update(_ranks(staged))
    return numbers


def running_order(paths: Sequence[str]) -> list[str]:
    """The order in which unstacked modules run: that of the file, with the numbers of like-named modules ascending.

    A file sorted by name puts `net.10` before `net.2`; then modules are taken by first appearance of their name without
    numbers, and by number among those.
    """
    keys = [(_NUMBER.sub("#", path), tuple(int(number) for number in _NUMBER.findall(path))) for path in paths]
    highest: dict[str, tuple[int, ...]] = {}
    is_ascending = True
    for template, key in keys:
        is_ascending = is_ascending and highest.get(template, ()) <= key
        highest[template] = key
    if is_ascending:
        return list(paths)
    first = {template: position for position, template in enumerate(highest)}
    order = sorted(range(len(keys)), key=lambda position: (first[keys[position][0]], keys[position][1]))
    return [paths[position] for position in order]


def _stage(path: str) -> tuple[str, _Key] | None:
    for pattern in _STAGES:
        found = pattern.fullmatch(path)
        if found is None:
            continue
        groups = found.groupdict()
        section = groups.get("section") or ""
        outer = int(groups.get("outer") or -1)
        inner = int(groups.get("inner") or -1)
        if groups.get("after"):  # a sampler runs after the blocks of its stage
            inner = 10**6
        if section == "up":  # latent diffusion runs its decoder from the last stage to the first
            outer = -outer
        return groups["stack"], (_SECTIONS.get(section, 0), outer, inner)
    return None


def _ranks(staged: dict[str, tuple[str, _Key]]) -> dict[str, int]:
    stacks: dict[str, set[_Key]] = {}
    for stack, key in staged.values():
        stacks.setdefault(stack, set()).add(key)
    ranks: dict[str, dict[_Key, int]] = {}
    for stack, keys in stacks.items():
        # what stands between two stages (downsampling of ConvNeXt) belongs to the first block after it
        blocks = sorted(key for key in keys if key[2] >= 0 or not _has_blocks(key, keys))
        ranks[stack] = {key: position for position, key in enumerate(blocks)}
        for key in keys - set(blocks):
            ranks[stack][key] = min(rank for block, rank in ranks[stack].items() if block[:2] == key[:2])
    return {path: ranks[stack][key] for path, (stack, key) in staged.items()}


def _has_blocks(key: _Key, keys: set[_Key]) -> bool:
    return any(other[:2] == key[:2] and other[2] >= 0 for other in keys)
