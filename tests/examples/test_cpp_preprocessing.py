"""The C++ runner's parts against Python: pictures, resizing, normalisation, digests, number types."""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from dinat_deploy.models.preprocessing import Preprocessing, open_image
from tests.examples.cpp_parts import Parts, Pixels

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Smaller, larger, one side only, to and from single pixels, by odd ratios.
SIZES = [
    ((37, 53), (16, 16)),
    ((480, 640), (232, 309)),
    ((64, 48), (64, 30)),
    ((48, 64), (30, 64)),
    ((16, 20), (61, 47)),
    ((224, 224), (256, 256)),
    ((1, 1), (7, 5)),
    ((9, 300), (1, 1)),
    ((2, 700), (3, 37)),
    ((33, 33), (33, 33)),
]


# Pillow 13 resizes pictures that lose much more height than width vertically first; the program
# follows it.
OLD_PILLOW = int(PIL.__version__.partition(".")[0]) < 13


def comparable(size: Sequence[int], to: Sequence[int]) -> bool:
    """Whether this Pillow makes its two passes in the order that the program has."""
    shrunk = size[0] - to[0]
    return not (OLD_PILLOW and shrunk > 0 and shrunk > 2 * (size[1] - to[1]))


def noise(rng: np.random.Generator, height: int, width: int, channels: int) -> Pixels:
    """Hard on filters: neighbours that differ, and areas at both ends of the range."""
    pixels = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    pixels[: height // 3] = np.where(pixels[: height // 3] > 127, 255, 0)
    return pixels


def picture(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def assert_prepared(parts: Parts, path: Path, how: Preprocessing) -> None:
    pixels, normalized = parts.preprocess(path, how)
    assert np.array_equal(pixels, how.pixels(open_image(path)))
    assert np.array_equal(normalized, how(open_image(path)))


@pytest.mark.parametrize("name", FILTERS)
def test_resizing_gives_the_values_of_pillow(
    parts: Parts, rng: np.random.Generator, name: str
) -> None:
    sizes = [pair for pair in SIZES if comparable(*pair)]
    for (size, to), channels in itertools.product(sizes, (1, 3)):
        pixels = noise(rng, *size, channels)
        expected = np.asarray(picture(pixels).resize(to[::-1], FILTERS[name]))
        actual = parts.resize(pixels, *to, name)
        assert np.array_equal(actual, expected.reshape(*to, channels)), (size, to, channels)


def test_resizing_gives_the_values_of_pillow_for_random_sizes(
    parts: Parts, rng: np.random.Generator
) -> None:
    for name in (name for name in FILTERS for _ in range(25)):
        size, to = rng.integers(1, 90, 2), rng.integers(1, 90, 2)
        if not comparable(size, to):
            continue
        pixels = noise(rng, *size, 3)
        expected = np.asarray(picture(pixels).resize((int(to[1]), int(to[0])), FILTERS[name]))
        assert np.array_equal(parts.resize(pixels, *to, name), expected), (name, size, to)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("mode", ["cover", "stretch", "contain"])
@pytest.mark.parametrize("size", [(90, 61), (61, 90), (40, 33), (224, 224), (20, 400)], ids=str)
def test_preprocessing_is_that_of_python(
    parts: Parts,
    rng: np.random.Generator,
    tmp_path: Path,
    name: str,
    mode: str,
    size: tuple[int, int],
) -> None:
    path = tmp_path / "picture.png"
    picture(noise(rng, *size, 3)).save(path)
    for resize, crop in (((73, 73), (64, 64)), ((50, 70), (47, 32)), ((24, 24), (31, 33))):
        how = Preprocessing(resize_mode=mode, resize=resize, crop=crop, interpolation=name)
        resized = how.geometry(size[::-1])[0][::-1]
        if mode != "cover" and not comparable(size, resized):
            continue
        assert_prepared(parts, path, how)


def test_grey_models_get_the_grey_values_of_pillow(
    parts: Parts, rng: np.random.Generator, tmp_path: Path
) -> None:
    how = Preprocessing(resize=(20, 20), crop=(16, 16), mean=(0.4,), std=(0.3,))
    # 0.3 x 255 is half way between two levels.
    contain = how.model_copy(update={"resize_mode": "contain", "mean": (0.3,)})
    for channels in (1, 3):
        path = tmp_path / f"{channels}.png"
        picture(noise(rng, 31, 47, channels)).save(path)
        assert_prepared(parts, path, how)
        assert_prepared(parts, path, contain)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_png_files_of_every_mode_are_read_as_python_does(
    parts: Parts, rng: np.random.Generator, tmp_path: Path, mode: str
) -> None:
    path = tmp_path / "picture.png"
    if mode == "I;16":
        Image.fromarray(rng.integers(0, 1 << 16, (19, 23), dtype=np.uint16)).save(path)
    else:
        image = picture(noise(rng, 19, 23, 3)).convert("RGBA")
        image.putalpha(Image.fromarray(rng.integers(0, 256, (19, 23), dtype=np.uint8)))
        image.convert(mode).save(path)
    for channels, converted in ((3, "RGB"), (1, "L")):
        expected = np.asarray(open_image(path).convert(converted)).reshape(19, 23, channels)
        assert np.array_equal(parts.picture(path, channels), expected)


def test_bmp_is_exact_and_jpeg_within_the_freedom_of_decoders(parts: Parts, tmp_path: Path) -> None:
    y, x = np.mgrid[:120, :160]
    smooth = np.stack([x * 1.5, y * 2, 120 + 100 * np.sin(x / 17 + y / 11)], 2).astype(np.uint8)
    for name, most, mean in (("a.bmp", 0, 0.0), ("a.jpg", 6, 0.6)):
        picture(smooth).save(tmp_path / name)
        read = parts.picture(tmp_path / name, 3)
        assert not isinstance(read, str)
        expected = np.asarray(open_image(tmp_path / name)).astype(int)
        difference = np.abs(read.astype(int) - expected)
        assert difference.max() <= most
        assert difference.mean() <= mean


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_pictures_stand_upright(parts: Parts, tmp_path: Path, orientation: int, order: str) -> None:
    path = tmp_path / "photo.jpg"
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[:8, :8] = (255, 0, 0)
    pixels[16:, 32:] = (0, 0, 255)
    picture(pixels).save(path, quality=95, exif=exif(order, orientation))
    expected = np.asarray(open_image(path)).astype(int)
    read = parts.picture(path, 3)
    assert not isinstance(read, str)
    assert read.shape == expected.shape
    assert np.abs(read.astype(int) - expected).max() <= 6
    assert (read.shape[0] == 40) == (orientation >= 5)


def exif(order: str, orientation: int) -> bytes:
    """EXIF data with two tags, the orientation behind another one."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    other = struct.pack(f"{order}HHIHH", 0x0106, 3, 1, 2, 0)
    directory = struct.pack(f"{order}H", 2) + other + entry + struct.pack(f"{order}I", 0)
    return b"Exif\0\0" + head + struct.pack(f"{order}I", 8) + directory


def test_damaged_exif_data_is_no_orientation(parts: Parts, rng: np.random.Generator) -> None:
    data = exif(">", 6)
    segment = b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data
    whole = b"\xff\xd8" + segment + b"\xff\xda\0\2"
    assert parts.orientation(whole) == 6
    for length in range(len(segment)):
        assert parts.orientation(whole[:length]) in (1, 6)
    for _ in range(300):  # the address sanitizer watches
        changed = bytearray(whole)
        for place in rng.integers(2, len(whole), 3):
            changed[place] = rng.integers(256)
        assert 1 <= parts.orientation(bytes(changed)) <= 8


def test_what_is_no_picture_is_named(parts: Parts, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    webp = tmp_path / "a.webp"
    Image.new("RGB", (8, 8)).save(webp)
    cut = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 50).save(cut)
    cut.write_bytes(cut.read_bytes()[:900])
    huge = tmp_path / "huge.png"
    huge.write_bytes(png_header(14_000, 14_000))
    assert f"{text} is not a picture that can be decoded" in parts.picture(text, 3)
    assert f"{webp} is not a picture that can be decoded" in parts.picture(webp, 3)
    assert f"{cut} is not a picture that can be decoded" in parts.picture(cut, 3)
    assert "14000x14000 pixels, more than" in parts.picture(huge, 3)
    assert f"{tmp_path} is a directory" in parts.picture(tmp_path, 3)
    assert "No such file" in parts.picture(tmp_path / "none.png", 3)


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + b"\0\0\0\0"


def test_sha256_is_that_of_python(parts: Parts, rng: np.random.Generator) -> None:
    assert parts.sha256(b"abc").startswith("ba7816bf8f01cfea414140de5dae2223b00361a396177a9c")
    for length in [*range(200), 1 << 16, (1 << 16) + 55]:  # both paddings
        data = rng.bytes(length)
        assert parts.sha256(data) == hashlib.sha256(data).hexdigest(), length


def test_float16_is_that_of_numpy_for_every_rounding(parts: Parts) -> None:
    values = all_halves_and_between()
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    bits, back = parts.convert(values, "float16")
    numbers = ~np.isnan(values)
    assert np.array_equal(bits[numbers], expected[numbers].view(np.uint16))
    assert np.array_equal(back[numbers], expected[numbers].astype(np.float32))
    assert np.isnan(back[~numbers]).all()


def all_halves_and_between() -> np.ndarray:
    """Every float16, the middles between two, and the floats beside those."""
    exact = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = np.sort(exact[np.isfinite(exact)])
    middle = (finite[1:].astype(np.float64) + finite[:-1]) / 2
    middle = middle.astype(np.float32)
    infinity = np.float32(np.inf)
    around = [np.nextafter(middle, infinity), np.nextafter(middle, -infinity)]
    edges = np.array([65519.996, 65520, 70000, 1e38, 1e-45], np.float32)
    return np.concatenate([exact, middle, *around, edges, -edges])


def test_bfloat16_is_that_of_torch(parts: Parts, rng: np.random.Generator) -> None:
    values = rng.integers(0, 1 << 32, 200_000, dtype=np.uint32).view(np.float32)
    values[:4] = (1.00390625, 1.01171875, np.inf, np.nan)  # two ties, to even
    expected = torch.from_numpy(values).bfloat16()
    bits, back = parts.convert(values, "bfloat16")
    numbers = ~np.isnan(values)
    theirs = expected.view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(bits[numbers], theirs[numbers])
    assert np.array_equal(back[numbers], expected.float().numpy()[numbers])
    assert np.isnan(back[~numbers]).all()
