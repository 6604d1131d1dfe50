"""Mask R-CNN and its cascade against their description, published sizes and mmdetection's files."""

from __future__ import annotations

import json
import os
from importlib import util
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dinat_deploy.bundle import open_bundle
from dinat_deploy.engine import tensorrt_rtx
from dinat_deploy.errors import CheckpointError, ConfigError, MissingDependencyError
from dinat_deploy.models.boxes import base_anchors, corrected
from dinat_deploy.models.building import build
from dinat_deploy.models.checkpoints import read_checkpoint
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import MaskRCNN
from dinat_deploy.models.fitting import fit
from dinat_deploy.models.mask_rcnn import MaskRcnnModel, folded
from dinat_deploy.models.presets import PUBLISHED, DecoderName, Published, settings
from dinat_deploy.models.roi_features import Atlas
from dinat_deploy.models.seeding import seeded_image
from dinat_deploy.models.weights import seeded_model
from dinat_deploy.models.zoo import get_variant
from dinat_deploy.pipeline.building import build as build_engine
from dinat_deploy.pipeline.exporting import export
from dinat_deploy.pipeline.requests import ModelRequest
from dinat_deploy.pipeline.sources import resolve
from tests.models import mask_rcnn_reference, upstream, upstream_detectors
from tests.plugins.conftest import cuda_build, cuda_target

__all__ = ["cuda_build", "cuda_target"]  # fixtures, used by name

# With fewer channels ReLU often leaves none, and places without any tie.
FEW = {"channels": 16, "box_dim": 16, "proposals_per_level": 60, "proposals": 40, "detections": 20}
SINGLE = ModelConfig(
    embed_dim=8,
    depths=(1, 1, 1, 1),
    num_heads=(1, 2, 4, 8),
    kernel_size=3,
    mlp_ratio=2.0,
    num_classes=5,
    image_size=(64, 96),
    decoder=MaskRCNN(mask_convs=1, **FEW),
)
CASCADE = SINGLE.replace(
    decoder=MaskRCNN(stages=3, box_convs=1, box_linears=1, mask_convs=1, **FEW)
)
AGNOSTIC = CASCADE.replace(
    decoder=MaskRCNN(stages=3, box_convs=1, box_linears=1, mask_convs=1, class_agnostic=True, **FEW)
)
NAMES = ["dog", "cat", "car", "cup", "hat"]


def detector(config: ModelConfig, seed: int = 0) -> MaskRcnnModel:
    model = seeded_model(config, seed)
    assert isinstance(model, MaskRcnnModel)
    return model


