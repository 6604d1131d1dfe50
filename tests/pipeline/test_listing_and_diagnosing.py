"""models, doctor and inspect as functions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import dinat_deploy
from dinat_deploy.errors import MissingDependencyError
from dinat_deploy.models.zoo import VARIANTS
from dinat_deploy.pipeline import diagnosing
from dinat_deploy.pipeline.diagnosing import doctor
from dinat_deploy.pipeline.inspecting import inspect
from dinat_deploy.pipeline.listing import list_models


def test_all_variants_are_listed_with_their_cost() -> None:
    rows = {row.name: row for row in list_models()}
    assert list(rows) == list(VARIANTS)
    assert rows["dinat_tiny"].parameters == 27_901_582
    assert rows["dinat_tiny"].dilations.startswith("1,8,1/1,4,1,4/1,2,1,2")
    assert rows["dinat_large"].schedules.keys() == {"detection", "ade20k", "mask2former"}
    assert rows["dinat_large_21k"].top1 is None
    assert not rows["dinat_s_tiny"].pretrained


def test_doctor_finds_what_is_installed() -> None:
    checks = {check.name: check for check in doctor()}
    assert checks["dinat-deploy"].found == dinat_deploy.__version__
    assert all(check.found for check in checks.values() if check.required)


def test_doctor_says_what_is_missing_and_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(_: str) -> str:
        raise diagnosing.metadata.PackageNotFoundError

    monkeypatch.setattr(diagnosing.metadata, "version", nothing)
    monkeypatch.setattr(diagnosing.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(diagnosing.native, "find_cuda", lambda: None)
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(tmp_path))
    checks = {check.name: check for check in doctor()}
    assert checks["torch"].found is None
    assert checks["torch"].install == "pip install torch"
    assert "verify" in checks["onnxruntime"].enables
    assert checks["NVIDIA GPU"].found is None
    assert checks["operator library"].install == "dinat-deploy plugin build"
    assert checks["C++ compiler"].install == "apt-get install g++"
    for name in ("TensorRT plugin", "CUDA compiler"):
        assert checks[name].found is None
        assert checks[name].install.startswith("pip install 'dinat-deploy[cuda]'")


def test_doctor_reads_the_gpu_from_the_drivers_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA Test, 999.1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert next(c for c in doctor() if c.name == "NVIDIA GPU").found == "NVIDIA Test, 999.1"
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert next(c for c in doctor() if c.name == "NVIDIA GPU").found is None


def test_inspect_takes_a_bundle_or_a_file(tiny_bundle: Path) -> None:
    assert inspect(tiny_bundle).op_nodes == inspect(tiny_bundle / "model.onnx").op_nodes
    assert len(inspect(tiny_bundle).op_nodes) == 3


def test_inspect_without_onnx_says_so(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dinat_deploy.graph.inspection", None)
    with pytest.raises(MissingDependencyError, match="needs the package onnx"):
        inspect(tiny_bundle)
