"""The stage for the rulebook's tests."""

from __future__ import annotations

import pytest
from rulebook_scene import Scene


@pytest.fixture
def scene() -> Scene:
    """A custody open for trading: 10,000 whole tokens on each side."""
    return Scene().open_for_trading()
