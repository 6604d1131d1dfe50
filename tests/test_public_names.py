"""The package's public functions are reachable, whatever else was imported before."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import pytest

import dinat_deploy


@pytest.mark.parametrize("name", dinat_deploy.__all__)
def test_no_module_hides_a_public_name(name: str) -> None:
    """Importing a submodule binds it to the package's attribute of the same name."""
    modules = {module.name for module in pkgutil.iter_modules(dinat_deploy.__path__)}
    if name in modules:
        import_module(f"dinat_deploy.{name}")
    assert callable(getattr(dinat_deploy, name))
    assert name in dir(dinat_deploy)


def test_other_names_are_unknown() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'bensh'"):
        _ = dinat_deploy.bensh
