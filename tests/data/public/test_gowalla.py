from __future__ import annotations

import pytest

TRAIN = "0 0 1 2 3\n1 4 5\n2\n3 1 40980 \n"  # user 2 has no training item; a blank at an end
TEST = "0 5\n1 0\n2 1\n"


@pytest.mark.parametrize("name", ["gowalla", "yelp2018"])
def test_lightgcn_lines(load_sample, rows, name):
    data = load_sample(name, {"train.txt.gz": TRAIN, "test.txt.gz": TEST})
    assert rows(data, "split") == [
        (0, 0, "train"),
        (0, 1, "train"),
        (0, 2, "train"),
        (0, 3, "train"),
        (0, 5, "test"),
        (1, 4, "train"),
        (1, 5, "train"),
        (1, 0, "test"),
        (3, 1, "train"),
        (3, 40980, "train"),
        (2, 1, "test"),
    ]
    assert not data.is_ordered
