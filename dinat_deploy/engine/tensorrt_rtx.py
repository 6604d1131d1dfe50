"""The builder for TensorRT-RTX: ahead of time, for several GPUs, on a machine that needs none."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from dinat_deploy.engine import worker as worker_module
from dinat_deploy.engine.builder import BuildOutcome, BuildTask, Obstacle
from dinat_deploy.engine.devices import current_capability
from dinat_deploy.engine.options import check_tensorrt_rtx
from dinat_deploy.engine.process import run_build
from dinat_deploy.errors import EngineError
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
        # The worker explains what the links are for (worker.link_bare_name).
        with scratch_directory() as links:
            search = [str(links), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
            environment = {
                "LD_LIBRARY_PATH": os.pathsep.join(search),
                worker_module.LINK_DIRECTORY: str(links),
            }
            return run_build(self._worker, task, progress, environment)


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