def image_of(config: ModelConfig, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(seeded_image((1, 3, *config.image_size), seed))


@pytest.mark.parametrize(
    "config", [SINGLE, CASCADE, AGNOSTIC], ids=["single", "cascade", "agnostic"]
)
def test_detections_are_those_of_the_description(config: ModelConfig) -> None:
    model, image = detector(config), image_of(config)
    with torch.inference_mode():
        boxes, scores, labels, masks = model(image)
        expected = mask_rcnn_reference.detect(model, image)
    count = len(expected)
    assert 5 <= count == int((scores > 0).sum())
    assert labels.dtype == torch.int64
    assert boxes[:count].tolist() == [pytest.approx(box, abs=1e-3) for box, _, _, _ in expected]
    assert scores[:count].tolist() == pytest.approx(
        [score for _, score, _, _ in expected], abs=1e-5
    )
    assert labels[:count].tolist() == [label for _, _, label, _ in expected]
    for found, (_, _, _, mask) in zip(masks, expected, strict=False):
        assert torch.allclose(found, mask, atol=1e-5)


def test_boxes_larger_than_112_pixels_are_read_from_coarser_maps() -> None:
    config = SINGLE.replace(image_size=(256, 320))
    model, image = detector(config, 3), image_of(config)
    with torch.inference_mode():
        maps = model.neck(model.backbone(image))
        proposals, _ = model.rpn_head(maps, (256, 320))
        boxes, scores, _, masks = model(image)
        sides = (proposals[:, 2:] - proposals[:, :2]).prod(1).sqrt()
        assert (sides > 112).any()
        assert (sides < 112).any()
        large = boxes[scores > 0]
        for box, mask in zip(large[:3], masks, strict=False):
            head = model.roi_head.mask_head
            read = mask_rcnn_reference.read(maps, box, 14)
            wanted = head(read)[0].sigmoid()  # type: ignore[operator]
            assert min((mask - each).abs().max() for each in wanted) < 1e-5


def test_lacking_detections_are_filled_up() -> None:
    decoder = MaskRCNN(mask_convs=1, **{**FEW, "proposals": 700, "detections": 300})
    config = SINGLE.replace(decoder=decoder)
    with torch.inference_mode():
        boxes, scores, labels, masks = detector(config)(image_of(config))
    found = int((scores > 0).sum())
    assert 0 < found < 300
    assert (scores.diff() <= 0).all()
    assert not scores[found:].any()
    assert not boxes[found:].any()
    assert not labels[found:].any()
    assert masks.shape == (300, 28, 28)


def test_corrections_follow_their_formula_and_stay_in_the_image() -> None:
    box, delta = torch.tensor([[10.0, 20.0, 30.0, 60.0]]), torch.tensor([[1.0, -1.0, 0.0, 50.0]])
    (found,) = corrected(box, delta, (0.1, 0.1, 0.2, 0.2), (48, 64)).tolist()
    # Height times 1000 / 16 at most, and clipped; the center moves by a tenth.
    assert found == pytest.approx([12.0, 0.0, 32.0, 48.0])
    anchors = base_anchors(4, 8, (0.5, 2.0))
    assert anchors[0].tolist() == pytest.approx([-22.627, -11.314, 22.627, 11.314], abs=1e-3)
    assert anchors[1].tolist() == pytest.approx([-11.314, -22.627, 11.314, 22.627], abs=1e-3)


@pytest.mark.parametrize(
    "entry",
    [each for each in PUBLISHED if each.decoder in ("mask_rcnn", "cascade_mask_rcnn")],
    ids=lambda each: f"{each.variant}-{each.decoder}",
)
def test_detectors_have_the_published_size(entry: Published) -> None:
    decoder = settings(entry.decoder, "instance")
    config = get_variant(entry.variant).config.replace(decoder=decoder, num_classes=80)
    with torch.device("meta"):
        counted = sum(parameter.numel() for parameter in build(config).parameters())
    assert round(counted / 1e6) == entry.parameters_m


def test_folding_keeps_the_function() -> None:
    model = detector(CASCADE)
    shorter = folded(model)
    assert not any(".bn." in name for name in shorter.state_dict())
    assert folded(shorter) is shorter
    image = image_of(CASCADE)
    with torch.inference_mode():
        for one, other in zip(model(image), shorter(image), strict=True):
            assert torch.allclose(one, other, atol=1e-3)
    assert detector(SINGLE).for_inference().config == SINGLE


def test_every_weight_matters_in_the_heads_of_seeded_detectors() -> None:
    model = detector(CASCADE).for_inference()
    assert isinstance(model, MaskRcnnModel)
    size = CASCADE.image_size
    with torch.inference_mode():
        maps = model.neck(model.backbone(image_of(CASCADE)))

        def detections() -> list[torch.Tensor]:
            proposals, found = model.rpn_head(maps, size)
            return list(model.roi_head(Atlas.of(maps[:-1], (4, 8, 16, 32)), proposals, found, size))

        before = detections()
        for name, parameter in model.named_parameters():
            if not name.startswith(("rpn_head.", "roi_head.")):
                continue
            kept = parameter.detach().clone()
            parameter.zero_()
            after = detections()
            assert max((a - b).abs().max() for a, b in zip(after, before, strict=True)) > 1e-3, name
            parameter.copy_(kept)


def test_one_image_at_a_time() -> None:
    with pytest.raises(ConfigError, match="one image at a time, not 2"):
        detector(SINGLE)(torch.zeros(2, 3, 64, 96))


# Checkpoints


@pytest.fixture(scope="module")
def four_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "four.json"
    path.write_text(SINGLE.replace(decoder=None).model_dump_json())
    return path


def weights_of(stages: int) -> upstream.Weights:
    return upstream_detectors.detector_weights(
        8, (1, 1, 1, 1), (1, 2, 4, 8), 5, stages=stages, kernel=3, ratio=2.0, channels=8, box_dim=16
    )


@pytest.mark.parametrize("stages", [1, 3])
def test_every_tensor_of_an_mmdetection_checkpoint_finds_its_place(
    stages: int, tmp_path: Path, four_json: Path
) -> None:
    weights = weights_of(stages)
    path = upstream_detectors.write(tmp_path / "detector.pth", weights, NAMES)
    source = resolve(ModelRequest(config=four_json, checkpoint=path, task="instance"))
    assert source.labels == NAMES
    assert source.notes == []
    expected = MaskRCNN(channels=8, box_dim=16)
    if stages == 3:
        expected = MaskRCNN.cascade().model_copy(
            update={"channels": 8, "box_dim": 16, "folded": True}
        )
    assert source.config.decoder == expected
    config = source.config.replace(decoder=expected.model_copy(update={"folded": False}))
    state = fit(read_checkpoint(path), config).state
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], value) for name, value in weights.items())


