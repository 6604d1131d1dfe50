"""Packages: what is in them, and what is refused before anything is written."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dinat_deploy.bundle import TensorSpec, open_bundle
from dinat_deploy.engine.builder import BuilderOptions
from dinat_deploy.engine.manifest import Engine
from dinat_deploy.engine.profiles import parse_profile
from dinat_deploy.errors import ConfigError, DinatDeployError, EngineError, OutputError
from dinat_deploy.files import sha256
from dinat_deploy.pipeline.packaging import (
    PackageReport,
    Target,
    TritonOptions,
    check_package,
    package,
)
from dinat_deploy.serving.problems import PackageError
from dinat_deploy.serving.triton_config import ModelConfig
from dinat_deploy.serving.triton_definitions import read
from tests.engine.engines import FULL, PLAN, RTX, library_in

BODY = Target(operators=False)


def config_of(package: Path, model: str) -> ModelConfig:
    return read((package / "models" / model / "config.pbtxt").read_text(encoding="utf-8"))


def network_of(source: object, place: Path, target: Target = BODY, **options: Any) -> ModelConfig:
    """The configuration of the one model that is packaged."""
    report = package([str(source)], place, target=target, options=TritonOptions(**options))
    return report.configs[0]


class TestOnnx:
    def test_all_files_are_recorded(self, batched_bundle: Path, tmp_path: Path) -> None:
        report = package([batched_bundle], tmp_path / "serve", target=BODY)
        record = json.loads((tmp_path / "serve" / "package.json").read_text())
        listed = record["files"]
        assert listed["models/tiny/1/model.onnx"] == sha256(batched_bundle / "model.onnx")
        assert set(listed) == {
            path.relative_to(tmp_path / "serve").as_posix()
            for path in (tmp_path / "serve").rglob("*")
            if path.is_file()
            and path.name not in ("package.json", "config.pbtxt", "start.sh", "README.md")
        }
        assert record["models"][0]["runtime"] == "ONNX Runtime"
        assert report.to_dict()["configs"] == [c.name for c in report.configs]

    def test_the_starting_script_starts_in_the_package(
        self, batched_bundle: Path, tmp_path: Path
    ) -> None:
        package([batched_bundle], tmp_path / "serve it", target=BODY)
        server = tmp_path / "tritonserver"
        server.write_text('#!/bin/sh\npwd\nfor word in "$@"; do echo "$word"; done\n')
        server.chmod(0o755)
        script = tmp_path / "serve it" / "start.sh"
        assert script.stat().st_mode & stat.S_IXUSR
        said = subprocess.run(
            [str(script), "--http-port=1"],
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            cwd="/",
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        place = str(tmp_path / "serve it")
        assert said == [place, f"--model-repository={place}/models", "--http-port=1"]

    def test_the_operators_library_comes_along(
        self, batched_bundle: Path, operators: Path, tmp_path: Path
    ) -> None:
        config = network_of(batched_bundle, tmp_path / "serve", Target())
        assert config.operator_libraries == ("lib/libdinat_onnxruntime.so",)
        copied = tmp_path / "serve" / "lib" / "libdinat_onnxruntime.so"
        assert copied.read_bytes() == operators.read_bytes()
        copied.unlink()
        causes = [problem.cause for problem in check_package(tmp_path / "serve").problems]
        assert any("loads the operator library" in cause for cause in causes)

    def test_without_the_library_the_body_runs_and_a_note_says_so(
        self, batched_bundle: Path, tmp_path: Path
    ) -> None:
        report = package([batched_bundle], tmp_path / "serve")
        assert report.configs[0].operator_libraries == ()
        assert any("body in standard operators" in note for note in report.notes)
        with pytest.raises(PackageError, match="was not found"):
            package([batched_bundle], tmp_path / "more", target=Target(operators=True))

    def test_on_a_gpu_a_library_without_code_for_it_is_left_out(
        self, batched_bundle: Path, operators: Path, tmp_path: Path
    ) -> None:
        config = network_of(batched_bundle, tmp_path / "serve", Target(on_gpu=True), kind="gpu")
        assert config.operator_libraries == ()
        assert config.instances[0].kind == "KIND_GPU"

    def test_a_fixed_batch_is_served_whole(self, tiny_bundle: Path, tmp_path: Path) -> None:
        report = package([tiny_bundle], tmp_path / "serve", target=BODY)
        configs = {config.name: config for config in report.configs}
        network = configs["tiny"]
        assert (network.max_batch_size, network.batching) == (0, None)
        assert network.inputs[0].dims == (1, 3, 64, 64)
        assert network.outputs[0].dims == (1, 10)
        assert network.warm_up[0].inputs[0].dims == (1, 3, 64, 64)
        assert configs["tiny_pipeline"].inputs[0].dims == (1,)
        assert configs["tiny_pipeline"].outputs[0].dims == (1, 5)
        assert check_package(tmp_path / "serve").passed

    def test_a_batch_is_not_claimed_for_a_fixed_one(
        self, tiny_bundle: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(PackageError, match="has a fixed batch: image .1 x 3 x 64 x 64"):
            network_of(tiny_bundle, tmp_path / "serve", max_batch=4)
        with pytest.raises(PackageError, match="takes no batches"):
            network_of(tiny_bundle, tmp_path / "serve", queue_delay=100)
        with pytest.raises(PackageError, match="takes no batches"):
            network_of(tiny_bundle, tmp_path / "serve", max_queue_size=5)
        assert not (tmp_path / "serve").exists()

    def test_dynamic_sizes_stay_open(self, batched_bundle: Path, tmp_path: Path) -> None:
        onnx = pytest.importorskip("onnx")
        model = onnx.load(batched_bundle / "model.onnx")
        for axis in (2, 3):  # as `export --dynamic size` leaves them
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size{axis}"
        onnx.save(model, tmp_path / "open.onnx")
        report = package(
            [tmp_path / "open.onnx"], tmp_path / "serve", target=BODY, bundle=batched_bundle
        )
        network, before = report.configs[:2]
        assert network.inputs[0].dims == (3, -1, -1)
        assert network.warm_up[0].inputs[0].dims == (3, 64, 64)  # the model's own size
        assert before.outputs[0].dims == (3, 64, 64)

    def test_options_of_the_queue(self, batched_bundle: Path, tmp_path: Path) -> None:
        network_of(
            batched_bundle, tmp_path / "serve", max_batch=6, preferred=(2, 6), queue_delay=700,
            priority_levels=3, max_queue_size=40, timeout=9000, instances=2, threads=1,
        )  # fmt: skip
        config = config_of(tmp_path / "serve", "tiny")
        assert config.max_batch_size == 6
        assert config.instances[0].count == 2
        assert config.parameters == {"intra_op_thread_count": "1"}
        batching = config.batching
        assert batching is not None
        assert (batching.preferred, batching.queue_delay) == ((2, 6), 700)
        assert (batching.priority_levels, batching.default_priority) == (3, 3)
        assert (batching.max_queue_size, batching.timeout) == (40, 9000)
        plain = network_of(batched_bundle, tmp_path / "plain", dynamic_batching=False)
        assert plain.batching is None

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"preferred": (9,)}, "Batches of 9 are preferred"),
            ({"gpus": (0,)}, "GPUs 0 are named"),
            ({"profile": 1}, "is an ONNX file, and --profile is about engines"),
        ],
    )
    def test_options_that_do_not_fit_are_refused(
        self, batched_bundle: Path, tmp_path: Path, options: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(PackageError, match=said):
            network_of(batched_bundle, tmp_path / "serve", **options)

    def test_options_that_contradict_each_other_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="contradicts"):
            TritonOptions(dynamic_batching=False, queue_delay=5)
        with pytest.raises(ConfigError, match="--gpus contradicts"):
            TritonOptions(kind="cpu", gpus=(1,))
        with pytest.raises(ConfigError, match="There is no GPU -1"):
            TritonOptions(kind="gpu", gpus=(0, -1))

    @pytest.mark.parametrize(
        "target",
        [Target(tensorrt="10.3"), Target(capability="86"), Target(plugin_library=Path("x"))],
    )
    def test_what_is_about_engines_is_refused_without_one(
        self, batched_bundle: Path, tmp_path: Path, target: Target
    ) -> None:
        with pytest.raises(ConfigError, match="is about engines, and ONNX files alone"):
            package([batched_bundle], tmp_path / "serve", target=target)

    def test_weights_beside_the_file_come_along(self, batched_bundle: Path, tmp_path: Path) -> None:
        onnx = pytest.importorskip("onnx")
        model = onnx.load(batched_bundle / "model.onnx")
        onnx.save(
            model, tmp_path / "big.onnx", save_as_external_data=True, location="w.bin",
            size_threshold=0,
        )  # fmt: skip
        report = package([tmp_path / "big.onnx"], tmp_path / "serve", target=BODY)
        version = tmp_path / "serve" / "models" / "big" / "1"
        assert (version / "w.bin").read_bytes() == (tmp_path / "w.bin").read_bytes()
        assert any("gets no pipeline" in note for note in report.notes)
        assert check_package(tmp_path / "serve").passed

    def test_a_file_without_a_body_needs_the_library(
        self, batched_bundle: Path, tmp_path: Path, native: Path
    ) -> None:
        onnx = pytest.importorskip("onnx")
        model = onnx.load(batched_bundle / "model.onnx")
        del model.functions[:]  # as `export --body none` leaves it
        bare = tmp_path / "tiny.onnx"
        onnx.save(model, bare)
        with pytest.raises(PackageError, match="has no body for NeighborhoodAttention2D"):
            package([bare], tmp_path / "serve")
        library_in(native).rename(native / "libdinat_onnxruntime.so")
        package([bare], tmp_path / "serve")
        file = tmp_path / "serve" / "models" / "tiny" / "config.pbtxt"
        text = file.read_text()
        start = text.index("model_operations")
        file.write_text(text[:start] + text[text.index("}", start) + 1 :])
        causes = [problem.cause for problem in check_package(tmp_path / "serve").problems]
        assert any("names no operator library" in cause for cause in causes)


class TestEngines:
    def test_an_engine_gets_batches_and_sizes_of_its_profile(
        self, make_engine: Callable[..., Engine], tmp_path: Path
    ) -> None:
        engine = make_engine()
        report = package([engine.path], tmp_path / "serve")
        config = report.configs[0]
        assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
        assert config.max_batch_size == 4
        assert config.batching is not None
        assert config.batching.preferred == (2, 4)
        assert config.instances[0].kind == "KIND_GPU"
        assert config.instances[0].profiles == ("0",)
        assert [sample.batch_size for sample in config.warm_up] == [1, 2, 4]
        assert report.record.models[0].runtime == "TensorRT 10.13.3.9"
        assert (tmp_path / "serve/models/tiny/1/model.plan").read_bytes() == PLAN
        assert len(report.configs) == 4  # the bundle above it says how pictures are prepared
        assert "tensorrt,plugins" not in (tmp_path / "serve" / "start.sh").read_text()
        assert check_package(tmp_path / "serve").passed

    def test_its_plugin_comes_along_and_is_loaded(
        self, make_engine: Callable[..., Engine], native: Path, tmp_path: Path
    ) -> None:
        engine = make_engine(library_in(native))
        package([engine.path], tmp_path / "serve")
        script = (tmp_path / "serve" / "start.sh").read_text()
        assert '--backend-config="tensorrt,plugins=$PWD/lib/libdinat_tensorrt.so"' in script
        library = tmp_path / "serve" / "lib" / "libdinat_tensorrt.so"
        assert check_package(tmp_path / "serve").passed
        library.write_bytes(library.read_bytes() + b"changed")
        causes = [str(problem) for problem in check_package(tmp_path / "serve").problems]
        assert any("was built with a libdinat_tensorrt.so of SHA-256" in one for one in causes)
        library.unlink()
        causes = [str(problem) for problem in check_package(tmp_path / "serve").problems]
        assert any("which is not here" in one for one in causes)

    def test_a_missing_plugin_is_refused(
        self, make_engine: Callable[..., Engine], native: Path, tmp_path: Path
    ) -> None:
        library = library_in(native)
        engine = make_engine(library)
        kept = Path(shutil.move(library, tmp_path / "kept.so"))
        with pytest.raises(EngineError, match="is not here to be packaged"):
            package([engine.path], tmp_path / "serve")
        assert not (tmp_path / "serve").exists()
        package([engine.path], tmp_path / "serve", target=Target(plugin_library=kept))
        copied = tmp_path / "serve" / "lib" / "libdinat_tensorrt.so"  # as engine.json calls it
        assert copied.read_bytes() == kept.read_bytes()

    @pytest.mark.parametrize("name", ["../../evil.so", "$(touch evil).so", 'a".so', "-x"])
    @pytest.mark.parametrize("form", ["triton", "cpp"])
    def test_a_plugin_whose_name_leaves_the_package_is_refused(
        self, make_engine: Callable[..., Engine], native: Path, tmp_path: Path, name: str, form: Any
    ) -> None:
        library = library_in(native)
        engine = make_engine(library)
        manifest = engine.path / "engine.json"
        data = json.loads(manifest.read_text())
        data["plugin"]["library"] = name
        manifest.write_text(json.dumps(data))
        with pytest.raises(PackageError, match="no name that a package can hold"):
            package([engine.path], tmp_path / "serve", package_format=form)
        assert not (tmp_path / "serve").exists()

    @pytest.mark.parametrize(
        ("target", "said"),
        [
            (Target(tensorrt="10.3.0.26"), "10.13.3.9 and runs in no other version; 10.3.0.26"),
            (Target(capability="75"), "compute capability 86, and the .* compute capability 75"),
        ],
    )
    def test_what_the_server_would_refuse_is_refused(
        self, make_engine: Callable[..., Engine], tmp_path: Path, target: Target, said: str
    ) -> None:
        engine = make_engine()
        with pytest.raises(PackageError, match=said):
            package([engine.path], tmp_path / "serve", target=target)
        fits = Target(tensorrt="10.13.3.9", capability="86")
        package([engine.path], tmp_path / "serve", target=fits)

    @pytest.mark.parametrize(
        ("changes", "options", "said"),
        [
            ({"runtime": RTX}, {}, "was built by TensorRT-RTX, and Triton"),
            ({"options": BuilderOptions(dla_core=0)}, {}, "deep learning accelerator"),
            ({"options": BuilderOptions(strip_weights=True)}, {}, "--strip-weights"),
            ({}, {"max_batch": 5}, "up to 5 are asked for, and .* was built for up to 4"),
            ({}, {"profile": 1}, "has 1 optimisation profiles, and number 1"),
            ({}, {"kind": "cpu"}, "is an engine, and --kind cpu"),
            ({}, {"threads": 2}, "is an engine, and --threads"),
            (
                {"profiles": [parse_profile("image=2x3x64x64:4x3x64x64:4x3x64x64")]},
                {},
                "for batches from 2 on",
            ),
            (
                {"inputs": [TensorSpec(name="image", dtype="float", shape=[4, 3, 64, 64])]},
                {"max_batch": 4},
                "has a fixed batch",
            ),
            (
                {"outputs": [TensorSpec(name="logits", dtype="float8", shape=["batch", 10])]},
                {},
                "type float8, which Triton does not have",
            ),
        ],
    )
    def test_what_triton_cannot_serve_is_refused(
        self,
        make_engine: Callable[..., Engine],
        tmp_path: Path,
        changes: dict[str, Any],
        options: dict[str, Any],
        said: str,
    ) -> None:
        engine = make_engine(**changes)
        with pytest.raises(DinatDeployError, match=said):
            network_of(engine.path, tmp_path / "serve", Target(), **options)
        assert not (tmp_path / "serve").exists()

    def test_host_code_needs_trust_and_is_allowed_at_the_start(
        self, make_engine: Callable[..., Engine], tmp_path: Path
    ) -> None:
        engine = make_engine(host_code=["a lean runtime"])
        with pytest.raises(EngineError, match="holds host code"):
            package([engine.path], tmp_path / "serve")
        package([engine.path], tmp_path / "serve", target=Target(trust=True))
        script = (tmp_path / "serve" / "start.sh").read_text()
        assert "--backend-config=tensorrt,version-compatible=true" in script
        assert "a lean runtime" in (tmp_path / "serve" / "README.md").read_text()

    def test_a_changed_plan_is_refused(
        self, make_engine: Callable[..., Engine], tmp_path: Path
    ) -> None:
        engine = make_engine()
        engine.plan_path.write_bytes(PLAN[:-1] + b"x")
        with pytest.raises(EngineError, match="was changed after it was built"):
            package([engine.path], tmp_path / "serve")

    def test_a_configuration_that_leaves_the_engine_is_found(
        self, make_engine: Callable[..., Engine], tmp_path: Path
    ) -> None:
        package([make_engine().path], tmp_path / "serve", options=TritonOptions(pipeline=False))
        file = tmp_path / "serve/models/tiny/config.pbtxt"
        text = file.read_text()
        file.write_text(text.replace("max_batch_size: 4", "max_batch_size: 8"))
        (problem,) = check_package(tmp_path / "serve").problems
        assert "the profile 0 of the engine goes up to 4" in problem.cause
        file.write_text(text.replace('profile: ["0"]', 'profile: ["3"]'))
        (problem,) = check_package(tmp_path / "serve").problems
        assert "optimisation profile 3, and the engine has 1" in problem.cause

    def test_a_plan_without_a_manifest_is_refused(
        self, make_engine: Callable[..., Engine], tmp_path: Path
    ) -> None:
        engine = make_engine()
        (engine.path / "engine.json").unlink()
        with pytest.raises(PackageError, match="has no manifest"):
            package([engine.plan_path], tmp_path / "serve")


def test_several_models_get_names_of_their_own(
    make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    engine = make_engine()
    bundle = engine.path.parent.parent
    report = package([bundle, engine.path], tmp_path / "serve", target=BODY)
    names = [config.name for config in report.configs]
    assert names[0] == "tiny_onnx"
    assert "tiny_tensorrt" in names
    assert len(set(names)) == 8
    assert check_package(tmp_path / "serve").passed
    with pytest.raises(ConfigError, match="and there are 2 models"):
        package([bundle, engine.path], tmp_path / "more", name="both")
    with pytest.raises(PackageError, match="would be called tiny_onnx"):
        package([bundle, bundle], tmp_path / "more", target=BODY)
    with pytest.raises(ConfigError, match="no name for a directory"):
        package([bundle], tmp_path / "more", name="../up")
    with pytest.raises(ConfigError, match="has 250 letters, and may have 200"):
        package([bundle], tmp_path / "more", name="a" * 250)


def test_an_older_package_is_replaced_and_nothing_else(
    batched_bundle: Path, tmp_path: Path
) -> None:
    place = tmp_path / "serve"
    package([batched_bundle], place, target=BODY)
    package([batched_bundle], place, target=BODY, options=TritonOptions(pipeline=False))
    assert [path.name for path in (place / "models").iterdir()] == ["tiny"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match="a directory with other content"):
        package([batched_bundle], other, target=BODY)
    assert [path.name for path in other.iterdir()] == ["mine.txt"]
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]


def test_nothing_is_left_of_a_package_that_fails_halfway(
    batched_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dinat_deploy.serving.triton_package.start_script", interrupted)
    with pytest.raises(KeyboardInterrupt):
        package([batched_bundle], tmp_path / "serve", target=BODY)
    assert not [path for path in tmp_path.iterdir() if "serve" in path.name]


class TestCpp:
    def pack(self, engine: Engine, place: Path, **more: Any) -> PackageReport:
        return package([engine.path], place, package_format="cpp", **more)

    def test_everything_is_in_it(
        self, make_engine: Callable[..., Engine], native: Path, tmp_path: Path
    ) -> None:
        engine = make_engine(library_in(native), runtime=RTX)
        report = self.pack(engine, tmp_path / "run")
        listed = set(report.record.files)
        assert {
            "engine/model.plan", "engine/engine.json", "engine/model.json",
            "lib/libdinat_tensorrt.so", "source/CMakeLists.txt", "source/src/main.cpp", "run.sh",
        } <= listed  # fmt: skip
        checked = check_package(tmp_path / "run")
        assert (checked.passed, checked.format) == (True, "cpp")
        labels = open_bundle(tmp_path / "run" / "engine").manifest.labels
        assert labels is not None
        assert len(labels) == 10

    def test_one_command_runs_it(
        self, make_engine: Callable[..., Engine], native: Path, tmp_path: Path
    ) -> None:
        """With a program that only says how it was called."""
        self.pack(make_engine(library_in(native), runtime=RTX), tmp_path / "run here")
        place = tmp_path / "run here"
        (place / "bin").mkdir()
        program = place / "bin" / "dinat_run"
        program.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
        program.chmod(0o755)
        said = subprocess.run(
            ["sh", str(place / "run.sh"), "--top", "1", "cat.jpg"],
            capture_output=True, text=True, check=True, cwd="/",
        ).stdout.splitlines()  # fmt: skip
        assert said == [
            "--engine", f"{place}/engine", "--plugin", f"{place}/lib/libdinat_tensorrt.so",
            "--top", "1", "cat.jpg",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("path", "said"),
        [
            ("engine/model.plan", "cut off|was changed"),
            ("engine/model.json", "was changed"),
            ("lib/libdinat_tensorrt.so", "SHA-256"),
            ("source/src/main.cpp", "was changed"),
        ],
    )
    def test_what_was_changed_is_found(
        self, make_engine: Callable[..., Engine], native: Path, tmp_path: Path, path: str, said: str
    ) -> None:
        self.pack(make_engine(library_in(native), runtime=FULL), tmp_path / "run")
        file = tmp_path / "run" / path
        file.write_bytes(file.read_bytes()[:-2])
        found = check_package(tmp_path / "run")
        assert any(path in str(one) or said in str(one) for one in found.problems)
        file.unlink()
        assert not check_package(tmp_path / "run").passed

    def test_a_bundle_of_another_model_is_found(
        self, make_engine: Callable[..., Engine], tmp_path: Path
    ) -> None:
        self.pack(make_engine(), tmp_path / "run")
        file = tmp_path / "run" / "engine" / "model.json"
        data = json.loads(file.read_text())
        data["graph"]["sha256"] = "0" * 64
        file.write_text(json.dumps(data))
        causes = [one.cause for one in check_package(tmp_path / "run").problems]
        assert any("of a model with other ones" in cause for cause in causes)

    def test_what_the_runner_cannot_run_is_refused(
        self, make_engine: Callable[..., Engine], batched_bundle: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(PackageError, match="is an ONNX file, and the runner"):
            package([batched_bundle], tmp_path / "run", package_format="cpp", target=BODY)
        engine = make_engine()
        alone = Path(shutil.copytree(engine.path, tmp_path / "alone"))
        with pytest.raises(PackageError, match="Nothing says which bundle"):
            package([alone], tmp_path / "run", package_format="cpp")
        package([alone], tmp_path / "run", package_format="cpp", bundle=engine.path.parents[1])
        with pytest.raises(ConfigError, match="holds one engine"):
            package([alone, engine.path], tmp_path / "x", package_format="cpp")

    def test_a_runner_that_does_not_compile_leaves_nothing(
        self, make_engine: Callable[..., Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cmake = tmp_path / "tools" / "cmake"
        cmake.parent.mkdir()
        cmake.write_text("#!/bin/sh\necho stb_image.h was not found >&2\nexit 1\n")
        cmake.chmod(0o755)
        monkeypatch.setenv("PATH", f"{cmake.parent}:{os.environ['PATH']}")
        with pytest.raises(PackageError, match=r"does not compile here: stb_image.h was not found"):
            self.pack(make_engine(), tmp_path / "run", compile_runner=True)
        assert not (tmp_path / "run").exists()
