"""Class names that ship with the package."""

from __future__ import annotations

from importlib import resources


def imagenet1k() -> list[str]:
    """The 1,000 classes of ImageNet-1k in order (WordNet lemmas, synonyms by comma)."""
    text = resources.files("dinat_deploy").joinpath("data/imagenet1k.txt").read_text("utf-8")
    return text.splitlines()


def default_labels(num_classes: int) -> list[str] | None:
    """Names of a classifier's outputs when the checkpoint brings none."""
    return imagenet1k() if num_classes == 1000 else None
