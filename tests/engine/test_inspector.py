"""Layers of a finished engine, out of the engine inspector's JSON as TensorRT 10 and 11 write it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dinat_deploy.engine.builder import EngineLayer
from dinat_deploy.engine.inspector import parse_layers
from dinat_deploy.errors import EngineError
from dinat_deploy.session.tensorrt_api import Origin, origins

ROW_MAJOR = "Row major linear FP32 (kLINEAR)"
NODE = "levels.0.blocks.0.attn/NeighborhoodAttention2D"


def tensor(name: str, shape: list[int], version: int) -> dict[str, Any]:
    """TensorRT 11 splits Format/Datatype and names the location."""
    if version == 10:
        return {
            "Name": name,
            "Location": "Device",
            "Dimensions": shape,
            "Format/Datatype": ROW_MAJOR,
        }
    described = {"Format": "Row major linear FP32 format (kLINEAR)", "Datatype": "Float"}
    return {"Name": name, "Location": "Device", "Dimensions": shape, **described}


def engine(version: int) -> str:
    """A convolution with its activation, a fused chain of two nodes, a plugin, a part of a body."""
    x, a, y = (tensor(name, [1, 64, 56, 56], version) for name in ("image", "a", "logits"))
    layers = [
        {
            "Name": "patch.0 + patch.1", "LayerType": "CaskConvolution",
            "Inputs": [x], "Outputs": [a],
            "ParameterType": "Convolution", "Kernel": [3, 3], "Stride": [2, 2], "OutMaps": 64,
            "Weights": {"Type": "Float", "Count": 1728}, "Bias": {"Type": "Float", "Count": 64},
            "HasBias": 1, "HasReLU": 1, "Activation": "RELU",
            "TacticName": "sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nhwckrsc_nhwc",
            "TacticValue": "0x3e2b881168d9689d", "StreamId": 0,
            "Metadata": "[ONNX Layer: patch.0]\x1e[ONNX Layer: patch.1]",
        },
        {
            "Name": "__myl_MeanSubMulMean_myl0_1", "LayerType": "kgen",
            "Inputs": [a], "Outputs": [a], "TacticName": "__myl_MeanSubMulMean_0x5f", "StreamId": 0,
            "Metadata": "[ONNX Layer: norm1/Sub]\x1f[ONNX Layer: norm1/Mul]\x1f[ONNX Layer: norm1/Sub]",
        },
        {
            "Name": NODE, "LayerType": "PluginV3", "Inputs": [a], "Outputs": [a],
            "ParameterType": "Plugin", "PluginVersion": "1", "PluginNamespace": "dinat",
            "PluginType": "NeighborhoodAttention2D", "TacticValue": "0x0", "StreamId": 0,
            "Metadata": f"[ONNX Layer: {NODE}]",
        },
        {
            "Name": "__myl_ResTraResMat_myl3_7", "LayerType": "gemm", "Inputs": [a], "Outputs": [y],
            "TacticName": "sm80_xmma_gemm_f32f32_f32f32_f32_nn_n", "StreamId": 0,
            "Metadata": f"[ONNX Layer: scores | {NODE} (NeighborhoodAttention2D)]\x1f"
            f"[ONNX Layer: mask | {NODE} (NeighborhoodAttention2D)]",
        },
    ]  # fmt: skip
    if version == 10:
        return json.dumps({"Layers": layers, "Bindings": ["image", "logits"]})
    ends = [
        {
            "Name": name, "IOMode": mode, "DataType": "Float", "Dimensions": [1, 64, 56, 56],
            "Location": "Device", "IsShapeInferenceIO": False,
            "ProfileInfo": [
                {
                    "MinShape": [1, 64, 56, 56], "OptShape": [1, 64, 56, 56],
                    "MaxShape": [1, 64, 56, 56], "Format": ROW_MAJOR,
                }
            ],
        }
        for name, mode in (("image", "Input"), ("logits", "Output"))
    ]  # fmt: skip
    return json.dumps({"Layers": layers, "I/O Tensors": ends})


@pytest.mark.parametrize("version", [10, 11])
def test_layers_of_both_formats(version: int) -> None:
    convolution, norm, plugin, body = parse_layers(engine(version))
    assert convolution == EngineLayer(
        name="patch.0 + patch.1",
        kind="CaskConvolution",
        nodes=["patch.0", "patch.1"],
        tactic="sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nhwckrsc_nhwc",
    )
    assert norm.nodes == ["norm1/Sub", "norm1/Mul"]
    assert plugin == EngineLayer(name=NODE, kind="plugin", nodes=[NODE])
    # What belongs to a body is named by the node that it is the body of.
    assert (body.kind, body.nodes) == ("gemm", [NODE])


def test_control_characters_may_stand_as_they_are() -> None:
    text = engine(10).replace("\\u001e", "\x1e").replace("\\u001f", "\x1f")
    assert "\x1e" in text
    assert parse_layers(text) == parse_layers(engine(10))


def test_an_engine_without_details_gives_names() -> None:
    text = '{"Layers": ["conv1 + relu1\n"\n,"(Unnamed Layer* 3) [Shuffle]"\n],\n"Bindings": ["x"]}'
    assert parse_layers(text) == [
        EngineLayer(name="conv1 + relu1", kind=""),
        EngineLayer(name="(Unnamed Layer* 3) [Shuffle]", kind=""),
    ]


@pytest.mark.parametrize(
    ("layer", "kind", "device"),
    [
        ({"LayerType": "PluginV2", "PluginType": "DisentangledAttention_TRT"}, "PluginV2", "gpu"),
        ({"LayerType": "PluginV3", "PluginType": "NeighborhoodAttention2DSplit"}, "plugin", "gpu"),
        ({"LayerType": "DLA"}, "DLA", "dla"),
        ({"LayerType": "Reformat"}, "Reformat", "gpu"),
    ],
)
def test_plugins_of_others_and_the_dla(layer: dict[str, str], kind: str, device: str) -> None:
    (found,) = parse_layers(json.dumps({"Layers": [{"Name": "l", **layer}]}))
    assert (found.kind, found.device, found.nodes, found.tactic) == (kind, device, [], None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is no JSON"),
        ("[]", "it has no list of layers"),
        ('{"Layers": 3}', "it has no list of layers"),
        ('{"Layers": [{"LayerType": "gemm"}]}', "a layer has no name"),
        ('{"Layers": [null]}', "a layer has no name: None"),
    ],
)
def test_what_is_no_description_is_an_error(text: str, why: str) -> None:
    with pytest.raises(EngineError, match=f"cannot be read: {why}"):
        parse_layers(text)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (None, []),
        ("", []),
        ("[ONNX Layer: a]", [Origin("a", None)]),
        ("[ONNX Layer: a/b:0]\x1e[ONNX Layer: c]", [Origin("a/b:0", None), Origin("c", None)]),
        ("[ONNX Layer: a][ONNX Layer: a]", [Origin("a", None)]),
        ("[ONNX Layer: MatMul_1 | na (Op)]", [Origin("na", "Op")]),
        ("[ONNX Layer: MatMul_1 | Local Function: Op]", [Origin(None, "Op")]),
        # Cut short by the parser.
        ("[ONNX Layer: a]\x1f[ONNX Lay ... er: b]", [Origin("a", None)]),
    ],
)
def test_origins_of_a_layer(metadata: str | None, expected: list[Origin]) -> None:
    assert origins(metadata) == expected
