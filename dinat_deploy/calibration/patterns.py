"""Files with patterns of node names: one on each line, with comments after ``#``."""

from __future__ import annotations

import re
from pathlib import Path

from dinat_deploy.errors import ConfigError

_COMMENT = re.compile(r"(^|\s)#.*")


def read_patterns(path: Path) -> list[str]:
    """The patterns (:mod:`fnmatch`) in a file, such as ``exclude.txt`` of ``sensitivity``.

    Raises:
        ConfigError: the file cannot be read. One without patterns can.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise ConfigError(
            f"The file of patterns {path} cannot be read: {said}.", "Check the path behind the @."
        ) from None
    lines = (_COMMENT.sub("", line).strip() for line in text.splitlines())
    return [line for line in lines if line]


def exactly(name: str) -> str:
    """The pattern that matches this name and no other."""
    return re.sub(r"([*?\[])", r"[\1]", name)
