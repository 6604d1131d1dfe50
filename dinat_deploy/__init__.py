"""DiNAT and NAT models from PyTorch to verified and measured TensorRT engines.

The functions behind the commands, under the same names (``models`` is :func:`list_models`):
:func:`export`, :func:`calibrate`, :func:`sensitivity`, :func:`convert`, :func:`build`,
:func:`verify`, :func:`bench`, :func:`evaluate`, :func:`infer`, :func:`deploy`, :func:`package` and
:func:`check_package`, :func:`report`, :func:`inspect`, :func:`compare`, :func:`ablate`,
:func:`doctor`. They are imported when first used, so that importing the package is fast and needs
none of its dependencies.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dinat_deploy.errors import DinatDeployError as DinatDeployError
    from dinat_deploy.parity import Tolerance as Tolerance
    from dinat_deploy.pipeline.ablating import ablate as ablate
    from dinat_deploy.pipeline.benching import bench as bench
    from dinat_deploy.pipeline.building import build as build
    from dinat_deploy.pipeline.calibrating import calibrate as calibrate
    from dinat_deploy.pipeline.comparing import compare as compare
    from dinat_deploy.pipeline.converting import convert as convert
    from dinat_deploy.pipeline.deploy_steps import DeployOptions as DeployOptions
    from dinat_deploy.pipeline.deploying import deploy as deploy
    from dinat_deploy.pipeline.diagnosing import doctor as doctor
    from dinat_deploy.pipeline.evaluating import evaluate as evaluate
    from dinat_deploy.pipeline.exporting import export as export
    from dinat_deploy.pipeline.inferring import infer as infer
    from dinat_deploy.pipeline.inspecting import inspect as inspect
    from dinat_deploy.pipeline.listing import list_models as list_models
    from dinat_deploy.pipeline.packaging import check_package as check_package
    from dinat_deploy.pipeline.packaging import package as package
    from dinat_deploy.pipeline.reporting import report as report
    from dinat_deploy.pipeline.requests import ModelRequest as ModelRequest
    from dinat_deploy.pipeline.sensitivity import sensitivity as sensitivity
    from dinat_deploy.pipeline.verifying import verify as verify

_PUBLIC = {
    "DeployOptions": "dinat_deploy.pipeline.deploy_steps",
    "DinatDeployError": "dinat_deploy.errors",
    "ModelRequest": "dinat_deploy.pipeline.requests",
    "Tolerance": "dinat_deploy.parity",
    "ablate": "dinat_deploy.pipeline.ablating",
    "bench": "dinat_deploy.pipeline.benching",
    "build": "dinat_deploy.pipeline.building",
    "calibrate": "dinat_deploy.pipeline.calibrating",
    "check_package": "dinat_deploy.pipeline.packaging",
    "compare": "dinat_deploy.pipeline.comparing",
    "convert": "dinat_deploy.pipeline.converting",
    "deploy": "dinat_deploy.pipeline.deploying",
    "doctor": "dinat_deploy.pipeline.diagnosing",
    "evaluate": "dinat_deploy.pipeline.evaluating",
    "export": "dinat_deploy.pipeline.exporting",
    "infer": "dinat_deploy.pipeline.inferring",
    "inspect": "dinat_deploy.pipeline.inspecting",
    "list_models": "dinat_deploy.pipeline.listing",
    "package": "dinat_deploy.pipeline.packaging",
    "report": "dinat_deploy.pipeline.reporting",
    "sensitivity": "dinat_deploy.pipeline.sensitivity",
    "verify": "dinat_deploy.pipeline.verifying",
}

__all__ = [
    "DeployOptions",
    "DinatDeployError",
    "ModelRequest",
    "Tolerance",
    "ablate",
    "bench",
    "build",
    "calibrate",
    "check_package",
    "compare",
    "convert",
    "deploy",
    "doctor",
    "evaluate",
    "export",
    "infer",
    "inspect",
    "list_models",
    "package",
    "report",
    "sensitivity",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
