import numpy as np
import pytest
import torch

from collapse_cli.kernels.frechet_means import reachable_classes


def chosen(count: int, *places: int) -> torch.Tensor:
    mask = torch.zeros(count, dtype=torch.bool)
    mask[list(places)] = True
    return mask


def test_between_the_ends_of_a_path_lies_all_of_it() -> None:
    places = torch.arange(9.0)
    path = (places[:, None] - places).abs()
    assert reachable_classes(path, chosen(9, 0, 8)).all()
    assert reachable_classes(path, chosen(9, 2, 5)).nonzero().flatten().tolist() == [2, 3, 4, 5]


def test_of_a_star_only_the_centre_lies_between_leaves() -> None:
    star = torch.full((6, 6), 2.0)
    star[0], star[:, 0] = 1.0, 1.0
    star.fill_diagonal_(0.0)
    assert reachable_classes(star, chosen(6, 1, 2)).nonzero().flatten().tolist() == [0, 1, 2]


def test_among_equally_distant_classes_nothing_lies_between() -> None:
    distances = 1.0 - torch.eye(5)
    assert reachable_classes(distances, chosen(5, 1, 3)).nonzero().flatten().tolist() == [1, 3]
    assert not reachable_classes(distances, chosen(5)).any()
    assert reachable_classes(torch.zeros(4, 4), chosen(4, 2)).all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_in_the_plane_it_is_the_voronoi_cells_that_the_hull_meets(scale: float) -> None:
    # Σw‖v − p‖² is ‖v − Σwp‖² and a constant: the Fréchet mean is the class nearest to the barycentre
    g = np.random.default_rng(0)
    points = g.uniform(-1, 1, (60, 2))
    distances = scale * np.linalg.norm(points[:, None] - points, axis=2)
    predicted = [3, 17, 40]
    u, v = (part.ravel() for part in np.meshgrid(np.linspace(0, 1, 700), np.linspace(0, 1, 700)))
    weights = np.stack((u, v, 1 - u - v), 1)[u + v <= 1]
    means = weights @ points[predicted]
    parts = [((part[:, None] - points) ** 2).sum(2).argmin(1) for part in np.array_split(means, 50)]
    nearest = np.unique(np.concatenate(parts))
    found = reachable_classes(torch.from_numpy(distances), chosen(60, *predicted)).nonzero().flatten().tolist()
    assert 8 < len(found) < 50
    assert found == nearest.tolist()
