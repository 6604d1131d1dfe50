"""Names of what can be run, what they open, and what is said when they open nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dinat_deploy.engine import checks
from dinat_deploy.errors import (
    BundleError,
    ConfigError,
    DinatDeployError,
    EngineError,
    MissingDependencyError,
)
from dinat_deploy.pipeline.artefacts import Artefact, open_artefact, parse_artefact
from dinat_deploy.pipeline.building import build
from dinat_deploy.pipeline.converting import convert
from dinat_deploy.pipeline.running import flavor_of
from tests.engine.conftest import HAVE_RTX


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def run_once(artefact: Artefact, batch: int | None = None) -> dict[str, list[int]]:
    """Shapes of the outputs for made-up inputs."""
    shapes = artefact.default_shapes(batch)
    feeds = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
    return {name: list(array.shape) for name, array in artefact.session.run(feeds).items()}


@pytest.mark.parametrize(
    ("text", "runtime", "target"),
    [
        ("out/x", None, "out/x"),
        ("onnxruntime-cuda:out/x", "onnxruntime-cuda", "out/x"),
        ("torch:dinat_mini", "torch", "dinat_mini"),
        ("C:\\models\\x", None, "C:\\models\\x"),
        ("./odd:name", None, "./odd:name"),
    ],
)
def test_names_have_a_runtime_and_a_target(text: str, runtime: str | None, target: str) -> None:
    parsed = parse_artefact(text)
    assert (parsed.runtime, parsed.target, str(parsed)) == (runtime, target, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [("trt:x", "'trt' in 'trt:x' is no runtime"), ("torch:", "'torch:' names no model")],
)
def test_names_that_mean_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_artefact(text)


class TestOnnx:
    def test_a_bundle_and_the_file_in_it_are_the_same(self, tiny_bundle: Path) -> None:
        for target in (tiny_bundle, tiny_bundle / "model.onnx"):
            with open_artefact(str(target)) as artefact:
                assert artefact.session.name.startswith("ONNX Runtime")
                assert artefact.session.device == "CPU"
                assert artefact.bundle is not None and artefact.bundle.path == tiny_bundle
                assert artefact.engine is None
                assert artefact.precision == "float32"
                assert artefact.model_config is not None
                assert artefact.notes == artefact.session.notes
                assert run_once(artefact) == {"logits": [1, 10]}

    def test_a_file_alone_runs_and_belongs_to_no_bundle(
        self, tiny_bundle: Path, tmp_path: Path
    ) -> None:
        alone = shutil.copy(tiny_bundle / "model.onnx", tmp_path / "alone.onnx")
        with open_artefact(alone) as artefact:
            assert artefact.bundle is None and artefact.model_config is None
            assert run_once(artefact) == {"logits": [1, 10]}
        with open_artefact(alone, bundle=tiny_bundle) as artefact:
            assert artefact.bundle is not None
        with pytest.raises(ConfigError, match="belongs to no bundle"):
            open_artefact(alone, taps=True)

    def test_layers_come_out_under_the_names_of_the_graph(self, tiny_bundle: Path) -> None:
        with open_artefact(str(tiny_bundle), taps=True) as artefact:
            assert list(artefact.taps)[:2] == ["patch_embed", "levels.0.blocks.0"]
            assert set(artefact.taps.values()) <= set(run_once(artefact))
            assert [spec.name for spec in artefact.outputs] == ["logits"]

    def test_dynamic_dimensions_default_to_one_image_of_the_models_size(
        self, dynamic_bundle: Path, tmp_path: Path
    ) -> None:
        with open_artefact(str(dynamic_bundle)) as artefact:
            assert artefact.default_shapes() == {"image": [1, 3, 64, 64]}
            assert artefact.default_shapes(5) == {"image": [5, 3, 64, 64]}
            assert artefact.covers({"image": [2, 3, 80, 48]})
            assert not artefact.covers({"image": [2, 4, 80, 48]})
        alone = shutil.copy(dynamic_bundle / "model.onnx", tmp_path / "alone.onnx")
        with open_artefact(alone) as artefact, pytest.raises(ConfigError, match="nothing says how"):
            artefact.default_shapes()

    def test_sizes_that_were_not_exported_for_are_refused(self, dynamic_bundle: Path) -> None:
        with open_artefact(str(dynamic_bundle)) as artefact:
            for size, axis in (([32, 64], "height 32"), ([64, 97], "width 97")):
                with pytest.raises(
                    ConfigError, match=f"has {axis}; .* exported for 48 to 96 pixels"
                ):
                    artefact.check_shapes({"image": [1, 3, *size]})
        # PyTorch, of which no graph was made, takes any.
        with open_artefact(f"torch:{dynamic_bundle}") as artefact:
            artefact.check_shapes({"image": [1, 3, 32, 97]})

    def test_a_fixed_batch_cannot_be_changed(self, tiny_bundle: Path) -> None:
        with open_artefact(str(tiny_bundle)) as artefact:
            with pytest.raises(ConfigError, match="takes batches of 1, not 8"):
                artefact.default_shapes(8)
            with pytest.raises(ConfigError, match="No shape is given for the input image"):
                artefact.check_shapes({})
            with pytest.raises(ConfigError, match="The shape image=2x3x64x64 does not fit"):
                artefact.check_shapes({"image": [2, 3, 64, 64]})
            with pytest.raises(ConfigError, match="The shape picture=1 does not fit"):
                artefact.check_shapes({"image": [1, 3, 64, 64], "picture": [1]})

    def test_changed_files_are_refused_and_unknown_ones_noted(self, bundle: Path) -> None:
        shutil.copy(bundle / "model.onnx", bundle / "tuned.onnx")
        with open_artefact(str(bundle / "tuned.onnx")) as artefact:
            assert any("says nothing of" in note for note in artefact.notes)
        with (bundle / "model.onnx").open("ab") as file:
            file.write(b"\n")
        with pytest.raises(BundleError, match=r"has SHA-256 .*, and model\.json was written for"):
            open_artefact(str(bundle))

    def test_closed_sessions_say_so(self, tiny_bundle: Path) -> None:
        artefact = open_artefact(str(tiny_bundle))
        artefact.close()
        with pytest.raises(BundleError, match="is closed"):
            run_once(artefact)


class TestTorch:
    def test_a_bundle_is_rebuilt_and_takes_any_batch(self, tiny_bundle: Path) -> None:
        with open_artefact(f"torch:{tiny_bundle}", taps=True) as artefact:
            assert artefact.session.name.startswith("PyTorch 2")
            assert artefact.default_shapes() == {"image": [1, 3, 64, 64]}
            found = run_once(artefact, 2)
            assert found["logits"] == [2, 10]
            assert set(artefact.taps) <= set(found)
        artefact.close()  # twice is harmless
        with pytest.raises(BundleError, match="is closed"):
            run_once(artefact)

    def test_a_published_model_has_made_up_weights(self) -> None:
        with open_artefact("torch:dinat_mini") as artefact:
            assert artefact.bundle is None
            assert artefact.model_config is not None and artefact.model_config.embed_dim == 64
            assert artefact.default_shapes() == {"image": [1, 3, 224, 224]}
            assert artefact.notes == [
                "The weights of dinat_mini are made up: made-up weights, seed 0."
            ]

    def test_what_cannot_be_rebuilt_is_named(self, tiny_bundle: Path, tmp_path: Path) -> None:
        alone = shutil.copy(tiny_bundle / "model.onnx", tmp_path / "alone.onnx")
        with pytest.raises(ConfigError, match="belongs to no bundle, from which"):
            open_artefact(f"torch:{alone}")

    def test_compiled_models_have_no_layers(self, tiny_bundle: Path) -> None:
        with pytest.raises(ConfigError, match="lets no outputs of layers out"):
            open_artefact(f"torch-compile:{tiny_bundle}", taps=True)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nowhere", BundleError, "There is no bundle, ONNX file or engine nowhere"),
        ("dinat_mini", ConfigError, "is a published model and no file"),
        ("tensorrt:BUNDLE", ConfigError, "is no engine, and TensorRT runs engines"),
        ("BUNDLE/model.json", BundleError, "is neither a bundle, an ONNX file nor an engine"),
        ("EMPTY", BundleError, "is not a bundle: it has no model.json"),
        ("EMPTY/x.onnx", EngineError, "is not an ONNX file"),
    ],
)
def test_what_cannot_be_run_is_named(
    name: str, error: type[DinatDeployError], message: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.onnx").write_text("nothing")
    text = name.replace("BUNDLE", str(tiny_bundle)).replace("EMPTY", str(tmp_path))
    with pytest.raises(error, match=message):
        open_artefact(text)


class TestWithoutAGpu:
    """The GPU is hidden, so that the tests say the same on a machine that has one."""

    @pytest.fixture(autouse=True)
    def no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks, "current_gpu", lambda: None)
        monkeypatch.setattr(
            "dinat_deploy.session.onnxruntime_providers.gpu_names", lambda: list[str]()
        )
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    @pytest.mark.parametrize(
        ("runtime", "message"),
        [
            ("onnxruntime-cuda", "CUDA provider needs an NVIDIA GPU with its driver"),
            ("onnxruntime-tensorrt", "TensorRT provider needs an NVIDIA GPU with its driver"),
            ("onnxruntime-tensorrt-rtx", "TensorRT-RTX provider needs an NVIDIA GPU"),
            ("torch-cuda", "(is built without CUDA|sees no NVIDIA GPU here)"),
        ],
    )
    def test_every_runtime_for_gpus_says_so(
        self, runtime: str, message: str, tiny_bundle: Path
    ) -> None:
        with pytest.raises(MissingDependencyError, match=message) as caught:
            open_artefact(f"{runtime}:{tiny_bundle}")
        assert caught.value.cause.count(". ") == 0  # one sentence
        assert caught.value.cure

    @pytest.mark.rtx
    @pytest.mark.skipif(not HAVE_RTX, reason="tensorrt-rtx is not installed")
    def test_a_real_engine_says_which_gpu_it_needs(self, bundle: Path) -> None:
        engine = build(bundle, backend="tensorrt-rtx", plugin=False, architectures=["86"]).path
        for target in (engine, engine / "model.plan"):
            with pytest.raises(EngineError) as caught:
                open_artefact(str(target))
            assert caught.value.cause == (
                f"{engine} runs on an NVIDIA GPU of compute capability 86, and this machine has "
                "none, or no driver for it."
            )
        with pytest.raises(ConfigError, match="is no engine") as caught_config:
            open_artefact(f"tensorrt:{bundle}")
        assert str(engine) in caught_config.value.cure
        with pytest.raises(ConfigError, match="is an engine, and ONNX Runtime runs ONNX files"):
            open_artefact(f"onnxruntime:{engine}")
        assert flavor_of(engine / "model.plan") == "tensorrt-rtx"
        with pytest.raises(ConfigError, match="is an engine, and PyTorch runs the model"):
            open_artefact(f"torch:{engine}")


def test_pytorch_computes_in_the_type_of_the_variant_that_is_named(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "b")
    convert(bundle, "bf16", random_cases=0, verify=False)
    image = {"image": np.random.default_rng(0).standard_normal((1, 3, 64, 64), np.float32)}
    with (
        open_artefact(f"torch:{bundle}/model.bf16.onnx") as half,
        open_artefact(f"torch:{bundle}") as whole,
    ):
        assert half.precision == "bfloat16" and half.session.name.endswith("bfloat16")
        found, expected = half.session.run(image)["logits"], whole.session.run(image)["logits"]
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
