"""What an analyzer is handed: a stored tensor, an effective weight, a block of weights, a whole checkpoint.

Every view memoises: `view.get(f)` is `f(view)`, computed once however many analyzers ask, and freed with the view.
`f` is a pure function of the view; it is identified by itself, so pass a named function, never a fresh lambda.
Views are used by one thread at a time and never modify their tensors.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.core.layout import ShardLayout
from collapse_cli.core.site import Role, Site

__all__ = ["Activations", "Block", "Inventory", "Layers", "Stored", "Weight", "is_finite", "site_generator"]

T = TypeVar("T")


@final
class Stored:
    """A tensor exactly as it lies in the file: any shape, any dtype, nothing dequantised, split or transposed.

    `scale_block` is the number of entries that share one scale when the tensor is a scaled fp8 one, else `None`.
    """

    def __init__(self, site: Site, tensor: Tensor, *, scale_block: int | None = None) -> None:
        self.site, self.tensor, self.scale_block = site, tensor, scale_block
        self._memo: dict[Callable[[Stored], Any], Any] = {}

    def get(self, quantity: "Callable[[Stored], T]") -> T:
        """`quantity(self)`, computed once."""
        if quantity not in self._memo:
            self._memo[quantity] = quantity(self)
        result: T = self._memo[quantity]
        return result


@final
class Weight:
    """An effective weight: what multiplies in the model, materialised from one or more stored tensors.

    `tensor` keeps its natural shape (a convolution is 4-d) and is floating point; it is stored as read (bf16 stays
    bf16), so upcast before summing. `matrix` is the effective out × in matrix: a Conv1D is already transposed, a
    convolution is folded to out × in·kh·kw. `site.dtype` is the *stored* dtype and `site.shape` the shape of `tensor`.
    `quantisation_step` (rows × columns, broadcastable) is given for integer formats only.
    """

    def __init__(self, site: Site, tensor: Tensor, *, quantisation_step: Tensor | None = None, seed: int = 0) -> None:
        self.site, self.tensor, self.quantisation_step, self.seed = site, tensor, quantisation_step, seed
        self._memo: dict[Callable[[Weight], Any], Any] = {}

    @property
    def matrix(self) -> Float[Tensor, "out in"]:
        """The weight as out × in; a vector is 1 × in, more than two axes are folded into the second."""
        return self.tensor.reshape(1, -1) if self.tensor.dim() < 2 else self.tensor.flatten(1)

    def generator(self) -> torch.Generator:
        """A fresh CPU generator that depends on the run's seed and the site alone, so that order never matters."""
        return site_generator(self.seed, self.site)

    def get(self, quantity: "Callable[[Weight], T]") -> T:
        """`quantity(self)`, computed once."""
        if quantity not in self._memo:
            self._memo[quantity] = quantity(self)
        result: T = self._memo[quantity]
        return result


