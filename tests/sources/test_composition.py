"""Parts of a reparametrised weight that do not fit are skipped by name; those that fit are composed."""

import pytest
import torch

from collapse_cli.core.report import Skip
from collapse_cli.core.site import Site
from collapse_cli.sources.composition import materials_of


def composed(**shapes: tuple[int, ...]) -> tuple[list[str], list[Skip]]:
    sites = [Site(name.replace("__", "."), shape, "F32") for name, shape in shapes.items()]
    materials, skips, _ = materials_of(sites, {})
    for material in materials:
        parts = {site.name: site.shape for site in sites}
        whole = material.compose(*(torch.ones(parts[name]) for name in material.reads))
        assert whole.shape == material.site.shape
    return [material.site.name for material in materials], list(skips)


@pytest.mark.parametrize("gain", [(32, 1), (32,), (1,), (), (1, 24), (32, 24)])
def test_a_gain_that_fits(gain: tuple[int, ...]) -> None:
    assert composed(a__weight_g=gain, a__weight_v=(32, 24)) == (["a.weight"], [])


@pytest.mark.parametrize("gain", [(24,), (31, 1), (32, 2), (32, 1, 1), (0,)])
def test_a_gain_that_does_not(gain: tuple[int, ...]) -> None:
    names, skips = composed(a__weight_g=gain, a__weight_v=(32, 24))
    assert names == []
    assert {skip.site for skip in skips} == {"a.weight_g", "a.weight_v"}
    assert all("do not fit" in skip.reason for skip in skips)


@pytest.mark.parametrize(("left", "right"), [((32,), (24,)), ((24,), (32,))])
def test_singular_vectors_that_fit(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    assert composed(a__weight_orig=(32, 24), a__weight_u=left, a__weight_v=right)[0] == ["a.weight"]


@pytest.mark.parametrize(("left", "right"), [((5,), (24,)), ((32,), (23,)), ((32,), (32,)), ((0,), (24,))])
def test_singular_vectors_that_do_not(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    names, skips = composed(a__weight_orig=(32, 24), a__weight_u=left, a__weight_v=right)
    assert names == []
    assert {skip.site for skip in skips} == {"a.weight_orig", "a.weight_u", "a.weight_v"}


def test_a_mask_of_another_shape() -> None:
    assert composed(a__weight_orig=(32, 24), a__weight_mask=(32, 24)) == (["a.weight"], [])
    assert composed(a__weight_orig=(32, 24), a__weight_mask=(24, 32))[0] == []
