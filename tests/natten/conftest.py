"""User models, imported with the stand-in in NATTEN's place."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest

from dinat_deploy.natten import substitute


def user_module(name: str, version: str) -> ModuleType:
    sys.modules.pop(f"tests.natten.{name}", None)
    with substitute(version):
        return importlib.import_module(f"tests.natten.{name}")


@pytest.fixture(scope="module")
def hourglass() -> ModuleType:
    return user_module("user_hourglass", "0.17")


@pytest.fixture(scope="module")
def unfused() -> ModuleType:
    return user_module("user_unfused", "0.14")


@pytest.fixture(scope="module")
def strided() -> ModuleType:
    return user_module("user_strided", "0.21")
