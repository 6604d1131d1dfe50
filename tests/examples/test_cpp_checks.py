"""What the C++ runner refuses before it loads a plan, and that Python refuses the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinat_deploy.engine import trust
from dinat_deploy.engine.builder import BuilderOptions, Gpu
from dinat_deploy.engine.checks import Here, check_engine
from dinat_deploy.engine.manifest import OnnxSource, Runtime, open_engine
from dinat_deploy.errors import EngineError
from tests.examples.cpp_site import GPU, VERSIONS, Site, plugin_info, sha256

MakeSite = Callable[..., Site]


@pytest.fixture
def site(cpp_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSite:
    # One record of trusted plans for Python and the program.
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return lambda **options: Site(tmp_path, cpp_build, **options)


def python_refuses(site: Site, plugin: Path | None = None, capability: str = "89") -> str:
    flavor = "tensorrt-rtx" if site.which == "rtx" else "tensorrt"
    version = site.environment.get("STAND_IN_VERSION", VERSIONS[site.which])
    here = Here(flavor, version, Gpu(name=GPU, capability=capability), plugin)
    with pytest.raises(EngineError) as raised:
        check_engine(open_engine(site.engine), here)
    return str(raised.value)


def test_a_whole_engine_passes_both(site: MakeSite) -> None:
    here = site()
    here.classify(here.picture(0))
    version = VERSIONS["11"]
    assert (
        check_engine(
            open_engine(here.engine), Here("tensorrt", version, Gpu(name=GPU, capability="89"))
        )
        == []
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plan: plan[:-1] + bytes([plan[-1] ^ 1]), "was changed after it was built"),
        (lambda plan: plan[:-100], "is cut off: it has"),
        (lambda plan: plan + b"more", "bytes, and engine.json was written for"),
        (lambda plan: b"", "is cut off: it has 0 bytes"),
    ],
)
def test_a_plan_that_is_not_the_one_that_was_built(
    site: MakeSite, change: Callable[[bytes], bytes], words: str
) -> None:
    here = site()
    (here.engine / "model.plan").write_bytes(change(here.plan))
    assert words in here.refused(here.picture(0))
    assert words in python_refuses(here)


def runtime(version: str, **changes: Any) -> dict[str, Any]:
    return {"runtime": Runtime(flavor="tensorrt", version=version, **changes)}


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (runtime("11.0.0.114"), "built by TensorRT 11.0.0.114 and runs in no other version"),
        (runtime("11.1.1"), "11.1.0.106 is installed"),
        (runtime("10.4.0"), "built by TensorRT 10.4.0 and runs in no other version"),
        (runtime("11.1.0.105"), "built by TensorRT 11.1.0.105"),
        (runtime("11.2.0") | {"options": BuilderOptions(version_compatible=True)},
         "runs in that and in later ones of the same major version"),
        (runtime("10.9.0") | {"options": BuilderOptions(version_compatible=True)},
         "runs in that and in later ones"),
        (runtime("11.1.0", platform="Linux riscv64"), "was built on Linux riscv64, and this"),
        ({"options": BuilderOptions(strip_weights=True)}, "was built with --strip-weights"),
        ({"gpu": Gpu(name="NVIDIA Orin", capability="87")},
         "built on a NVIDIA Orin with compute capability 87, and the Stand-in GPU"),
        ({"gpu": None, "architectures": ["80", "90"]}, "built for compute capability 80, 90"),
        ({"options": BuilderOptions(dla_core=1)}, "core 1 of the deep learning accelerator"),
    ],
)  # fmt: skip
def test_an_engine_for_another_machine(
    site: MakeSite, manifest: dict[str, Any], words: str
) -> None:
    here = site(manifest=manifest)
    assert words in here.refused(here.picture(0))
    assert words in python_refuses(here)


@pytest.mark.parametrize(
    "manifest",
    [
        runtime("11.1.0"),
        runtime("11.0.0") | {"options": BuilderOptions(version_compatible=True)},
        {
            "gpu": Gpu(name="NVIDIA L4", capability="80"),
            "options": BuilderOptions(hardware_compatibility="ampere+"),
        },
        {"gpu": None, "architectures": ["80", "89"]},
    ],
)
def test_an_engine_for_this_machine_too(site: MakeSite, manifest: dict[str, Any]) -> None:
    here = site(manifest=manifest)
    here.classify(here.picture(0))


def test_another_gpu_of_the_kind_is_noted(site: MakeSite) -> None:
    here = site(manifest={"gpu": Gpu(name="NVIDIA L4", capability="89")})
    done = here.run(here.picture(0))
    assert done.returncode == 0
    assert "built on a NVIDIA L4, and this machine has a Stand-in GPU of the same" in done.stderr


def test_ampere_engines_do_not_run_on_turing(site: MakeSite) -> None:
    options = BuilderOptions(hardware_compatibility="ampere+")
    here = site(manifest={"options": options})
    words = "runs on GPUs from Ampere on"
    assert words in here.refused(here.picture(0), STAND_IN_CAPABILITY="75")
    assert words in python_refuses(here, capability="75")


def test_tensorrt_and_tensorrt_rtx_do_not_run_each_others_engines(site: MakeSite) -> None:
    here = site(which="11")
    library = here.build / "stand_ins" / "rtx" / "libtensorrt_rtx.so.1"
    arguments = (here.picture(0), "--tensorrt", library)
    said = here.refused(*arguments, STAND_IN_VERSION=VERSIONS["rtx"])
    assert "was built by TensorRT 11.1.0.106, and TensorRT-RTX cannot run it" in said


def test_the_bundle_of_another_model(site: MakeSite) -> None:
    here = site(manifest={"onnx": OnnxSource(file="model.onnx", sha256="b" * 64)})
    said = here.refused(here.picture(0))
    assert "was built from an ONNX file with SHA-256 bbbbbbbbbbbb..., and that of" in said
    assert "has aaaaaaaaaaaa..." in said


def test_a_plugin_that_is_missing_or_another_one(site: MakeSite, tmp_path: Path) -> None:
    library, other = tmp_path / "libdinat_tensorrt.so", tmp_path / "other.so"
    library.write_bytes(b"this one")
    other.write_bytes(b"another one")
    here = site(manifest={"plugin": plugin_info(library)})
    picture = here.picture(0)
    words = "calls the plugin NeighborhoodAttention2D of libdinat_tensorrt.so, which is not"
    assert words in here.refused(picture, DINAT_NATIVE_DIR="")
    assert words in python_refuses(here)
    said = here.refused(picture, "--plugin", other)
    assert "was built with a libdinat_tensorrt.so of SHA-256" in said and f"{other} has" in said
    assert "was built with a libdinat_tensorrt.so of SHA-256" in python_refuses(here, other)
    assert "No such file" in here.refused(picture, "--plugin", tmp_path / "none.so")
    here.classify(picture, "--plugin", library)


HOST_CODE = {"host_code": ["it embeds libdinat_tensorrt.so"]}


def test_host_code_is_run_only_if_it_is_trusted(site: MakeSite) -> None:
    here = site(host_code=True, manifest=HOST_CODE)
    picture = here.picture(0)
    words = "holds host code, which runs with your rights when it is loaded (it embeds"
    assert words in here.refused(picture)
    assert words in python_refuses(here)
    here.classify(picture, "--trust")
    assert words in here.refused(picture)  # the program keeps no record
    trust.remember(sha256(here.plan), here.engine / "model.plan", "built")
    here.classify(picture)


def test_a_damaged_record_trusts_nothing_else(site: MakeSite) -> None:
    here = site(host_code=True, manifest=HOST_CODE)
    trust.remember("0" * 64, here.engine / "model.plan", "built")
    with trust.record_path().open("a") as record:
        record.write('{"sha256": "' + sha256(here.plan)[:30] + "\n[]\nnull\n7\n")
    assert "holds host code" in here.refused(here.picture(0))
    trust.remember(sha256(here.plan), here.engine / "model.plan", "trusted")
    here.classify(here.picture(0))


@pytest.mark.parametrize("machine", [62, 183, 190])
def test_libraries_inside_a_plan_are_host_code_whatever_the_manifest_says(
    site: MakeSite, machine: int
) -> None:
    header = b"\x7fELF\2\1\1" + bytes(9) + b"\3\0" + machine.to_bytes(2, "little")
    here = site(extra=b"\x7fELF" + header + bytes(40))
    picture = here.picture(0)
    if machine == 190:  # code for the GPU
        here.classify(picture)
        return
    assert "of which engine.json says nothing" in here.refused(picture)
    assert "of which engine.json says nothing" in python_refuses(here)


def test_host_code_is_not_allowed_to_plans_that_should_have_none(site: MakeSite) -> None:
    """A forged manifest that hides it: TensorRT itself refuses."""
    here = site(host_code=True)
    said = here.refused(here.picture(0))
    assert "cannot load the plan:\n  deserializeCudaEngine: host code is not allowed" in said


def test_a_plan_without_a_manifest_needs_trust(site: MakeSite, tmp_path: Path) -> None:
    here = site(which="10")
    picture, plan = here.picture(0), tmp_path / "model.plan"
    plan.write_bytes(here.plan)
    arguments = ("--engine", plan, "--bundle", here.bundle, picture, "--json")
    done = here.run_bare(*arguments)
    assert done.returncode == 2
    assert "The plan has no engine.json beside it" in json.loads(done.stdout)["error"]["cause"]
    library = here.build / "stand_ins" / "libnvinfer.so.10"
    done = here.run_bare(*arguments, "--trust", "--tensorrt", library)
    best = int(here.expected([picture])[0].argmax())
    assert json.loads(done.stdout)["results"][0]["predictions"][0]["index"] == best


def test_a_plan_in_an_engine_is_checked_like_its_engine(site: MakeSite) -> None:
    here = site()
    (here.engine / "model.plan").write_bytes(here.plan + b"more")
    done = here.run_bare("--engine", here.engine / "model.plan", here.picture(0), "--trust")
    assert done.returncode == 2
    assert "engine.json was written for" in done.stderr


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("engine.json", "{", "engine.json is not valid"),
        ("engine.json", '{"format_version": 2}', "has format 2; this program reads up to 1"),
        ("engine.json", '{"format_version": 1}', "key 'runtime' not found"),
        ("engine.json", "[" * 100_000, "is not valid"),
        ("engine.json", "\xff\xfe", "is not valid"),
        ("model.json", '{"format_version": 5}', "has format 5; this program reads up to 4"),
        ("model.json", "[]", "model.json is not valid"),
    ],
)
def test_manifests_that_are_none(site: MakeSite, file: str, content: str, words: str) -> None:
    here = site()
    folder = here.engine if file == "engine.json" else here.bundle
    (folder / file).write_text(content, encoding="latin-1")
    assert words in here.refused(here.picture(0))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("crop", [0, 16], "sizes that make no picture"),
        ("std", [0.2], "has a preprocessing for 3 channels"),
        ("mean", [0.1, 0.1, 0.1, 0.1], "has a preprocessing for 4 channels"),
        ("interpolation", "hamming", "The interpolation hamming is unknown"),
        ("resize", "all", "model.json is not valid"),
        ("resize_mode", "shrink", "The resize mode shrink is unknown"),
    ],
)
def test_preprocessing_that_this_program_cannot_do(
    site: MakeSite, field: str, value: object, words: str
) -> None:
    here = site()
    model = json.loads((here.bundle / "model.json").read_text())
    model["preprocessing"][field] = value
    (here.bundle / "model.json").write_text(json.dumps(model))
    assert words in here.refused(here.picture(0))
