"""Bootstrap intervals over queries (Efron, 1979; for retrieval: Sakai, SIGIR 2006).

Queries are drawn with replacement, the same draws for every system. So a difference of two systems
is paired: a query that is hard for both adds nothing to its interval.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["CONFIDENCE", "DRAWS", "Bootstrap"]

DRAWS = 2000
CONFIDENCE = 0.95
_SEED = 18


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

    def intervals(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Percentile intervals of means.

        Parameters
        ----------
        values : ndarray
            (n_queries, n) float64, one column per mean.

        Returns
        -------
        ndarray
            (2, n) float64: low and high ends.
        """
        means = [
            (self._counts[i : i + 100].astype(np.float64) @ values) / self._n_queries
            for i in range(0, len(self._counts), 100)
        ]
        tail = (1 - CONFIDENCE) / 2 * 100
        ends: npt.NDArray[np.float64] = np.percentile(
            np.concatenate(means), [tail, 100 - tail], axis=0
        )
        return ends
