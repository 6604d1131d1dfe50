"""Write pictures whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from dinat_deploy.errors import OutputError
from dinat_deploy.files import write_whole


def write_picture(image: Image.Image, path: Path) -> None:
    """Write a picture, in the format that the ending names; it appears whole or not at all.

    Raises:
        OutputError: the place cannot be written to.
    """
    encoded = io.BytesIO()
    form = Image.registered_extensions()[path.suffix.lower()]
    try:
        image.save(encoded, form, **({} if form == "PNG" else {"quality": 92}))
        path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # formats have largest sizes
        raise OutputError(
            f"Writing {path} failed: {getattr(error, 'strerror', None) or error}.",
            "Mend the permissions, or choose another place or format.",
        ) from error
    write_whole(path, encoded.getvalue())
