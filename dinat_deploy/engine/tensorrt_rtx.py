"""The builder for TensorRT-RTX: ahead of time, for several GPUs, on a machine that needs none."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from dinat_deploy.engine import worker as worker_module
from dinat_deploy.engine.builder import BuildOutcome, BuildTask, Obstacle
from dinat_deploy.engine.devices import current_capability
from dinat_deploy.engine.onnx_file import read_onnx
from dinat_deploy.engine.options import check_tensorrt_rtx
from dinat_deploy.engine.process import run_build
from dinat_deploy.errors import EngineError, MissingDependencyError
from dinat_deploy.files import scratch_directory
from dinat_deploy.progress import Progress
from dinat_deploy.session.tensorrt_api import Flavor, installed_version, numbers

# Compute capabilities that TensorRT-RTX builds for. It has no others: not Orin (87), not the
# data-centre GPUs (90, 100), not Thor (110).
ARCHITECTURES = {
    "75": "Turing", "80": "Ampere A100", "86": "Ampere RTX 30", "89": "Ada RTX 40",
    "120": "Blackwell RTX 50", "121": "Blackwell GB10",
}  # fmt: skip
# Until 1.6 the parser knows no plugins: it takes the body, or refuses a node without one. NVIDIA's
# documentation still says so of 1.7, where they work.
PLUGINS_SINCE = (1, 7)
# Standard operators that cannot be built ahead of time.
_FOREIGN = frozenset({"RoiAlign", "NonMaxSuppression"})
DEFAULT_ARCHITECTURES = ("80", "86", "89", "120")


class TensorRtRtxBuilder:
    """Builds engines with the package ``tensorrt-rtx``.

    Args:
        worker: module that is run as the worker process.
    """

    flavor: Flavor = "tensorrt-rtx"

    def __init__(self, worker: str = worker_module.__name__) -> None:
        self._worker = worker

    def version(self) -> str:
        return installed_version(self.flavor)

    def architectures(self, asked: Sequence[str]) -> list[str]:
        chosen = [_architecture(str(entry)) for entry in asked] or list(DEFAULT_ARCHITECTURES)
        return sorted(dict.fromkeys(chosen), key=int)

    def plugin_obstacle(self) -> Obstacle | None:
        version = self.version()
        if numbers(version)[:2] >= PLUGINS_SINCE:
            return None
        since = ".".join(map(str, PLUGINS_SINCE))
        return Obstacle(
            f"TensorRT-RTX takes plugins since {since}, and {version} is installed",
            "Upgrade it with `pip install -U tensorrt-rtx`",
        )

    def check(self, task: BuildTask) -> None:
        check_tensorrt_rtx(task, self.version(), current_capability())

    def build(self, task: BuildTask, progress: Progress) -> BuildOutcome:
        self.check(task)
        with scratch_directory() as copies:
            return self._build(_without_foreign(task, copies, progress), progress)

    def _build(self, task: BuildTask, progress: Progress) -> BuildOutcome:
        # The worker explains what the links are for (worker.link_bare_name).
        with scratch_directory() as links:
            search = [str(links), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
            environment = {
                "LD_LIBRARY_PATH": os.pathsep.join(search),
                worker_module.LINK_DIRECTORY: str(links),
            }
            return run_build(self._worker, task, progress, environment)


def _without_foreign(task: BuildTask, directory: Path, progress: Progress) -> BuildTask:
    """The task on a copy of the model in which detectors' operators are written out, if it has any:
    of RoiAlign the parser makes a plugin that only a machine with a GPU can create, and for
    NonMaxSuppression TensorRT-RTX has no kernel (seen with 1.7.1).

    Raises:
        MissingDependencyError: the packages that the copy takes are not installed.
    """
    foreign = sorted(_FOREIGN & read_onnx(task.model).standard)
    if not foreign:
        return task
    if not (find_spec("onnx_ir") and find_spec("onnxscript")):
        raise MissingDependencyError(
            f"TensorRT-RTX cannot build {' and '.join(foreign)}, and to write them out in other "
            "operators takes packages that are not installed.",
            "pip install onnxscript",
        )
    from dinat_deploy.graph.detection_rewriting import rewrite

    progress.note(
        f"The builder gets a copy of the model with {' and '.join(foreign)} written out in other "
        "operators, as TensorRT-RTX has none for them."
    )
    with progress.stage("Writing out the operators of detectors"):
        return task.model_copy(update={"model": rewrite(task.model, directory)})


def _architecture(text: str) -> str:
    """``8.6``, ``sm_86`` or ``86`` to ``86``; ``current`` to what is in this machine."""
    listed = ", ".join(f"{number} ({name})" for number, name in ARCHITECTURES.items())
    if text.strip().lower() == "current":
        found = current_capability()
        if found is None:
            raise EngineError(
                "--arch current needs an NVIDIA GPU with its driver, and this machine has none.",
                f"Name the compute capabilities to build for: {listed}.",
            )
        where = f" of the GPU in this machine, {found},"
    else:
        cleaned = re.fullmatch(r"(?:sm_?|compute_?)?(\d{1,2})\.?(\d)", text.strip().lower())
        found = cleaned[1] + cleaned[2] if cleaned else text
        where = f" {text}"
    if found not in ARCHITECTURES:
        raise EngineError(
            f"TensorRT-RTX does not build for compute capability{where}.",
            f"It builds for {listed}. Others (Orin, Thor, Hopper) need TensorRT itself.",
        )
    return found
