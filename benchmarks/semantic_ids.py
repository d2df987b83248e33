"""How good are the semantic ids of each quantiser: collisions, use of the codebooks, coherence.

    python benchmarks/semantic_ids.py [DATA] [--features text] [--levels 3] [--codes 256]

The item vectors (those of the titles by default) are quantised anew, and a row of a Markdown table
printed for each quantiser. Seconds are processor seconds.
"""

from __future__ import annotations

import argparse
import time

import torch

from tastemaker.console import set_quiet
from tastemaker.content.features import item_features
from tastemaker.data import load
from tastemaker.models.generative.tokenizer import Tokenizer, TokenizerKind

KINDS: tuple[TokenizerKind, ...] = ("rq-kmeans", "rq-vae", "r-vq")
HEADER = ("quantiser", "collisions", "largest group", "utilisation", "perplexity", "coherence", "s")


def several(values: tuple[float, ...], form: str) -> str:
    """The values of the levels in one cell."""
    return ", ".join(format(value, form) for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", default="amazon-beauty")
    parser.add_argument("--features", default="text")
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--codes", type=int, default=256)
    given = parser.parse_args()
    set_quiet(True)
    dataset = load(given.data)
    features = item_features(dataset, given.features)
    print("| " + " | ".join(HEADER) + " |\n|" + " --- |" * len(HEADER))
    for kind in KINDS:
        tokenizer = Tokenizer(given.features, kind, given.levels, given.codes)
        began = time.process_time()
        codes = tokenizer.codes(dataset, torch.device("cpu"))
        seconds, found = time.process_time() - began, tokenizer.report(codes, features)
        cells = (
            kind,
            f"{found.collision_rate:.4f}",
            str(found.largest_group),
            several(found.utilisation, ".2f"),
            several(found.perplexity, ".0f"),
            several(found.coherence, ".2f"),
            f"{seconds:.0f}",
        )
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
