"""AUP, accuracy under parallelism: a trade-off of accuracy against tokens a pass as one number.

Defined by d3LLM (arXiv 2601.07568; github.com/hao-ai-lab/d3LLM, AUP_leaderboard). For the points
(rho_i, y_i) of one method on one task, rho the tokens per forward pass (TPF) in rising order and y
the accuracy in per cent:

    AUP = rho_1 y_1 + 1/2 sum_{i >= 2} (rho_i - rho_{i-1}) (y_i W(y_i) + y_{i-1} W(y_{i-1}))
    W(y) = min(exp(-alpha (1 - y / y_max)), 1),  alpha = 3

y_max is the highest accuracy that any method of the comparison has on the task, so figures are
comparable only where it is the same. Points more than five points of accuracy below y_1, that of
the slowest point, do not count.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

ALPHA = 3.0
# How far accuracy may fall below that of the slowest point, as a share of the problems.
MOST_LOSS = 0.05


def accuracy_under_parallelism(
    points: Iterable[tuple[float, float]], *, best: float, alpha: float = ALPHA
) -> float:
    """AUP of one method on one task, in the published unit: per cent times tokens a pass.

    The published code refuses a curve whose fastest point lost too much; here, as in the paper's
    text, such points are left out. Of points with the same TPF the most accurate counts.

    Args:
        points: (TPF, accuracy as a share of problems) in any order.
        best: y_max, as a share.
        alpha: how strongly lost accuracy is punished.

    Raises:
        ValueError: no point, a TPF that is not positive, or accuracies that are no shares up to
            `best`.
    """
    highest: dict[float, float] = {}
    for tpf, accuracy in points:
        if not (np.isfinite(tpf) and tpf > 0 and 0 <= accuracy <= best <= 1):
            raise ValueError(
                f"AUP: got TPF {tpf} and accuracy {accuracy} with a best accuracy of {best}; "
                "expected a positive TPF and shares of problems, none above the best"
            )
        highest[tpf] = max(accuracy, highest.get(tpf, 0.0))
    if not highest:
        raise ValueError("AUP: got no point, expected at least one (TPF, accuracy)")
    rho, y = np.array(sorted(highest.items())).T
    counts = y >= y[0] - MOST_LOSS - 1e-9  # exactly five points less still counts
    rho, y = rho[counts], y[counts]
    if not best:
        return 0.0
    weighted = y * np.minimum(np.exp(-alpha * (1 - y / best)), 1.0)
    return float(100 * (rho[0] * y[0] + np.trapezoid(weighted, rho)))
