"""Histograms survive: in files, and interruptions of every kind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dinat_deploy.calibration.histogram import Histogram
from dinat_deploy.calibration.record import Settings
from dinat_deploy.calibration.recording import Batch, Recorder
from dinat_deploy.calibration.state import Recorded, load_histograms, save_histograms
from dinat_deploy.errors import ConfigError, ConversionError, DataError
from dinat_deploy.progress import Silent
from tests.calibration.models import BINS, SHAPE, TENSORS, image, read, run, write_model
from tests.calibration.test_histogram import content

SETTINGS = Settings(bins=BINS, levels=16, percentile=99.0)
IMAGES = 7


@pytest.fixture(scope="module", autouse=True)
def _collections_do_not_search_all_of_pytorch() -> Iterator[None]:
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_model(tmp_path / "model.onnx")
    return tmp_path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    place = tmp_path_factory.mktemp("uninterrupted")
    return run(write_model(place / "model.onnx"), place, read(IMAGES))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that the model is run on."""
    names: list[str] = []
    original = Recorder.run

    def remember(self: Recorder, batch: Batch) -> dict[str, np.ndarray]:
        names.extend(batch.names)
        return original(self, batch)

    monkeypatch.setattr(Recorder, "run", remember)
    return names


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def bytes_of(recorded: Recorded, place: Path) -> tuple[bytes, str]:
    path = place / "histograms.npz"
    save_histograms(path, recorded)
    written = path.read_bytes()
    path.unlink()
    return written, recorded.calibration(SETTINGS).model_dump_json()


def names(*numbers: int) -> list[str]:
    return [f"image {number}" for number in numbers]


def left_over(place: Path) -> list[str]:
    return sorted(entry.name for entry in place.iterdir() if entry.name != "model.onnx")


def stop_at(number: int, error: BaseException):
    def before(current: int) -> None:
        if current == number:
            raise error

    return before


# --- going on ---------------------------------------------------------------------------------


def test_nothing_is_left_of_a_calibration_that_was_not_interrupted(place, uninterrupted):
    run(place / "model.onnx", place, read(IMAGES), save_every=2)
    assert left_over(place) == []
    assert uninterrupted.data.images == IMAGES


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("image 4 is torn.")])
def test_an_interrupted_calibration_goes_on_to_the_same_bytes(place, uninterrupted, ran, error):
    model = place / "model.onnx"
    with pytest.raises(type(error)):
        run(model, place, read(IMAGES, stop_at(4, error)))
    assert ran == names(0, 1, 2, 3)
    ran.clear()
    found = run(model, place, read(IMAGES))
    assert ran == names(4, 5, 6)
    assert bytes_of(found, place) == bytes_of(uninterrupted, place)
    assert left_over(place) == []


