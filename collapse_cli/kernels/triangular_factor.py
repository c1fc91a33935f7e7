"""The triangular factor of tall data: singular values with all their digits, where a Gram matrix has none left."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.batches import Batch

__all__ = ["Tsqr"]


@final
class Tsqr:
    """R of X = QR, uncentred rows of one role in float64: the singular values of R are those of X.

    For condition numbers above 10⁶, whose square is lost in a float64 Gram. Rows wait until there are as many as R has,
    so that small batches cost no more than large ones.

    References: Demmel, Grigori, Hoemmen & Langou, Communication-optimal parallel and sequential QR (2008).
    """

    def __init__(self, role: str = "features") -> None:
        self.role, self.count = role, 0
        self._factor: Tensor | None = None
        self._waiting: list[Tensor] = []

    def update(self, batch: Batch) -> None:
        """Adds the finite rows of a batch."""
        rows = batch.rows(self.role)
        if rows.shape[0] == 0:
            return
        self.count += rows.shape[0]
        self._take(rows)

    def merge(self, other: "Tsqr") -> None:
        """Adds all rows of another accumulator of the same role."""
        if other.role != self.role:
            raise ValueError(f"factors of {self.role!r} and of {other.role!r} do not merge")
        self.count += other.count
        for rows in [*([] if other._factor is None else [other._factor]), *other._waiting]:
            self._take(rows if self._factor is None else rows.to(self._factor.device))

    def _take(self, rows: Float[Tensor, "some features"]) -> None:
        # a copy: float64 rows are the reader's own memory
        self._waiting.append(rows.clone())
        if sum(part.shape[0] for part in self._waiting) >= rows.shape[1]:
            self._factor, self._waiting = self._reduced(), []

    def _reduced(self) -> Float[Tensor, "rank features"]:
        parts = [*([] if self._factor is None else [self._factor]), *self._waiting]
        if not parts:
            return torch.zeros(0, 0, dtype=torch.float64)
        factor: Tensor = torch.linalg.qr(torch.cat(parts), mode="r").R
        return factor

    @property
    def factor(self) -> Float[Tensor, "rank features"]:
        """R, upper triangular with a diagonal that is not negative; as many rows as X, at most one per feature."""
        factor = self._reduced()
        return (factor * torch.where(factor.diagonal() < 0.0, -1.0, 1.0)[:, None]).cpu()

    @property
    def singular_values(self) -> Float[Tensor, " rank"]:
        """Singular values of X, descending.

        Raises:
            NotConverged: LAPACK gave up.
        """
        try:
            values: Tensor = torch.linalg.svdvals(self._reduced().cpu())
        except LinAlgError as error:
            raise NotConverged("the singular values did not converge", where=self.role, got=str(error)) from error
        return values
