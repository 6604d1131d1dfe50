"""``build --low-memory``: what it asks of TensorRT, and the one small profile."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinat_deploy.cli.build_options import build_arguments
from dinat_deploy.engine import worker
from dinat_deploy.engine.builder import BuilderOptions, BuildTask
from dinat_deploy.engine.onnx_file import GraphTensor
from dinat_deploy.engine.profiles import default_profile
from dinat_deploy.errors import ConfigError
from dinat_deploy.pipeline.build_plan import plan_build
from tests.engine.recording_tensorrt import Script
from tests.engine.test_worker_decisions import LAYERS, Run, flags, run

__all__ = ["run"]  # a fixture, used by name
JETPACK_6 = "10.3"


@pytest.mark.parametrize(("workspace", "expected"), [(None, 256), (64, 64)])
def test_the_builder_is_asked_for_little_memory(
    workspace: int | None, expected: int, run: Run
) -> None:
    script = Script(LAYERS)
    run(script, JETPACK_6, options=BuilderOptions(low_memory=True, workspace_mib=workspace))
    pools = {
        pool.name: size >> 20
        for pool, size in script.called("IBuilderConfig", "set_memory_pool_limit")
    }
    assert pools == {"WORKSPACE": expected, "TACTIC_DRAM": 3072}
    assert script.settings["IBuilderConfig", "max_aux_streams"] == 0
    # Weights stay where they are: nothing is streamed in.
    assert flags(script, "set_flag") == set()


def test_nothing_of_it_is_asked_for_by_default(run: Run) -> None:
    script = Script(LAYERS)
    run(script, JETPACK_6)
    assert script.called("IBuilderConfig", "set_memory_pool_limit") == []
    assert ("IBuilderConfig", "max_aux_streams") not in script.settings


def test_the_profile_is_one_image_of_the_model_s_own_size() -> None:
    image = GraphTensor("image", "float32", ("batch", 3, "height", "width"))
    (profile,) = default_profile([image], (224, 320), (64, 2048), single=True).values()
    assert str(profile) == "1x3x224x320:1x3x224x320:1x3x224x320"
    fixed = GraphTensor("image", "float32", (2, 3, "height", "width"))
    (profile,) = default_profile([fixed], (224, 320), (64, 2048), single=True).values()
    assert profile.max == (2, 3, 224, 320)


def test_a_second_profile_is_refused(relu_model: Path) -> None:
    with pytest.raises(ConfigError, match="--low-memory builds for one profile, and 2 are given"):
        plan_build(
            relu_model, backend="tensorrt-rtx", options=BuilderOptions(low_memory=True),
            profiles=["x=2", "x=2"],
        )  # fmt: skip


def test_a_build_that_fails_says_whose_bound_it_may_be() -> None:
    def cure(**options: object) -> str:
        chosen = BuilderOptions.model_validate(options)
        return worker._cure(
            BuildTask(flavor="tensorrt", model=Path("m"), plan=Path("p"), options=chosen)
        )

    assert "the 256 MiB of --low-memory (--workspace gives more)" in cure(low_memory=True)
    assert "the 64 MiB of --workspace." in cure(low_memory=True, workspace_mib=64)


def test_the_option_of_the_command_line() -> None:
    common = {
        "use_plugin": False, "no_plugin": False, "timing_cache": None, "no_timing_cache": False,
        "no_gpu_fallback": False,
    }  # fmt: skip
    assert build_arguments(**common, low_memory=True)["options"] == BuilderOptions(low_memory=True)
    assert not build_arguments(**common, low_memory=False)["options"].low_memory
