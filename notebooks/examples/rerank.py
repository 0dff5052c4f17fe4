"""Two stages, candidates by short vectors and a better judge: python rerank.py [RERANKER]

Without a reranker's name, such as Qwen3-Reranker-0.6B, the judge is the model's whole vectors.
"""

import sys

from qwen3_embed import Embedder, Reranker

DOCUMENTS = [
    "git reset --soft HEAD~1 takes back the last commit and keeps the changes",
    "git stash puts changes aside and restores a clean working directory",
    "gzip compresses a file; gunzip restores it",
    "git revert makes a new commit that undoes an earlier one",
    "rm -r deletes a folder and everything in it",
]


def main(reranker: str | None, query: str = "how do I undo a commit") -> None:
    model = Embedder("mini")
    short = model.encode_document(DOCUMENTS, dim=64)  # a quarter of mini's 256 dimensions
    scores = short @ model.encode_query(query, dim=64)
    candidates = [DOCUMENTS[i] for i in (-scores).argsort()[:3]]
    if reranker is None:
        judged = model.encode_document(candidates) @ model.encode_query(query)
    else:
        judged = Reranker(reranker).predict([(query, text) for text in candidates])
    for i in (-judged).argsort():
        print(f"{judged[i]:.2f}  {candidates[i]}")


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else None)
