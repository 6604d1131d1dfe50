"""deploy: what is done, what is not done twice, and what makes a step be done again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinat_deploy.engine.builder import BuilderOptions
from dinat_deploy.engine.manifest import open_engine
from dinat_deploy.errors import (
    BundleError,
    ConfigError,
    DinatDeployError,
    EngineError,
    OutputError,
)
from dinat_deploy.pipeline import deploy_steps, deploying
from dinat_deploy.pipeline.building import build
from dinat_deploy.pipeline.deploy_record import RECORD, read_record, request_key
from dinat_deploy.pipeline.deploy_steps import DeployOptions, FailedStepError
from dinat_deploy.pipeline.deploying import DeployReport, deploy
from dinat_deploy.pipeline.requests import ModelRequest
from dinat_deploy.progress import Silent

BUILD: dict[str, Any] = {
    "backend": "tensorrt-rtx", "plugin": False, "architectures": ["86"], "optimization_level": 0,
}  # fmt: skip
OPTIONS = DeployOptions(export={"verify": False}, build=BUILD, run=False)


@pytest.fixture(autouse=True)
def _no_plugin_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(tmp_path / "native"))


@pytest.fixture(scope="module")
def request_(tiny_config_file: Path) -> ModelRequest:
    return ModelRequest(config=tiny_config_file, depths=(1, 1), dilations="1/2", seed=3)


@pytest.fixture(scope="module")
def deployed_once(request_: ModelRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that was deployed. Do not change it."""
    bundle = tmp_path_factory.mktemp("deployed") / "b"
    deploy(request_, bundle, options=OPTIONS)
    return bundle


@pytest.fixture
def deployed(
    request_: ModelRequest, deployed_once: Path, tmp_path: Path
) -> tuple[ModelRequest, Path]:
    """A request, and a copy of the bundle that was deployed of it."""
    return request_, shutil.copytree(deployed_once, tmp_path / "b")


def states(report: DeployReport) -> dict[str, str]:
    return {step.name: step.state for step in report.steps}


@pytest.mark.rtx
def test_a_deployment_exports_and_builds_and_says_what_is_left(
    request_: ModelRequest, tmp_path: Path
) -> None:
    report = deploy(request_, tmp_path / "b", options=OPTIONS)
    assert states(report) == {
        "export": "done now", "build": "done now", "verify": "skipped", "bench": "skipped",
    }  # fmt: skip
    assert report.engine == tmp_path / "b" / "engines" / "tensorrt-rtx-body"
    open_engine(report.engine).check_plan()
    assert "2 attention nodes" in report.steps[0].text
    assert "2 nodes from the body" in report.steps[1].text
    assert json.loads(json.dumps(report.to_dict()))["passed"] is True


@pytest.mark.rtx
def test_nothing_is_done_twice(deployed: tuple[ModelRequest, Path]) -> None:
    request, bundle = deployed
    plan = bundle / "engines" / "tensorrt-rtx-body" / "model.plan"
    before = plan.stat().st_mtime_ns
    report = deploy(request, bundle, options=OPTIONS)
    assert states(report)["export"] == states(report)["build"] == "done before"
    assert plan.stat().st_mtime_ns == before


