"""Read a JSON file that comes with a checkpoint, and what other programs have written into one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dinat_deploy.errors import CheckpointError, DinatDeployError


def read_json(path: Path, missing: str = "") -> dict[str, Any]:
    """The object in a file.

    Args:
        missing: what to do if there is no such file.

    Raises:
        CheckpointError: there is none, or it holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"There is no {path}.", missing) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}.") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a JSON {type(data).__name__}, expected an object.")
    return data


@contextmanager
def taken_apart(path: Path) -> Iterator[None]:
    """Take values out of plain data whose form nobody has checked.

    Args:
        path: the file, for errors.

    Raises:
        CheckpointError: a value has another type or size than the code inside counts on.
    """
    try:
        yield
    except DinatDeployError:  # some are ValueErrors, too
        raise
    except (
        ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
    ) as error:  # fmt: skip
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        missing = "it has no " if isinstance(error, KeyError) else ""
        raise CheckpointError(
            f"{path} is not as transformers writes it: {missing}{said.rstrip('.')}.",
            "Get the directory again from its source.",
        ) from None
