"""infer: the same numbers as PyTorch on the same picture, whatever the batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from dinat_deploy.bundle import (
    MANIFEST,
    MODEL,
    GraphInfo,
    Manifest,
    TensorSpec,
    Weights,
    open_bundle,
)
from dinat_deploy.cli import cli
from dinat_deploy.data.opening import open_dataset
from dinat_deploy.errors import BundleError, ConfigError, ImageError, OutputError
from dinat_deploy.files import sha256
from dinat_deploy.models.decoders import Decoder, Mask2Former, MaskRCNN, UPerNet
from dinat_deploy.models.model_card import save_model
from dinat_deploy.models.preprocessing import Preprocessing, load_batch
from dinat_deploy.models.weights import seeded_model
from dinat_deploy.pipeline.exporting import export
from dinat_deploy.pipeline.infer_files import output_files
from dinat_deploy.pipeline.inferring import Drawing, infer
from dinat_deploy.pipeline.picture_files import write_picture
from dinat_deploy.pipeline.sources import ModelRequest
from dinat_deploy.session import onnxruntime_session
from tests.conftest import TINY

LABELS = [f"thing {i}" for i in range(10)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained") / "model"
    preprocessing = Preprocessing.for_evaluation((64, 64), 0.875)
    return save_model(directory, seeded_model(TINY, 4), TINY, preprocessing, LABELS)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(3)
    paths = []
    for number in range(3):
        pixels = rng.integers(0, 256, (80 + number, 100, 3), dtype=np.uint8)
        paths.append(directory / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.mark.parametrize("options", [{}, {"batch": 2}, {"dynamic": ["batch"]}])
def test_predictions_equal_pytorch(
    options: dict[str, object], trained: Path, photos: list[Path], tmp_path: Path
) -> None:
    export(ModelRequest(checkpoint=trained), tmp_path / "b", **options)
    found = infer(tmp_path / "b", photos, top=10)
    pixels = load_batch(photos, Preprocessing.for_evaluation((64, 64), 0.875))
    with torch.inference_mode():
        expected = seeded_model(TINY, 4)(torch.from_numpy(pixels)).softmax(-1).numpy()
    assert [result.image for result in found] == [str(path) for path in photos]
    for result, row in zip(found, expected, strict=True):
        assert [guess.index for guess in result.predictions] == list(np.argsort(-row))
        assert [guess.label for guess in result.predictions] == [
            LABELS[guess.index] for guess in result.predictions
        ]
        for guess in result.predictions:
            assert guess.probability == pytest.approx(row[guess.index], abs=1e-5)
        assert sum(guess.probability for guess in result.predictions) == pytest.approx(1)
        assert result.milliseconds > 0


def test_top_limits_the_guesses(tiny_bundle: Path, photos: list[Path]) -> None:
    (result,) = infer(tiny_bundle, photos[:1], top=3)
    assert len(result.predictions) == 3
    assert result.predictions[0].label is None  # ten classes without names


def test_backbones_do_not_classify(
    tiny_config_file: Path, photos: list[Path], tmp_path: Path
) -> None:
    export(ModelRequest(config=tiny_config_file, task="backbone"), tmp_path / "b", verify=False)
    with pytest.raises(BundleError, match="is no classifier: its outputs are stage1, stage2"):
        infer(tmp_path / "b", photos)


def test_files_without_a_body_cannot_run_here(
    tiny_config_file: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_session, "find_library", lambda name: None)
    export(ModelRequest(config=tiny_config_file), tmp_path / "b", body="none", verify=False)
    with pytest.raises(BundleError, match="--body standard"):
        infer(tmp_path / "b", photos)


def test_pictures_that_are_none_are_named(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("x")
    with pytest.raises(ImageError, match=r"x\.jpg is not a picture"):
        infer(tiny_bundle, [tmp_path / "x.jpg"])


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a segmenter of five classes."""
    place = tmp_path_factory.mktemp("segmenter")
    config = TINY.replace(
        num_classes=5,
        decoder=UPerNet(channels=8, pool_scales=(1, 3), auxiliary_channels=None),
    )
    preprocessing = Preprocessing(resize=(64, 64), crop=(64, 64))
    labels = ["sky", "road", "tree", "car", "sea"]
    save_model(place / "model", seeded_model(config, 0), config, preprocessing, labels)
    request = ModelRequest(checkpoint=place / "model")
    export(request, place / "bundle", dynamic=["batch"], verify=False)
    return place / "bundle"


