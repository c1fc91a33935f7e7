"""One row per sample out of what a module gives: tokens averaged or one of them taken, feature maps averaged."""

from collections.abc import Callable
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from collapse_cli.errors import InputError

__all__ = ["POOLINGS", "Pooling", "pooled", "pooling_name"]

#: `mean` over real tokens or over positions, `cls` and `last`: the first and last real token, `none`: rows already. A
#: function is given the output and the mask of real tokens (None without one) and returns rows.
Pooling = Literal["mean", "cls", "last", "none"] | Callable[[Tensor, Tensor | None], Tensor]
POOLINGS = ("mean", "cls", "last", "none")


def pooling_name(pooling: Pooling) -> str:
    """What metadata says of it."""
    return pooling if isinstance(pooling, str) else getattr(pooling, "__name__", type(pooling).__name__)


def pooled(output: Tensor, mask: Bool[Tensor, "samples tokens"] | None, pooling: Pooling, *, site: str) -> Tensor:
    """Samples × features from samples × features, samples × tokens × features, or samples × channels × positions….

    An output of three axes is taken for tokens, one of four or five for a feature map with its channels second.

    Raises:
        InputError: the pooling does not fit the output.
    """
    if callable(pooling):
        rows = pooling(output, mask)
        if rows.dim() != 2 or rows.shape[0] != output.shape[0]:
            raise _misfit(site, "the pooling function should give samples × features", rows)
        return rows
    if output.dim() == 2:
        return output
    if output.dim() == 3 and pooling != "none":
        return _tokens(output, mask, pooling, site)
    if output.dim() in (4, 5) and pooling == "mean":
        return _at_least_single(output).flatten(2).mean(2).to(output.dtype)
    if pooling == "none":
        raise _misfit(site, 'pooling="none" is for outputs of samples × features', output)
    raise _misfit(site, f"pooling={pooling!r} is for outputs of samples × tokens × features", output)


def _tokens(
    output: Float[Tensor, "samples tokens features"],
    mask: Bool[Tensor, "samples tokens"] | None,
    pooling: str,
    site: str,
) -> Float[Tensor, "samples features"]:
    if mask is None or mask.shape != output.shape[:2]:
        if mask is not None:
            raise _misfit(site, f"the output should have a row per entry of the mask, {tuple(mask.shape)}", output)
        return _at_least_single(output).mean(1).to(output.dtype) if pooling == "mean" else output[:, _EDGE[pooling]]
    counts = mask.sum(1)
    if not bool((counts > 0).all()):
        raise InputError(f'site "{site}": every sample should have a token', got="attention_mask is 0 for a whole row")
    if pooling == "mean":
        # where, not a product: what stands in padding may be NaN
        kept = _at_least_single(output).where(mask[:, :, None], 0)
        return (kept.sum(1) / counts[:, None]).to(output.dtype)
    # padding may stand on either side
    first = mask.int().argmax(1)
    position = first if pooling == "cls" else mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    return output[position.new_tensor(range(len(output))), position]


_EDGE = {"cls": 0, "last": -1}


def _at_least_single(output: Tensor) -> Tensor:
    """Half precision widened for sums; double is kept, and not asked for where a device lacks it."""
    return output if output.dtype.itemsize >= 4 else output.float()


def _misfit(site: str, what: str, output: Tensor) -> InputError:
    return InputError(
        f'site "{site}": {what}',
        got=f"it is {' × '.join(map(str, output.shape))}",
        hint='keep every token with roles=("tokens",), or give a function of (output, mask) that returns rows',
    )
