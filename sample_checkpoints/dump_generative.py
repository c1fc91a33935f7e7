"""Sample dumps of generative and sparse models: dead posteriors, codes, modes and latents, healthy beside each."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from classifiers import mlp
from dump_store import facts, written
from quantizers import CODES, WIDTH, autoencoder
from torch import Tensor, nn
from torch.nn import functional
from training import Schedule, batches, digits, seeded, train

LATENTS, MODES = 8, 8


# --- variational auto-encoders ---------------------------------------------------------------------------------------


class Variational(nn.Module):
    """An auto-encoder of the digits with a Gaussian posterior in eight dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2 * LATENTS))
        self.decoder = nn.Sequential(nn.Linear(LATENTS, 128), nn.ReLU(), nn.Linear(128, 64))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of every row."""
        mean, log_variance = self.encoder(x).chunk(2, 1)
        return mean, log_variance


def variational(path: Path, *, seed: int, beta: float) -> str:
    """Trained with the Kullback-Leibler term weighted by `beta` against a unit-variance likelihood of 0.1 per pixel."""
    seeded(seed)
    sample, model = digits(), Variational()
    steering = torch.optim.Adam(model.parameters(), lr=2e-3)
    following = batches(len(sample.x), 128)
    for _ in range(3000):
        x = sample.x[following()]
        mean, log_variance = model.posterior(x)
        rebuilt = model.decoder(mean + torch.randn_like(mean) * (log_variance / 2).exp())
        error = (rebuilt - x).square().sum(1).mean() / (2 * 0.1**2)
        divergence = 0.5 * (mean.square() + log_variance.expm1() - log_variance).sum(1).mean()
        loss = error + beta * divergence
        steering.zero_grad()
        loss.backward()
        steering.step()
    with torch.no_grad():
        mean, log_variance = model.posterior(torch.cat([sample.x, sample.held_x]))
        held = model.decoder(model.posterior(sample.held_x)[0])
        share = functional.mse_loss(held, sample.held_x) / (sample.held_x - sample.held_x.mean(0)).square().mean()
    said = facts(path, seed=seed, held_out=f"error {share.item():.3f} of the variance from the mean", split="all")
    labels = torch.cat([sample.y, sample.held_y])
    return written(path, {"mu": mean, "logvar": log_variance, "labels": labels}, said)


def vae_healthy(folder: Path) -> str:
    """β = 1."""
    return variational(folder / "vae_healthy", seed=81, beta=1.0)


def vae_posterior_collapse(folder: Path) -> str:
    """β = 2,000: nothing is worth encoding."""
    return variational(folder / "vae_posterior_collapse", seed=82, beta=2000.0)


# --- codebooks -------------------------------------------------------------------------------------------------------


def codebook(path: Path, *, seed: int, restarts: bool) -> str:
    """The codes of all digits, four places each, by the moving-average auto-encoder of quantizers.py."""
    model, held_out = autoencoder(seed, steps=1500, restarts=restarts)
    sample = digits()
    with torch.no_grad():
        rows = model.encoded(torch.cat([sample.x, sample.held_x]))
        codes = model.quantizer.nearest(rows).view(-1, rows.numel() // WIDTH // (len(sample.x) + len(sample.held_x)))
    said = facts(path, seed=seed, held_out=held_out, split="all") | {"codebook_size": str(CODES)}
    return written(path, {"codes": codes}, said, {"codebook": model.quantizer.embedding.weight.detach()})


def vq_codes_healthy(folder: Path) -> str:
    """Unused codes restarted."""
    return codebook(folder / "vq_codes_healthy", seed=83, restarts=True)


def vq_codes_dead(folder: Path) -> str:
    """No restarts: most codes stay out of reach."""
    return codebook(folder / "vq_codes_dead", seed=84, restarts=False)


# --- a ring of Gaussians ---------------------------------------------------------------------------------------------


def ring(count: int) -> tuple[Tensor, Tensor]:
    """Points around eight places on the circle of radius 2, standard deviation .1, and the place of each."""
    modes = torch.randint(MODES, (count,))
    return centres()[modes] + 0.1 * torch.randn(count, 2), modes


def centres() -> Tensor:
    """The eight places."""
    angles = torch.arange(MODES) * (2 * math.pi / MODES)
    return 2 * torch.stack([angles.cos(), angles.sin()], 1)


def network(inputs: int, outputs: int) -> nn.Sequential:
    """A perceptron with two hidden layers of 128."""
    return nn.Sequential(
        nn.Linear(inputs, 128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.LeakyReLU(0.2), nn.Linear(128, outputs)
    )


def adversarial(path: Path, *, seed: int, penalty: float, turns: int, steps: int, pace: tuple[float, float]) -> str:
    """A generator against a discriminator with the R1 penalty of Mescheder et al. 2018.

    The generator is stepped `turns` times for every step of the discriminator; `pace` is its rate and the momentum.
    """
    rate, momentum = pace
    seeded(seed)
    noise = 8
    generator, discriminator = network(noise, 2), network(2, 1)
    makes = torch.optim.Adam(generator.parameters(), lr=rate, betas=(momentum, 0.99), foreach=True)
    judges = torch.optim.Adam(discriminator.parameters(), lr=1e-3, betas=(momentum, 0.99), foreach=True)
    for _ in range(steps):
        real = ring(256)[0].requires_grad_(penalty > 0)
        scores = discriminator(real)
        with torch.no_grad():
            fake = generator(torch.randn(256, noise))
        loss = functional.softplus(-scores).mean() + functional.softplus(discriminator(fake)).mean()
        if penalty > 0:
            slope = torch.autograd.grad(scores.sum(), real, create_graph=True)[0]
            loss = loss + penalty / 2 * slope.square().sum(1).mean()
        judges.zero_grad()
        loss.backward()
        judges.step()
        for _ in range(turns):
            loss = functional.softplus(-discriminator(generator(torch.randn(256, noise)))).mean()
            makes.zero_grad()
            loss.backward()
            makes.step()
    with torch.no_grad():
        samples = generator(torch.randn(2000, noise))
    reference, places = ring(2000)
    distances, nearest = torch.cdist(samples, centres()).min(1)
    near = nearest[distances < 0.4]
    held_out = f"{len(near.unique())} of {MODES} modes, {len(near) / len(samples):.2f} of the samples near one"
    said = facts(path, seed=seed, held_out=held_out, split="generated") | {"task": "ring of Gaussians"}
    rows = {"samples": samples, "labels": nearest}
    return written_sets(path, rows, {"reference": reference, "reference_labels": places}, said)


def written_sets(path: Path, rows: dict[str, Tensor], reference: dict[str, Tensor], said: dict[str, str]) -> str:
    """The held-out figure, after generated and real rows were written in one dump."""
    from dump_store import renewed

    from collapse_cli.capture import DumpWriter

    with DumpWriter(renewed(path), metadata=said, dtype=torch.float32) as writer:
        writer.append(rows)
        writer.append(reference)
    return said["held_out"]


def gan_healthy(folder: Path) -> str:
    """R1 penalty: all modes."""
    return adversarial(folder / "gan_healthy", seed=85, penalty=0.2, turns=1, steps=3000, pace=(1e-3, 0.0))


def gan_mode_collapse(folder: Path) -> str:
    """Momentum .9, five times the rate and three steps of the generator for one of the discriminator."""
    return adversarial(folder / "gan_mode_collapse", seed=86, penalty=0.1, turns=3, steps=400, pace=(5e-3, 0.9))


# --- sparse auto-encoders --------------------------------------------------------------------------------------------


def sparse(path: Path, *, seed: int, weight: float, rate: float) -> str:
    """A sparse auto-encoder of 128 latents on the hidden layer of a classifier of the digits."""
    seeded(seed)
    sample, model = digits(), mlp(64, 64, 10)
    train(model, sample.x, sample.y, Schedule(400, 2e-3, 1e-2))
    with torch.no_grad():
        hidden = torch.cat([model[:2](sample.x), model[:2](sample.held_x)])
        hidden = (hidden - hidden.mean(0)) / hidden.std()
    encoder, decoder = nn.Linear(64, 128), nn.Linear(128, 64)
    with torch.no_grad():
        decoder.weight.copy_(functional.normalize(torch.randn(64, 128), dim=0))
        encoder.weight.copy_(decoder.weight.T)
        encoder.bias.zero_()
    steering = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=rate)
    following = batches(len(sample.x), 128)
    for _ in range(3000):
        x = hidden[following()]
        code = functional.relu(encoder(x - decoder.bias))
        loss = (decoder(code) - x).square().sum(1).mean() + weight * code.sum(1).mean()
        steering.zero_grad()
        loss.backward()
        steering.step()
        with torch.no_grad():
            decoder.weight.copy_(functional.normalize(decoder.weight, dim=0))
    with torch.no_grad():
        code = functional.relu(encoder(hidden - decoder.bias))
        held = decoder(code[len(sample.x) :])
        share = (held - hidden[len(sample.x) :]).square().sum() / hidden[len(sample.x) :].square().sum()
    dead = float((code <= 0).all(0).double().mean())
    held_out = f"error {share.item():.3f} of the variance, {code.gt(0).sum(1).double().mean():.1f} latents a row"
    said = facts(path, seed=seed, held_out=f"{held_out}, {dead:.2f} dead", split="all") | {"activation": "relu"}
    return written(path, {"sparse": code[-1100:]}, said)


def sae_healthy(folder: Path) -> str:
    """A small penalty at a small rate."""
    return sparse(folder / "sae_healthy", seed=87, weight=0.3, rate=1e-3)


def sae_dead_latents(folder: Path) -> str:
    """A penalty a hundred times as large: every latent is pushed below zero for good."""
    return sparse(folder / "sae_dead_latents", seed=88, weight=100.0, rate=3e-2)
