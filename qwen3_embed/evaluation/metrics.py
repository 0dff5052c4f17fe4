"""Metrics of rankings, computed by ir-measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["DEPTH", "HEADLINE", "Judge"]

DEPTH = 100  # documents of a ranking that are judged
HEADLINE = "nDCG@10"
_NAMES = {  # here: in ir-measures
    HEADLINE: "nDCG@10",
    "MRR@10": "RR@10",
    "recall@10": "R@10",
    "recall@100": "R@100",
    "Top-1": "Success@1",
    "Top-3": "Success@3",
    "Top-5": "Success@5",
}


class Judge:
    """The judgments of a data set.

    Parameters
    ----------
    relevant : sequence of mapping of int to int
        Per query, grades (> 0) by document number.
    n_ranked : int
        The most documents of one ranking; recall@100 is left out where all are judged.

    Raises
    ------
    ImportError
        ir-measures is not installed.

    Examples
    --------
    >>> judge = Judge([{3: 1}], n_ranked=16)                               # doctest: +SKIP
    >>> judge.judge([np.array([5, 3, 0])])["MRR@10"].tolist()              # doctest: +SKIP
    [0.5]
    """

    def __init__(self, relevant: Sequence[Mapping[int, int]], n_ranked: int) -> None:
        try:
            import ir_measures
        except ImportError:
            raise ImportError(
                "evaluate needs ir-measures: pip install 'qwen3-embed-native[evaluate]'"
            ) from None
        names = {k: v for k, v in _NAMES.items() if k != "recall@100" or n_ranked > DEPTH}
        self._measures = {ir_measures.parse_measure(v): k for k, v in names.items()}
        qrels = {
            str(i): {str(document): grade for document, grade in of_query.items()}
            for i, of_query in enumerate(relevant)
        }
        self._evaluator = ir_measures.evaluator(list(self._measures), qrels)
        self._n_queries = len(relevant)

    @property
    def names(self) -> list[str]:
        """Metrics, in the order of the tables."""
        return list(self._measures.values())

    def judge(
        self, rankings: Sequence[npt.NDArray[np.int64]]
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Values per metric.

        Parameters
        ----------
        rankings : sequence of int arrays
            Per query, document numbers, best first.

        Returns
        -------
        dict of str to (n_queries,) float64
        """
        # Falling scores: ir-measures gets no tie to break.
        run = {
            str(i): {str(d): float(-rank) for rank, d in enumerate(ranking[:DEPTH].tolist())}
            for i, ranking in enumerate(rankings)
        }
        values = {name: np.zeros(self._n_queries) for name in self.names}
        for found in self._evaluator.iter_calc(run):
            values[self._measures[found.measure]][int(found.query_id)] = found.value
        return values
