"""Read a JSON file that comes with a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dinat_deploy.errors import CheckpointError


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
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}.") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a JSON {type(data).__name__}, expected an object.")
    return data
