"""Fixtures of the fuzzer's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzzing.seeds import make_seeds


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """All valid inputs that need no export of their own."""
    place = tmp_path_factory.mktemp("fuzzing") / "seeds"
    make_seeds(place, tiny_bundle)
    return place