@final
class Block:
    """The weights of one module that belong together, by role; several of one role stand in index order.

    `site.name` is the module's path (`model.layers.0.self_attn`). `facts` are plain values from the naming table and
    the configuration that the weights do not show: `heads`, `kv_heads`, `head_dim`, `norm_offset`, `lora_scale`,
    `betas`, `eps`, … A fact that is unknown is absent.
    """

    def __init__(
        self,
        site: Site,
        weights: Mapping[Role, tuple[Weight, ...]],
        facts: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.site, self.weights, self.facts, self.seed = site, weights, dict(facts or {}), seed
        self._memo: dict[Callable[[Block], Any], Any] = {}

    def one(self, role: Role) -> Weight | None:
        """The first weight of that role, if there is one."""
        found = self.weights.get(role, ())
        return found[0] if found else None

    def all(self, role: Role) -> tuple[Weight, ...]:
        """Every weight of that role, in index order."""
        return self.weights.get(role, ())

    def generator(self) -> torch.Generator:
        """A fresh CPU generator that depends on the run's seed and the site alone, so that order never matters."""
        return site_generator(self.seed, self.site)

    def get(self, quantity: "Callable[[Block], T]") -> T:
        """`quantity(self)`, computed once."""
        if quantity not in self._memo:
            self._memo[quantity] = quantity(self)
        result: T = self._memo[quantity]
        return result


@final
class Inventory:
    """A whole checkpoint without its numbers: what headers, index and content hashes say.

    `site.name` is `#checkpoint`. `sites` are the stored tensors in source order. `hashes` gives, for every tensor whose
    content was asked for, `(content hash, number of distinct values is more than two)`. `layout` describes the shards
    (`None` for a single file). `ties` maps each name that shares its bytes with an earlier one to that one.
    """

    def __init__(
        self,
        site: Site,
        sites: tuple[Site, ...],
        *,
        config: Mapping[str, Any] | None = None,
        hashes: Mapping[str, tuple[str, bool]] | None = None,
        layout: ShardLayout | None = None,
        ties: Mapping[str, str] | None = None,
    ) -> None:
        self.site, self.sites, self.config = site, sites, dict(config or {})
        self.hashes, self.layout, self.ties = dict(hashes or {}), layout, dict(ties or {})


@final
class Activations:
    """All rows of one hook point of a dump, as finished accumulators.

    `read(need)` gives an accumulator by the name under which the analyzer declared it; `has(need)` whether it was fed
    (its roles may be absent). `arrays` are the roles without rows (`head_weight`, `class_counts`, …), whole, as stored;
    `shapes` and `dtypes` are those of every role the hook point has. `rows` counts the samples, `finite_rows` those
    that no NaN or infinity kept out; `non_finite` counts these by role (`kernels.non_finite_arrays.ArrayCount`).
    """

    def __init__(  # noqa: PLR0913 - what is known of a hook point, by keyword
        self,
        site: Site,
        accumulators: Mapping[str, Any],
        *,
        shapes: Mapping[str, tuple[int, ...]],
        dtypes: Mapping[str, str],
        arrays: Mapping[str, Tensor] | None = None,
        metadata: Mapping[str, str] | None = None,
        rows: int = 0,
        finite_rows: int = 0,
        non_finite: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.non_finite = dict(non_finite or {})
        self.site, self._accumulators = site, dict(accumulators)
        self.shapes, self.dtypes = dict(shapes), dict(dtypes)
        self.arrays, self.metadata = dict(arrays or {}), dict(metadata or {})
        self.rows, self.finite_rows, self.seed = rows, finite_rows, seed
        self._memo: dict[Callable[[Activations], Any], Any] = {}

    def has(self, need: str) -> bool:
        """Whether that accumulator was fed."""
        return need in self._accumulators

    def read(self, need: str) -> Any:
        """The accumulator of that name.

        Raises:
            KeyError: it was not declared, or its roles are absent.
        """
        return self._accumulators[need]

    def generator(self) -> torch.Generator:
        """A fresh CPU generator that depends on the run's seed and the site alone, so that order never matters."""
        return site_generator(self.seed, self.site)

    def get(self, quantity: "Callable[[Activations], T]") -> T:
        """`quantity(self)`, computed once."""
        if quantity not in self._memo:
            self._memo[quantity] = quantity(self)
        result: T = self._memo[quantity]
        return result


@final
class Layers:
    """The hook points of one dump that an analyzer accepts, in depth order; `site.name` is `#layers`."""

    def __init__(self, site: Site, points: tuple[Activations, ...], *, seed: int = 0) -> None:
        self.site, self.points, self.seed = site, points, seed

    def generator(self) -> torch.Generator:
        """A fresh CPU generator that depends on the run's seed alone."""
        return site_generator(self.seed, self.site)


def site_generator(seed: int, site: Site) -> torch.Generator:
    """A fresh CPU generator for one site of a run with that seed."""
    generator = torch.Generator()
    return generator.manual_seed(zlib.crc32(site.name.encode("utf-8", "surrogatepass")) ^ (seed << 32))


#: Entries of one block of a pass over all of them: 32 MiB in float64.
_BLOCK_ENTRIES = 1 << 22
#: Beyond it float64 has no room for the fourth power of an entry, the largest that is formed (squared logits).
_LARGEST = 1e75


def is_finite(weight: Weight) -> bool:
    """Whether every entry is finite and float64 can hold what is made of it.

    Shared, because LAPACK raises on NaN on the CPU and not on CUDA.
    """
    tensor = weight.tensor
    if tensor.numel() == 0:
        return True
    step = max(1, _BLOCK_ENTRIES * tensor.shape[0] // tensor.numel()) if tensor.dim() else 1
    blocks = torch.split(tensor, step) if tensor.dim() else (tensor,)
    if tensor.dtype == torch.float64:
        return all(float(torch.linalg.vector_norm(block, math.inf)) <= _LARGEST for block in blocks)
    # a sum with a dtype converts all it is given first, hence the blocks; it is finite only if no term is NaN, and
    # overflows or cancels to NaN where entries are infinite, which are then looked at one by one
    return all(bool(block.sum(dtype=torch.float64).isfinite()) or bool(block.isfinite().all()) for block in blocks)
