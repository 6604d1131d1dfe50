"""The comparison with Swin and ConvNeXt runs, and counts their work as it was published."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import onnx
import pytest

from dinat_deploy.measurement.onnx_work import count_onnx
from dinat_deploy.pipeline.requests import ModelRequest

pytest.importorskip("transformers", reason="transformers is not installed")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peers", ROOT / "benchmarks" / "peers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_models_are_exported_alike_and_measured(
    script: ModuleType, tiny_config_file: Path, tmp_path: Path
) -> None:
    peers = {
        "swin_tiny": script.peer(
            "swin_tiny", embed_dim=16, depths=[1, 1], num_heads=[1, 2], window_size=4, image_size=64
        ),
        "convnext_tiny": script.peer(
            "convnext_tiny", hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1]
        ),
    }
    request = ModelRequest(config=tiny_config_file)
    report = script.run([request], peers, tmp_path, side=64, threads=1, duration=0.05)
    names = [Path(result.name).name for result in report.results]
    assert names[:2] == ["swin_tiny.onnx", "convnext_tiny.onnx"]
    assert "dinat_body.onnx" in names
    opsets = {
        entry.version
        for path in tmp_path.glob("**/*.onnx")
        for entry in onnx.load(path).opset_import
        if entry.domain == ""
    }
    assert len(opsets) == 1
    assert not any(
        node.domain == "dinat" for node in onnx.load(tmp_path / "dinat_body.onnx").graph.node
    )
    assert [r.name for r in report.results if r.work is None] == []
    written = json.loads((tmp_path / "report.json").read_text())
    assert [entry["name"] for entry in written["results"]] == [r.name for r in report.results]
    assert "ratio per MAC" in (tmp_path / "report.md").read_text()
    assert "plotly" in (tmp_path / "report.html").read_text()


# Table 1 of the papers: 4.5 G each (ConvNeXt's code prints 4.47).
@pytest.mark.slow
@pytest.mark.parametrize(("name", "published"), [("swin_tiny", 4.5e9), ("convnext_tiny", 4.47e9)])
def test_the_peers_work_is_the_published_one(
    name: str, published: float, script: ModuleType, tmp_path: Path
) -> None:
    script.export_peer(script.peer(name), tmp_path / "peer.onnx", 224, 1)
    assert count_onnx(tmp_path / "peer.onnx").macs == pytest.approx(published, rel=0.02)
