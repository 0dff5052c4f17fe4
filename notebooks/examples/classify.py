"""Sort texts into classes by a few examples of each: python classify.py [TEXT]"""

import sys

import numpy as np

from qwen3_embed import Embedder

EXAMPLES = {
    "billing": ["I was charged twice", "Where is my invoice?", "refund my payment"],
    "bug": ["It crashes on start", "error message after the update", "the button does nothing"],
    "request": ["Please add a dark theme", "It would be nice to sort by date", "support for CSV"],
}
TEXTS = [
    "The program stops with an exception",
    "Please support shortcuts for the keyboard",
    "为什么扣了两次钱",
]


def main(texts: list[str]) -> None:
    model = Embedder("mini")
    means = np.stack([model.encode(group).mean(axis=0) for group in EXAMPLES.values()])
    centres = means / np.linalg.norm(means, axis=1, keepdims=True)
    scores = model.encode(texts) @ centres.T
    for text, row in zip(texts, scores, strict=True):
        print(f"{list(EXAMPLES)[row.argmax()]:8} {row.max():.2f}  {text}")


if __name__ == "__main__":
    main(sys.argv[1:] or TEXTS)
