"""Drop texts that say what an earlier one says: python deduplicate.py [THRESHOLD]"""

import sys

from qwen3_embed import Embedder

TICKETS = [
    "The app crashes when I open the settings page",
    "I can't log in with my Google account",
    "App crashes on opening settings",
    "Please add a dark theme",
    "Login with Google does not work",
    "How do I export my data as CSV?",
]


def main(threshold: float) -> None:
    model = Embedder("mini")
    vectors = model.encode(TICKETS)
    kept: list[int] = []
    for i, text in enumerate(TICKETS):
        scores = vectors[kept] @ vectors[i]  # of unit vectors: cosines
        if kept and scores.max() >= threshold:
            print(f"{scores.max():.2f}  dropped: {text} = {TICKETS[kept[scores.argmax()]]}")
        else:
            kept.append(i)
    print(f"{len(kept)} of {len(TICKETS)} kept")


if __name__ == "__main__":
    main(float(sys.argv[1]) if sys.argv[1:] else 0.7)
