"""Trains the sample checkpoints. `python sample_checkpoints/make.py [--only NAME] [--out DIR]`.

Every recipe starts from its own seed on one CPU thread, so a file does not depend on which others are made; two runs
on one machine with one version of torch give the same bytes. Another processor may round differently: figures then move
in the last digits, the verdicts do not. Figures of what is made in place go to the `held-out` column of README.md.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path

from classifiers import (
    dead_units,
    duplicate_units,
    healthy_cnn,
    healthy_mlp,
    lightning,
    minority_collapse,
    rank_collapse,
)
from experts import healthy_moe, moe_collapse
from language import attention_collapse, depth_copy, healthy_transformer, lora_adapter, sharded
from quantizers import healthy_vq, vq_collapse

HERE = Path(__file__).parent

# in the order of the table; lora_adapter comes after the transformer it adapts
RECIPES: dict[str, Callable[[Path], str]] = {
    "healthy_mlp.safetensors": healthy_mlp,
    "healthy_cnn.safetensors": healthy_cnn,
    "healthy_transformer": healthy_transformer,
    "healthy_vq.safetensors": healthy_vq,
    "healthy_moe.safetensors": healthy_moe,
    "lora_adapter": lora_adapter,
    "sharded": sharded,
    "lightning.ckpt": lightning,
    "rank_collapse.safetensors": rank_collapse,
    "dead_units.safetensors": dead_units,
    "duplicate_units.safetensors": duplicate_units,
    "minority_collapse.safetensors": minority_collapse,
    "vq_collapse.safetensors": vq_collapse,
    "moe_collapse.safetensors": moe_collapse,
    "attention_collapse": attention_collapse,
    "depth_copy": depth_copy,
}


def with_figures(readme: str, figures: dict[str, str]) -> str:
    """The README with the `held-out` column of its first table replaced, row by row."""
    for name, figure in figures.items():
        row = re.compile(rf"^(\| `{re.escape(name)}` \|[^|]*\|)[^|]*\|", re.MULTILINE)
        readme = row.sub(lambda match, figure=figure: f"{match[1]} {figure} |", readme)
    return readme


def main() -> None:
    """Makes the files asked for and prints what each reached on held-out data."""
    parser = argparse.ArgumentParser(description="train the sample checkpoints")
    parser.add_argument("--only", metavar="NAME", help="one file or folder of the table, with or without its suffix")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=HERE, help="where to write (default: beside this file)"
    )
    arguments = parser.parse_args()
    wanted = [name for name in RECIPES if arguments.only in (None, name, name.split(".")[0])]
    if not wanted:
        parser.error(f"no recipe {arguments.only!r}; there are {', '.join(RECIPES)}")
    figures = {}
    for name in wanted:
        begin = time.perf_counter()
        figures[name] = RECIPES[name](arguments.out)
        print(f"{name:30} {figures[name]:60} {time.perf_counter() - begin:5.1f} s", flush=True)
    if arguments.out == HERE:
        readme = HERE / "README.md"
        readme.write_text(with_figures(readme.read_text(encoding="utf-8"), figures), encoding="utf-8")


if __name__ == "__main__":
    main()
