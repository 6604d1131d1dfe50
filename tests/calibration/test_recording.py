"""What a model computes on data is counted, tensor by tensor, and named where it is of no use."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from dinat_deploy.calibration.recording import Batch, Recorder, batches, tap
from dinat_deploy.data.dataset import Sample
from dinat_deploy.errors import ConversionError, DataError
from tests.calibration.models import BINS, SHAPE, TENSORS, image, tensors_of, write_model
from tests.calibration.test_histogram import content, counted


@pytest.fixture(scope="module", autouse=True)
def _collections_do_not_search_all_of_pytorch() -> Iterator[None]:
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture
def recorder(model: Path, tmp_path: Path) -> Recorder:
    return Recorder(model, TENSORS, tmp_path, bins=BINS, threads=1, custom_op=False)


def sample(number: int) -> Sample:
    return Sample(f"image {number}", image(number))


def record(recorder: Recorder, *found: Batch) -> None:
    for batch in found:
        recorder.count(batch, recorder.run(batch))


def test_inputs_tensors_inside_and_outputs_are_counted(recorder):
    record(recorder, *batches(map(sample, range(4)), "image"))
    expected = tensors_of(np.stack([image(number) for number in range(4)]))
    assert (recorder.images, recorder.whole) == (4, True)
    for name in TENSORS[:3]:
        assert content(recorder.histograms[name]) == content(counted(expected[name], bins=BINS))
    # A product's sums may be rounded differently.
    found = recorder.histograms["logits"]
    assert found.values == expected["logits"].size
    assert found.max == pytest.approx(np.abs(expected["logits"]).max(), rel=1e-6)


def test_how_images_are_batched_changes_nothing(model, tmp_path):
    found = []
    for size in (1, 2, 3):  # 5 images: the last batch of 2 and of 3 is filled up
        scratch = tmp_path / str(size)
        scratch.mkdir()
        recorder = Recorder(model, TENSORS, scratch, bins=BINS, threads=1, custom_op=False)
        record(recorder, *batches(map(sample, range(5)), "image", size))
        counts = {name: content(recorder.histograms[name]) for name in TENSORS}
        found.append((counts, recorder.sha256, recorder.images))
    assert found[0] == found[1] == found[2]
    assert found[0][2] == 5


def test_the_digest_is_of_the_images_in_order(recorder):
    record(recorder, *batches(map(sample, [0, 1]), "image"))
    first = recorder.sha256
    recorder.forget()
    assert (recorder.images, recorder.histograms["hidden"].values) == (0, 0)
    record(recorder, *batches(map(sample, [1, 0]), "image"))
    assert recorder.sha256 != first


def test_values_that_are_not_finite_name_the_tensor_and_the_sample(recorder):
    broken = Sample("broken.png", np.full(SHAPE, -5, np.float32))
    with pytest.raises(ConversionError, match=r"nan in the tensor root/Sqrt:0 for broken\.png\."):
        record(recorder, *batches([sample(0), sample(1), broken], "image", 3))
    assert not recorder.whole


def test_images_of_different_sizes_in_a_batch_are_named():
    odd = Sample("wide.png", np.zeros((3, 4, 8), np.float32))
    with pytest.raises(DataError, match=r"wide\.png .*\[3, 4, 8\], and image 0 \[3, 4, 4\]"):
        list(batches([sample(0), odd], "image", 2))


def test_the_tapped_model_keeps_its_weights_outside(model, tmp_path):
    tap(model, TENSORS, tmp_path / "tapped.onnx")
    tapped = onnx.load(tmp_path / "tapped.onnx", load_external_data=False)
    assert [value.name for value in tapped.graph.output] == ["logits", "hidden", "root/Sqrt:0"]
    weight = next(one for one in tapped.graph.initializer if one.name == "weight")
    assert weight.data_location == onnx.TensorProto.EXTERNAL


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (["hidden", "gone"], r"no tensor gone \(1 of 2 are missing\)"),
        (["size"], "size is int64, and ranges are of float32"),
    ],
)
def test_tensors_that_cannot_be_recorded_are_named(model, tmp_path, tensors, said):
    with pytest.raises(ConversionError, match=said):
        tap(model, tensors, tmp_path / "tapped.onnx")
