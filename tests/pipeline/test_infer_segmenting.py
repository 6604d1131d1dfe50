"""Segmenters and detectors on whole photos, with sessions whose answers are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from dinat_deploy.bundle import Bundle, GraphInfo, Manifest, TensorSpec, Weights
from dinat_deploy.errors import ConfigError, ImageError
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import Mask2Former, MaskRCNN, UPerNet
from dinat_deploy.models.preprocessing import Preprocessing
from dinat_deploy.pipeline.artefact import Artefact, parse_artefact
from dinat_deploy.pipeline.infer_running import Runner
from dinat_deploy.pipeline.infer_segmenting import Segmenter
from dinat_deploy.pipeline.infer_semantic import SemanticModel
from dinat_deploy.postprocessing.results import UNSEEN, Instances, PanopticMap, SemanticMap

FloatArray = npt.NDArray[np.float32]
Answers = Callable[[FloatArray], dict[str, FloatArray]]
SIDE = 32
# Pixels as they are: 0 to 1.
COVER = Preprocessing(
    resize=(SIDE, SIDE), crop=(SIDE, SIDE), interpolation="bilinear", mean=(0,) * 3, std=(1,) * 3
)


class Fake:
    """A session that answers by a function of the images; notes the shapes that it was fed."""

    name, device = "fake", "nowhere"

    def __init__(self, answers: Answers) -> None:
        self.notes: list[str] = []
        self.shapes: list[tuple[int, ...]] = []
        self._answers = answers

    def run(self, feeds: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        (image,) = feeds.values()
        self.shapes.append(image.shape)
        return self._answers(image)

    def prepare(self, *_: Any) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


def artefact_of(
    decoder: Any,
    answers: Answers,
    *,
    how: Preprocessing = COVER,
    classes: int = 3,
    shape: tuple[int | str, ...] = (1, 3, SIDE, SIDE),
    things: list[int] | None = None,
) -> tuple[Artefact, Manifest, Fake]:
    config = ModelConfig(
        embed_dim=16, depths=(1,) * 4, num_heads=(1,) * 4, num_classes=classes,
        image_size=how.crop, decoder=decoder,
    )  # fmt: skip
    spec = TensorSpec(name="image", dtype="float32", shape=list(shape))
    outputs = [TensorSpec(name=name, dtype="float32", shape=[]) for name in config.output_names]
    manifest = Manifest(
        name="fake",
        config=config,
        weights=Weights(source="module", origin="", sha256=""),
        preprocessing=how,
        labels=[f"class {k}" for k in range(classes)],
        things=things,
        graph=GraphInfo(
            sha256="",
            opset=20,
            ir_version=10,
            body=True,
            inputs=[spec],
            outputs=outputs,
            op_nodes=4,
        ),
    )
    session = Fake(answers)
    bundle = Bundle(path=None, manifest=manifest)  # type: ignore[arg-type]
    artefact = Artefact(
        parse_artefact("fake"), session, bundle, None, [spec], outputs, "float32", config
    )
    return artefact, manifest, session


def pooled(image: FloatArray) -> dict[str, FloatArray]:
    """Logits of three classes: how red, green and blue each 4 x 4 pixels are."""
    return {"logits": F.avg_pool2d(torch.from_numpy(image), 4).numpy()}


def semantic(
    photo: Image.Image, mode: Any = None, stride: int | None = None, **options: Any
) -> Any:
    artefact, manifest, session = artefact_of(UPerNet(), options.pop("answers", pooled), **options)
    segmenter = Segmenter(artefact, manifest, mode=mode, stride=stride)
    found, milliseconds = segmenter.answer(photo)
    assert isinstance(found, SemanticMap)
    assert milliseconds >= 0
    return found, session, segmenter.notes


def striped(width: int, height: int, parts: int) -> tuple[Image.Image, npt.NDArray[np.int64]]:
    """Red, green and blue stripes from the left to the right, and which is where."""
    kind = np.arange(width) * parts // width % 3
    classes = np.broadcast_to(kind, (height, width))
    return Image.fromarray((255 * np.eye(3, dtype=np.uint8))[classes]), classes


def noise(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(400, 100), (100, 400), (97, 331), (64, 50)], ids=str)
def test_windows_see_the_whole_picture(size: tuple[int, int]) -> None:
    photo, classes = striped(max(size), min(size), 6)
    if size[0] < size[1]:
        photo, classes = photo.transpose(Image.Transpose.TRANSPOSE), classes.T
    found, session, notes = semantic(photo)
    assert found.classes.shape == classes.shape
    assert (found.classes != UNSEEN).all()
    # But for the edges between stripes.
    assert np.mean(found.classes != classes) < 0.08
    assert len(session.shapes) > 1
    assert "windows of 32x32 pixels" in notes[0]
    assert len(notes) == 1


def test_one_window_is_a_crop() -> None:
    photo = noise(96, 96)
    slid, session, notes = semantic(photo, "slide")
    cropped, _, _ = semantic(photo, "crop")
    assert np.array_equal(slid.classes, cropped.classes)
    assert session.shapes == [(1, 3, SIDE, SIDE)]
    assert notes == []
    by_default, _, _ = semantic(photo)
    assert np.array_equal(by_default.classes, cropped.classes)


def test_a_crop_sees_its_part_of_the_picture_only() -> None:
    photo, classes = striped(200, 100, 3)
    found, session, _ = semantic(photo, "crop")
    assert (found.classes[:, :50] == UNSEEN).all()
    assert (found.classes[:, 150:] == UNSEEN).all()
    assert np.mean(found.classes[:, 50:150] != classes[:, 50:150]) < 0.08
    assert len(session.shapes) == 1


@pytest.mark.parametrize("stride", [None, 16, 32])
def test_windows_are_cut_and_averaged_as_in_mmsegmentation(stride: int | None) -> None:
    """``slide_inference`` written out, with logits that depend on all of a window."""

    def answers(image: FloatArray) -> dict[str, FloatArray]:
        centred = image - image.mean(axis=(2, 3), keepdims=True)
        return pooled(centred * 7)

    photo = noise(152, 104)
    found, session, _ = semantic(photo, "slide", stride, answers=answers)
    resized = photo.resize((int(SIDE * 152 / 104), SIDE), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.asarray(resized, np.float32).transpose(2, 0, 1) / 255)
    width, step = pixels.shape[2], stride or 21
    total, count = torch.zeros(3, SIDE, width), torch.zeros(width)
    starts = [min(x * step, width - SIDE) for x in range(-(-(width - SIDE) // step) + 1)]
    for x in starts:
        logits = torch.from_numpy(answers(pixels[None, :, :, x : x + SIDE].numpy())["logits"])
        total[:, :, x : x + SIDE] += F.interpolate(logits, (SIDE, SIDE), mode="bilinear")[0]
        count[x : x + SIDE] += 1
    expected = F.interpolate((total / count)[None], (104, 152), mode="bilinear")[0].argmax(0)
    assert len(session.shapes) == len(starts)
    assert np.mean(found.classes != expected.numpy()) < 2e-3


def test_windows_run_in_batches_of_the_model() -> None:
    photo, _ = striped(400, 100, 6)
    one, session, _ = semantic(photo)
    four, batched, _ = semantic(photo, shape=(4, 3, SIDE, SIDE))
    assert {shape[0] for shape in batched.shapes} == {4}
    assert len(batched.shapes) < len(session.shapes)
    assert np.array_equal(one.classes, four.classes)


def test_the_whole_picture_is_fitted_into_a_fixed_size() -> None:
    photo, classes = striped(200, 100, 3)
    found, session, notes = semantic(photo, "whole")
    assert session.shapes == [(1, 3, SIDE, SIDE)]
    assert (found.classes != UNSEEN).all()
    assert np.mean(found.classes != classes) < 0.12  # looked at in half the resolution
    assert notes == ["The whole picture is made to fit into 32x32 pixels."]


def test_the_whole_picture_is_looked_at_at_once_in_any_size() -> None:
    photo, classes = striped(200, 100, 3)
    found, session, notes = semantic(photo, "whole", shape=(1, 3, "height", "width"))
    assert session.shapes == [(1, 3, 32, 64)]
    assert np.mean(found.classes != classes) < 0.05
    assert notes == ["The whole picture is looked at at once, in 32x64 pixels."]


def test_models_of_stretched_pictures_see_them_at_once() -> None:
    how = COVER.model_copy(update={"resize_mode": "stretch"})
    photo, classes = striped(200, 100, 3)
    found, session, notes = semantic(photo, how=how)
    assert (len(session.shapes), notes) == (1, [])
    assert np.mean(found.classes != classes) < 0.12
    windows, session, _ = semantic(photo, "slide", how=how)
    assert len(session.shapes) > 1
    assert np.mean(windows.classes != classes) < 0.05


def test_pictures_smaller_than_a_window_are_filled_up() -> None:
    how = COVER.model_copy(update={"resize": (20, 20)})
    photo, classes = striped(60, 40, 3)
    found, _, _ = semantic(photo, "slide", how=how)
    assert found.classes.shape == (40, 60)
    assert np.mean(found.classes != classes) < 0.15


def test_sizes_and_strides_that_cannot_be_are_refused() -> None:
    photo, _ = striped(60, 40, 3)
    with pytest.raises(ConfigError, match=r"stride of 33 pixels leaves gaps .* 32x32"):
        semantic(photo, stride=33)
    with pytest.raises(ConfigError, match="no stride in mode whole"):
        semantic(photo, "whole", 8)
    with pytest.raises(ImageError, match=r"9000 x 4 pixels takes \d+ windows"):
        semantic(Image.new("RGB", (9000, 4)))


def test_outputs_that_are_no_logits_are_named() -> None:
    artefact, _, _ = artefact_of(UPerNet(), lambda image: {"logits": image[:, :2]})
    model = SemanticModel(Runner(artefact, COVER), COVER, "logits", 3)
    with pytest.raises(ConfigError, match="not that of logits of 3 classes"):
        model.classes(Image.new("RGB", (40, 40)))


def two_queries(image: FloatArray) -> dict[str, FloatArray]:
    """A thing in the red pixels and stuff in the green ones; what is filled up is stuff as well."""
    maps = F.avg_pool2d(torch.from_numpy(image), 4).numpy()
    masks = 20 * (np.concatenate([maps[:, :1], 1 - maps[:, :1]], axis=1) - 0.5)
    classes = np.full((len(image), 2, 4), -4, np.float32)
    classes[:, 0, 1] = classes[:, 1, 2] = 4
    return {"class_logits": classes, "mask_logits": masks.astype(np.float32)}


CONTAIN = COVER.model_copy(update={"resize_mode": "contain"})


@pytest.mark.parametrize("things", [[0, 1], None])
def test_queries_become_segments_of_the_photo(things: list[int] | None) -> None:
    photo, classes = striped(120, 60, 2)
    artefact, manifest, _ = artefact_of(
        Mask2Former(num_queries=2), two_queries, how=CONTAIN, things=things
    )
    segmenter = Segmenter(artefact, manifest)
    found, _ = segmenter.answer(photo)
    assert isinstance(found, PanopticMap)
    assert [segment.class_index for segment in found.segments] == [1, 2]
    assert [segment.is_thing for segment in found.segments] == [True, things is None]
    assert np.mean(found.ids != classes + 1) < 0.05
    assert bool(segmenter.notes) == (things is None)
    unsure, _ = Segmenter(artefact, manifest, min_score=1).answer(photo)
    assert isinstance(unsure, PanopticMap)
    assert unsure.segments == []


def test_queries_answer_for_the_task_that_the_decoder_names() -> None:
    photo, classes = striped(120, 60, 2)
    for task, kind in (("semantic", SemanticMap), ("instance", Instances)):
        decoder = Mask2Former(num_queries=2, task=task)
        artefact, manifest, _ = artefact_of(decoder, two_queries, how=CONTAIN, things=[0, 1])
        found, _ = Segmenter(artefact, manifest).answer(photo)
        assert isinstance(found, kind)
        if isinstance(found, SemanticMap):
            assert np.mean(found.classes != classes + 1) < 0.05
        else:
            (one,) = found.found  # stuff is no instance
            assert one.class_index == 1
            assert np.mean(found.whole_mask(one) != (classes == 0)) < 0.05


def test_a_model_of_batches_sees_one_photo_as_well() -> None:
    photo, _ = striped(120, 60, 2)
    found = []
    for batch in (1, 3):
        artefact, manifest, session = artefact_of(
            Mask2Former(num_queries=2), two_queries, how=CONTAIN, shape=(batch, 3, SIDE, SIDE)
        )
        answer, _ = Segmenter(artefact, manifest).answer(photo)
        assert isinstance(answer, PanopticMap)
        assert session.shapes == [(batch, 3, SIDE, SIDE)]
        found.append(answer)
    assert found[0].segments == found[1].segments
    assert np.array_equal(found[0].ids, found[1].ids)


def test_boxes_come_back_to_the_photo() -> None:
    def answers(image: FloatArray) -> dict[str, FloatArray]:
        assert image.shape == (1, 3, SIDE, SIDE)
        return {
            "boxes": np.float32([[0, 0, 16, 8], [0, 0, 0, 0], [4, 4, 8, 8]]),
            "scores": np.float32([0.9, 0, 0.3]),
            "labels": np.float32([2, 0, 1]),
            "masks": np.ones((3, 28, 28), np.float32),
        }

    artefact, manifest, _ = artefact_of(MaskRCNN(detections=3), answers, how=CONTAIN)
    found, _ = Segmenter(artefact, manifest).answer(Image.new("RGB", (320, 160)))
    assert isinstance(found, Instances)
    assert [(one.class_index, one.box) for one in found.found] == [(2, (0, 0, 160, 80))]
    more, _ = Segmenter(artefact, manifest, min_score=0.2).answer(Image.new("RGB", (320, 160)))
    assert isinstance(more, Instances)
    assert [one.class_index for one in more.found] == [2, 1]


def test_options_that_mean_nothing_are_refused() -> None:
    artefact, manifest, _ = artefact_of(Mask2Former(num_queries=2), two_queries, how=CONTAIN)
    with pytest.raises(ConfigError, match="decoder of type mask2former looks at the whole picture"):
        Segmenter(artefact, manifest, mode="slide")
    artefact, manifest, _ = artefact_of(UPerNet(), pooled)
    with pytest.raises(ConfigError, match="--min-score"):
        Segmenter(artefact, manifest, min_score=0.5)