def test_a_killed_calibration_goes_on_from_what_was_saved_last(place, uninterrupted, ran):
    command = [sys.executable, "-m", "tests.calibration.models", str(place), str(IMAGES), "5"]
    root = Path(__file__).parents[2]
    killed = subprocess.run(command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    found = run(place / "model.onnx", place, read(IMAGES))
    assert ran == names(4, 5, 6)
    assert bytes_of(found, place) == bytes_of(uninterrupted, place)
    # What the killed process prepared in is gone too.
    assert left_over(place) == []


def test_ctrl_c_while_a_tensor_is_counted_leaves_no_image_half_counted(
    place, uninterrupted, ran, monkeypatch
):
    calls = []
    add = Histogram.add

    def interrupted(self: Histogram, values: np.ndarray) -> None:
        calls.append(threading.current_thread())
        if len(calls) == 2 * len(TENSORS) + 2:  # the second tensor of the third image
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        add(self, values)

    monkeypatch.setattr(Histogram, "add", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(place / "model.onnx", place, read(IMAGES))
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.setattr(Histogram, "add", add)
    counted = len(calls) // len(TENSORS)
    assert len(calls) == counted * len(TENSORS) and threading.main_thread() not in calls
    ran.clear()
    found = run(place / "model.onnx", place, read(IMAGES))
    assert ran == names(*range(counted, IMAGES))
    assert bytes_of(found, place) == bytes_of(uninterrupted, place)


def test_more_images_than_before_are_added_to_those_that_were_counted(place, uninterrupted, ran):
    with pytest.raises(KeyboardInterrupt):
        run(place / "model.onnx", place, read(4, stop_at(3, KeyboardInterrupt())))
    ran.clear()
    found = run(place / "model.onnx", place, read(IMAGES))
    assert ran == names(3, 4, 5, 6)
    assert bytes_of(found, place) == bytes_of(uninterrupted, place)


# --- what must not be mixed -------------------------------------------------------------------


def changed(number: int):
    """The images, one of which is another."""

    def batches(skipped: list[str]):
        skipped.append("bad.png")
        for current in range(IMAGES):
            pixels = image(current) + np.float32(current == number)
            yield Batch((f"image {current}",), {"image": pixels[None]})

    return batches


@pytest.mark.parametrize("batches", [changed(1), read(3)])
def test_changed_data_are_not_mixed_with_what_was_counted(place, ran, batches):
    model, progress = place / "model.onnx", Notes()
    with pytest.raises(KeyboardInterrupt):
        run(model, place, read(IMAGES, stop_at(4, KeyboardInterrupt())))
    ran.clear()
    found = run(model, place, batches, progress=progress)
    assert len(ran) == found.data.images
    assert "changed since the calibration was interrupted after 4 images" in progress.notes[0]
    assert bytes_of(found, place) == bytes_of(run(model, place, batches), place)


@pytest.mark.parametrize(
    "other", [{"model_sha256": "b" * 64}, {"source": "others"}, {"bins": 2 * BINS}]
)
def test_another_calibration_takes_nothing_up(place, ran, other):
    with pytest.raises(KeyboardInterrupt):
        run(place / "model.onnx", place, read(IMAGES, stop_at(4, KeyboardInterrupt())))
    ran.clear()
    run(place / "model.onnx", place, read(IMAGES), **other)
    assert ran == names(*range(IMAGES))


def test_a_damaged_state_is_not_taken_up(place, uninterrupted, ran):
    with pytest.raises(KeyboardInterrupt):
        run(place / "model.onnx", place, read(IMAGES, stop_at(4, KeyboardInterrupt())))
    (state,) = place.glob(".calibration.*.npz")
    state.write_bytes(state.read_bytes()[:-100])
    ran.clear()
    found = run(place / "model.onnx", place, read(IMAGES))
    assert ran == names(*range(IMAGES))
    assert bytes_of(found, place) == bytes_of(uninterrupted, place)


def test_values_that_are_not_finite_save_nothing_of_their_image(place, ran):
    def batches(skipped: list[str]):
        for number in range(3):
            pixels = np.full(SHAPE, -5, np.float32) if number == 2 else image(number)
            yield Batch((f"image {number}",), {"image": pixels[None]})

    with pytest.raises(ConversionError, match="nan in the tensor root/Sqrt:0 for image 2"):
        run(place / "model.onnx", place, batches)
    assert left_over(place) == []
    with pytest.raises(ConversionError, match="image 2"):
        run(place / "model.onnx", place, batches, save_every=1)
    ran.clear()
    run(place / "model.onnx", place, read(3))
    assert ran == names(2)


def test_data_without_images_and_models_without_tensors_are_refused(place):
    with pytest.raises(DataError, match="no images in numbers"):
        run(place / "model.onnx", place, read(0))
    with pytest.raises(ConfigError, match="nothing to be quantized"):
        run(place / "model.onnx", place, read(1), tensors=[])


# --- files ------------------------------------------------------------------------------------


def test_histograms_are_read_as_they_were_written(tmp_path, uninterrupted):
    path = tmp_path / "histograms.npz"
    save_histograms(path, uninterrupted)
    found = load_histograms(path)
    assert (found.model_sha256, found.data, found.runtime) == (
        uninterrupted.model_sha256,
        uninterrupted.data,
        uninterrupted.runtime,
    )
    assert list(found.histograms) == TENSORS
    for name in TENSORS:
        assert content(found.histograms[name]) == content(uninterrupted.histograms[name])
    assert left_over(tmp_path) == ["histograms.npz"]
    # No time of writing in it.
    with zipfile.ZipFile(path) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_another_percentile_needs_no_data(tmp_path, uninterrupted):
    path = tmp_path / "histograms.npz"
    save_histograms(path, uninterrupted)
    found = load_histograms(path)
    low, high = (
        found.calibration(SETTINGS.model_copy(update={"percentile": percentile}))
        for percentile in (90.0, 100.0)
    )
    assert high.estimates("percentile") == high.estimates("max") == low.estimates("max")
    assert all(low.ranges[name].percentile < high.ranges[name].percentile for name in TENSORS)
    assert low.ranges["hidden"].zeros == uninterrupted.histograms["hidden"].zeros > 0
    assert low.data.images == IMAGES and low.settings.percentile == 90.0


@pytest.mark.parametrize("damage", ["cut", "text", "counts", "format"])
def test_files_that_hold_no_histograms_are_named(tmp_path, uninterrupted, damage):
    path = tmp_path / "histograms.npz"
    save_histograms(path, uninterrupted)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:500])
    elif damage == "text":
        path.write_text("no archive")
    else:
        with np.load(path) as stored:
            arrays = dict(stored)
        if damage == "counts":
            arrays["counts"][0, 3] += 1
        else:
            header = arrays["header"].tobytes().replace(b'_version": 1', b'_version": 9')
            arrays["header"] = np.frombuffer(header, np.uint8)
        np.savez(path, **arrays)
    said = "has the format 9" if damage == "format" else "holds no histograms"
    with pytest.raises(ConversionError, match=rf"histograms\.npz {said}"):
        load_histograms(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConversionError, match=r"gone\.npz does not exist"):
        load_histograms(tmp_path / "gone.npz")
