"""Errors that a user can act on.

Every mistake a user can make is reported as a :class:`DinatDeployError`: one sentence of cause,
one of cure. The command line prints both without a traceback and exits with status 2.
"""

from __future__ import annotations


class DinatDeployError(Exception):
    """A problem with a known cause and a known cure.

    Args:
        cause: what is wrong, naming both sides of a mismatch.
        cure: what to do about it; may be empty when the cause says it all.
    """

    def __init__(self, cause: str, cure: str = "") -> None:
        super().__init__(f"{cause} {cure}" if cure else cause)
        self.cause = cause
        self.cure = cure


class OperatorError(DinatDeployError, ValueError):
    """Arguments that neighborhood attention is not defined for."""


class ConfigError(DinatDeployError, ValueError):
    """A model configuration that contradicts itself."""


class UnknownModelError(DinatDeployError, LookupError):
    """A model name that is not in the zoo."""


class CheckpointError(DinatDeployError):
    """A checkpoint that cannot be read, or that does not fit the model."""


class ExportError(DinatDeployError):
    """A model that could not be turned into ONNX."""


class ConversionError(DinatDeployError):
    """A model that could not be brought to another precision."""


class BundleError(DinatDeployError):
    """A bundle directory that is incomplete or contradicts itself."""


class ImageError(DinatDeployError):
    """An input picture that cannot be used."""


class DataError(DinatDeployError):
    """Images or labels that cannot be used."""


class OutputError(DinatDeployError):
    """A place that cannot be written to."""


class MissingDependencyError(DinatDeployError, ImportError):
    """An optional package that a command needs and that is not installed."""


class EngineError(DinatDeployError):
    """An engine that cannot be built, or that is not what its manifest says."""


class NativeError(DinatDeployError):
    """A native library that cannot be built or read."""
