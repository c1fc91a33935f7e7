"""What an analyzer may promise not to be moved by: transformations of every matrix of an example."""

from collections.abc import Callable, Mapping

import torch

Transformation = Callable[[torch.Tensor], torch.Tensor]


def _orthogonal(side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(side)
    return torch.linalg.qr(torch.randn(side, side, generator=generator, dtype=torch.float64)).Q


def scaled(tensor: torch.Tensor) -> torch.Tensor:
    return tensor * 0.25  # a power of two: rounding does not come into it


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.T.contiguous() if tensor.dim() == 2 else tensor


def rotated(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dim() != 2:
        return tensor
    rows, columns = tensor.shape
    return (_orthogonal(rows) @ tensor.double() @ _orthogonal(columns)).to(tensor.dtype)


def features_rotated(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.double() @ _orthogonal(tensor.shape[1])).to(tensor.dtype) if tensor.dim() == 2 else tensor


def rows_permuted(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dim() < 2:
        return tensor
    order = torch.randperm(tensor.shape[0], generator=torch.Generator().manual_seed(7))
    return tensor[order].contiguous()


def samples_permuted(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of a dump, labels included, in another order: the same one for every array of as many rows."""
    order = torch.randperm(tensor.shape[0], generator=torch.Generator().manual_seed(7))
    return tensor[order].contiguous()


def shifted(tensor: torch.Tensor) -> torch.Tensor:
    return tensor + 3.0


TRANSFORMATIONS: Mapping[str, Transformation] = {
    "scaled": scaled,
    "transposed": transposed,
    "rotated": rotated,
    "features_rotated": features_rotated,
    "rows_permuted": rows_permuted,
    "samples_permuted": samples_permuted,
    "shifted": shifted,
}

#: Transformations of the rows of a dump, which move whole numbers along.
ON_EVERY_ROW = (samples_permuted,)