def refused(tensors: upstream.Weights, tmp_path: Path, request: ModelRequest) -> str:
    path = tmp_path / "bad.pth"
    torch.save({"state_dict": tensors}, path)
    with pytest.raises(CheckpointError) as caught:
        resolve(ModelRequest(**{**vars(request), "checkpoint": path}))
    return f"{caught.value.cause} {caught.value.cure}"


def test_detectors_that_do_not_fit_are_refused_with_the_reason(
    tmp_path: Path, four_json: Path
) -> None:
    weights = weights_of(1)
    instance = ModelRequest(config=four_json, task="instance")
    no_masks = {name: value for name, value in weights.items() if "mask_head" not in name}
    assert "holds no complete Mask R-CNN" in refused(no_masks, tmp_path, instance)
    more = weights | {"rpn_head.rpn_cls.weight": torch.zeros(9, 8, 1, 1)}
    assert "has 9 anchors at each place, and" in refused(more, tmp_path, instance)
    two = {name: value for name, value in weights_of(3).items() if "_head.2." not in name}
    assert "has 2 stages of box heads" in refused(two, tmp_path, instance)
    lacking = {n: v for n, v in weights.items() if n != "neck.fpn_convs.1.conv.bias"}
    message = refused(lacking, tmp_path, instance)
    assert "missing in the file (1): neck.fpn_convs.1.conv.bias" in message
    assert message.endswith("The file is incomplete; get it again from its source.")
    classes = ModelRequest(config=four_json, task="instance", num_classes=7)
    assert "tells 5 classes apart: use --num-classes 5" in refused(weights, tmp_path, classes)
    card = tmp_path / "card.json"
    card.write_text(CASCADE.model_dump_json())
    message = refused(weights, tmp_path, ModelRequest(config=card))
    assert "The file is Mask R-CNN and the model a cascade" in message
    plain = upstream.drawn(
        upstream.original_shapes(8, (1, 1, 1, 1), (1, 2, 4, 8), kernel=3, ratio=2.0, classes=5)
    )
    assert "has no detector" in refused(plain, tmp_path, ModelRequest(config=card))
    narrow = SINGLE.replace(decoder=MaskRCNN(channels=8, box_dim=24))
    card.write_text(narrow.model_dump_json())
    assert "box_dim 16 and the model's 24" in refused(weights, tmp_path, ModelRequest(config=card))


