"""The largest published classifier, from its name to a verified bundle, in bounded memory."""

from __future__ import annotations

import pytest

from tests.large_model import LargeExport


@pytest.mark.slow
def test_dinat_large_exports_verified_within_8_gb(dinat_large: LargeExport) -> None:
    manifest, messages = dinat_large.report["manifest"], dinat_large.messages
    assert dinat_large.kilobytes < 8e6
    assert manifest["name"] == "dinat_large"
    assert manifest["graph"]["op_nodes"] == 30
    assert manifest["verification"]["passed"] is True
    assert manifest["verification"]["max_abs_error"] < 1e-4
    assert "Comparing ONNX Runtime with PyTorch" in messages
