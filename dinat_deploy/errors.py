"""Errors that a user can act on.

Every mistake a user can make is reported as a :class:`DinatDeployError`: one sentence of cause,
one of cure. The command line prints both without a traceback and exits with status 2.
"""

from __future__ import annotations

import re

# Words and messages beyond these are cut: names in damaged files can be of any length.
_LONGEST_WORD = 400
_LONGEST = 4000
# Control characters (terminals obey some of them), those that turn the direction of writing, and
# halves of characters, which no output takes. Line breaks and tabs are ours.
_UNPRINTABLE = re.compile(
    "[^\n\t -~\xa0-\ud7ff\ue000-\U0010ffff]|[\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


class DinatDeployError(Exception):
    """A problem with a known cause and a known cure.

    Both may quote what a file holds: what cannot be printed is written as an escape, and what is
    far too long is cut.

    Args:
        cause: what is wrong, naming both sides of a mismatch.
        cure: what to do about it; may be empty when the cause says it all.
    """

    def __init__(self, cause: str, cure: str = "") -> None:
        self.cause = _printable(cause)
        self.cure = _printable(cure)
        super().__init__(f"{self.cause} {self.cure}" if self.cure else self.cause)


def _printable(text: str) -> str:
    if text.isascii() and text.isprintable() and len(text) <= _LONGEST_WORD:
        return text
    text = _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)
    words = re.compile(rf"\S{{{_LONGEST_WORD + 1},}}")
    text = words.sub(lambda found: f"{found[0][:60]}...{found[0][-20:]}", text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


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