@pytest.mark.parametrize(
    ("stages", "asked", "held"),
    [(3, "mask_rcnn", "cascade_mask_rcnn"), (1, "cascade_mask_rcnn", "mask_rcnn")],
)
def test_a_file_of_another_decoder_than_named_is_refused(
    stages: int, asked: DecoderName, held: str, tmp_path: Path, four_json: Path
) -> None:
    path = upstream_detectors.write(tmp_path / "detector.pth", weights_of(stages), NAMES)
    request = ModelRequest(config=four_json, checkpoint=path, task="instance", decoder=asked)
    with pytest.raises(ConfigError, match=f"says {asked}, and what .* holds is a {held}"):
        resolve(request)


# Export


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("detectors")
    made = {}
    for name, config in (("single", SINGLE), ("cascade", CASCADE)):
        (place / f"{name}.json").write_text(config.model_dump_json())
        export(ModelRequest(config=place / f"{name}.json"), place / name)
        made[name] = place / name
    return made


@pytest.mark.parametrize("name", ["single", "cascade"])
def test_exported_detectors_agree_with_pytorch(name: str, bundles: dict[str, Path]) -> None:
    bundle = open_bundle(bundles[name])
    checked = bundle.manifest.verification
    assert checked is not None
    assert checked.passed
    shapes = {spec.name: (spec.dtype, spec.shape) for spec in bundle.manifest.graph.outputs}
    assert shapes == {
        "boxes": ("float", [20, 4]),
        "scores": ("float", [20]),
        "labels": ("int64", [20]),
        "masks": ("float", [20, 28, 28]),
    }
    outputs = bundle.reference()[0].outputs
    assert (outputs["scores"] > 0.05).sum() > 10
    assert outputs["labels"].dtype == np.float32
    types = [node.op_type for node in onnx.load(str(bundle.model_path)).graph.node]
    # One node reads all maps; masks of a cascade share theirs.
    assert types.count("RoiAlign") == (2 if name == "single" else 4)
    assert "BatchNormalization" not in types


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"batch": 2}, "batch 2"),
        ({"dynamic": ["batch"]}, "a dynamic batch"),
        ({"dynamic": ["batch", "size"]}, "a dynamic batch and a dynamic size"),
    ],
    ids=["batch", "dynamic batch", "dynamic size"],
)
def test_detectors_are_exported_for_one_image_of_one_size(
    options: dict[str, object], asked: str, tmp_path: Path
) -> None:
    (tmp_path / "single.json").write_text(SINGLE.model_dump_json())
    with pytest.raises(ConfigError, match=f"one image of one size at a time, and {asked} was"):
        export(ModelRequest(config=tmp_path / "single.json"), tmp_path / "out", **options)  # type: ignore[arg-type]


@pytest.fixture
def library(request: pytest.FixtureRequest) -> Path:
    if given := os.environ.get("DINAT_TENSORRT_PLUGIN"):
        return Path(given)
    return Path(request.getfixturevalue("cuda_target")("dinat_tensorrt"))


@pytest.mark.rtx
@pytest.mark.cuda
@pytest.mark.skipif(util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_tensorrt_builds_detectors_with_attention_on_the_plugin(
    bundles: dict[str, Path], library: Path, tmp_path: Path
) -> None:
    report = build_engine(
        bundles["cascade"],
        tmp_path / "engine",
        backend="tensorrt-rtx",
        plugin_library=library,
        architectures="86",
    )
    layers = report.manifest.layers
    assert len(layers.plugin) == 4
    assert not layers.body
    assert layers.types["grid_sample"] == 4
    assert [spec.shape for spec in report.manifest.outputs] == [[20, 4], [20], [20], [20, 28, 28]]
    recorded = json.loads((tmp_path / "engine" / "engine.json").read_text())["onnx"]["sha256"]
    assert recorded == open_bundle(bundles["cascade"]).digest()


@pytest.mark.rtx
@pytest.mark.skipif(util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_builders_without_onnx_say_what_they_lack(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_rtx, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="cannot build NonMaxSuppression and RoiAlign"):
        build_engine(
            bundles["single"], tmp_path / "engine", backend="tensorrt-rtx", plugin=False,
            architectures="86",
        )  # fmt: skip
