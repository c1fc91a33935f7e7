"""Trains the models behind the sample dumps. `python sample_checkpoints/make_dumps.py [--only NAME] [--out DIR]`.

Every recipe starts from its own seed on one CPU thread, as in make.py; the whole takes about four minutes. Figures of
what is made in place go to the `held-out` column of the table "Dumps" of README.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from dump_classifiers import constant_rows, minority_collapse, nc_early_stopped, nc_terminal, two_clusters
from dump_embeddings import (
    group_collapse,
    matryoshka,
    modality_gap,
    modality_healthy,
    ssl_complete_collapse,
    ssl_dimensional_collapse,
    ssl_healthy,
)
from dump_generative import (
    gan_healthy,
    gan_mode_collapse,
    sae_dead_latents,
    sae_healthy,
    vae_healthy,
    vae_posterior_collapse,
    vq_codes_dead,
    vq_codes_healthy,
)
from dump_lengths import lengths_healthy, lengths_uniform_attention
from dump_sequences import (
    attention_entropy_collapse,
    attention_healthy,
    logits_healthy,
    routing_collapse,
    routing_healthy,
    softmax_collapse,
    token_smoothing,
    tokens_healthy,
)
from make import with_figures

HERE = Path(__file__).parent

# in the order of the table
RECIPES: dict[str, Callable[[Path], str]] = {
    "nc_terminal": nc_terminal,
    "nc_early_stopped": nc_early_stopped,
    "minority_collapse": minority_collapse,
    "ssl_healthy": ssl_healthy,
    "ssl_complete_collapse": ssl_complete_collapse,
    "ssl_dimensional_collapse": ssl_dimensional_collapse,
    "modality_healthy": modality_healthy,
    "modality_gap": modality_gap,
    "group_collapse": group_collapse,
    "matryoshka": matryoshka,
    "constant_rows": constant_rows,
    "two_clusters": two_clusters,
    "attention_healthy": attention_healthy,
    "attention_entropy_collapse": attention_entropy_collapse,
    "tokens_healthy": tokens_healthy,
    "token_smoothing": token_smoothing,
    "lengths_healthy": lengths_healthy,
    "lengths_uniform_attention": lengths_uniform_attention,
    "routing_healthy": routing_healthy,
    "routing_collapse": routing_collapse,
    "vq_codes_healthy": vq_codes_healthy,
    "vq_codes_dead": vq_codes_dead,
    "vae_healthy": vae_healthy,
    "vae_posterior_collapse": vae_posterior_collapse,
    "logits_healthy": logits_healthy,
    "softmax_collapse": softmax_collapse,
    "sae_healthy": sae_healthy,
    "sae_dead_latents": sae_dead_latents,
    "gan_healthy": gan_healthy,
    "gan_mode_collapse": gan_mode_collapse,
}


def main() -> None:
    """Makes the dumps asked for and prints what each model reached on held-out data."""
    parser = argparse.ArgumentParser(description="train the models of the sample dumps and capture them")
    parser.add_argument("--only", metavar="NAME", choices=list(RECIPES), help="one folder of the table")
    parser.add_argument("--out", metavar="DIR", type=Path, default=HERE / "dumps", help="where to write")
    arguments = parser.parse_args()
    figures = {}
    for name in [arguments.only] if arguments.only else RECIPES:
        begin = time.perf_counter()
        figures[f"dumps/{name}"] = RECIPES[name](arguments.out)
        print(f"{name:26} {figures[f'dumps/{name}']:60} {time.perf_counter() - begin:5.1f} s", flush=True)
    if arguments.out == HERE / "dumps":
        readme = HERE / "README.md"
        readme.write_text(with_figures(readme.read_text(encoding="utf-8"), figures), encoding="utf-8")


if __name__ == "__main__":
    main()
