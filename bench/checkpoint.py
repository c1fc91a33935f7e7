"""A seeded checkpoint with the names and shapes of a Llama: `python bench/checkpoint.py FOLDER SIZES-JSON` writes it.

Tensor by tensor, so that memory is bounded by the largest. torch is imported where numbers are drawn only: whoever
starts the sides of a comparison stays small, since a child's `ru_maxrss` begins at that of its parent.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
#: Written last: its presence says that the rest is whole.
MARKER = "sizes.json"


@dataclass(frozen=True)
class Llama:
    """The sizes that the shapes follow from; by default those of TinyLlama, with 20 layers instead of 22."""

    hidden: int = 2048
    intermediate: int = 5632
    key_value: int = 256
    heads: int = 32
    layers: int = 20
    vocabulary: int = 32000
    shards: int = 3

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor, in file order."""
        hidden, wide = self.hidden, self.intermediate
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, hidden)}
        for layer in range(self.layers):
            found |= {
                f"model.layers.{layer}.{name}.weight": shape
                for name, shape in {
                    "self_attn.q_proj": (hidden, hidden),
                    "self_attn.k_proj": (self.key_value, hidden),
                    "self_attn.v_proj": (self.key_value, hidden),
                    "self_attn.o_proj": (hidden, hidden),
                    "mlp.gate_proj": (wide, hidden),
                    "mlp.up_proj": (wide, hidden),
                    "mlp.down_proj": (hidden, wide),
                    "input_layernorm": (hidden,),
                    "post_attention_layernorm": (hidden,),
                }.items()
            }
        return found | {"model.norm.weight": (hidden,), "lm_head.weight": (self.vocabulary, hidden)}

    def config(self) -> dict[str, object]:
        """What transformers calls the same model."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads * self.key_value // self.hidden,
            "num_hidden_layers": self.layers,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }

    def signature(self) -> str:
        """The sizes as JSON: what a folder is known by."""
        return json.dumps(asdict(self), sort_keys=True)


def is_written(folder: Path, sizes: Llama) -> bool:
    """Whether the folder holds the checkpoint of these sizes, whole."""
    marker = folder / MARKER
    return marker.is_file() and marker.read_text() == sizes.signature()


def write(folder: Path, sizes: Llama, seed: int = 0) -> None:
    """The shards, the index and the configuration; the seed moves every number.

    Raises:
        OSError: the disk is too small.
    """
    shapes = sizes.shapes()
    needed = 2 * sum(math.prod(shape) for shape in shapes.values())
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < 2 * needed:
        raise OSError(f"{folder}: needs {needed:,} bytes, and as many again left over")
    shares: list[list[str]] = [[] for _ in range(sizes.shards)]
    placed = 0
    for name, shape in shapes.items():
        shares[min(sizes.shards * placed // needed, sizes.shards - 1)].append(name)
        placed += 2 * math.prod(shape)
    places: dict[str, str] = {}
    for number, names in enumerate(shares, start=1):
        shard = f"model-{number:05}-of-{sizes.shards:05}.safetensors"
        _write_shard(folder / shard, {name: shapes[name] for name in names}, seed)
        places |= dict.fromkeys(names, shard)
    index = {"metadata": {"total_size": needed}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(sizes.config()))
    (folder / MARKER).write_text(sizes.signature())


def _write_shard(path: Path, shapes: dict[str, tuple[int, ...]], seed: int) -> None:
    header, begin = {}, 0
    for name, shape in shapes.items():
        end = begin + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    import torch

    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            file.write(_values(name, shape, seed).view(torch.uint8).numpy().data)


def _values(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Noise of standard deviation 0.02 with log-normal column scales, so that the spectrum has a tail; gains near 1."""
    import torch

    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ (seed << 32))
    if len(shape) == 1:
        return (1 + 0.05 * torch.randn(shape, generator=generator)).bfloat16()
    scales = 0.02 * torch.randn(shape[1], generator=generator).mul_(0.5).exp_()
    return torch.randn(shape, generator=generator).mul_(scales).bfloat16()


if __name__ == "__main__":
    write(Path(sys.argv[1]), Llama(**json.loads(sys.argv[2])), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
