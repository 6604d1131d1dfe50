"""What is wrong with a package for serving."""

from __future__ import annotations

from dataclasses import dataclass

from dinat_deploy.errors import DinatDeployError


class PackageError(DinatDeployError):
    """A package that no server or runner would accept, or that is not what it says it is."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: the model or the file.
        cause: what is wrong, naming both sides.
        cure: what to do about it.
    """

    where: str
    cause: str
    cure: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.cause}{f' {self.cure}' if self.cure else ''}"

    def to_error(self) -> PackageError:
        return PackageError(f"{self.where}: {self.cause}", self.cure)
