"""`config.json` and `adapter_config.json` beside a weight file, when they are about that file."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from collapse_cli.errors import UnreadableCheckpoint
from collapse_cli.sources.bytes import kind_of, open_local
from collapse_cli.sources.shard_index import is_index_name

__all__ = ["WEIGHT_SUFFIXES", "Configuration", "configuration_beside", "is_auxiliary", "is_hub_name", "weight_files"]

#: Suffixes under which weights are saved; the content still decides what they are.
WEIGHT_SUFFIXES = frozenset({".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz", ".npy"})

#: The largest configuration of a published model has a few hundred kB; this bounds what is parsed.
_LONGEST = 10_000_000

#: What `save_pretrained` of transformers, peft and diffusers calls its files.
_HUB_NAMES = re.compile(r"(model|pytorch_model|adapter_model|diffusion_pytorch_model)([.-][^/]*)?\.(safetensors|bin)")

#: What trainers (transformers, accelerate, DeepSpeed) save beside a model to resume from.
_AUXILIARY = re.compile(
    r"(optimizer|scheduler|scaler|sampler|rng_state|random_states|training_args|lr_scheduler)([_.-][^/]*)?\.(pt|pth|bin|pkl)"
    r"|.*optim_states\.pt"
)


@final
@dataclass(frozen=True, slots=True)
class Configuration:
    """What stands beside the weights; a file that is broken is told of in `notices` and otherwise ignored."""

    config: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


def is_hub_name(name: str) -> bool:
    """Whether a file of that name is what `config.json` beside it describes."""
    return bool(_HUB_NAMES.fullmatch(name)) or is_index_name(name)


def is_auxiliary(name: str) -> bool:
    """Whether a file of that name holds the state of a trainer and not a model."""
    return bool(_AUXILIARY.fullmatch(name))


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder with a weight suffix that are not a trainer's state, by name."""
    try:
        return sorted(
            path
            for path in folder.iterdir()
            if path.suffix in WEIGHT_SUFFIXES
            and not path.name.startswith(".")
            and not is_auxiliary(path.name)
            and kind_of(path) != "folder"
        )
    except OSError:
        return []


def configuration_beside(path: Path) -> Configuration:
    """What describes a weight file: read if the file has a hub name or is the only weight file of its folder."""
    if not is_hub_name(path.name) and weight_files(path.parent) != [path]:
        return Configuration()
    config, config_notice = _json_object(path.parent / "config.json")
    adapter, adapter_notice = _json_object(path.parent / "adapter_config.json")
    return Configuration(config, adapter, (*config_notice, *adapter_notice))


def _json_object(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    if kind_of(path) is None:
        return {}, ()
    try:
        source = open_local(path)
        try:
            if source.size > _LONGEST:
                return {}, (f"{path.name} was ignored: it has {source.size:,} bytes, more than {_LONGEST:,}",)
            value = json.loads(source.read(0, source.size))
        finally:
            source.close()
    except UnreadableCheckpoint as error:
        return {}, (f"{path.name} was ignored: {error.what}",)
    except (ValueError, RecursionError):
        return {}, (f"{path.name} was ignored: it is not JSON",)
    if not isinstance(value, dict):
        return {}, (f"{path.name} was ignored: it is not a JSON object",)
    return value, ()
