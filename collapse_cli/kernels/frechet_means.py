"""Which classes are a weighted Fréchet mean of others, in a metric between classes."""

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from collapse_cli.errors import NotConverged

__all__ = ["reachable_classes"]

#: Relative slack of the linear programmes: HiGHS solves to 10⁻⁷ of numbers of order one.
_SLACK = 1e-6
#: Competitors that enter a programme together.
_ENTERING = 16


def reachable_classes(
    distances: Float[Tensor, "classes classes"], predicted: Bool[Tensor, " classes"]
) -> Bool[Tensor, " classes"]:
    """Which classes y minimise Σ_p w_p·d²(y, p) for some convex weights w of the predicted classes.

    A predicted class does (all weight on itself). For any other it is a linear programme: weights with
    Σ_p w_p·(d²(y, p) − d²(v, p)) ≤ 0 for every class v (Roberts et al. 2023, definition of the locus). No predicted
    class reaches nothing.

    Raises:
        NotConverged: a programme was not solved.
    """
    squares = distances.double().square().numpy()
    columns = squares[:, predicted.numpy()]
    result = predicted.clone()
    if columns.shape[1] == 0:
        return result
    scale = float(columns.max()) or 1.0
    for target in (~predicted).nonzero().flatten().tolist():
        result[target] = _is_reachable((columns[target] - columns) / scale)
    return result


def _is_reachable(excess: NDArray[np.float64]) -> bool:
    """Whether some convex weights of the columns leave no row above 0.

    The least maximum over a few rows bounds that over all from below, so rows enter as they are violated.
    """
    active: list[int] = []
    weights = np.full(excess.shape[1], 1.0 / excess.shape[1])
    while True:
        above = excess @ weights
        violated = [int(row) for row in np.argsort(-above, kind="stable")[:_ENTERING] if above[row] > _SLACK]
        entering = [row for row in violated if row not in active]
        if not entering:
            return not violated
        active += entering
        least, weights = _least_maximum(excess[active])
        if least > _SLACK:
            return False


def _least_maximum(rows: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """min_w max(rows @ w) over convex weights, and the weights."""
    from scipy.optimize import linprog

    count, columns = rows.shape
    solved = linprog(
        np.append(np.zeros(columns), 1.0),
        A_ub=np.hstack((rows, -np.ones((count, 1)))),
        b_ub=np.zeros(count),
        A_eq=np.append(np.ones(columns), 0.0)[None],
        b_eq=np.ones(1),
        bounds=[(0.0, None)] * columns + [(None, None)],
        method="highs",
    )
    solution = solved.x
    if not solved.success or solution is None:
        raise NotConverged(f"a linear programme of {count} × {columns} ended with: {solved.message}")
    return float(solution[-1]), np.asarray(solution[:-1])
