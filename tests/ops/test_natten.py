"""The operator against a live NATTEN 0.17.5, the last release with positional bias on the CPU.

Not part of the normal run, because its build takes minutes:

    CMAKE_BUILD_TYPE=Release CXXFLAGS="-fopenmp" pip install --no-build-isolation natten==0.17.5
    python -m pytest tests/ops/test_natten.py
"""

from __future__ import annotations

from importlib import metadata, util
from types import ModuleType

import pytest
import torch
from hypothesis import given

from dinat_deploy.ops.functional import neighborhood_attention_2d
from tests.ops.strategies import Problem, problems

if util.find_spec("natten") is None or not metadata.version("natten").startswith("0.17."):
    pytest.skip("NATTEN 0.17 is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def natten() -> ModuleType:
    # 0.17.5 asks for a GPU's capability while it is imported, and for a name that newer PyTorch
    # has moved.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "_device_t", torch.types.Device, raising=False)
        patch.setattr(torch.cuda, "get_device_capability", lambda *_: (0, 0))
        import natten.functional

    return natten.functional


@given(problem=problems(square=True))
def test_equals_natten(problem: Problem, natten: ModuleType) -> None:
    kernel, dilation = problem.kernel[0], problem.dilation[0]
    if kernel % 2 == 0 or kernel == 1:
        return  # its unfused operators know odd windows only
    tensors, rpb = problem.arrays()
    query, key, value = (
        torch.from_numpy(array).permute(0, 3, 1, 2, 4).contiguous() for array in tensors
    )
    table = None if rpb is None else torch.from_numpy(rpb)
    scores = natten.na2d_qk(query * problem.scale, key, kernel, dilation, rpb=table)
    expected = natten.na2d_av(scores.softmax(-1), value, kernel, dilation).permute(0, 2, 3, 1, 4)
    found = neighborhood_attention_2d(
        *(torch.from_numpy(array) for array in tensors),
        table,
        kernel_size=kernel,
        dilation=dilation,
    )
    assert (found - expected).abs().max() <= 1e-5