def test_a_segmenter_draws_over_the_photo_and_writes_its_classes(
    segmenter: Path, photos: list[Path], tmp_path: Path
) -> None:
    drawing = Drawing(tmp_path / "new" / "overlay.png", tmp_path / "map.png", side_by_side=True)
    (found,) = infer(segmenter, photos[:1], drawing=drawing)
    answer = found.answer
    assert answer is not None
    assert answer.size == (80, 100)
    assert sum(guess.probability for guess in found.predictions) == pytest.approx(1)
    with Image.open(tmp_path / "new" / "overlay.png") as drawn:
        assert drawn.width > 2 * 5 * 100  # enlarged
    with Image.open(tmp_path / "map.png") as ids:
        assert np.array_equal(np.asarray(ids), answer.classes)
    assert list(tmp_path.rglob("*.partial*")) == []
    # The classes are a mask that `evaluate` reads.
    for name, file in (("images", photos[0]), ("masks", tmp_path / "map.png")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(file.read_bytes())
    manifest = open_bundle(segmenter).manifest
    dataset = open_dataset(tmp_path, manifest.preprocessing, labels=manifest.labels)
    assert np.asarray(dataset.load(0).label).shape == (64, 64)


def test_several_photos_go_to_a_folder(segmenter: Path, photos: list[Path], tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli,
        ["infer", "--bundle", str(segmenter), *map(str, photos), "--output", str(tmp_path / "o")],
    )
    assert result.exit_code == 0, result.output
    assert {file.name for file in (tmp_path / "o").iterdir()} == {"0.png", "1.png", "2.png"}
    assert result.output.count("written to") == 3
    assert "windows of 64x64 pixels" in result.output


def test_json_holds_classes_and_files(segmenter: Path, photos: list[Path], tmp_path: Path) -> None:
    words = ["infer", "--bundle", segmenter, photos[0], "--map", tmp_path / "ids.png", "--json"]
    result = CliRunner().invoke(cli, [str(word) for word in words])
    (found,) = json.loads(result.stdout)
    assert found["map"] == str(tmp_path / "ids.png")
    assert found["semantic"]["size"] == [80, 100]
    shares = [entry["share"] for entry in found["semantic"]["classes"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert [guess["probability"] for guess in found["predictions"]] == shares[:5]


def test_classifiers_have_nothing_to_draw(
    tiny_bundle: Path, photos: list[Path], tmp_path: Path
) -> None:
    for options in ({"drawing": Drawing(tmp_path / "x.png")}, {"mode": "slide"}):
        with pytest.raises(ConfigError, match="is a classifier: it does not say where"):
            infer(tiny_bundle, photos[:1], **options)
    assert not (tmp_path / "x.png").exists()


def test_files_are_named_after_their_pictures(tmp_path: Path) -> None:
    images = [tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.jpg", tmp_path / "y.png"]
    folder = tmp_path / "out"
    names = ["x.png", "x-2.png", "y.png"]
    assert output_files(folder, images) == [folder / name for name in names]
    assert output_files(tmp_path / "one.jpg", images[:1]) == [tmp_path / "one.jpg"]
    assert output_files(None, images) is None
    with pytest.raises(ConfigError, match="3 pictures do not fit into one file"):
        output_files(tmp_path / "one.jpg", images)
    with pytest.raises(ConfigError, match="does not end like a picture"):
        output_files(tmp_path / "one.txt", images[:1])
    with pytest.raises(OutputError, match="is a picture to look at"):
        output_files(tmp_path, images)


def test_a_file_is_no_folder_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("")
    with pytest.raises(OutputError, match="notes is a file"):
        output_files(tmp_path / "notes", ["x.jpg"])


def test_the_map_does_not_replace_the_drawing(
    segmenter: Path, photos: list[Path], tmp_path: Path
) -> None:
    for place, images in (("one.png", photos[:1]), ("folder", photos)):
        drawing = Drawing(tmp_path / place, tmp_path / place)
        with pytest.raises(OutputError, match="would be the drawing, and then the map"):
            infer(segmenter, images, drawing=drawing)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_is_not_there_is_named_before_any_is_written(
    segmenter: Path, photos: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=r"There is no file .*none\.png"):
        infer(segmenter, [photos[0], tmp_path / "none.png"], drawing=Drawing(tmp_path / "o"))
    assert not (tmp_path / "o").exists()


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"Writing .*x\.png failed"):
        write_picture(Image.new("RGB", (8, 8)), tmp_path / "file" / "x.png")
    write_picture(Image.new("RGB", (8, 8), (9, 9, 9)), tmp_path / "x.jpg")
    with pytest.raises(OutputError, match=r"x\.jpg failed"):
        write_picture(Image.new("I;16", (8, 8)), tmp_path / "x.jpg")  # not in a JPEG
    with Image.open(tmp_path / "x.jpg") as kept:  # the older one is left
        assert kept.getpixel((0, 0)) == (9, 9, 9)
    assert {file.name for file in tmp_path.iterdir()} == {"file", "x.jpg"}


DECODERS = {"panoptic": Mask2Former(num_queries=3), "instances": MaskRCNN(detections=3)}


@pytest.fixture(scope="module")
def headed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of a Mask2Former and a Mask R-CNN that say the same of every picture."""
    rng = np.random.default_rng(0)
    masks = np.full((1, 3, 16, 16), -9, np.float32)
    for query in range(3):
        masks[0, query, :, 5 * query : 5 * query + 5] = 9
    answers = {
        "panoptic": {
            "class_logits": np.eye(3, 5, dtype=np.float32)[None] * 9,
            "mask_logits": masks,
        },
        "instances": {
            "boxes": np.float32([[4, 4, 40, 30], [10, 20, 60, 50], [0, 0, 0, 0]]),
            "scores": np.float32([0.9, 0.7, 0]),
            "labels": np.array([2, 0, 0]),
            "masks": rng.random((3, 28, 28), dtype=np.float32),
        },
    }
    place = tmp_path_factory.mktemp("headed")
    return {
        kind: saying(place / kind, decoder, answers[kind]) for kind, decoder in DECODERS.items()
    }


# Names of NumPy's types in manifests.
TYPES = {"float32": "float", "int64": "int64"}


def saying(place: Path, decoder: Decoder, answers: dict[str, np.ndarray]) -> Path:
    """A bundle whose ONNX file gives the same for every picture."""
    place.mkdir()
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 64, 64])
    nodes, outputs = [], []
    for name, values in answers.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        outputs.append(onnx.helper.make_tensor_value_info(name, kind, values.shape))
        value = onnx.numpy_helper.from_array(values)
        nodes.append(onnx.helper.make_node("Constant", [], [name], value=value))
    graph = onnx.helper.make_graph(nodes, "answers", [image], outputs)
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), place / MODEL)
    config = TINY.replace(depths=(1,) * 4, num_heads=(1, 1, 2, 2), num_classes=4, decoder=decoder)
    contain = Preprocessing(resize_mode="contain", resize=(64, 64), crop=(64, 64))
    info = GraphInfo(
        sha256=sha256(place / MODEL), opset=20, ir_version=10, body=True, op_nodes=0,
        inputs=[TensorSpec(name="image", dtype="float", shape=[1, 3, 64, 64])],
        outputs=[
            TensorSpec(name=name, dtype=TYPES[values.dtype.name], shape=list(values.shape))
            for name, values in answers.items()
        ],
    )  # fmt: skip
    manifest = Manifest(
        name="answers", config=config, preprocessing=contain, graph=info, things=[0, 1],
        weights=Weights(source="module", origin="", sha256=""),
    )  # fmt: skip
    (place / MANIFEST).write_text(manifest.to_json())
    return place


@pytest.mark.parametrize("kind", DECODERS)
def test_segments_and_instances_are_drawn_and_told(
    kind: str, headed: dict[str, Path], photos: list[Path], tmp_path: Path
) -> None:
    words = [
        "infer", "--bundle", headed[kind], photos[0], "--min-score", 0, "--output",
        tmp_path / "x.png", "--map", tmp_path / "ids.png",
    ]  # fmt: skip
    told = CliRunner().invoke(cli, [str(word) for word in words])
    assert told.exit_code == 0, told.output
    assert f"written to {tmp_path / 'x.png'}" in told.output
    (found,) = json.loads(CliRunner().invoke(cli, [*map(str, words), "--json"]).stdout)
    listed = found[kind]["segments" if kind == "panoptic" else "instances"]
    assert listed
    for entry in listed:
        assert sum(entry["mask"]["counts"]) == 80 * 100
        assert sum(entry["mask"]["counts"][1::2]) == entry["area"]
    with Image.open(tmp_path / "ids.png") as ids:
        assert ids.size == (100, 80)
        assert np.asarray(ids).max() <= len(listed)
    label = found["predictions"][0]["index"]
    assert f"class {label}" in told.output
    none = CliRunner().invoke(cli, [*map(str, words[:4]), "--min-score", "1"])
    assert "nothing that is sure enough (--min-score)" in none.output


@pytest.mark.parametrize("command", ["evaluate", "calibrate", "sensitivity"])
def test_commands_that_score_answers_refuse_sets_of_masks(
    command: str, headed: dict[str, Path], photos: list[Path]
) -> None:
    for kind, bundle in headed.items():
        words = [command, str(bundle), "--data", str(photos[0].parent)]
        result = CliRunner().invoke(cli, words)
        assert isinstance(result.exception, ConfigError)
        assert f"`dinat-deploy {command}` is for classifiers and segmenters with UPerNet" in str(
            result.exception
        )
        assert DECODERS[kind].type in result.exception.cause
        assert str(bundle) in result.exception.cause