@pytest.mark.rtx
def test_the_second_time_neither_pytorch_nor_onnx_is_imported(
    deployed: tuple[ModelRequest, Path],
) -> None:
    request, bundle = deployed
    program = (
        "import sys, ast\n"
        "from dinat_deploy.pipeline.deploying import deploy\n"
        "from dinat_deploy.pipeline.deploy_steps import DeployOptions\n"
        "from dinat_deploy.pipeline.requests import ModelRequest\n"
        f"request = ModelRequest(config={str(request.config)!r}, depths=(1, 1), dilations='1/2', seed=3)\n"
        f"options = DeployOptions(export={{'verify': False}}, build={BUILD!r}, run=False)\n"
        f"report = deploy(request, {str(bundle)!r}, options=options)\n"
        "print([step.state for step in report.steps])\n"
        "print([name for name in ('torch', 'onnx', 'tensorrt_rtx') if name in sys.modules])\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert said == ["['done before', 'done before', 'skipped', 'skipped']", "[]"]


def _reseed(request: ModelRequest, bundle: Path) -> tuple[ModelRequest, DeployOptions]:
    return ModelRequest(config=request.config, depths=(1, 1), dilations="1/2", seed=4), OPTIONS


def _other_level(request: ModelRequest, bundle: Path) -> tuple[ModelRequest, DeployOptions]:
    build = {**BUILD, "optimization_level": 1}
    return request, DeployOptions(export=OPTIONS.export, build=build, run=False)


def _damage_the_plan(request: ModelRequest, bundle: Path) -> tuple[ModelRequest, DeployOptions]:
    plan = bundle / "engines" / "tensorrt-rtx-body" / "model.plan"
    plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    return request, OPTIONS


def _damage_the_model(request: ModelRequest, bundle: Path) -> tuple[ModelRequest, DeployOptions]:
    with (bundle / "model.onnx").open("ab") as stream:
        stream.write(b"?")
    return request, OPTIONS


def _lose_the_reference(request: ModelRequest, bundle: Path) -> tuple[ModelRequest, DeployOptions]:
    (bundle / "reference.npz").unlink()
    return request, OPTIONS


def _edit_the_manifest(request: ModelRequest, bundle: Path) -> tuple[ModelRequest, DeployOptions]:
    manifest = bundle / "engines" / "tensorrt-rtx-body" / "engine.json"
    manifest.write_text(manifest.read_text().replace('"86"', '"120"'))
    return request, OPTIONS


def _build_another_there(request: ModelRequest, bundle: Path) -> tuple[ModelRequest, DeployOptions]:
    build(bundle, **{**BUILD, "architectures": ["89"]})
    return request, OPTIONS


def _damage_the_record(request: ModelRequest, bundle: Path) -> tuple[ModelRequest, DeployOptions]:
    (bundle / RECORD).write_text("{")
    return request, OPTIONS


def _force(request: ModelRequest, bundle: Path) -> tuple[ModelRequest, DeployOptions]:
    return request, DeployOptions(export=OPTIONS.export, build=BUILD, run=False, force=True)


@pytest.mark.rtx
@pytest.mark.parametrize(
    ("change", "again"),
    [
        (_reseed, ["export", "build"]),
        (_other_level, ["build"]),
        (_damage_the_plan, ["build"]),
        (_damage_the_model, ["export", "build"]),
        (_damage_the_record, ["export", "build"]),
        (_lose_the_reference, ["export", "build"]),
        (_edit_the_manifest, ["build"]),
        (_build_another_there, ["build"]),
        (_force, ["export", "build"]),
    ],
)
def test_what_changed_is_done_again_with_all_that_follows(
    deployed: tuple[ModelRequest, Path],
    change: Callable[[ModelRequest, Path], tuple[ModelRequest, DeployOptions]],
    again: list[str],
) -> None:
    request, options = change(*deployed)
    foreseen = deploy(request, deployed[1], options=options, dry_run=True)
    report = deploy(request, deployed[1], options=options)
    assert [name for name, state in states(report).items() if state == "done now"] == again
    first = next(name for name, state in states(foreseen).items() if state == "to do")
    assert first == again[0]
    open_engine(deployed[1] / "engines" / "tensorrt-rtx-body").check_plan()


def test_a_dry_run_writes_nothing(request_: ModelRequest, tmp_path: Path) -> None:
    report = deploy(request_, tmp_path / "b", options=OPTIONS, dry_run=True)
    assert states(report) == {
        "export": "to do", "build": "to do", "verify": "skipped", "bench": "skipped",
    }  # fmt: skip
    assert report.engine is None
    assert not (tmp_path / "b").exists()


@pytest.mark.rtx
def test_a_stopped_deployment_goes_on_where_it_stopped(
    request_: ModelRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deploy_steps, "build", interrupted)
        with pytest.raises(KeyboardInterrupt):
            deploy(request_, tmp_path / "b", options=OPTIONS)
    assert list(read_record(tmp_path / "b").steps) == ["export"]
    assert not list(tmp_path.glob("**/*.partial"))
    report = deploy(request_, tmp_path / "b", options=OPTIONS)
    assert states(report)["export"] == "done before"
    assert states(report)["build"] == "done now"


@pytest.mark.rtx
def test_an_engine_in_float16_is_built_from_a_converted_model(
    deployed: tuple[ModelRequest, Path],
) -> None:
    request, bundle = deployed
    options = DeployOptions(export=OPTIONS.export, precision="fp16", build=BUILD, run=False)
    report = deploy(request, bundle, options=options)
    assert list(states(report).items())[:3] == [
        ("export", "done before"), ("precision", "done now"), ("build", "done now"),
    ]  # fmt: skip
    assert report.engine == bundle / "engines" / "tensorrt-rtx-body-fp16"
    assert open_engine(report.engine).manifest.precision.startswith("float16")
    again = states(deploy(request, bundle, options=options))
    assert {again[name] for name in ("export", "precision", "build")} == {"done before"}
    (bundle / "model.fp16.onnx").unlink()
    foreseen = states(deploy(request, bundle, options=options, dry_run=True))
    assert (foreseen["precision"], foreseen["build"]) == ("to do", "to do")


def test_int8_is_calibrated_on_the_images_that_are_named(
    deployed_once: Path, tmp_path: Path
) -> None:
    bundle, data = tmp_path / "b", tmp_path / "images.npz"
    shutil.copytree(deployed_once, bundle)
    with pytest.raises(ConfigError, match="int8 needs images to calibrate on"):
        deploy(bundle, options=DeployOptions(precision="int8", build=BUILD, run=False))

    def step(seed: int) -> deploy_steps.Precision:
        images = np.random.default_rng(seed).normal(size=(4, 3, 64, 64))
        np.savez(data, images=images.astype(np.float32))
        return deploy_steps.Precision(bundle, "int8", {"data": str(data), "limit": 3})

    first = step(1)
    before = first.key()
    assert first.run(Silent()).startswith("int8 for ")
    assert [path.name for path in first.files() if path.exists()] == ["model.int8.onnx"]
    assert first.key() == before
    calibration = json.loads((bundle / "calibration.json").read_text())
    assert calibration["data"]["images"] == 3
    assert step(2).key() != before


@pytest.mark.rtx
def test_engines_of_two_precisions_stand_side_by_side(deployed: tuple[ModelRequest, Path]) -> None:
    request, bundle = deployed
    half = DeployOptions(export=OPTIONS.export, precision="fp16", build=BUILD, run=False)
    deploy(request, bundle, options=half)
    for options in (OPTIONS, half):
        assert "done now" not in states(deploy(request, bundle, options=options)).values()


@pytest.mark.rtx
def test_a_build_that_is_stopped_after_it_replaced_the_engine_is_done_again(
    deployed: tuple[ModelRequest, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    request, bundle = deployed
    other = DeployOptions(
        export=OPTIONS.export, build={**BUILD, "architectures": ["89"]}, run=False
    )

    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deploying, "digests", stopped)  # right after the engine is in its place
        with pytest.raises(KeyboardInterrupt):
            deploy(request, bundle, options=other)
    report = deploy(request, bundle, options=OPTIONS)
    assert states(report)["build"] == "done now"
    assert open_engine(bundle / "engines" / "tensorrt-rtx-body").manifest.architectures == ["86"]


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["999"]}, "does not build for compute capability 999"),
        ({"backend": "openvino"}, "Unknown backend"),
        ({"options": BuilderOptions(dla_core=0)}, "DLA|accelerator"),
    ],
)
def test_what_the_backend_cannot_do_is_said_before_the_export(
    request_: ModelRequest, tmp_path: Path, changes: dict[str, Any], message: str, dry_run: bool
) -> None:
    options = DeployOptions(export=OPTIONS.export, build={**BUILD, **changes}, run=False)
    with pytest.raises(DinatDeployError, match=message):
        deploy(request_, tmp_path / "b", options=options, dry_run=dry_run)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("options", "cause", "cure"),
    [
        (
            {"build": {"bakend": "tensorrt-rtx"}},
            "'bakend' in DeployOptions(build=...)",
            "'backend'",
        ),
        ({"export": {"output": "b"}}, "'output' in DeployOptions(export=...)", "There are batch, "),
        ({"verify": {"rtoll": 1}, "run": True}, "'rtoll' in DeployOptions(verify=...)", "'rtol'"),
        ({"bench": {"secs": 1}, "run": True}, "'secs' in DeployOptions(bench=...)", "duration"),
    ],
)
def test_an_option_that_a_step_does_not_have_is_named_before_anything_is_done(
    options: dict[str, Any], cause: str, cure: str, request_: ModelRequest, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        deploy(request_, tmp_path / "b", options=DeployOptions(**{"run": False} | options))
    assert cause in caught.value.cause
    assert cure in caught.value.cure
    assert not (tmp_path / "b").exists()


def test_files_and_places_are_looked_at_in_a_dry_run_too(
    tiny_config_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        deploy(ModelRequest(config="nope.json"), tmp_path / "b", options=OPTIONS, dry_run=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    request = ModelRequest(config=tiny_config_file)
    with pytest.raises(OutputError, match="is a directory with other content"):
        deploy(request, tmp_path / "mine", options=OPTIONS, dry_run=True)


def test_a_path_that_is_no_bundle_is_not_taken_for_a_model(
    tiny_bundle: Path, tiny_config_file: Path
) -> None:
    with pytest.raises(BundleError, match=r"is a file in a bundle.*deploy .*tiny`"):
        deploy(tiny_bundle / "model.onnx", options=OPTIONS)
    for path in (tiny_config_file, "out/nowhere"):
        with pytest.raises(BundleError, match="neither a bundle nor the name of a published"):
            deploy(path, options=OPTIONS)


@pytest.mark.rtx
def test_an_existing_bundle_gets_its_engine(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "b")
    report = deploy(bundle, options=OPTIONS)
    assert states(report) == {"build": "done now", "verify": "skipped", "bench": "skipped"}
    assert states(deploy(bundle, options=OPTIONS))["build"] == "done before"


def test_a_bundle_has_a_place_already(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a bundle already"):
        deploy(tiny_bundle, tmp_path / "elsewhere", options=OPTIONS)


def test_running_the_engine_needs_a_gpu_and_that_is_said_before_the_export(
    request_: ModelRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploying, "current_capability", lambda: None)
    with pytest.raises(EngineError, match=r"this machine has none. Add --no-run"):
        deploy(request_, tmp_path / "b", options=DeployOptions(build=BUILD))
    assert not (tmp_path / "b").exists()


@pytest.mark.rtx
def test_an_engine_that_differs_is_not_measured_and_compared_again_next_time(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def differs(self: Any, progress: object) -> str:
        ran.append("verify")
        raise FailedStepError("the engine differs from PyTorch by up to 1")

    def measured(self: Any, progress: object) -> str:
        ran.append("bench")
        return "fast"

    monkeypatch.setattr(deploying, "current_capability", lambda: "86")
    monkeypatch.setattr(deploy_steps.Verify, "run", differs)
    monkeypatch.setattr(deploy_steps.Bench, "run", measured)
    bundle = shutil.copytree(tiny_bundle, tmp_path / "b")
    options = DeployOptions(build=BUILD)
    for _ in range(2):
        report = deploy(bundle, options=options)
        assert not report.passed
        assert states(report)["verify"] == "failed"
        assert "bench" not in states(report)
    assert ran == ["verify", "verify"]


def test_a_request_is_known_by_the_content_of_its_files(
    tiny_config_file: Path, tmp_path: Path
) -> None:
    copy = shutil.copy(tiny_config_file, tmp_path / "copy.json")
    first = request_key(ModelRequest(config=tiny_config_file), {"batch": 1})
    assert first == request_key(ModelRequest(config=copy), {"batch": 1})
    assert first != request_key(ModelRequest(config=copy), {"batch": 2})
    copy.write_text(copy.read_text() + " ")
    assert first != request_key(ModelRequest(config=copy), {"batch": 1})
    with pytest.raises(ConfigError, match="nowhere.pth: No such file"):
        request_key(ModelRequest(checkpoint=tmp_path / "nowhere.pth"), {})


def test_every_file_of_a_checkpoint_directory_counts(tmp_path: Path) -> None:
    (tmp_path / "c" / "sub").mkdir(parents=True)
    (tmp_path / "c" / "config.json").write_text("{}")
    (tmp_path / "c" / "sub" / "config.json").write_text("[]")
    first = request_key(ModelRequest(checkpoint=tmp_path / "c"), {})
    (tmp_path / "c" / "sub" / "config.json").write_text("{}")
    assert first != request_key(ModelRequest(checkpoint=tmp_path / "c"), {})
