"""verify and infer on engines, on a simulated GPU: what they compare, skip, refuse and say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from dinat_deploy.bundle import open_bundle
from dinat_deploy.engine import checks
from dinat_deploy.engine.builder import Gpu
from dinat_deploy.errors import (
    BundleError,
    ConfigError,
    DinatDeployError,
    EngineError,
    MissingDependencyError,
)
from dinat_deploy.files import sha256
from dinat_deploy.pipeline import verifying
from dinat_deploy.pipeline.artefacts import open_artefact
from dinat_deploy.pipeline.inferring import infer
from dinat_deploy.pipeline.verifying import verify
from tests.session.simulator.machine import SimulatedMachine, simulated_gpu

__all__ = ["simulated_gpu"]  # a fixture, used by name

SMALL, BEST, LARGE = [1, 3, 48, 48], [2, 3, 64, 64], [3, 3, 64, 96]


@pytest.fixture
def machine(
    simulated_gpu: SimulatedMachine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> SimulatedMachine:
    """The simulated GPU, also seen by the checks before an engine is loaded."""
    gpu = Gpu(name="NVIDIA Simulated 4090", capability="89", driver="13.0")
    monkeypatch.setattr(checks, "current_gpu", lambda: gpu)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("DINAT_NATIVE_DIR", str(tmp_path / "no libraries"))
    return simulated_gpu


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def engine(machine: SimulatedMachine, bundle: Path) -> Path:
    """An engine of the tiny classifier, in its bundle."""
    return machine.engine(bundle, bundle / "engines" / "tensorrt-body")


@pytest.fixture
def photo(tmp_path: Path, rng: np.random.Generator) -> Path:
    Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(tmp_path / "p.png")
    return tmp_path / "p.png"


def edit(engine: Path, **changes: Any) -> None:
    """Change fields of the manifest."""
    path = engine / "engine.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def run_instead(engine: Path, model: str) -> None:
    """Let the simulated TensorRT, whose plans name their model, compute another one."""
    plan = engine / "model.plan"
    plan.write_bytes(plan.read_bytes().replace(b"model.onnx", model.encode()))
    data = json.loads((engine / "engine.json").read_text())
    measured = {"sha256": sha256(plan), "bytes": plan.stat().st_size}
    edit(engine, plan={**data["plan"], **measured})


class TestVerify:
    def test_an_engine_is_compared_with_the_pytorch_model_of_the_bundle_around_it(
        self, engine: Path, photo: Path
    ) -> None:
        report = verify(engine, images=[photo])
        assert report.passed
        assert report.candidate.startswith("TensorRT 10.13")
        assert report.reference.startswith("PyTorch")
        assert report.device == "NVIDIA Simulated 4090"
        assert [case.origin for case in report.cases] == ["recorded"] * 2 + ["random", "image"]
        assert max(case.outputs["logits"].max_abs for case in report.cases) < 1e-5

    def test_a_plan_stands_for_the_engine_that_it_lies_in(self, engine: Path) -> None:
        assert verify(engine / "model.plan", random_cases=0).passed

    def test_a_wrong_engine_fails(self, bundle: Path, engine: Path) -> None:
        model = onnx.load(bundle / "model.onnx")
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "dilation":
                    attribute.ints[:] = [1, 1]
        onnx.save(model, bundle / "wrong.onnx")
        run_instead(engine, "wrong.onnx")
        report = verify(engine)
        assert not report.passed
        # The limit of half precision, which is much wider, finds it as well.
        edit(engine, precision="float16")
        assert not verify(engine).passed

    def test_smallest_best_and_largest_shapes_are_compared(
        self, machine: SimulatedMachine, dynamic_bundle: Path, tmp_path: Path
    ) -> None:
        engine = machine.engine(
            dynamic_bundle, tmp_path / "e", profiles=[{"image": (SMALL, BEST, LARGE)}]
        )
        report = verify(engine, bundle=dynamic_bundle, random_cases=2)
        assert report.passed
        made_up = [case.shapes["image"] for case in report.cases if case.origin == "random"]
        assert made_up == [SMALL, SMALL, BEST, BEST, LARGE, LARGE]
        assert report.cases[-1].name == "random 1001, 3x3x64x96"

    def test_recorded_cases_outside_of_the_profiles_are_left_out_with_a_note(
        self, machine: SimulatedMachine, dynamic_bundle: Path, tmp_path: Path
    ) -> None:
        engine = machine.engine(
            dynamic_bundle, tmp_path / "e", profiles=[{"image": (BEST, BEST, BEST)}]
        )
        report = verify(engine, bundle=dynamic_bundle)
        recorded = [case.shapes["image"] for case in report.cases if case.origin == "recorded"]
        all_recorded = [
            list(c.inputs["image"].shape) for c in open_bundle(dynamic_bundle).reference()
        ]
        assert recorded == [shape for shape in all_recorded if shape == BEST]
        missing = [note for note in report.notes if "does not take the recorded case" in note]
        assert len(missing) == len(all_recorded) - len(recorded) > 0

    def test_shapes_of_choice_replace_the_corners(
        self, machine: SimulatedMachine, dynamic_bundle: Path, tmp_path: Path
    ) -> None:
        engine = machine.engine(
            dynamic_bundle, tmp_path / "e", profiles=[{"image": (SMALL, BEST, LARGE)}]
        )
        report = verify(engine, bundle=dynamic_bundle, shapes=["image=3x3x48x64"])
        made_up = [case.shapes["image"] for case in report.cases if case.origin == "random"]
        assert made_up == [[3, 3, 48, 64]]
        with pytest.raises(EngineError, match=r"was built for .*, and image=4x3x48x48 is asked"):
            verify(engine, bundle=dynamic_bundle, shapes=["image=4x3x48x48"])

    def test_shapes_that_would_take_minutes_are_left_out_with_a_note(
        self, machine: SimulatedMachine, dynamic_bundle: Path, tmp_path: Path
    ) -> None:
        huge = [300, 3, 96, 96]
        engine = machine.engine(
            dynamic_bundle, tmp_path / "e", profiles=[{"image": (SMALL, BEST, huge)}]
        )
        report = verify(engine, bundle=dynamic_bundle)
        assert [c.shapes["image"] for c in report.cases if c.origin == "random"] == [SMALL, BEST]
        assert (
            "The large shape image=300x3x96x96 is left out; --shapes image=300x3x96x96 compares it."
        ) in report.notes

    @pytest.mark.parametrize("kind", ["outputs", "debug"])
    def test_layers_are_compared_through_what_the_engine_lets_out(
        self, kind: Any, machine: SimulatedMachine, bundle: Path
    ) -> None:
        taps = open_bundle(bundle).manifest.taps
        engine = machine.engine(bundle, bundle / "engines" / "e", taps=taps, taps_kind=kind)
        report = verify(engine, layers=True, random_cases=0)
        assert report.passed
        assert [layer.name for layer in report.layers] == list(taps)
        # What it lets out is no output of the model.
        assert [*report.cases[0].outputs] == ["logits"]

    def test_without_taps_the_layers_cannot_be_compared(self, engine: Path) -> None:
        with pytest.raises(EngineError, match="lets out no outputs of layers") as caught:
            verify(engine, layers=True)
        assert "--taps" in caught.value.cure

    def test_the_limits_depend_on_the_precision_and_can_be_named(self, engine: Path) -> None:
        limits = {}
        for changes in (
            {"options": {"tf32": True}},
            {"options": {}},
            {"precision": "float16+float32"},
            {"precision": "bfloat16"},
            {"precision": "int8+float16"},
        ):
            edit(engine, **changes)
            found = verify(engine, random_cases=0).tolerance
            limits[str(changes)] = (found.atol, found.rtol)
        assert [*limits.values()] == [
            (1e-3, 0.02),
            (1e-4, 1e-4),
            (1e-3, 0.03),
            (1e-2, 0.2),
            (1e-2, 0.4),
        ]
        named = verify(engine, random_cases=0, rtol=0.5)
        assert (named.tolerance.atol, named.tolerance.rtol) == (1e-2, 0.5)

    def test_without_torch_recorded_outputs_are_enough_also_without_the_onnx_file(
        self, bundle: Path, engine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verifying, "_has_torch", lambda: False)
        # The simulated TensorRT needs the model, a real one does not.
        shutil.move(bundle / "model.onnx", bundle / "moved.onnx")
        run_instead(engine, "moved.onnx")
        report = verify(engine)
        assert report.passed
        assert verify(engine, bundle=bundle).passed
        assert report.reference.startswith("recorded outputs of PyTorch 2")
        assert "PyTorch is not installed: compared with recorded outputs only." in report.notes
        with pytest.raises(MissingDependencyError, match="shapes of your choice needs PyTorch"):
            verify(engine, shapes=["image=1x3x64x64"])

    def test_where_only_the_engine_was_copied_recorded_outputs_serve_with_torch_too(
        self, bundle: Path, engine: Path
    ) -> None:
        shutil.move(bundle / "model.onnx", bundle / "moved.onnx")
        run_instead(engine, "moved.onnx")
        report = verify(engine)
        assert report.reference.startswith("recorded outputs of PyTorch 2")
        assert any("model.onnx is not here" in note for note in report.notes)

    def test_an_engine_without_a_bundle_asks_for_one(
        self, machine: SimulatedMachine, tiny_bundle: Path, tmp_path: Path
    ) -> None:
        engine = machine.engine(tiny_bundle, tmp_path / "lonely")
        with pytest.raises(BundleError, match="No bundle was found") as caught:
            verify(engine)
        assert "--bundle" in caught.value.cure
        assert verify(engine, bundle=tiny_bundle, random_cases=0).passed

    def test_an_engine_of_another_model_is_refused(
        self, machine: SimulatedMachine, dynamic_bundle: Path, tiny_bundle: Path, tmp_path: Path
    ) -> None:
        engine = machine.engine(tiny_bundle, tmp_path / "other")
        with pytest.raises(EngineError, match="was built from an ONNX file with SHA-256"):
            verify(engine, bundle=dynamic_bundle)

    def test_the_plugin_is_loaded_and_must_be_the_one_it_was_built_with(
        self, machine: SimulatedMachine, bundle: Path, tmp_path: Path
    ) -> None:
        plugin = machine.plugin(tmp_path / "libdinat_tensorrt.so")
        engine = machine.engine(bundle, bundle / "engines" / "e", plugin=plugin)
        assert verify(engine, plugin_library=plugin, random_cases=0).passed
        with pytest.raises(EngineError, match="calls the plugin NeighborhoodAttention2D"):
            verify(engine)

    def test_the_plan_that_was_checked_is_loaded_even_if_another_took_its_place(
        self, engine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        check = checks.check_engine

        def check_and_replace(*arguments: Any, **options: Any) -> list[str]:
            notes = check(*arguments, **options)
            other = engine / "other.plan"
            other.write_bytes(b"not what was checked")
            other.replace(engine / "model.plan")
            return notes

        monkeypatch.setattr(checks, "check_engine", check_and_replace)
        assert verify(engine, random_cases=0).passed
        with pytest.raises(EngineError, match="is cut off: it has 20 bytes"):
            verify(engine, random_cases=0)

    def test_plans_with_host_code_take_trust(self, machine: SimulatedMachine, bundle: Path) -> None:
        engine = machine.engine(bundle, bundle / "engines" / "e", host_code=True)
        with pytest.raises(EngineError, match="holds host code"):
            verify(engine)
        assert verify(engine, trust=True, random_cases=0).passed
        assert verify(engine, random_cases=0).passed  # it is remembered

    def test_a_plan_without_a_manifest_takes_trust_and_a_bundle(
        self, engine: Path, tiny_bundle: Path, tmp_path: Path
    ) -> None:
        plan = Path(shutil.copy(engine / "model.plan", tmp_path / "trtexec.engine"))
        with pytest.raises(EngineError, match="has no engine.json beside it"):
            verify(plan)
        with pytest.raises(BundleError, match="No bundle was found"):
            verify(plan, trust=True)
        report = verify(plan, trust=True, bundle=tiny_bundle)
        assert report.passed
        assert report.tolerance.rtol == 0.03  # nothing says in which precision it computes
        with pytest.raises(ConfigError, match="has no manifest"):
            verify(plan, trust=True, bundle=tiny_bundle, layers=True)

    def test_a_changed_plan_is_refused_before_it_is_loaded(
        self, machine: SimulatedMachine, engine: Path
    ) -> None:
        plan = engine / "model.plan"
        plan.write_bytes(plan.read_bytes()[:-1] + b" ")
        with pytest.raises(EngineError, match="was changed after it was built"):
            verify(engine)


class TestInfer:
    def test_an_engine_and_its_bundle_predict_the_same(self, engine: Path, photo: Path) -> None:
        (by_engine,) = infer(engine, [photo], top=10)
        (by_bundle,) = infer(engine.parents[1], [photo], top=10)
        for one, other in zip(by_engine.predictions, by_bundle.predictions, strict=True):
            assert one.index == other.index
            assert one.probability == pytest.approx(other.probability, abs=1e-6)

    @pytest.mark.parametrize("count", [1, 3])
    def test_batches_are_filled_up_to_what_the_profile_takes(
        self,
        count: int,
        machine: SimulatedMachine,
        dynamic_bundle: Path,
        tmp_path: Path,
        photo: Path,
    ) -> None:
        low, best = [2, 3, 64, 64], [4, 3, 64, 64]
        engine = machine.engine(
            dynamic_bundle, tmp_path / "e", profiles=[{"image": (low, best, best)}]
        )
        found = infer(engine, [photo] * count, bundle=dynamic_bundle, top=3)
        (expected,) = infer(dynamic_bundle, [photo], top=3)
        assert len(found) == count
        for result in found:
            assert [g.index for g in result.predictions] == [g.index for g in expected.predictions]

    def test_pictures_outside_of_the_profile_are_refused(
        self, machine: SimulatedMachine, dynamic_bundle: Path, tmp_path: Path, photo: Path
    ) -> None:
        engine = machine.engine(
            dynamic_bundle, tmp_path / "e", profiles=[{"image": (SMALL, SMALL, SMALL)}]
        )
        with pytest.raises(EngineError, match="image=1x3x64x64 is asked for"):
            infer(engine, [photo], bundle=dynamic_bundle)


def test_an_artefact_tells_its_shapes_and_frees_the_gpu(
    machine: SimulatedMachine, dynamic_bundle: Path, tmp_path: Path
) -> None:
    engine = machine.engine(
        dynamic_bundle, tmp_path / "e", profiles=[{"image": (SMALL, BEST, LARGE)}]
    )
    with open_artefact(f"tensorrt:{engine}") as artefact:
        assert artefact.engine is not None and artefact.engine.path == engine
        assert artefact.default_shapes() == {"image": BEST}
        assert artefact.default_shapes(3) == {"image": [3, *BEST[1:]]}
        assert artefact.precision == "float32"
        artefact.check_shapes({"image": LARGE})
        with pytest.raises(DinatDeployError, match="image=4x3x64x64"):
            artefact.check_shapes({"image": [4, 3, 64, 64]})
    machine.check()
