"""The way to the CUDA kernels, with the definition on the CPU in their place."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from gpu import measure, rivals
from gpu.clocks import WallClock
from gpu.floors import COPY, cpu_copy
from gpu.measure import Settings
from gpu.ours import CudaKernels
from gpu.shapes import Row

from tests.gpu.binding import INVALID_VALUE, KernelError, Kernels, problem_of
from tests.gpu.problems import RAGGED, check_tactics, random_inputs

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
DEFINITION = [
    ROOT / "plugins" / "cpu" / "reference.cpp",
    ROOT / "plugins" / "common" / "problem.cpp",
]


def compile_cpp(output: Path, *words: object) -> Path:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    options = ["-O1", "-std=c++17", "-fPIC", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'plugins'}"]
    command = [compiler, *options, "-o", output, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("stand_in") / "libdinat_kernels.so"
    return compile_cpp(output, "-shared", HERE / "stand_in_kernels.cpp", *DEFINITION)


@pytest.fixture(autouse=True)
def no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        cuda_stream = None

    monkeypatch.setattr(torch.cuda, "current_stream", Stream)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "split"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_reach_the_kernels_as_they_are(
    library: Path, dtype: torch.dtype, packed: bool
) -> None:
    for setting in (RAGGED[8], RAGGED[-3], RAGGED[-1]):
        inputs = random_inputs(setting, dtype, packed=packed, device="cpu")
        expected = inputs.expected(setting.window, 0.3)
        check_tactics(Kernels(library), inputs, setting.window, expected, 0.3)


def test_refusals_arrive_with_their_code(library: Path) -> None:
    kernels, setting = Kernels(library), RAGGED[0]
    inputs = random_inputs(setting, torch.float32, device="cpu")
    out = torch.empty(inputs.query.shape)
    window = {"kernel_size": setting.kernel, "dilation": (100, 100)}
    assert kernels.tactics(problem_of(inputs.query, out, **window)) == []
    with pytest.raises(KernelError, match="CUDA error 1: invalid argument") as refusal:
        kernels.attention(*inputs.tensors, inputs.rpb, out, **window)
    assert refusal.value.code == INVALID_VALUE


@pytest.mark.parametrize("bug", [False, True], ids=["right", "seeded-bug"])
def test_the_benchmark_times_what_is_right_and_names_what_is_not(
    library: Path, monkeypatch: pytest.MonkeyPatch, bug: bool
) -> None:
    if bug:
        monkeypatch.setenv("DINAT_STAND_IN_BUG", "1")
    settings = Settings(torch.device("cpu"), WallClock(), WallClock(), rounds=1, least_ms=0.01)
    row = Row("x", 1, (9, 8), 2, 3, 2, 1, "float16", head_dim=16)
    found = measure.measure(row, CudaKernels(library), cpu_copy, rivals.MAKERS, settings)
    right = {COPY, "dinat", "dinat:portable", "dinat, launched one by one", *rivals.MAKERS}
    assert set(found.timings) == (right if bug else right | {"dinat:tile4"})
    assert found.left_out == ({"dinat:tile4": "wrong: relative error inf"} if bug else {})
    assert "dinat" in found.complete and "dinat, launched one by one" not in found.complete


def test_the_sanitizer_program_sees_a_value_that_is_not_written(
    library: Path, tmp_path: Path
) -> None:
    include = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"
    if not (include / "cuda_runtime_api.h").exists():
        pytest.skip("there is no CUDA toolkit")
    sources = [ROOT / "tests" / "gpu" / "sanitize_driver.cpp", HERE / "stand_in_cudart.cpp"]
    driver = compile_cpp(tmp_path / "driver", f"-I{include}", *sources, *DEFINITION, "-ldl")

    def run(**variables: str) -> tuple[int, str]:
        done = subprocess.run(
            [driver, library],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | variables,
        )
        return done.returncode, done.stdout

    status, said = run()
    assert status == 0, said
    assert said.count("ok  ") >= 50 and said.endswith("\n0 failures\n")
    status, said = run(DINAT_STAND_IN_BUG="1")
    assert status == 1
    failed = [line for line in said.splitlines() if line.startswith("FAIL")]
    assert len(failed) == said.count("tile4")
    assert all("tile4" in line and "relative error inf" in line for line in failed)
