"""NATTEN's API over the operators of this project: any version's code runs without NATTEN.

:func:`substitute` puts it in NATTEN's place while a model is imported; :func:`export_module` writes
such a model, or any other that uses these operators, as ONNX. Which functions and classes there are
in which version is in :mod:`dinat_deploy.natten.versions`.
"""

from dinat_deploy.natten.exporting import ExportedModule as ExportedModule
from dinat_deploy.natten.exporting import export_module as export_module
from dinat_deploy.natten.substitution import NattenVersionError as NattenVersionError
from dinat_deploy.natten.substitution import substitute as substitute
from dinat_deploy.natten.versions import VERSIONS as VERSIONS

__all__ = ["VERSIONS", "ExportedModule", "NattenVersionError", "export_module", "substitute"]
