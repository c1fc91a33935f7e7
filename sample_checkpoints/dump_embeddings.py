"""Dumps of encoders of the digits that learnt without labels, from two modalities, over scanners, or nested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from dump_store import captured, facts, neighbour_accuracy, written
from torch import Tensor, nn
from torch.nn import functional
from training import Schedule, batches, digits, optimiser, seeded

Loss = Callable[[Tensor, Tensor], Tensor]

#: Two views and the digit itself stay below 300 kB; width 32 leaves the 1,000 rows that neighbour metrics ask for.
NUMBERS = 47_360
MOST_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random changes of a digit: a shift of at most `reach` pixels, noise, and the share of pixels kept."""

    reach: int = 1
    noise: float = 0.1
    kept: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """A view of each of N × 64 digits."""
        size = 8 + 2 * self.reach
        padded = functional.pad(x.view(-1, 8, 8), [self.reach] * 4).flatten(1)
        corner = torch.randint(2 * self.reach + 1, (2, len(x), 1, 1))
        steps = torch.arange(8)
        places = (corner[0] + steps[:, None]) * size + corner[1] + steps
        moved = padded.gather(1, places.flatten(1))
        moved = moved * (torch.rand_like(moved) < self.kept)
        return moved + self.noise * torch.randn_like(moved)


def encoder(width: int = 32, *, inputs: int = 64, hidden: int = 128, is_normed: bool = True) -> nn.Sequential:
    """Two hidden layers, with batch norm or without, and a linear embedding."""
    norm = nn.BatchNorm1d if is_normed else nn.Identity
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        norm(hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        norm(hidden),
        nn.ReLU(),
        nn.Linear(hidden, width),
    )


# --- losses ----------------------------------------------------------------------------------------------------------


def invariance(a: Tensor, b: Tensor) -> Tensor:
    """The distance of two views and nothing that keeps samples apart."""
    return functional.mse_loss(a, b)


def vicreg(a: Tensor, b: Tensor) -> Tensor:
    """Invariance, variance and covariance at 25 : 25 : 1 (Bardes, Ponce & LeCun 2022)."""
    terms = 25 * functional.mse_loss(a, b)
    for view in (a, b):
        centred = view - view.mean(0)
        covariance = centred.T @ centred / (len(view) - 1)
        spread = covariance.diagonal()
        terms = terms + 12.5 * torch.relu(1 - (spread + 1e-4).sqrt()).mean()
        terms = terms + (covariance.square().sum() - spread.square().sum()) / view.shape[1]
    return terms


def contrast(a: Tensor, b: Tensor, *, temperature: float) -> Tensor:
    """Symmetric InfoNCE of unit rows (Oord, Li & Vinyals 2018)."""
    similarity = functional.normalize(a) @ functional.normalize(b).T / temperature
    own = torch.arange(len(a))
    return (functional.cross_entropy(similarity, own) + functional.cross_entropy(similarity.T, own)) / 2


# --- two views -------------------------------------------------------------------------------------------------------


def self_supervised(
    path: Path, model: nn.Module, loss: Loss, schedule: Schedule, *, augmentation: Augmentation, seed: int
) -> str:
    """An encoder trained on two views of each digit; the dump has both views and the embedding of the digit itself."""
    sample = digits()
    steering, following = optimiser(model, schedule), batches(len(sample.x), schedule.batch)
    model.train()
    for _ in range(schedule.steps):
        x = sample.x[following()]
        value = loss(model(augmentation(x)), model(augmentation(x)))
        steering.zero_grad()
        value.backward()
        steering.step()
    model.eval()
    with torch.no_grad():
        embedded, held = model(sample.x), model(sample.held_x)
        rows = min(MOST_ROWS, NUMBERS // embedded.shape[1])
        views = [model(augmentation(sample.x[:rows])) for _ in "ab"]
    held_out = f"5-NN accuracy {neighbour_accuracy((embedded, sample.y), (held, sample.held_y)):.3f}"
    arrays = {"features": embedded[:rows], "view_a": views[0], "view_b": views[1], "labels": sample.y[:rows]}
    return written(path, arrays, facts(path, seed=seed, held_out=held_out, split="train"))


def ssl_healthy(folder: Path) -> str:
    """Variance, invariance and covariance terms, views shifted by a pixel with little noise."""
    seeded(31)
    schedule = Schedule(steps=1500, rate=2e-3, batch=256)
    return self_supervised(folder / "ssl_healthy", encoder(), vicreg, schedule, augmentation=Augmentation(), seed=31)


def ssl_complete_collapse(folder: Path) -> str:
    """Invariance alone, gradients through both views: nothing holds the weights against their decay."""
    seeded(32)
    model = encoder(is_normed=False)
    nn.init.normal_(model[-1].bias)
    schedule = Schedule(steps=1500, rate=0.1, decay=5e-3, batch=256, optimiser="sgd", momentum=0.9)
    path = folder / "ssl_complete_collapse"
    return self_supervised(path, model, invariance, schedule, augmentation=Augmentation(), seed=32)


def ssl_dimensional_collapse(folder: Path) -> str:
    """Contrast of views that share little, through a deep linear net under decay: few directions survive."""
    seeded(33)
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(4)))
    schedule = Schedule(steps=1500, rate=0.05, decay=2e-3, batch=256, optimiser="sgd", momentum=0.9)
    strong, path = Augmentation(reach=2, noise=0.5, kept=0.5), folder / "ssl_dimensional_collapse"
    return self_supervised(path, model, partial(contrast, temperature=0.5), schedule, augmentation=strong, seed=33)


