"""The C++ runner, ``examples/cpp``, end to end on stand-ins for TensorRT and the CUDA driver.

The stand-ins compute on the CPU, do nothing before a stream is waited for, and count what is not
freed; the program runs under the address and the undefined behaviour sanitizer.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dinat_deploy.models.preprocessing import Preprocessing
from tests.examples.cpp_site import GPU, NETWORK, VERSIONS, Site, plugin_info

MakeSite = Callable[..., Site]


@pytest.fixture
def site(cpp_build: Path, tmp_path: Path) -> MakeSite:
    return lambda **options: Site(tmp_path, cpp_build, **options)


def guesses(report: dict, number: int) -> tuple[list[int], list[float]]:
    found = report["results"][number]["predictions"]
    return [one["index"] for one in found], [one["probability"] for one in found]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("which", VERSIONS)
def test_the_best_classes_are_those_of_python(site: MakeSite, which: str, dtype: str) -> None:
    here = site(which=which, dtype=dtype)
    pictures = [here.picture(seed) for seed in range(3)]
    expected = here.expected(pictures)
    report = here.classify("--top", "5", *pictures)
    title = "TensorRT-RTX" if which == "rtx" else "TensorRT"
    assert report["runtime"] == f"{title} {VERSIONS[which]}"
    assert report["device"] == GPU
    assert report["batch"] == 1
    for number, picture in enumerate(pictures):
        assert report["results"][number]["image"] == str(picture)
        order = np.argsort(-expected[number], kind="stable")[:5]
        index, probability = guesses(report, number)
        assert index == order.tolist()
        np.testing.assert_allclose(probability, expected[number][order], rtol=1e-5)
        labels = [one["label"] for one in report["results"][number]["predictions"]]
        assert labels == [f"class-{i}" for i in order]


@pytest.mark.parametrize("which", VERSIONS)
def test_an_engine_that_normalises_gets_pixels(site: MakeSite, which: str) -> None:
    """Resized and cropped as for others; a byte each, also in a batch that is filled up."""
    here = site(which=which, dtype="float16", pixels=True, batch=3, scale=0.0003)
    pictures = [here.picture(seed) for seed in range(4)]
    expected = here.expected(pictures)
    report = here.classify("--top", "7", *pictures)
    for number in range(len(pictures)):
        index, probability = guesses(report, number)
        assert index == np.argsort(-expected[number], kind="stable").tolist()
        np.testing.assert_allclose(probability, expected[number][index], rtol=1e-5)


def test_the_text_names_picture_labels_and_latency(site: MakeSite) -> None:
    here = site()
    picture = here.picture(1)
    best = int(here.expected([picture])[0].argmax())
    done = here.run(picture, "--top=2")
    lines = done.stdout.splitlines()
    assert lines[0] == str(picture)
    assert re.fullmatch(rf" +[\d.]+%  class-{best}", lines[1])
    assert len(lines) == 4
    assert re.fullmatch(rf"TensorRT 11\.1\.0\.106 on {GPU}: \d+\.\d+ ms for a batch of 1", lines[3])


def test_classes_without_names_are_numbered(site: MakeSite) -> None:
    here = site(labels=None)
    picture = here.picture(1)
    best = int(here.expected([picture])[0].argmax())
    assert f"class {best}\n" in here.run(picture).stdout
    assert here.classify(picture)["results"][0]["predictions"][0]["label"] is None
    assert len(guesses(here.classify(picture, "--top", "100"), 0)[0]) == 7


def test_grey_pictures_and_wide_crops(site: MakeSite) -> None:
    how = Preprocessing(
        resize_mode="stretch", resize=(10, 14), crop=(12, 16), mean=(0.3,), std=(0.2,),
        interpolation="lanczos",
    )  # fmt: skip
    here = site(preprocessing=how, config=NETWORK.replace(in_channels=1), scale=0.1)
    picture = here.picture(3, (31, 77))
    expected = np.sort(here.expected([picture])[0])[::-1]
    np.testing.assert_allclose(guesses(here.classify(picture), 0)[1], expected[:5], rtol=1e-5)


@pytest.mark.parametrize("which", ["10", "11"])
@pytest.mark.parametrize(
    ("asked", "pictures", "batch"),
    [([], 1, 2), ([], 3, 3), ([], 7, 4), (["--batch", "3"], 7, 3), (["--batch", "6"], 2, 6)],
)
def test_dynamic_batches_of_every_profile(
    site: MakeSite, which: str, asked: list[str], pictures: int, batch: int
) -> None:
    """Without --batch: as many as there are, as far as the first profile allows."""
    here = site(which=which, dtype="float16", batch="batch", profiles=[(2, 4), (6, 8)])
    paths = [here.picture(seed) for seed in range(pictures)]
    report = here.classify(*asked, *paths)
    assert report["batch"] == batch
    expected = here.expected(paths)
    for number in range(pictures):
        order = np.argsort(-expected[number], kind="stable")[:5]
        assert guesses(report, number)[0] == order.tolist()


def test_static_batches_are_filled_up(site: MakeSite) -> None:
    here = site(batch=3)
    paths = [here.picture(seed) for seed in range(4)]
    report = here.classify(*paths)
    assert report["batch"] == 3
    assert report["latency"]["count"] == 2
    best = here.expected(paths).argmax(axis=1).tolist()
    assert [guesses(report, number)[0][0] for number in range(4)] == best


def test_shapes_that_the_engine_does_not_take_are_refused(site: MakeSite) -> None:
    here = site(batch="batch", profiles=[(2, 4), (6, 8)])
    said = here.refused("--batch", "5", here.picture(0))
    assert "shapes 2x3x12x16 to 4x3x12x16 or 6x3x12x16 to 8x3x12x16, and 5x3x12x16 is asked" in said
    fixed = site(batch=2)
    said = fixed.refused("--batch", "3", fixed.picture(0))
    assert "takes image of shape 2x3x12x16, and 3x3x12x16 is asked for" in said
    model = (fixed.bundle / "model.json").read_text()
    (fixed.bundle / "model.json").write_text(model.replace("12,\n      16", "14,\n      16"))
    assert "and 2x3x14x16 is asked for" in fixed.refused(fixed.picture(0))


def test_timed_runs_are_counted_and_their_figures_ordered(site: MakeSite) -> None:
    here = site()
    report = here.classify("--iterations", "20", "--warm-up", "3", here.picture(0))
    for part in ("latency", "compute", "host_to_device", "device_to_host"):
        figures = report[part]
        assert figures["count"] == 20
        names = ("min", "median", "p90", "p95", "p99", "max")
        values = [figures[name] for name in names]
        assert values == sorted(values)
        assert figures["min"] <= figures["mean"] <= figures["max"]
    assert report["latency"]["min"] > 0
    assert report["results"][0]["milliseconds"] == report["latency"]["median"]
    text = here.run("--iterations", "20", here.picture(0)).stdout
    assert "median of 20 runs" in text


def test_the_plugin_is_loaded_before_the_plan(site: MakeSite, tmp_path: Path) -> None:
    library = tmp_path / "native" / "libdinat_tensorrt.so"
    library.parent.mkdir()
    library.write_bytes(b"a library")
    here = site(which="10", needs_plugin=True, manifest={"plugin": plugin_info(library)})
    picture = here.picture(0)
    best = int(here.expected([picture])[0].argmax())
    assert guesses(here.classify("--plugin", library, picture), 0)[0][0] == best
    here.environment = {"DINAT_NATIVE_DIR": str(library.parent)}
    assert guesses(here.classify(picture), 0)[0][0] == best
    said = here.refused(picture, STAND_IN_FAIL="loadLibrary")
    assert f"The plugin {library} cannot be loaded" in said


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("cuMemAlloc", "bytes on the GPU failed: out of memory (CUDA error 2)."),
        ("cuStreamCreate", "Making a stream failed: out of memory"),
        ("cuStreamSynchronize", "The run failed: unspecified launch failure (CUDA error 719)."),
        ("createInferRuntime", "runtime cannot be created:\n  createInferRuntime: no GPU"),
        ("createExecutionContext", "TensorRT cannot make an execution context"),
        ("enqueueV3", "The engine cannot be run:\n  enqueueV3: an address"),
    ],
)
@pytest.mark.parametrize("which", ["10", "11"])
def test_what_fails_on_the_gpu_is_named_and_nothing_is_left_allocated(
    site: MakeSite, which: str, function: str, words: str
) -> None:
    here = site(which=which)
    assert words in here.refused(here.picture(0), STAND_IN_FAIL=function)


def test_machines_without_a_gpu_or_with_others(site: MakeSite, tmp_path: Path) -> None:
    here = site()
    picture = here.picture(0)
    assert "and the driver sees none" in here.refused(picture, STAND_IN_GPUS="0")
    assert "no GPU 2; this machine has 2" in here.refused(picture, "--device=2", STAND_IN_GPUS="2")
    assert here.run(picture, "--device", "1", environment={"STAND_IN_GPUS": "2"}).returncode == 0
    only = tmp_path / "only"
    only.mkdir()
    (only / "libnvinfer.so.11").symlink_to(here.build / "stand_ins" / "libnvinfer.so.11")
    said = here.refused(picture, LD_LIBRARY_PATH=str(only))
    assert "needs an NVIDIA GPU and its driver, which is not here: libcuda.so.1" in said


def test_the_library_is_looked_for_named_and_recognised(site: MakeSite, tmp_path: Path) -> None:
    here = site(which="10")
    picture, stand_ins = here.picture(0), here.build / "stand_ins"
    said = here.refused(picture, LD_LIBRARY_PATH="")
    assert "TensorRT 10.3.0.26 is not found:\n  libnvinfer.so.10: cannot open" in said
    assert "TensorRT cannot be loaded" in here.refused(picture, "--tensorrt", tmp_path / "no.so")
    said = here.refused(picture, "--tensorrt", stand_ins / "libcuda.so.1")
    assert "libcuda.so.1 is no TensorRT: it has no function getInferLibMajorVersion" in said
    here.classify(picture, "--tensorrt", stand_ins / "libnvinfer.so.10")
    for version in ("9.3.0.1", "12.0.0.1", "1.4.0.76"):  # other interfaces: never called
        said = here.refused(picture, STAND_IN_VERSION=version)
        assert f" {version}." in said and "runs TensorRT 10 and 11 and TensorRT-RTX 1.5" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine"], "The option --engine needs a value."),
        (["--engine", "e", "--tpo", "3", "a.png"], "There is no option --tpo."),
        (["--engine", "e", "--top", "0", "a.png"], "--top 0 is not a whole number from 1 up."),
        (["--engine", "e", "--top=5x", "a.png"], "--top 5x is not a whole number"),
        (["--engine", "e", "--batch=9999999999", "a.png"], "--batch 9999999999 is not"),
        (["--engine", "e"], "No picture is named."),
        (["a.png"], "No engine is named."),
        (["--engine", "nowhere", "a.png"], "nowhere: No such file or directory."),
    ],
)
def test_mistakes_on_the_command_line(site: MakeSite, arguments: list[str], words: str) -> None:
    done = site().run_bare(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""


def test_help_names_every_option(site: MakeSite) -> None:
    done = site().run_bare("--help")
    assert done.returncode == 0
    source = (Path(__file__).parents[2] / "examples/cpp/src/arguments.cpp").read_text()
    options = set(re.findall(r'"(--[\w-]+)"', source))
    assert len(options) == 13
    assert all(option in done.stdout for option in options)


def test_files_that_do_not_fit_together(site: MakeSite, tmp_path: Path) -> None:
    here = site()
    picture = here.picture(0)
    assert "No such file" in here.refused(tmp_path / "none.png")
    assert "is not a picture" in here.refused(here.bundle / "model.json")
    assert "is a directory" in here.refused(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    here.engine.rename(elsewhere)
    here.engine = elsewhere
    assert "there is no model.json" in here.refused(picture)
    here.classify(picture, "--bundle", here.bundle)
    assert "No such file" in here.refused(picture, "--bundle", tmp_path)

    few = site(labels=["cat", "dog"], config=NETWORK.replace(num_classes=2))
    assert "names 2 classes, and the engine has 7" in few.refused(picture)
    backbone = site(config=NETWORK.replace(out_levels=(0, 1)))
    assert "is no classifier" in backbone.refused(picture)
    segmenter = site(config=NETWORK.replace(decoder={"channels": 8, "auxiliary_level": 1}))
    assert "is no classifier: it has a decoder of type upernet" in segmenter.refused(picture)
    model = site().bundle / "model.json"
    model.write_text(model.read_text().replace('"image"', '"pixels"'))
    assert "has no input pixels, as model.json calls it; it has image" in here.refused(
        picture, "--bundle", here.bundle
    )


def test_logits_that_are_no_numbers_are_no_prediction(site: MakeSite) -> None:
    here = site(scale=float("nan"))
    assert "logits that are not finite numbers" in here.refused(here.picture(0))


@pytest.mark.rtx
def test_tensorrt_rtx_itself_without_a_gpu(site: MakeSite, tmp_path: Path) -> None:
    """The real library, without a GPU: it is loaded, makes a runtime, calls the logger."""
    found = importlib.util.find_spec("tensorrt_rtx_libs")
    if found is None or not found.submodule_search_locations:
        pytest.skip("TensorRT-RTX is not installed: pip install tensorrt-rtx")
    folder = Path(found.submodule_search_locations[0])
    library = folder / "libtensorrt_rtx.so.1"
    here = site(which="rtx")
    plain = {"ASAN_OPTIONS": "detect_leaks=0", "LD_LIBRARY_PATH": str(folder)}
    arguments = ("--trust", "--bundle", here.bundle, here.picture(0), "--tensorrt", library)
    plan = tmp_path / "bare.plan"
    plan.write_bytes(here.plan)

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        return here.run_bare("--engine", plan, *arguments, environment=plain | environment)

    done = run()
    assert done.returncode == 2
    # Where there is a GPU, the library says that this is no plan.
    assert "needs an NVIDIA GPU" in done.stderr or "cannot load the plan" in done.stderr
    # With a driver that is none it is TensorRT that ends it, in its own words.
    cuda = tmp_path / "cuda"
    cuda.mkdir()
    (cuda / "libcuda.so.1").symlink_to(here.build / "stand_ins" / "libcuda.so.1")
    done = run(LD_LIBRARY_PATH=f"{cuda}:{folder}")
    assert done.returncode == 2
    assert "TensorRT cannot load the plan:\n  IRuntime::deserializeCudaEngine" in done.stderr
