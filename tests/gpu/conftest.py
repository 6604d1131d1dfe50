"""The GPU, the kernels and the marker that all tests here carry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.gpu.binding import LIBRARY, VARIABLE, Kernels, find_library

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Known here too, for runs with ``--confcutdir=tests/gpu`` and no project settings."""
    config.addinivalue_line("markers", "gpu: needs an NVIDIA GPU and the CUDA kernels")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if item.path.is_relative_to(HERE)]
    reason = None if torch.cuda.is_available() else "torch sees no CUDA device"
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def kernels() -> Kernels:
    """The kernels' library.

    A machine with a GPU that lacks it is no reason to skip: whoever runs these tests there wants
    to know.
    """
    path = find_library()
    assert path is not None, f"{LIBRARY} was not found: build it, or name it in {VARIABLE}"
    return Kernels(path)


@pytest.fixture(autouse=True)
def settled() -> Iterator[None]:
    """Faults of a launch show in the test that made it; memory goes back after each test."""
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
