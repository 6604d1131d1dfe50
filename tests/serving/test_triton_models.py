"""The models of the ensemble compute what this package computes itself."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinat_deploy.models.preprocessing import Preprocessing, open_image
from dinat_deploy.postprocessing.queries import softmax
from tests.serving.broken import NAME


class Tensor:
    def __init__(self, name: str, array: Any) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> Any:
        return self.array


class TritonError:
    def __init__(self, message: str) -> None:
        self.message = message


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Triton's Python back end gives a model, as far as ours use it."""
    made = ModuleType("triton_python_backend_utils")
    made.Tensor, made.TritonError = Tensor, TritonError  # type: ignore[attr-defined]
    made.get_input_tensor_by_name = lambda request, name: request[name]  # type: ignore[attr-defined]
    made.InferenceResponse = (  # type: ignore[attr-defined]
        lambda output_tensors=(), error=None: SimpleNamespace(tensors=output_tensors, error=error)
    )
    monkeypatch.setitem(sys.modules, made.__name__, made)


def model(folder: Path) -> Any:
    """A model of the repository, as Triton would load it; nothing of it is cached."""
    spec = importlib.util.spec_from_file_location("served_model", folder / "1" / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.TritonPythonModel()
    made.initialize({"model_repository": str(folder), "model_version": "1"})
    return made


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pictures(rng: np.random.Generator) -> dict[str, bytes]:
    """Of all shapes and kinds; one on its side, by its camera's word."""
    made = {
        f"{width}x{height}": encoded(
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        )
        for width, height in ((64, 64), (200, 100), (31, 177), (5, 5), (640, 33))
    }
    grey = rng.integers(0, 65536, (40, 60)).astype(np.uint16)
    made["grey16"] = encoded(Image.fromarray(grey))
    made["alpha"] = encoded(Image.fromarray(rng.integers(0, 256, (40, 60, 4), dtype=np.uint8)))
    turned = Image.Exif()
    turned[0x0112] = 6
    upright = Image.fromarray(rng.integers(0, 256, (50, 90, 3), dtype=np.uint8))
    made["turned"] = encoded(upright, "JPEG", exif=turned)
    return made


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("mode", ["cover", "stretch", "contain"])
def test_pictures_are_prepared_as_by_this_package(
    packaged: Path, tmp_path: Path, rng: np.random.Generator, mode: str, dtype: str
) -> None:
    interpolation = {"cover": "bicubic", "stretch": "bilinear", "contain": "lanczos"}[mode]
    preprocessing = Preprocessing.model_validate(
        {"resize_mode": mode, "resize": (73, 90), "crop": (64, 80), "interpolation": interpolation}
    )
    folder = packaged / "models" / f"{NAME}_preprocess"
    file = folder / "1" / "preprocessing.json"
    settings = json.loads(file.read_text()) | preprocessing.model_dump(mode="json")
    file.write_text(json.dumps(settings | {"dtype": dtype}))
    served = model(folder)
    for name, content in pictures(rng).items():
        picture = tmp_path / "picture"
        picture.write_bytes(content)
        pixels = preprocessing.pixels(open_image(picture))
        expected = pixels if dtype == "uint8" else preprocessing.normalize(pixels).astype(dtype)
        batch = np.array([[content], [content]], np.object_)
        (answer,) = served.execute([{"images": Tensor("images", batch)}])
        (made,) = answer.tensors
        assert made.name == "image"
        assert made.array.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(made.array, np.stack([expected] * 2), err_msg=name)


@pytest.mark.usefixtures("stand_in")
def test_one_bad_picture_spoils_its_own_request_only(
    packaged: Path, rng: np.random.Generator
) -> None:
    served = model(packaged / "models" / f"{NAME}_preprocess")
    thin = encoded(Image.new("RGB", (60_000, 1)))  # covering the input, 4,000,000 pixels wide
    contents = (b"no picture", thin, pictures(rng)["64x64"])
    first, second, third = served.execute(
        [{"images": Tensor("", np.array([content], np.object_))} for content in contents]
    )
    assert first.error.message == "A picture cannot be decoded: it is none that Pillow can read"
    assert "60000x1 pixels would be resized to 4380000x73" in second.error.message
    assert third.error is None
    assert third.tensors[0].array.shape == (1, 3, 64, 64)


@pytest.mark.usefixtures("stand_in")
def test_the_best_classes_come_with_probabilities_and_names(
    packaged: Path, rng: np.random.Generator
) -> None:
    served = model(packaged / "models" / f"{NAME}_postprocess")
    logits = rng.standard_normal((3, 10)).astype(np.float32) * 30
    logits[1, [2, 7]] = 100  # equal ones keep their order
    (answer,) = served.execute([{"logits": Tensor("logits", logits)}])
    made = {tensor.name: tensor.array for tensor in answer.tensors}
    order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(made["classes"], order)
    assert made["classes"][1, :2].tolist() == [2, 7]
    assert made["classes"].dtype == np.int32
    exact = np.take_along_axis(softmax(logits), order, axis=1)
    np.testing.assert_allclose(made["scores"], exact, rtol=1e-6)
    names = [*(f"class {number}" for number in range(9)), '"ü" \\ {x}']
    assert [label.decode() for label in made["labels"][0]] == [names[n] for n in order[0]]


def test_they_need_nothing_but_numpy_and_pillow(packaged: Path) -> None:
    import ast

    allowed = {
        "__future__", "io", "json", "pathlib", "typing", "numpy", "PIL",
        "triton_python_backend_utils",
    }  # fmt: skip
    for file in packaged.glob("models/*/1/model.py"):
        tree = ast.parse(file.read_text())
        imported = {
            name
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names] if isinstance(node, ast.Import)
                else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            )
        }  # fmt: skip
        assert imported <= allowed, file
