"""The contract over every entry of the catalog."""

from __future__ import annotations

import pytest

from tastemaker.models.catalog import ENTRIES
from tastemaker.testing import CHECKS


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("name", ENTRIES)
def test_contract(name, check, tmp_path):
    check(ENTRIES[name].load(), tmp_path)
