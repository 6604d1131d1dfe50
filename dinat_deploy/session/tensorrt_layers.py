"""Which layers of an engine are neighborhood attention, and of which type each layer is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from dinat_deploy.session.base import LayerTime
from dinat_deploy.session.tensorrt_api import described_layers, origins
from dinat_deploy.session.tensorrt_engine import LoadedEngine

# What the names of our operators begin with; graph.schema has them, and needs the package onnx.
_ATTENTION = "NeighborhoodAttention"


def describe_layers(engine: LoadedEngine) -> dict[str, Mapping[str, Any]]:
    """What the inspector says of every layer, by name; nothing but the name of an engine that was
    built without detailed verbosity."""
    inspector = engine.engine.create_engine_inspector()
    text = inspector.get_engine_information(engine.trt.LayerInformationFormat.JSON)
    try:
        layers = described_layers(text)
    except ValueError:
        return {}
    found: dict[str, Mapping[str, Any]] = {}
    for layer in layers:
        if isinstance(layer, str):
            found[layer.strip()] = {}
        elif isinstance(layer, dict):
            found[str(layer.get("Name", ""))] = layer
    return found


def layer_times(
    engine: LoadedEngine,
    milliseconds: Mapping[str, float],
    iterations: int,
    attention_nodes: Collection[str],
) -> list[LayerTime]:
    """Times of a profiled run, in the order in which TensorRT reported them.

    Args:
        milliseconds: layer -> sum over the iterations.
        attention_nodes: names of the ONNX nodes that are neighborhood attention.
    """
    described = describe_layers(engine)
    return [
        LayerTime(
            name=name,
            kind=str(described.get(name, {}).get("LayerType", "")) or "?",
            milliseconds=total / iterations,
            attention=_is_attention(name, described.get(name, {}), attention_nodes),
        )
        for name, total in milliseconds.items()
    ]


def _is_attention(name: str, layer: Mapping[str, Any], nodes: Collection[str]) -> bool:
    if str(layer.get("PluginType", "")).startswith(_ATTENTION):
        return True
    told = origins(layer.get("Metadata"))
    if told:
        # A layer may be fused of attention and what is around it: then it counts as attention.
        return any(
            (origin.function or "").startswith(_ATTENTION) or origin.node in nodes
            for origin in told
        )
    return _ATTENTION in name or any(node in name for node in nodes)