# --- two modalities --------------------------------------------------------------------------------------------------


def paired(path: Path, encoders: tuple[nn.Module, nn.Module], temperature: float, steps: int, *, seed: int) -> str:
    """Encoders of the upper and the lower half of each digit, trained to find the other half."""
    sample = digits()
    both = nn.ModuleList(encoders)
    steering = optimiser(both, Schedule(steps=steps, rate=1e-3))
    following = batches(len(sample.x), 256)
    both.train()
    for _ in range(steps):
        x = sample.x[following()]
        value = contrast(encoders[0](x[:, :32]), encoders[1](x[:, 32:]), temperature=temperature)
        steering.zero_grad()
        value.backward()
        steering.step()
    both.eval()
    with torch.no_grad():
        upper, lower = (
            functional.normalize(net(half)) for net, half in zip(encoders, sample.x.split(32, 1), strict=True)
        )
        seen, sought = (functional.normalize(n(h)) for n, h in zip(encoders, sample.held_x.split(32, 1), strict=True))
    ranks = (seen @ sought.T > (seen * sought).sum(1, keepdim=True)).sum(1)
    held_out = f"the other half among the nearest ten of 450: {(ranks < 10).float().mean().item():.3f}"
    rows = {"modality_a": upper[:MOST_ROWS], "modality_b": lower[:MOST_ROWS], "labels": sample.y[:MOST_ROWS]}
    return written(path, rows, facts(path, seed=seed, held_out=held_out, split="train") | {"paired": "true"})


def modality_gap(folder: Path) -> str:
    """Encoders that begin in narrow cones of their own, a low temperature, and an end long before they met."""
    seeded(34)
    encoders = encoder(inputs=32, is_normed=False), encoder(inputs=32, is_normed=False)
    for net in encoders:
        nn.init.normal_(net[-1].bias, std=8)
    return paired(folder / "modality_gap", encoders, 0.01, 100, seed=34)


def modality_healthy(folder: Path) -> str:
    """The same with the mean of each modality taken away by a last batch norm, at a higher temperature."""
    seeded(35)
    encoders = tuple(nn.Sequential(encoder(inputs=32), nn.BatchNorm1d(32, affine=False)) for _ in "ab")
    return paired(folder / "modality_healthy", encoders, 0.1, 400, seed=35)


# --- scanners and prefixes -------------------------------------------------------------------------------------------


class AutoEncoder(nn.Module):
    """A code of 32 numbers and its reconstruction."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
        self.decoder = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of N × 64 digits."""
        return self.decoder(self.encoder(x))


def scanned(x: Tensor, groups: Tensor, backgrounds: Tensor) -> Tensor:
    """Digits as each scanner gives them: over its own background and with its own contrast."""
    contrasts = torch.tensor([1.0, 0.8, 0.6, 0.5])
    return x * contrasts[groups, None] + backgrounds[groups]


def group_collapse(folder: Path) -> str:
    """An auto-encoder of digits from four scanners: most of what there is to reconstruct is the background."""
    seeded(36)
    sample, path, model = digits(), folder / "group_collapse", AutoEncoder()
    backgrounds = torch.rand(4, 64)
    groups, held_groups = (torch.randint(4, (len(y),)) for y in (sample.y, sample.held_y))
    x, held_x = scanned(sample.x, groups, backgrounds), scanned(sample.held_x, held_groups, backgrounds)
    steering, following = optimiser(model, Schedule(steps=1, rate=1e-3)), batches(len(x), 128)
    for _ in range(1000):
        chosen = x[following()]
        loss = functional.mse_loss(model(chosen), chosen)
        steering.zero_grad()
        loss.backward()
        steering.step()
    with torch.no_grad():
        error = (functional.mse_loss(model(held_x), held_x) / held_x.var(0).mean()).item()
    metadata = facts(path, seed=36, held_out=f"error {error:.3f} of the variance", split="test")
    known = {"labels": sample.held_y, "groups": held_groups}
    return captured(path, model, (held_x, known), ["encoder"], metadata)


class Nested(nn.Module):
    """An embedding of 32 numbers and one head for each prefix of it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = encoder(32)
        self.heads = nn.ModuleDict({str(width): nn.Linear(width, 10) for width in (4, 8, 16, 32)})

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits from each prefix."""
        embedded = self.encoder(x)
        return [head(embedded[:, : int(width)]) for width, head in self.heads.items()]


def matryoshka(folder: Path) -> str:
    """Cross-entropy of every prefix at once (Kusupati et al. 2022), of shifted digits in noise."""
    seeded(37)
    sample, path, model = digits(), folder / "matryoshka", Nested()
    blurred = Augmentation(reach=1, noise=0.2)
    steering, following = optimiser(model, Schedule(steps=1, rate=1e-3, decay=1e-2)), batches(len(sample.x), 128)
    model.train()
    for _ in range(1500):
        chosen = following()
        x = blurred(sample.x[chosen])
        loss = sum(functional.cross_entropy(logits, sample.y[chosen]) for logits in model(x))
        steering.zero_grad()
        loss.backward()
        steering.step()
    model.eval()
    held_x = blurred(sample.held_x)
    with torch.no_grad():
        scores = [(logits.argmax(1) == sample.held_y).float().mean().item() for logits in model(held_x)]
    held_out = "accuracy " + ", ".join(f"{s:.3f} at {w}" for s, w in zip(scores, model.heads, strict=True))
    metadata = facts(path, seed=37, held_out=held_out, split="test") | {"embedding": "matryoshka 4 8 16 32"}
    return captured(path, model, (held_x, {"labels": sample.held_y}), ["encoder"], metadata)
