"""Search a folder's Markdown files by meaning: python search_folder.py [FOLDER] [QUERY]"""

import sys
from pathlib import Path

from qwen3_embed import Embedder


def paragraphs(folder: Path) -> list[tuple[str, str]]:
    """(file, text) of each paragraph that has a few words."""
    return [
        (path.name, " ".join(text.split()))
        for path in sorted(folder.rglob("*.md"))
        for text in path.read_text(encoding="utf-8").split("\n\n")
        if len(text.split()) > 8
    ]


def main(folder: Path, query: str) -> None:
    model = Embedder("mini")  # for real work "Qwen3-Embedding-0.6B"
    found = paragraphs(folder)
    documents = model.encode_document([text for _, text in found])
    scores = documents @ model.encode_query(query)
    for i in (-scores).argsort()[:3]:
        name, text = found[i]
        print(f"{scores[i]:.2f}  {name}: {text[:70]}")


if __name__ == "__main__":
    here = Path(__file__).resolve().parents[2] / "docs"
    main(
        Path(sys.argv[1]) if sys.argv[1:] else here,
        " ".join(sys.argv[2:]) or "requests per second of the server",
    )
