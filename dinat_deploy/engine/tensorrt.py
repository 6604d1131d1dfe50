"""The builder for TensorRT: on the GPU that the engine is for, where it times the kernels."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from dinat_deploy.engine import worker as worker_module
from dinat_deploy.engine.builder import BuildOutcome, BuildTask, Obstacle
from dinat_deploy.engine.devices import current_capability
from dinat_deploy.engine.options import check_tensorrt
from dinat_deploy.engine.process import run_build
from dinat_deploy.errors import EngineError, MissingDependencyError
from dinat_deploy.progress import Progress
from dinat_deploy.session.tensorrt_api import Flavor, installed_version, numbers

# Older ones have no IPluginV3 and no strongly typed networks as we use them.
OLDEST = (10, 0)


class TensorRtBuilder:
    """Builds engines with the package ``tensorrt``, 10.0 and later.

    Args:
        worker: module that is run as the worker process.
        capability: tells the compute capability of the GPU at hand; None if there is none.
    """

    flavor: Flavor = "tensorrt"

    def __init__(
        self,
        worker: str = worker_module.__name__,
        capability: Callable[[], str | None] = current_capability,
    ) -> None:
        self._worker = worker
        self._capability = capability

    def version(self) -> str:
        version = installed_version(self.flavor)
        if numbers(version)[:2] < OLDEST:
            raise MissingDependencyError(
                f"TensorRT {version} is installed, and building needs "
                f"{'.'.join(map(str, OLDEST))} or later.",
                "Run `pip install -U tensorrt`; a Jetson gets it with JetPack 6.1.",
            )
        return version

    def architectures(self, asked: Sequence[str]) -> list[str]:
        here = self._here()
        for entry in asked:
            text = str(entry).strip().lower()
            cleaned = re.fullmatch(r"(?:sm_?|compute_?)?(\d{1,2})\.?(\d)", text)
            wanted = cleaned[1] + cleaned[2] if cleaned else text
            if wanted not in (here, "current"):
                raise EngineError(
                    f"Compute capability {entry} is wanted, and plans of TensorRT are built on the "
                    f"GPU that they are for, which is {here} here.",
                    "Leave --arch out; hardware compatibility makes a plan for more GPUs, and "
                    "--backend tensorrt-rtx builds for several ahead of time.",
                )
        return [here]

    def plugin_obstacle(self) -> Obstacle | None:
        return None

    def check(self, task: BuildTask) -> None:
        here = self._here()  # before the version: without a GPU nobody need install TensorRT
        check_tensorrt(task, self.version(), here)

    def build(self, task: BuildTask, progress: Progress) -> BuildOutcome:
        self.check(task)
        return run_build(self._worker, task, progress)

    def _here(self) -> str:
        here = self._capability()
        if here is None:
            raise EngineError(
                "Building with TensorRT needs the GPU that the engine is for, and this machine "
                "has none (no NVIDIA driver).",
                "Build there, or ahead of time with --backend tensorrt-rtx.",
            )
        return here
