"""Pictures to start from, and changes that leave their checksums right."""

from __future__ import annotations

import io
import struct
import zlib
from random import Random

import numpy as np
from PIL import Image

from tests.fuzzing.byte_changes import mutate_bytes

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIZES = (0, 1, 2, 7, 255, 5000, 9000, 13000, 20000, 65535, 1 << 20, (1 << 31) - 1, 1 << 31)


def pictures() -> dict[str, bytes]:
    """Small pictures of every format and mode, by file name."""
    pixels = np.random.default_rng(0).integers(0, 255, (19, 23, 3)).astype(np.uint8)
    base = Image.fromarray(pixels)
    made: dict[str, bytes] = {}

    def add(name: str, image: Image.Image, form: str, **options: object) -> None:
        stream = io.BytesIO()
        image.save(stream, form, **options)
        made[name] = stream.getvalue()

    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        grey = mode == "I;16"
        image = Image.fromarray(pixels[..., 0].astype(np.uint16)) if grey else base.convert(mode)
        add(f"{mode.replace(';', '')}.png", image, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    add("turned.jpg", base, "JPEG", exif=exif)
    add("progressive.jpg", base, "JPEG", progressive=True)
    add("cmyk.jpg", base.convert("CMYK"), "JPEG")
    add("plain.bmp", base, "BMP")
    add("palette.bmp", base.convert("P"), "BMP")
    add("moving.gif", base.convert("P"), "GIF", save_all=True, append_images=[base.convert("P")])
    add("plain.tif", base, "TIFF")
    add("packed.tiff", base.convert("L"), "TIFF", compression="tiff_lzw")
    add("float.tiff", Image.fromarray(pixels[..., 0].astype(np.float32)), "TIFF")
    add("lossy.webp", base, "WEBP")
    add("lossless.webp", base.convert("RGBA"), "WEBP", lossless=True)
    add("plain.ppm", base, "PPM")
    add("grey.pgm", base.convert("L"), "PPM")
    add("thin.png", Image.new("RGB", (1, 3000)), "PNG")
    add("flat.png", Image.new("L", (3000, 1)), "PNG")
    return made


def mutate_picture(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Another size, another part, or other bytes."""
    if content.startswith(_SIGNATURE) and rng.random() < 0.6:
        return _mutate_png(rng, content)
    if content.startswith(b"P") and rng.random() < 0.6:
        size = " ".join(str(rng.choice((*_SIZES, -1))) for _ in range(2))
        return content[:3] + size.encode() + b"\n255\n" + content[20:], f"ppm of {size}"
    return mutate_bytes(rng, content)


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], len(_SIGNATURE)
    while at + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, at)
        found.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [_SIGNATURE]
    for kind, data in chunks:
        checksum = zlib.crc32(kind + data)
        parts.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum))
    return b"".join(parts)


def _mutate_png(rng: Random, content: bytes) -> tuple[bytes, str]:
    chunks = _chunks(content)
    action = rng.choice(("size", "size", "kind", "data", "order", "text", "large"))
    header = bytearray(chunks[0][1])
    if action == "size":
        at = rng.choice((0, 4))
        struct.pack_into(">I", header, at, rng.choice(_SIZES))
        chunks[0] = (b"IHDR", bytes(header))
    elif action == "kind":
        header[rng.randrange(8, 13)] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        chunks[0] = (b"IHDR", bytes(header))
    elif action == "data":
        at = rng.randrange(len(chunks))
        chunks[at] = (chunks[at][0], mutate_bytes(rng, chunks[at][1])[0])
    elif action == "order":
        rng.shuffle(chunks)
    elif action == "text":
        bomb = zlib.compress(bytes(4 << 20), 9)
        kind = rng.choice((b"zTXt", b"iCCP"))
        chunks.insert(1, (kind, b"name\0\0" + bomb))
    else:  # a size that the data do have
        side = rng.choice((3000, 8000, 16000))
        lines = zlib.compress(bytes((side // 8 + 1) * side), 1)
        chunks = [
            (b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)),
            (b"IDAT", lines),
            (b"IEND", b""),
        ]
    return _png(chunks), f"png: {action}"
