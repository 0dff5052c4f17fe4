"""Bootstrap intervals over queries (Efron, 1979; for retrieval: Sakai, SIGIR 2006).

Queries are drawn with replacement, the same draws for every system. So a difference of two systems
is paired: a query that is hard for both adds nothing to its interval.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["CONFIDENCE", "DRAWS", "Bootstrap", "ratio_bounds"]

DRAWS = 2000
CONFIDENCE = 0.95
_SEED = 18
_N_LOST = 3  # queries added to a sample, see ratio_bounds
_NO_SPREAD = 1e-9  # of a mean in 0..1: below, a deviation is rounding


class Bootstrap:
    """Draws of queries.

    Parameters
    ----------
    n_queries : int
    draws : int

    Examples
    --------
    >>> Bootstrap(4).intervals(np.ones((4, 1))).tolist()
    [[1.0], [1.0]]
    """

    def __init__(self, n_queries: int, draws: int = DRAWS) -> None:
        random = np.random.default_rng(_SEED)
        # How often each query is in each draw, as a share: (draws, n_queries).
        counts = random.multinomial(n_queries, np.full(n_queries, 1 / n_queries), size=draws)
        self._counts = counts.astype(np.uint8 if counts.max() < 256 else np.int32)
        self._n_queries = n_queries

    def intervals(
        self, values: npt.NDArray[np.float64], confidence: float = CONFIDENCE
    ) -> npt.NDArray[np.float64]:
        """Percentile intervals of means.

        Parameters
        ----------
        values : ndarray
            (n_queries, n) float64, one column per mean.
        confidence : float

        Returns
        -------
        ndarray
            (2, n) float64: low and high ends.
        """
        tail = (1 - confidence) / 2 * 100
        ends: npt.NDArray[np.float64] = np.percentile(
            self.means(values), [tail, 100 - tail], axis=0
        )
        return ends

    def means(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Means of every draw: (draws, n) float64 for (n_queries, n) values."""
        return np.concatenate(
            [
                (self._counts[i : i + 100].astype(np.float64) @ values) / self._n_queries
                for i in range(0, len(self._counts), 100)
            ]
        )


def ratio_bounds(
    values: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Ratios of means to the first column's, with lower bounds that hold for all at once.

    With 95 % confidence no true ratio is below its bound, so the bound also holds for a column
    that was chosen by these very values. The error of ratio r is the mean of e = value - r *
    reference over the reference's mean. The bootstrap gives the distribution of the largest
    standardised error among all columns (the max-t method; Westfall and Young, 1993), and its
    95 % quantile times a column's standard error is subtracted from the ratio.

    Queries that a column loses altogether may be too few in a sample to show. So three are added,
    on which all columns but the first have 0: after x losses the exact upper limit of their
    expected number at a level a is -ln(a) for x = 0, which is 6 for one column of 20 at 5 %, and
    3 + 2.2 * sqrt(3) covers it. The effect falls with the number of queries.

    Parameters
    ----------
    values : ndarray
        (n_queries, n) float64 in 0..1, per system; column 0 is the reference.

    Returns
    -------
    ratios, bounds : ndarray
        (n,) float64. The reference has 1 and 1.

    Raises
    ------
    ValueError
        The reference's mean is 0.

    Examples
    --------
    >>> ratios, bounds = ratio_bounds(np.ones((1000, 2)))
    >>> ratios.tolist(), bool(0.98 < bounds[1] < 1)
    ([1.0, 1.0], True)
    """
    level = values[:, 0].mean()
    if not level > 0:
        raise ValueError("the reference has a mean of 0: there is nothing to compare with")
    lost = np.zeros((_N_LOST, values.shape[1]))
    lost[:, 0] = level
    sample = np.concatenate([values, lost])
    shifted = sample.mean(axis=0) / level
    errors = Bootstrap(len(sample)).means(sample - sample[:, :1] * shifted)
    deviations = errors.std(axis=0)
    varies = deviations > _NO_SPREAD
    varies[0] = False
    bounds = shifted
    if varies.any():
        largest = (errors[:, varies] / deviations[varies]).max(axis=1)
        bounds[varies] -= np.quantile(largest, CONFIDENCE) * deviations[varies] / level
    ratios: npt.NDArray[np.float64] = values.mean(axis=0) / level
    ratios[0] = bounds[0] = 1
    return ratios, np.maximum(bounds, 0)
