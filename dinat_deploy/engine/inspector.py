"""Layers of a finished engine, as TensorRT's engine inspector describes them.

The description is JSON. Of an engine built with detailed verbosity every layer is an object, else
its name alone. TensorRT 11 describes tensors in other words than 10 (``I/O Tensors`` for
``Bindings``, ``Format`` and ``Datatype`` for ``Format/Datatype``); what is read here, all have.
"""

from __future__ import annotations

from typing import Any, Literal

from dinat_deploy.engine.builder import EngineLayer
from dinat_deploy.engine.onnx_file import OP_TYPES
from dinat_deploy.errors import EngineError
from dinat_deploy.session.tensorrt_api import described_layers, origins

PLUGIN = "plugin"
# LayerType of a plugin is PluginV3 or PluginV2, and PluginType the plugin's name.
_PLUGIN_TYPES = ("PluginV3", "PluginV2", "Plugin")


def inspect_engine(trt: Any, engine: Any) -> list[EngineLayer]:
    """Layers of a deserialised engine.

    Raises:
        EngineError: the description cannot be understood.
    """
    inspector = engine.create_engine_inspector()
    return parse_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def parse_layers(text: str) -> list[EngineLayer]:
    """Layers out of the inspector's JSON, in the order in which they run.

    Raises:
        EngineError: it is not the inspector's JSON.
    """
    try:
        return [_layer(entry) for entry in described_layers(text)]
    except ValueError as error:
        raise _unreadable(str(error)) from None


def _layer(entry: Any) -> EngineLayer:
    if isinstance(entry, str):  # names only
        return EngineLayer(name=entry.strip(), kind="")
    if not isinstance(entry, dict) or not isinstance(entry.get("Name"), str):
        raise _unreadable(f"a layer has no name: {str(entry)[:80]}")
    kind = str(entry.get("LayerType", ""))
    tactic = entry.get("TacticName")
    device: Literal["gpu", "dla"] = "dla" if kind.upper().startswith("DLA") else "gpu"
    nodes = [origin.node for origin in origins(entry.get("Metadata")) if origin.node]
    return EngineLayer(
        name=entry["Name"],
        kind=PLUGIN if _is_ours(kind, entry) else kind,
        nodes=list(dict.fromkeys(nodes)),
        tactic=str(tactic) if tactic else None,
        device=device,
    )


def _is_ours(kind: str, entry: dict[str, Any]) -> bool:
    return kind in _PLUGIN_TYPES and entry.get("PluginType", OP_TYPES[0]) in OP_TYPES


def _unreadable(why: str) -> EngineError:
    return EngineError(f"The engine inspector's description cannot be read: {why}.")
