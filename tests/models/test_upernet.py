"""UPerNet against other implementations, published figures and mmsegmentation's checkpoints."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import util
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from torch import nn
from torch.nn import functional as F

from dinat_deploy.errors import CheckpointError, ConfigError
from dinat_deploy.models.building import build, for_inference
from dinat_deploy.models.checkpoints import read_checkpoint
from dinat_deploy.models.complexity import cost, parameter_count
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import UPerNet
from dinat_deploy.models.fitting import fit
from dinat_deploy.models.model import DinatModel
from dinat_deploy.models.model_card import save_model
from dinat_deploy.models.presets import PUBLISHED, Published
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.models.upernet import SegmentationModel, averaging, folded
from dinat_deploy.models.weights import model_from_state, seeded_model
from dinat_deploy.models.zoo import get_variant
from dinat_deploy.pipeline.exporting import ExportReport, export
from dinat_deploy.pipeline.inferring import infer
from dinat_deploy.pipeline.requests import ModelRequest
from dinat_deploy.pipeline.sources import resolve
from dinat_deploy.pipeline.verifying import verify
from tests.models import upstream, upstream_segmenters
from tests.models.photos import assert_same_classes

# Three levels, so that there are maps of 16, 8 and 4 tokens a side at 64 pixels.
TINY = ModelConfig(
    embed_dim=8,
    depths=(1, 1, 1),
    num_heads=(1, 2, 4),
    kernel_size=3,
    dilations=((2,), (1,), (1,)),
    mlp_ratio=2.0,
    num_classes=5,
    image_size=(64, 64),
    decoder=UPerNet(channels=12, auxiliary_channels=6),
)
FOUR = TINY.replace(
    depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), dilations=((2,), (1,), (1,), (1,)), decoder=None
)
NAMES = ["sky", "road", "tree", "car", "sea"]
FEW = {"channels": 12, "auxiliary": 6, "kernel": 3, "ratio": 2.0}


@pytest.mark.parametrize("size", [(16, 16), (4, 7), (3, 3), (1, 5), (31, 9)])
def test_pooling_as_a_product_is_adaptive_average_pooling(size: tuple[int, int]) -> None:
    scales = (1, 2, 3, 6)
    x = torch.randn(2, 3, *size)
    found = averaging(scales, *size) @ x.flatten(2).transpose(1, 2)
    expected = [nn.AdaptiveAvgPool2d(scale)(x).flatten(2).transpose(1, 2) for scale in scales]
    assert torch.allclose(found, torch.cat(expected, dim=1), atol=1e-6)


def test_heads_compute_what_those_of_transformers_do() -> None:
    from transformers import UperNetConfig
    from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

    theirs_config = UperNetConfig(
        hidden_size=12, pool_scales=[1, 2, 3, 6], num_labels=5, auxiliary_channels=6
    )
    model = seeded_model(TINY, 1)
    assert isinstance(model, SegmentationModel)
    widths = [8, 16, 32]
    features = [
        torch.randn(2, c, *s) for c, s in zip(widths, [(17, 23), (9, 12), (5, 6)], strict=True)
    ]
    ours = [model.decode_head(features), model.auxiliary_head(features[2])]  # type: ignore[misc]
    for found, module, name in zip(
        ours,
        [UperNetHead(theirs_config, widths), UperNetFCNHead(theirs_config, widths)],
        ["decode_head.", "auxiliary_head."],
        strict=True,
    ):
        renamed = {
            key.removeprefix(name)
            .replace(".bn.", ".batch_norm.")
            .replace("conv_seg", "classifier"): value
            for key, value in model.state_dict().items()
            if key.startswith(name)
        }
        module.load_state_dict(renamed, strict=True)
        with torch.inference_mode():
            assert torch.allclose(found, module.eval()(features), atol=1e-5)


@pytest.mark.parametrize(
    "entry",
    [entry for entry in PUBLISHED if entry.decoder == "upernet"],
    ids=lambda each: each.variant,
)
def test_segmenters_have_the_published_size_and_cost(entry: Published) -> None:
    name = entry.variant
    config = get_variant(name).config.replace(decoder=UPerNet(), num_classes=150)
    with torch.device("meta"):
        counted = sum(parameter.numel() for parameter in build(config).parameters())
    assert counted == parameter_count(config)
    assert round(counted / 1e6) == entry.parameters_m
    # G of multiply-accumulates in the papers, which also count normalizations.
    published = {
        "dinat_mini": 900, "nat_mini": 900, "dinat_tiny": 934, "nat_tiny": 934, "dinat_small": 1010,
        "nat_small": 1010, "dinat_base": 1137, "nat_base": 1137, "dinat_large": 2335,
        "dinat_s_tiny": 941, "dinat_s_small": 1030, "dinat_s_base": 1173, "dinat_s_large": 2466,
    }[name]  # fmt: skip
    size = (640, 2560) if "large" in name else (512, 2048)
    assert cost(config, size).macs / 1e9 == pytest.approx(published, rel=0.004)


def test_folding_keeps_the_function_and_drops_what_only_training_needs() -> None:
    model = seeded_model(TINY, 0)
    assert isinstance(model, SegmentationModel)
    image = torch.from_numpy(seeded_image((2, 3, 64, 64), 0))
    shorter = folded(model)
    assert torch.allclose(model(image), shorter(image), atol=1e-5)
    assert not any(".bn." in name or "auxiliary" in name for name in shorter.state_dict())
    assert parameter_count(shorter.config) == sum(p.numel() for p in shorter.parameters())
    assert folded(shorter) is shorter
    assert isinstance(for_inference(build(FOUR)), DinatModel)


def test_logits_come_at_a_quarter_of_the_size_or_in_full() -> None:
    model = seeded_model(TINY, 0)
    state = model.state_dict()
    assert TINY.decoder is not None
    decoder = TINY.decoder.model_copy(update={"full_size": True})
    full = model_from_state(TINY.replace(decoder=decoder), state)
    image = torch.from_numpy(seeded_image((1, 3, 50, 67), 0))
    small = model(image)
    assert small.shape == (1, 5, 13, 17)
    expected = F.interpolate(small, size=(50, 67), mode="bilinear", align_corners=False)
    assert torch.equal(full(image), expected)


def test_a_training_step_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    model = build(TINY).train()
    assert isinstance(model, SegmentationModel)
    logits, auxiliary = model.forward_training(torch.randn(4, 3, 64, 64))
    assert auxiliary is not None
    assert auxiliary.shape == (4, 5, 4, 4)
    (logits.square().mean() + auxiliary.square().mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    without = TINY.replace(decoder=UPerNet(channels=12, auxiliary_channels=None))
    model = build(without)
    assert isinstance(model, SegmentationModel)
    assert model.forward_training(torch.randn(2, 3, 64, 64))[1] is None


def test_every_weight_matters_in_seeded_segmenters() -> None:
    model = for_inference(seeded_model(TINY, 0))
    image = torch.from_numpy(seeded_image((1, 3, 64, 64), 0))
    with torch.inference_mode():
        before = model(image)
        for name, parameter in model.named_parameters():
            kept = parameter.detach().clone()
            parameter.zero_()
            assert (model(image) - before).abs().max() > 1e-3, name
            parameter.copy_(kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 0}, "needs num_classes of at least 1"),
        ({"out_levels": (0,)}, "out_levels must be empty"),
        ({"decoder": {"auxiliary_level": 3}}, r"auxiliary_level 3 must lie in 0..2"),
        ({"decoder": {"folded": True}}, "has no auxiliary_channels"),
        ({"decoder": {"pool_scales": [1, 0]}}, r"pool_scales \(1, 0\) must be positive"),
        ({"decoder": {"type": "fpn"}}, "decoder: type must be upernet, mask2former"),
        ({"depths": (1,), "num_heads": (1,)}, "needs the features of two levels or more"),
    ],
)
def test_impossible_decoders_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TINY.replace(**changes)


# Checkpoints


@pytest.fixture(scope="module")
def tiny_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "four.json"
    path.write_text(FOUR.model_dump_json())
    return path


@pytest.fixture(scope="module")
def weights() -> upstream.Weights:
    return upstream_segmenters.segmenter_weights(8, (1, 1, 1, 1), (1, 2, 4, 8), 5, **FEW)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, weights: upstream.Weights) -> Path:
    path = tmp_path_factory.mktemp("mmseg") / "upernet_dinat_four.pth"
    return upstream_segmenters.write(path, weights, NAMES)


@pytest.mark.parametrize("later", [False, True], ids=["mmseg 0.x", "mmseg 1.x"])
def test_mmsegmentation_checkpoints_say_what_they_hold(
    later: bool, tmp_path: Path, tiny_json: Path, weights: upstream.Weights
) -> None:
    path = upstream_segmenters.write(tmp_path / "it.pth", weights, NAMES, later=later)
    source = resolve(ModelRequest(config=tiny_json, checkpoint=path, task="semantic"))
    assert source.labels == NAMES
    assert source.config.num_classes == 5
    assert source.config.decoder == UPerNet(channels=12, auxiliary_channels=None, folded=True)
    assert source.notes == []


def test_every_tensor_of_an_mmsegmentation_checkpoint_finds_its_place(
    checkpoint: Path, weights: upstream.Weights
) -> None:
    config = FOUR.replace(decoder=UPerNet(channels=12, auxiliary_channels=6))
    state = fit(read_checkpoint(checkpoint), config).state
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], value) for name, value in weights.items())
    model = model_from_state(config, state)
    assert isinstance(model, SegmentationModel)
    assert model.decode_head.bottleneck.bn is not None
    assert model.decode_head.bottleneck.bn.num_batches_tracked == 160000


def test_published_segmenters_load_by_the_name_of_their_variant(tmp_path: Path) -> None:
    weights = upstream_segmenters.segmenter_weights(
        64, (3, 4, 6, 5), (2, 4, 8, 16), 150, channels=12, auxiliary=6
    )
    names = [f"class {number}" for number in range(150)]
    path = upstream_segmenters.write(tmp_path / "upernet_dinat_mini.pth", weights, names)
    source = resolve(ModelRequest(model="dinat_mini", checkpoint=path, task="semantic"))
    assert source.config.dilations == get_variant("dinat_mini").schedules["ade20k"]
    assert source.config.image_size == source.preprocessing.crop == (512, 512)
    assert source.preprocessing.interpolation == "bilinear"
    assert source.labels == names


def test_parallel_training_puts_a_prefix_before_both_parts(
    tmp_path: Path, tiny_json: Path, weights: upstream.Weights
) -> None:
    path = tmp_path / "parallel.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, path)
    source = resolve(ModelRequest(config=tiny_json, checkpoint=path, task="semantic"))
    assert source.labels is None
    assert torch.equal(
        source.module.state_dict()["decode_head.conv_seg.bias"],
        weights["decode_head.conv_seg.bias"],
    )


def test_the_backbone_can_be_taken_alone(checkpoint: Path, tiny_json: Path) -> None:
    source = resolve(ModelRequest(config=tiny_json, checkpoint=checkpoint, task="backbone"))
    assert source.config.output_names == ("stage1", "stage2", "stage3", "stage4")
    assert "left out" in source.notes[0]
    assert "decode_head.psp_modules" in source.notes[0]


def test_saved_segmenters_describe_themselves(tmp_path: Path) -> None:
    model = seeded_model(TINY, 3)
    save_model(tmp_path / "model", model, TINY, labels=NAMES)
    image = torch.from_numpy(seeded_image((1, 3, 64, 64), 0))
    for task in ("classification", "semantic"):  # it stays what it is
        source = resolve(ModelRequest(checkpoint=tmp_path / "model", task=task))  # type: ignore[arg-type]
        assert source.labels == NAMES
        assert torch.allclose(source.module(image), model(image), atol=1e-5)
    # A folded model can be saved and read as well.
    save_model(tmp_path / "folded", source.module, source.config)
    again = resolve(ModelRequest(checkpoint=tmp_path / "folded"))
    assert again.config == source.config
    state = source.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.module.state_dict().items())


def refused(tensors: upstream.Weights, tmp_path: Path, request: ModelRequest) -> str:
    path = tmp_path / "bad.pth"
    torch.save({"state_dict": tensors}, path)
    with pytest.raises(CheckpointError) as caught:
        resolve(ModelRequest(**{**vars(request), "checkpoint": path}))
    return f"{caught.value.cause} {caught.value.cure}"


def test_segmenters_that_do_not_fit_are_refused_with_the_reason(
    tmp_path: Path, tiny_json: Path, weights: upstream.Weights
) -> None:
    semantic = ModelRequest(config=tiny_json, task="semantic")
    plain = upstream.drawn(
        upstream.original_shapes(8, (1, 1, 1, 1), (1, 2, 4, 8), kernel=3, ratio=2.0, classes=5)
    )
    assert "holds no UPerNet decode head" in refused(plain, tmp_path, semantic)

    other = {name: value for name, value in weights.items() if "psp_modules" not in name}
    assert "holds no complete UPerNet decode head" in refused(other, tmp_path, semantic)

    fewer = {name: value for name, value in weights.items() if "psp_modules.3" not in name}
    assert "pools to 3 grids, and the published ones to 4" in refused(fewer, tmp_path, semantic)

    lacking = {n: v for n, v in weights.items() if n != "decode_head.fpn_convs.1.bn.running_var"}
    message = refused(lacking, tmp_path, semantic)
    assert "missing in the file (1): decode_head.fpn_convs.1.bn.running_var" in message
    assert message.endswith("The file is incomplete; get it again from its source.")
    added = weights | {"decode_head.extra.weight": torch.ones(3)}
    assert "use a checkpoint that has these tensors alone" in refused(added, tmp_path, semantic)
    # One table of many is no sign of another NATTEN.
    untabled = {n: v for n, v in weights.items() if n != "backbone.levels.0.blocks.0.attn.rpb"}
    assert "The file is incomplete" in refused(untabled, tmp_path, semantic)
    message = refused(weights, tmp_path, ModelRequest(config=tiny_json, task="panoptic"))
    assert "holds a UPerNet decode head" in message
    assert "and no Mask2Former head" in message
    assert "Use --task semantic or backbone" in message

    classes = ModelRequest(config=tiny_json, task="semantic", num_classes=7)
    assert "tells 5 classes apart: use --num-classes 5" in refused(weights, tmp_path, classes)

    assert "use --task semantic" in refused(weights, tmp_path, ModelRequest(config=tiny_json))

    card = tmp_path / "card.json"
    card.write_text(FOUR.replace(decoder=UPerNet(auxiliary_channels=6)).model_dump_json())
    message = refused(weights, tmp_path, ModelRequest(config=card))
    assert "decode head has 12 channels and the model's 512" in message
    assert "has no decode head: use --task classification" in refused(
        plain, tmp_path, ModelRequest(config=card)
    )


def test_full_size_is_for_segmenters(tiny_json: Path) -> None:
    with pytest.raises(ConfigError, match="--full-size is about the logits of UPerNet"):
        resolve(ModelRequest(config=tiny_json, full_size=True))


# Export


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, tiny_json: Path) -> Path:
    """A segmenter with logits of full size, in the oldest opset."""
    output = tmp_path_factory.mktemp("out") / "static"
    request = ModelRequest(config=tiny_json, checkpoint=checkpoint, task="semantic", full_size=True)
    export(request, output, opset=17)
    return output


def test_exported_graphs_hold_no_normalization_and_no_arithmetic_on_sizes(static: Path) -> None:
    manifest = json.loads((static / "model.json").read_text())
    assert manifest["verification"]["passed"]
    assert manifest["config"]["decoder"]["folded"]
    model = onnx.load(str(static / "model.onnx"))
    types = [node.op_type for node in model.graph.node]
    assert not {"BatchNormalization", "Shape", "Range", "Gather", "AveragePool"} & set(types)
    # Pooling is one product with a constant, which stands first: no rule takes it for a weight.
    (pooling,) = [n for n in model.graph.node if n.name.startswith("decode_head/MatMul")]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert constants[pooling.input[0]].shape == (50, 4)
    assert constants[pooling.input[0]].sum(1) == pytest.approx(np.ones(50), abs=1e-6)
    output = model.graph.output[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in output] == [1, 5, 64, 64]


def test_layers_of_the_decode_head_are_compared_and_classes_by_pixel(static: Path) -> None:
    report = verify(static, layers=True, random_cases=1)
    assert report.passed
    assert report.cases[0].outputs["logits"].argmax_agreement == 1.0
    assert "decode_head.fpn_bottleneck" in {layer.name for layer in report.layers}


def test_pictures_are_told_by_the_classes_of_their_pixels(static: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    (found,) = infer(static, [tmp_path / "noise.png"])
    assert sum(guess.probability for guess in found.predictions) == pytest.approx(1)
    assert all(guess.label in NAMES and guess.probability > 0 for guess in found.predictions)


def test_a_photo_has_the_same_classes_as_in_pytorch(static: Path) -> None:
    assert_same_classes(static)


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """A small segmenter of dynamic batch and size."""
    place = tmp_path_factory.mktemp("dynamic")
    config = TINY.replace(
        depths=(1, 1),
        num_heads=(1, 2),
        dilations=((1,), (1,)),
        decoder=UPerNet(channels=12, pool_scales=(1, 3), auxiliary_channels=None),
    )
    (place / "two.json").write_text(config.model_dump_json())
    return export(
        ModelRequest(config=place / "two.json"),
        place / "out",
        dynamic=["batch", "size"],
        size_range=(48, 128),
    )


def test_batch_and_size_may_be_dynamic(dynamic: ExportReport) -> None:
    checked = dynamic.manifest.verification
    assert checked is not None
    assert checked.passed
    assert checked.cases == 4  # two batches, two sizes
    assert dynamic.manifest.graph.outputs[0].shape[:2] == ["batch", 5]


@pytest.mark.rtx
@pytest.mark.skipif(util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_tensorrt_builds_a_segmenter_of_dynamic_size(dynamic: ExportReport) -> None:
    """Its compiler gave up on a pooling matrix that was put together from one for each scale."""
    program = [sys.executable, "-m", "tests.graph.rtx_build", str(dynamic.path / "model.onnx")]
    done = subprocess.run(
        [*program, "image=1x3x48x48:2x3x64x64:3x3x128x128"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    built = json.loads(done.stdout.splitlines()[-1])
    assert built["errors"] == []
    assert built["bytes"] > 0, done.stdout
