"""Pictures to tensors: the published evaluation, every kind of picture file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dinat_deploy.errors import ImageError
from dinat_deploy.models.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    load_batch,
    load_pixels,
    open_image,
)
from dinat_deploy.models.zoo import VARIANTS

EVALUATION = Preprocessing.for_evaluation((224, 224), 0.875)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_published_evaluation_resizes_the_short_side_to_256_and_crops_224() -> None:
    assert EVALUATION.resize == (256, 256)
    assert EVALUATION.crop == (224, 224)
    assert EVALUATION.interpolation == "bicubic"
    at_384 = VARIANTS["dinat_large_384"]
    assert Preprocessing.for_evaluation((384, 384), at_384.crop_fraction).resize == (384, 384)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (300, 777), (256, 256), (100, 90)])
def test_evaluation_equals_the_steps_written_out(width: int, height: int) -> None:
    image = picture(width, height)
    if width < height:
        resized = image.resize((256, int(256 * height / width)), Image.Resampling.BICUBIC)
    else:
        resized = image.resize((int(256 * width / height), 256), Image.Resampling.BICUBIC)
    left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    cropped = np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float32) / 255
    expected = (cropped - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    found = EVALUATION(image)
    assert found.dtype == np.float32
    assert found.shape == (3, 224, 224)
    assert np.abs(found - expected.transpose(2, 0, 1)).max() < 1e-6


@pytest.mark.parametrize("mean", [IMAGENET_MEAN, (0.5,)])
def test_pixels_are_the_picture_before_it_is_normalised(mean: tuple[float, ...]) -> None:
    how = EVALUATION.model_copy(update={"mean": mean, "std": IMAGENET_STD[: len(mean)]})
    pixels = how.pixels(picture(300, 260))
    assert (pixels.dtype, pixels.shape) == (np.uint8, (len(mean), 224, 224))
    assert np.array_equal(how.normalize(pixels), how(picture(300, 260)))
    assert np.array_equal(how.normalize(np.stack([pixels] * 2))[1], how(picture(300, 260)))


def test_every_pixel_is_found_again_after_normalising() -> None:
    pixels = np.tile(np.arange(256, dtype=np.uint8).reshape(16, 16), (2, 3, 1, 1))
    assert np.array_equal(EVALUATION.nearest_pixels(EVALUATION.normalize(pixels)), pixels)


def test_what_is_no_pixel_becomes_the_nearest_one() -> None:
    how = Preprocessing(resize=(1, 1), crop=(1, 1), mean=(0.5,), std=(0.5,))
    images = np.float32([-1.2, -1.0, 0.0039, 0.0118, 1.0, 7.0]).reshape(6, 1, 1, 1)
    assert how.nearest_pixels(images).ravel().tolist() == [0, 0, 128, 129, 255, 255]


@given(st.integers(1, 900), st.integers(1, 900), st.integers(16, 300), st.integers(16, 300))
def test_any_picture_covers_any_crop(width: int, height: int, rows: int, columns: int) -> None:
    settings = Preprocessing.for_evaluation((rows, columns), 0.875)
    resized = settings._resized((width, height))
    assert resized[0] >= columns
    assert resized[1] >= rows
    # One side is exact, so nothing is resized more than needed.
    assert resized[0] == settings.resize[1] or resized[1] == settings.resize[0]


def test_stretching_ignores_the_aspect_ratio() -> None:
    settings = Preprocessing(resize_mode="stretch", resize=(40, 60), crop=(40, 60))
    assert settings(picture(500, 100)).shape == (3, 40, 60)


@given(st.integers(1, 900), st.integers(1, 900), st.integers(16, 300), st.integers(16, 300))
def test_any_picture_is_contained_in_any_crop(
    width: int, height: int, rows: int, columns: int
) -> None:
    settings = Preprocessing(resize_mode="contain", resize=(1, 1), crop=(rows, columns))
    (wide, tall), box = settings.geometry((width, height))
    assert box == (0, 0, columns, rows)
    assert 1 <= wide <= columns
    assert 1 <= tall <= rows
    # One side is exact, so nothing is made smaller than needed.
    assert wide == columns or tall == rows
    # The aspect ratio is kept to within a pixel.
    assert abs(wide - width * min(rows / height, columns / width)) <= 1
    assert abs(tall - height * min(rows / height, columns / width)) <= 1


def test_a_contained_picture_is_filled_up_with_the_mean() -> None:
    settings = Preprocessing(resize_mode="contain", resize=(64, 64), crop=(64, 64))
    found = settings.pixels(picture(200, 100))
    assert np.array_equal(
        found[:, :32].transpose(1, 2, 0),
        np.asarray(picture(200, 100).resize((64, 32), Image.Resampling.BICUBIC)),
    )
    assert (found[:, 32:] == np.array([124, 116, 104]).reshape(3, 1, 1)).all()
    assert np.abs(settings(picture(200, 100))[:, 32:]).max() < 0.01
    tall = settings.pixels(picture(100, 200))
    assert (tall[:, :, 32:] == found[:, 32:].transpose(0, 2, 1)).all()
    assert np.array_equal(settings.mean_pixels((32, 64)), found[:, 32:])
    grey = settings.model_copy(update={"mean": (0.5,), "std": (0.5,)})
    assert (grey.pixels(picture(200, 100))[:, 32:] == 128).all()


def test_another_crop_keeps_the_proportion_of_the_resize() -> None:
    assert EVALUATION.with_crop((448, 448)).resize == (512, 512)
    assert EVALUATION.with_crop((224, 224)) is EVALUATION
    wide = EVALUATION.with_crop((224, 448))
    assert (wide.crop, wide.resize) == ((224, 448), (256, 512))
    assert wide(picture(300, 300)).shape == (3, 224, 448)


def test_a_constant_picture_normalises_to_a_constant() -> None:
    grey = Image.new("RGB", (300, 200), (128, 64, 255))
    found = EVALUATION(grey)
    for channel, value in enumerate((128, 64, 255)):
        expected = (value / 255 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        assert np.abs(found[channel] - expected).max() < 1e-5


def test_one_channel_models_get_grey() -> None:
    settings = Preprocessing(resize=(32, 32), crop=(32, 32), mean=(0.5,), std=(0.5,))
    found = settings(Image.new("RGB", (50, 40), (255, 255, 255)))
    assert found.shape == (1, 32, 32)
    assert np.allclose(found, 1.0)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16"])
def test_every_picture_mode_is_read(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    if mode == "I;16":
        Image.fromarray(np.full((20, 30), 65535, np.uint16)).save(path)
    else:
        picture(30, 20).convert("L" if mode == "1" else mode).convert(mode).save(path)
    batch = load_batch([path], EVALUATION)
    assert np.array_equal(EVALUATION.normalize(load_pixels([path], EVALUATION)), batch)
    assert batch.shape == (1, 3, 224, 224)
    assert np.isfinite(batch).all()


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 30), 32896, np.uint16)).save(tmp_path / "x.png")
    assert np.asarray(open_image(tmp_path / "x.png").convert("L"))[0, 0] == 128


def test_cameras_orientation_is_applied(tmp_path: Path) -> None:
    image = picture(40, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    image.save(tmp_path / "x.jpg", exif=exif)
    assert open_image(tmp_path / "x.jpg").size == (20, 40)


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"There is no file .*missing\.png"):
        open_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="is a directory"):
        open_image(tmp_path)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ImageError, match="is not a picture that Pillow can read"):
        open_image(tmp_path / "text.png")
    picture(300, 300).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="cannot be decoded"):
        open_image(tmp_path / "cut.png")
