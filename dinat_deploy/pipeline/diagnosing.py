"""``doctor``: what is installed, what is missing, and what that means."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from dinat_deploy import __version__, native
from dinat_deploy.errors import NativeError


@dataclass(frozen=True)
class Check:
    """One piece of the environment.

    Attributes:
        found: its version, or None if it is missing.
        enables: what it is good for here.
        install: the command that brings it; empty if there is none.
        required: whether export cannot do without.
    """

    name: str
    found: str | None
    enables: str
    install: str
    required: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


# (distribution names, what it enables, how to install it, whether export needs it)
_PACKAGES: tuple[tuple[tuple[str, ...], str, str, bool], ...] = (
    (("torch",), "export; verify against PyTorch", "pip install torch", True),
    (("onnx",), "export; inspect; verify --layers", "pip install onnx", True),
    (("onnxscript",), "export", "pip install onnxscript", True),
    (
        ("onnxruntime", "onnxruntime-gpu", "onnxruntime-trt-rtx"),
        "verify; infer; bench",
        "pip install onnxruntime",
        True,
    ),
    (("safetensors",), "safetensors checkpoints", "pip install safetensors", True),
    (("huggingface_hub",), "export --pretrained", "pip install huggingface_hub", False),
    (
        ("tensorrt", "tensorrt_cu12", "tensorrt_cu13"),
        "building and running TensorRT engines, on the GPU that they are for",
        "pip install tensorrt",
        False,
    ),
    (
        ("tensorrt_rtx", "tensorrt_rtx_cu13"),
        "building TensorRT-RTX engines, also without a GPU, and running them",
        "pip install 'dinat-deploy[rtx]'",
        False,
    ),
    (
        ("cuda-python", "cuda-bindings", "pycuda"),
        "running engines from Python (or torch with CUDA)",
        "pip install 'dinat-deploy[gpu]'",
        False,
    ),
    (("plotly",), "bench --html", "pip install 'dinat-deploy[report]'", False),
)


def doctor() -> list[Check]:
    """Look at this machine. Nothing heavy is imported."""
    checks = [
        Check("dinat-deploy", __version__, "this tool", "", True),
        Check("python", platform.python_version(), sys.executable, "", True),
    ]
    for names, enables, install, required in _PACKAGES:
        checks.append(Check(names[0], _version(names), enables, install, required))
    checks.extend(_native_checks())
    checks.append(Check("NVIDIA GPU", _gpu(), "running TensorRT engines", "", False))
    return checks


def _native_checks() -> list[Check]:
    """The native libraries and the compilers that make them."""
    cxx, cuda = native.find_cxx(), native.find_cuda()
    build = "dinat-deploy plugin build"
    plugin = build if cuda else f"pip install 'dinat-deploy[cuda]' && {build}"
    return [
        Check(
            "operator library",
            _built("onnxruntime"),
            "faster runs in ONNX Runtime; without it the standard-ops body runs",
            build,
            False,
        ),
        Check(
            "TensorRT plugin",
            _built("tensorrt"),
            "engines with our kernels",
            plugin,
            False,
        ),
        Check("C++ compiler", str(cxx) if cxx else None, build, "apt-get install g++", False),
        Check(
            "CUDA compiler",
            f"{cuda.version}, {cuda.nvcc}" if cuda else None,
            f"{build}, for the TensorRT plugin",
            "pip install 'dinat-deploy[cuda]'",
            False,
        ),
    ]


def _built(name: native.LibraryName) -> str | None:
    """Version and place of a native library; None also for a file that is none of ours."""
    path = native.find_library(name)
    try:
        return f"{native.library_info(path).version}, {path.parent}" if path else None
    except NativeError:
        return None


def _version(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _gpu() -> str | None:
    """Name and driver of the first GPU, as the driver's own tool says."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(answer.stdout.strip().splitlines()), None)
