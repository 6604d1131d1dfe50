"""The published models become engines without a GPU: with our plugin inside, and from the body."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinat_deploy.engine.manifest import open_engine
from dinat_deploy.pipeline.building import build
from dinat_deploy.pipeline.exporting import export
from tests.large_model import LargeExport

pytestmark = [pytest.mark.rtx, pytest.mark.slow]

DYNAMIC: dict[str, Any] = {"dynamic": ["batch", "size"], "size_range": (224, 512)}
# Name, options of the export, attention nodes, size of the weights in bytes, and whether to build from
# the body too. That takes five times as long, so it is left to the largest and to one static and one
# dynamic small model: the other two bodies are theirs with other sizes. The largest come first, so
# that two test processes finish at about the same time.
MODELS = [
    ("dinat_large_384_11x11", {}, 30, 804e6, True),
    ("dinat_tiny", {}, 30, 111e6, True),
    ("dinat_mini", DYNAMIC, 18, 79e6, True),
    ("dinat_large", {}, 30, 803e6, False),
    ("dinat_mini", {}, 18, 79e6, False),
]
NAMES = [f"{name}{' dynamic' if options else ''}" for name, options, *_ in MODELS]
MOST_MEMORY = 4.5e9


@pytest.mark.parametrize(("name", "options", "nodes", "weights", "from_body"), MODELS, ids=NAMES)
def test_a_published_model_builds_with_the_plugin_and_from_the_body(
    name: str,
    options: dict[str, Any],
    nodes: int,
    weights: float,
    from_body: bool,
    plugin_library: Path,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    if name == "dinat_large":
        exported: LargeExport = request.getfixturevalue("dinat_large")
        bundle = Path(exported.bundle)
    else:
        bundle = export(name, tmp_path / name, verify=False, **options).path
    target: dict[str, Any] = {"backend": "tensorrt-rtx", "architectures": ["86"]}

    report = build(bundle, plugin_library=plugin_library, embed_plugin=True, **target)
    layers = report.manifest.layers
    assert len({layer.node for layer in layers.plugin}) == layers.types["plugin_v3"] == nodes
    assert all(layer.node.endswith(".attn/NeighborhoodAttention2D") for layer in layers.plugin)
    assert layers.body == []
    assert report.warnings == []
    assert report.peak_memory is not None and report.peak_memory < MOST_MEMORY
    engine = open_engine(report.path)
    engine.check_plan()
    assert engine.manifest.plan.bytes > weights
    assert plugin_library.read_bytes() in engine.plan_path.read_bytes()
    if options:
        assert str(report.manifest.profiles[0]["image"]) == "1x3x224x224:4x3x224x224:8x3x512x512"

    if not from_body:
        return
    body = build(bundle, plugin=False, **target)
    assert body.manifest.layers.plugin == []
    assert {layer.node for layer in layers.plugin} == set(body.manifest.layers.body)
    assert body.manifest.plan.bytes > weights
    assert body.peak_memory is not None and body.peak_memory < MOST_MEMORY
