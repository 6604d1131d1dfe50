"""Engines that are damaged, not for this machine or not trusted are refused before they are loaded."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dinat_deploy.engine import checks, trust
from dinat_deploy.engine.builder import BuilderOptions, Gpu
from dinat_deploy.engine.checks import (
    Here,
    check_bare_plan,
    check_engine,
    check_plugin,
    host_code,
    look_around,
)
from dinat_deploy.engine.manifest import Engine, Runtime, open_engine
from dinat_deploy.errors import EngineError, MissingDependencyError
from tests.engine.engines import A4000, FULL, PLAN, RTX, library_in, model_in, write_engine

RTX_4090 = Gpu(name="NVIDIA GeForce RTX 4090", capability="89", driver="13.0")
# A library for this processor as a plan holds it: its header is all that is looked for.
LIBRARY_INSIDE = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, 62) + bytes(44)
KERNEL_INSIDE = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, 190) + bytes(44)


@pytest.fixture(autouse=True)
def _own_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@dataclass
class World:
    """An engine, and the machine that is to run it."""

    root: Path
    here: Here

    @property
    def folder(self) -> Path:
        return self.root / "model.engines" / "tensorrt-rtx-plugin"

    @property
    def plan(self) -> Path:
        return self.folder / "model.plan"

    def write(self, **changes: Any) -> None:
        library = self.root / "libdinat_tensorrt.so"
        write_engine(self.folder, self.root / "model.onnx", library, **changes)

    def full(self, options: BuilderOptions | None = None, **changes: Any) -> None:
        """An engine of TensorRT itself, built on a GPU, and a machine like that one."""
        settings: dict[str, Any] = {"runtime": FULL, "gpu": A4000, "architectures": ["86"]}
        self.write(**settings | {"options": options or BuilderOptions()} | changes)
        self.here = replace(
            self.here, flavor="tensorrt", version=FULL.version, gpu=A4000, platform="Linux x86_64"
        )

    def on(self, **changes: Any) -> None:
        self.here = replace(self.here, **changes)

    def manifest(self, **changes: Any) -> None:
        file = self.folder / "engine.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    def check(self, **options: Any) -> list[str]:
        return check_engine(open_engine(self.folder), self.here, **options)


@pytest.fixture
def world(tmp_path: Path) -> World:
    model_in(tmp_path)
    library = library_in(tmp_path)
    made = World(tmp_path, Here("tensorrt-rtx", RTX.version, A4000, library))
    made.write()
    return made


def test_an_engine_that_fits_passes(world: World) -> None:
    assert world.check() == []
    assert world.check(shapes={"image": [4, 3, 64, 64]}) == []
    world.full()
    assert world.check() == []


def one_byte(world: World) -> None:
    content = bytearray(world.plan.read_bytes())
    content[len(content) // 2] ^= 1
    world.plan.write_bytes(content)


def plan_of_another(world: World) -> None:
    other = world.folder.parent / "tensorrt-rtx-body"
    write_engine(other, world.root / "model.onnx", plan=PLAN[::-1])
    world.plan.write_bytes(PLAN[::-1])


def other_library(world: World) -> None:
    (world.root / "libdinat_tensorrt.so").write_bytes(b"another build")


def ours(version: str = "0.1.0", runs: tuple[int, ...] = (86, 89)) -> Callable[[Path], Any]:
    """What native.library_info says of a library of ours."""

    class Info:
        name = "dinat_tensorrt"
        cuda_code = tuple(f"sm_{number}" for number in runs)

        def runs_on_gpu(self, architecture: int) -> bool:
            return architecture in runs

    Info.version = version  # type: ignore[attr-defined]
    return lambda path: Info()


BAD: dict[str, tuple[Callable[[World], Any], str, str]] = {
    # what was done: (how, cause, cure)
    "plan missing": (
        lambda w: w.plan.unlink(),
        r"tensorrt-rtx-plugin has no model\.plan\.",
        r"dinat-deploy build \S+model\.onnx --backend tensorrt-rtx`",
    ),
    "plan cut off": (
        lambda w: w.plan.write_bytes(PLAN[:-100]),
        r"model\.plan is cut off: it has 904 bytes, and engine\.json was written for 1004",
        r"Copy it again, whole\. Build it again: `dinat-deploy build",
    ),
    "plan with more behind it": (
        lambda w: w.plan.write_bytes(PLAN + b"{}"),
        r"model\.plan has 1006 bytes, and engine\.json was written for 1004",
        "dinat-deploy build",
    ),
    "one byte changed": (
        one_byte,
        r"model\.plan was changed after it was built: it has SHA-256 \w{12}\.\.\., and engine\.json was written for \w{12}",
        "dinat-deploy build",
    ),
    "plan of another engine": (
        plan_of_another,
        r"model\.plan is the plan of the engine tensorrt-rtx-body, not of tensorrt-rtx-plugin",
        r"Run \S+tensorrt-rtx-body, or bring back",
    ),
    "manifest missing": (
        lambda w: (w.folder / "engine.json").unlink(),
        r"is not an engine: it has no engine\.json",
        "dinat-deploy build",
    ),
    "manifest no JSON": (
        lambda w: (w.folder / "engine.json").write_text('{"format_version": 1'),
        r"engine\.json is not readable JSON",
        "Build the engine again",
    ),
    "manifest of a newer format": (
        lambda w: w.manifest(format_version=7),
        r"engine\.json has format 7; this dinat-deploy reads up to 1",
        "Upgrade dinat-deploy",
    ),
    "manifest with an impossible value": (
        lambda w: w.manifest(plan={"file": "model.plan", "sha256": "0", "bytes": "many"}),
        r"engine\.json is not valid: plan\.bytes: ",
        "Build the engine again",
    ),
    "weights stripped": (
        lambda w: w.write(options=BuilderOptions(strip_weights=True)),
        "was built with --strip-weights: its plan has no weights",
        "leave --strip-weights out. Build it again: `dinat-deploy build",
    ),
    "other flavour": (
        lambda w: w.on(flavor="tensorrt", version="10.13.3.9"),
        r"was built by TensorRT-RTX 1\.7\.1\.116, and TensorRT cannot run it",
        "Run it with TensorRT-RTX, or build one: `dinat-deploy build ... --backend tensorrt`",
    ),
    "TensorRT missing": (
        lambda w: w.on(version=None),
        r"needs TensorRT-RTX 1\.7\.1\.116, and none is installed here",
        r"`pip install tensorrt-rtx==1\.7\.1\.116`",
    ),
    "other TensorRT-RTX": (
        lambda w: w.on(version="1.7.2.3"),
        r"was built by TensorRT-RTX 1\.7\.1\.116 and runs in no other version; 1\.7\.2\.3 is installed",
        r"`pip install tensorrt-rtx==1\.7\.1\.116`, or build it again: `dinat-deploy build",
    ),
    "other TensorRT": (
        lambda w: (w.full(), w.on(version="10.13.2.6")),
        r"was built by TensorRT 10\.13\.3\.9 and runs in no other version; 10\.13\.2\.6 is installed",
        r"`pip install tensorrt==10\.13\.3\.9`",
    ),
    "older TensorRT than a version compatible engine": (
        lambda w: (w.full(BuilderOptions(version_compatible=True)), w.on(version="10.3.0")),
        r"was built by TensorRT 10\.13\.3\.9 and runs in that and in later ones of the same major version; 10\.3\.0 is installed",
        r"`pip install tensorrt==10\.13\.3\.9`",
    ),
    "next major version": (
        lambda w: (w.full(BuilderOptions(version_compatible=True)), w.on(version="11.0.0.114")),
        r"runs in that and in later ones of the same major version; 11\.0\.0\.114 is installed",
        "dinat-deploy build",
    ),
    "other processor": (
        lambda w: (w.full(), w.on(platform="Linux aarch64")),
        "was built on Linux x86_64, and this machine is Linux aarch64",
        "dinat-deploy build",
    ),
    "no GPU": (
        lambda w: w.on(gpu=None),
        "runs on an NVIDIA GPU of compute capability 86, 89, and this machine has none, or no driver",
        "Run it on a machine with such a GPU",
    ),
    "GPU that was not built for": (
        lambda w: w.on(gpu=Gpu(name="NVIDIA GeForce RTX 5090", capability="120")),
        "was built for compute capability 86, 89, and the NVIDIA GeForce RTX 5090 in this machine has compute capability 120",
        "--arch 86,89,120`",
    ),
    "other kind of GPU": (
        lambda w: (w.full(), w.on(gpu=RTX_4090)),
        "was built on a NVIDIA RTX A4000 with compute capability 86, and the NVIDIA GeForce RTX 4090 in this machine has compute capability 89",
        "With --hardware-compatibility ampere",
    ),
    "other capability than the same one": (
        lambda w: (w.full(BuilderOptions(hardware_compatibility="same-capability")), w.on(gpu=RTX_4090)),
        "was built on a NVIDIA RTX A4000 with compute capability 86, and the NVIDIA GeForce RTX 4090",
        "dinat-deploy build",
    ),
    "older than Ampere": (
        lambda w: (
            w.full(BuilderOptions(hardware_compatibility="ampere+")),
            w.on(gpu=Gpu(name="Tesla T4", capability="75")),
        ),
        "runs on GPUs from Ampere on .compute capability 80., and the Tesla T4 in this machine has compute capability 75",
        "dinat-deploy build",
    ),
    "no accelerator": (
        lambda w: (w.full(BuilderOptions(dla_core=0)), w.on(dla_cores=0)),
        "runs on core 0 of the deep learning accelerator, and this machine has none: only Jetsons do",
        "Without --dla-core it runs on the GPU",
    ),
    "core that is not there": (
        lambda w: (w.full(BuilderOptions(dla_core=1)), w.on(dla_cores=1)),
        "runs on core 1 of the deep learning accelerator, and this machine has 1, numbered from 0",
        "Without --dla-core",
    ),
    "plugin missing": (
        lambda w: w.on(plugin=None),
        r"calls the plugin NeighborhoodAttention2D of libdinat_tensorrt\.so, which is not here\.",
        "`dinat-deploy plugin build`, or build the engine again with --embed-plugin",
    ),
    "named plugin missing": (
        lambda w: w.on(plugin=w.root / "gone.so"),
        r"calls the plugin NeighborhoodAttention2D of libdinat_tensorrt\.so, which is not here: there is no \S+gone\.so",
        "`dinat-deploy plugin build`",
    ),
    "other plugin": (
        other_library,
        r"was built with a libdinat_tensorrt\.so of SHA-256 \w{12}\.\.\., and \S+libdinat_tensorrt\.so has \w{12}",
        "Name that library with --plugin-library, or build it again: `dinat-deploy build",
    ),
    "shape outside of the profile": (
        lambda w: None,
        "was built for image=1x3x64x64:2x3x64x64:4x3x64x64 .smallest:best:largest shape., and image=8x3x64x64 is asked for",
        "--profile image=8x3x64x64`",
    ),
    "other ONNX file": (
        lambda w: (w.root / "model.onnx").write_bytes(b"exported again"),
        r"was built from an ONNX file with SHA-256 \w{12}\.\.\., and \S+model\.onnx has",
        "dinat-deploy build",
    ),
    "other weights": (
        lambda w: (w.root / "model.onnx.data").write_bytes(b"trained more"),
        r"was built from an ONNX file with weights of SHA-256 \w{12}\.\.\., and \S+model\.onnx\.data has",
        "dinat-deploy build",
    ),
    "host code from somewhere": (
        lambda w: w.write(host_code=["the lean runtime of TensorRT 10.13.3.9"]),
        r"holds host code, which runs with your rights when it is loaded .the lean runtime of TensorRT 10\.13\.3\.9., and this plan, SHA-256 \w{12}\.\.\., was neither built nor trusted on this machine",
        "Add --trust if you know where it comes from",
    ),
    "host code that the manifest hides": (
        lambda w: w.write(plan=PLAN + LIBRARY_INSIDE),
        r"holds host code, .*a library for x86_64, of which engine\.json says nothing",
        "Add --trust",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused_with_both_sides_and_a_cure(name: str, world: World) -> None:
    prepare, cause, cure = BAD[name]
    prepare(world)
    shapes = {"image": [8, 3, 64, 64]} if "profile" in name else None
    with pytest.raises(EngineError, match=f"(?s){cause}") as caught:
        world.check(shapes=shapes)
    assert re.search(cure, caught.value.cure)


def test_every_refusal_has_its_own_message() -> None:
    causes = [cause for _, cause, _ in BAD.values()]
    assert len(set(causes)) == len(causes) >= 12


@pytest.mark.parametrize(
    ("version", "code", "cause", "cure"),
    [
        ("0.2.0", (86,), r"with version 0\.1\.0 of libdinat_tensorrt\.so, and \S+ is version 0\.2\.0", "dinat-deploy==0.1.0"),
        ("0.1.0", (89, 120), r"has code for sm_89, sm_120, and the NVIDIA RTX A4000 in this machine has compute capability 86", "`dinat-deploy plugin build --arch 86`"),
    ],
)  # fmt: skip
def test_a_plugin_of_ours_is_looked_into(
    version: str,
    code: tuple[int, ...],
    cause: str,
    cure: str,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "library_info", ours(version, code))
    with pytest.raises(EngineError, match=cause) as caught:
        world.check()
    assert cure in caught.value.cure
    monkeypatch.setattr(checks, "library_info", ours())
    assert world.check() == []


def test_an_engine_without_a_plugin_or_with_it_inside_needs_no_library(
    world: World, tmp_path: Path
) -> None:
    engine = open_engine(world.folder)
    plugin = engine.manifest.plugin
    assert plugin is not None
    for own in (None, plugin.model_copy(update={"embedded": True})):
        changed = Engine(engine.path, engine.manifest.model_copy(update={"plugin": own}))
        check_plugin(changed, None)
    with pytest.raises(EngineError, match="which is not here"):
        check_plugin(engine, None)


@pytest.mark.parametrize(
    ("options", "version"),
    [
        (BuilderOptions(), "10.13.3"),  # as Debian's package calls it
        (BuilderOptions(), "10.13.3.9.post1"),
        (BuilderOptions(version_compatible=True), "10.13.3.9"),
        (BuilderOptions(version_compatible=True), "10.16.1.11"),
    ],
)
def test_versions_that_may_run_an_engine(
    options: BuilderOptions, version: str, world: World
) -> None:
    world.full(options)
    world.on(version=version)
    assert world.check() == []


def test_a_bare_major_version_is_not_taken_for_the_same(world: World) -> None:
    world.full()
    world.on(version="10.13")
    with pytest.raises(EngineError, match="runs in no other version"):
        world.check()


def test_a_gpu_of_another_name_is_a_note_unless_that_was_asked_for(world: World) -> None:
    world.full()
    world.on(gpu=Gpu(name="NVIDIA GeForce RTX 3090", capability="86", driver="13.0"))
    assert [note for note in world.check() if "built on a NVIDIA RTX A4000, and this machine has a NVIDIA GeForce RTX 3090" in note]  # fmt: skip
    world.full(BuilderOptions(hardware_compatibility="same-capability"))
    world.on(gpu=Gpu(name="NVIDIA GeForce RTX 3090", capability="86", driver="13.0"))
    assert world.check() == []
    world.full(BuilderOptions(hardware_compatibility="ampere+"))
    world.on(gpu=Gpu(name="NVIDIA GeForce RTX 5090", capability="120", driver="13.0"))
    assert world.check() == []


def test_a_driver_for_an_older_cuda_is_a_note(world: World) -> None:
    world.full()
    world.on(gpu=A4000.model_copy(update={"driver": "12.8"}))
    assert ["driver for CUDA 13.0, and the one here is for CUDA 12.8" in n for n in world.check()] == [True]  # fmt: skip
    world.on(gpu=A4000.model_copy(update={"driver": "13.2"}))
    assert world.check() == []


def test_an_accelerator_is_only_refused_where_it_is_known_to_be_missing(world: World) -> None:
    world.full(BuilderOptions(dla_core=1))
    for cores in (2, None):
        world.on(dla_cores=cores)
        assert world.check() == []


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"picture": [1, 3, 64, 64]}, "has no input picture; it has image batchx3x64x64"),
        ({"image": [1, 3, 64, 65]}, "takes image batchx3x64x64, and 1x3x64x65 is asked for"),
        ({"image": [1, 64, 64]}, "takes image batchx3x64x64, and 1x64x64 is asked for"),
    ],
)
def test_shapes_that_no_engine_of_the_model_takes_are_refused(
    shapes: dict[str, list[int]], message: str, world: World
) -> None:
    with pytest.raises(EngineError, match=message):
        world.check(shapes=shapes)


def test_the_model_is_compared_wherever_it_is_named_and_may_be_away(
    world: World, tmp_path: Path
) -> None:
    other = model_in(tmp_path / "elsewhere")
    world.on(onnx=other)
    assert world.check() == []
    world.on(onnx=other.parent)  # a bundle
    assert world.check() == []
    other.write_bytes(b"not that")
    with pytest.raises(EngineError, match=r"elsewhere/model\.onnx has"):
        world.check()
    world.on(onnx=None)
    (tmp_path / "model.onnx").unlink()
    assert world.check() == []


def test_host_code_runs_once_it_was_built_or_trusted_here(world: World) -> None:
    world.write(plan=PLAN + LIBRARY_INSIDE, host_code=["the plugin library libdinat_tensorrt.so"])
    engine = open_engine(world.folder)
    with pytest.raises(EngineError, match="neither built nor trusted"):
        world.check()
    assert world.check(trust=True) == []
    assert world.check() == []  # remembered
    assert [json.loads(line)["how"] for line in trust.record_path().read_text().splitlines()] == [
        "trusted"
    ]
    # Another plan with the same manifest but for its digest is another plan.
    world.write(plan=PLAN + LIBRARY_INSIDE + b"!", host_code=engine.manifest.host_code)
    with pytest.raises(EngineError, match="neither built nor trusted"):
        world.check()
    trust.remember(open_engine(world.folder).manifest.plan.sha256, world.plan, "built")
    assert world.check() == []


def test_trust_does_not_excuse_a_changed_plan(world: World) -> None:
    world.write(plan=PLAN + LIBRARY_INSIDE, host_code=["the plugin library"])
    one_byte(world)
    with pytest.raises(EngineError, match="was changed after it was built"):
        world.check(trust=True)
    assert not trust.record_path().exists()


def test_a_record_that_cannot_be_written_is_a_note(world: World, tmp_path: Path) -> None:
    world.write(plan=PLAN + LIBRARY_INSIDE)
    (tmp_path / "data").write_text("a file stands where the folder should be")
    (note,) = world.check(trust=True)
    assert "has to be trusted again the next time" in note


def test_kernels_for_the_gpu_are_no_host_code(world: World) -> None:
    world.write(plan=PLAN + KERNEL_INSIDE)
    assert host_code(open_engine(world.folder)) == []
    assert world.check() == []


def test_a_plan_without_manifest_always_needs_trust(world: World) -> None:
    with pytest.raises(EngineError, match=r"has no engine\.json beside it") as caught:
        check_bare_plan(world.plan)
    assert "--trust" in caught.value.cure
    (note,) = check_bare_plan(world.plan, trust=True)
    assert "nothing about it could be checked" in note
    with pytest.raises(EngineError, match="There is no plan"):
        check_bare_plan(world.root / "gone.plan", trust=True)


def test_looking_around_tells_what_is_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checks, "current_gpu", lambda: A4000)
    monkeypatch.setattr(checks, "dla_cores", lambda: 2)
    monkeypatch.setattr(checks, "installed_version", lambda flavor: "10.3.0")
    monkeypatch.setattr(checks, "find_library", lambda name: tmp_path / "found.so")
    here = look_around("tensorrt")
    assert (here.version, here.gpu, here.plugin) == ("10.3.0", A4000, tmp_path / "found.so")
    assert (here.dla_cores, here.onnx) == (2, None)
    assert look_around("tensorrt", plugin_library=tmp_path / "x").plugin == tmp_path / "x"

    def missing(flavor: str) -> str:
        raise MissingDependencyError("none")

    monkeypatch.setattr(checks, "installed_version", missing)
    assert look_around("tensorrt").version is None


def test_nothing_is_loaded_to_check_an_engine(world: World) -> None:
    """Neither TensorRT nor the plugin: their code would run before it is known what it is."""
    code = (
        "import sys\n"
        "from dinat_deploy.engine.checks import check_engine, look_around\n"
        "from dinat_deploy.engine.manifest import open_engine\n"
        "from dinat_deploy.errors import EngineError\n"
        "try:\n"
        f"    check_engine(open_engine({str(world.folder)!r}), look_around('tensorrt-rtx'))\n"
        "except EngineError as error:\n"
        "    print(error.cause.split()[0].rsplit('/', 1)[-1])\n"
        "heavy = ('tensorrt', 'tensorrt_rtx', 'torch', 'onnx')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["tensorrt-rtx-plugin", "[]"]


def test_a_manifest_from_before_platforms_were_noted_fits_any(world: World) -> None:
    world.full(runtime=Runtime(flavor="tensorrt", version="10.13.3.9"))
    world.on(platform="Linux aarch64")
    assert world.check() == []
