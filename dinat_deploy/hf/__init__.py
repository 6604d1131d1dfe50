"""transformers' own DiNAT models with the attention of this project, so that they need no NATTEN.

:func:`from_pretrained` loads one, :func:`repair` changes one that exists, and under
:func:`without_natten` transformers' own constructors work. They stay models of transformers: they
train, save and load as before, and :func:`dinat_deploy.natten.export_module` writes them as ONNX.
"""

from dinat_deploy.hf.loading import from_pretrained as from_pretrained
from dinat_deploy.hf.patching import repair as repair
from dinat_deploy.hf.patching import without_natten as without_natten

__all__ = ["from_pretrained", "repair", "without_natten"]
