"""Vector-quantised auto-encoders of the digits: with and without restarts of unused codes."""

from __future__ import annotations

from pathlib import Path

import torch
from classifiers import saved
from torch import Tensor, nn
from torch.nn import functional
from training import batches, digits, seeded

CODES, WIDTH, PLACES = 128, 8, 4
FORGETTING = 0.99


class MovingAverageQuantizer(nn.Module):
    """A codebook that follows the mean of what it is assigned (van den Oord et al. 2017, appendix A.1)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CODES, WIDTH)
        nn.init.uniform_(self.embedding.weight, -1 / CODES, 1 / CODES)
        self.embedding.weight.requires_grad_(requires_grad=False)
        self.register_buffer("cluster_size", torch.zeros(CODES))
        self.register_buffer("embed_avg", self.embedding.weight.clone())

    def nearest(self, z: Tensor) -> Tensor:
        """The index of the nearest code of every row."""
        return torch.cdist(z, self.embedding.weight).argmin(1)

    @torch.no_grad()
    def follow(self, z: Tensor, codes: Tensor) -> None:
        """One step of the moving averages; a code that was never assigned keeps its place."""
        chosen = functional.one_hot(codes, CODES).float()
        self.cluster_size.mul_(FORGETTING).add_(chosen.sum(0), alpha=1 - FORGETTING)
        self.embed_avg.mul_(FORGETTING).add_(chosen.T @ z, alpha=1 - FORGETTING)
        used = self.cluster_size > 1e-5
        self.embedding.weight[used] = self.embed_avg[used] / self.cluster_size[used, None]

    @torch.no_grad()
    def restart(self, z: Tensor) -> None:
        """Codes whose count fell below a fiftieth of the mean move to encodings of this batch."""
        unused = self.cluster_size < 0.02 * self.cluster_size.mean()
        places = z[torch.randperm(len(z))[: int(unused.sum())]]
        self.embedding.weight[unused] = places
        self.embed_avg[unused] = places
        self.cluster_size[unused] = 1.0


class AutoEncoder(nn.Module):
    """Encoder to four places of eight positive numbers, quantizer, decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, PLACES * WIDTH), nn.Softplus())
        self.quantizer = MovingAverageQuantizer()
        self.decoder = nn.Sequential(nn.Linear(PLACES * WIDTH, 128), nn.ReLU(), nn.Linear(128, 64))

    def encoded(self, x: Tensor) -> Tensor:
        """Rows of eight numbers, four per image."""
        return self.encoder(x).view(-1, WIDTH)

    def decoded(self, rows: Tensor) -> Tensor:
        """Images from their four rows."""
        return self.decoder(rows.view(-1, PLACES * WIDTH))


def autoencoder(seed: int, *, steps: int, restarts: bool) -> tuple[AutoEncoder, str]:
    """A trained auto-encoder and its held-out figures. With restarts, the codebook starts on encodings as well."""
    seeded(seed)
    sample, model = digits(), AutoEncoder()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    steering = torch.optim.Adam(trained, lr=1e-3)
    following = batches(len(sample.x), 128)
    for step in range(steps):
        x = sample.x[following()]
        z = model.encoded(x)
        if restarts and step % 25 == 0 and step < steps - 300:
            model.quantizer.restart(z.detach())
        codes = model.quantizer.nearest(z.detach())
        quantized = model.quantizer.embedding(codes)
        rebuilt = model.decoded(z + (quantized - z).detach())
        loss = functional.mse_loss(rebuilt, x) + 0.05 * functional.mse_loss(z, quantized)
        steering.zero_grad()
        loss.backward()
        steering.step()
        model.quantizer.follow(z.detach(), codes)
    return model, reconstruction(model, sample.held_x)


@torch.no_grad()
def reconstruction(model: AutoEncoder, held: Tensor) -> str:
    """Held-out error as a share of the variance, and how many codes the held-out digits use."""
    codes = model.quantizer.nearest(model.encoded(held))
    rebuilt = model.decoded(model.quantizer.embedding(codes))
    share = functional.mse_loss(rebuilt, held) / (held - held.mean(0)).square().mean()
    return f"error {share.item():.3f} of the variance with {len(codes.unique())} of {CODES} codes"


def healthy_vq(folder: Path) -> str:
    """Moving-average codebook with restarts of unused codes."""
    model, held_out = autoencoder(21, steps=1500, restarts=True)
    return saved(folder / "healthy_vq.safetensors", model.state_dict(), seed=21, held_out=held_out)


def vq_collapse(folder: Path) -> str:
    """Moving-average codebook that starts in U(−1/K, 1/K) and never restarts a code."""
    model, held_out = autoencoder(22, steps=1500, restarts=False)
    return saved(folder / "vq_collapse.safetensors", model.state_dict(), seed=22, held_out=held_out)
