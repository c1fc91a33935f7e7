"""The linear classifier behind the last of the sites, as arrays beside its features."""

from collections.abc import Mapping

from torch import Tensor, nn

from collapse_cli.core.roles import join_name, split_name
from collapse_cli.errors import InputError

__all__ = ["head_arrays"]


def head_arrays(model: nn.Module, name: str, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`head_weight` and `head_bias` of the module of that name, at the last site that has features or tokens.

    Raises:
        InputError: there is no such module, it has no matrix, or the site is not as wide.
    """
    head = dict(model.named_modules()).get(name)
    weight = getattr(head, "weight", None)
    if head is None or not isinstance(weight, Tensor) or weight.dim() != 2:
        got = "there is no such module" if head is None else f"it is {type(head).__name__}"
        raise InputError(f'head "{name}" should be a linear module of the model', got=got)
    read = [key for key in arrays if split_name(key)[1] in ("features", "tokens")]
    if not read:
        raise InputError("a head needs the features that it reads", hint='add "features" to roles')
    site, width = split_name(read[-1])[0], arrays[read[-1]].shape[-1]
    if weight.shape[1] != width:
        raise InputError(
            f'head "{name}" should read the {width:,} features of site "{site}"',
            got=f"it reads {weight.shape[1]:,}",
            hint='name the site that it reads last, or attach={"<site>/head_weight": …}',
        )
    bias = getattr(head, "bias", None)
    found = {join_name(site, "head_weight"): weight.detach()}
    return found | ({join_name(site, "head_bias"): bias.detach()} if isinstance(bias, Tensor) else {})
