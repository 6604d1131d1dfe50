"""Put this package in NATTEN's place while other code is imported."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from dinat_deploy.errors import DinatDeployError
from dinat_deploy.natten.versions import namespaces, resolve, versions_with

DEFAULT_VERSION = "0.17"


class NattenVersionError(DinatDeployError, ImportError):
    """Code asked for a part of NATTEN that the version being stood in for does not have."""


@contextmanager
def substitute(version: str = DEFAULT_VERSION) -> Iterator[ModuleType]:
    """Code that is imported in this context finds this package where it asks for NATTEN.

    ::

        with dinat_deploy.natten.substitute("0.21"):
            import user_model

    ``import natten``, ``from natten.functional import na2d``, ``natten.__version__``,
    ``importlib.util.find_spec("natten")`` and ``importlib.metadata.version("natten")`` all answer
    as the given version would. Afterwards everything is as before, an installed NATTEN included;
    what was imported keeps what it got. Code that imports NATTEN only when it runs must run in the
    context too.

    Args:
        version: whose names, arguments and layouts to offer: ``0.14``, ``0.15`` (modules that pad
            small maps, as the published NAT and DiNAT models need), ``0.17`` (the default: the
            unfused functions under their old and new names, and the fused ones with bias),
            ``0.20`` or ``0.21`` (stride, no bias), or one in full, like ``0.17.5``.

    Yields:
        The module ``natten``.

    Raises:
        ConfigError: there is no such version.
        NattenVersionError: the imported code asks for what that version does not have.
    """
    full = resolve(version)
    modules = _modules(full)
    before = {name: module for name, module in sys.modules.items() if _is_natten(name)}
    finder = _DistributionFinder(full)
    _exchange(before, modules)
    sys.meta_path.insert(0, finder)
    try:
        yield modules["natten"]
    except ImportError as error:
        explained = _explained(error, full)
        if explained is None:
            raise
        raise explained from error
    finally:
        sys.meta_path.remove(finder)
        _exchange([name for name in sys.modules if _is_natten(name)], before)


def _is_natten(name: str) -> bool:
    return name == "natten" or name.startswith("natten.")


def _exchange(old: Iterable[str], new: dict[str, ModuleType]) -> None:
    for name in old:
        del sys.modules[name]
    sys.modules.update(new)


def _modules(version: str) -> dict[str, ModuleType]:
    made: dict[str, ModuleType] = {}
    for name, attributes in namespaces(version).items():
        kind = _NotAFunction if re.fullmatch(r"natten\.na\dd", name) else ModuleType
        module = kind(name, f"NATTEN {version}, as dinat_deploy.natten has it.")
        module.__spec__ = ModuleSpec(name, None, origin=__file__, is_package=name == "natten")
        vars(module).update(attributes)
        vars(module)["__all__"] = [key for key in attributes if not key.startswith("_")]
        vars(module)["__getattr__"] = _missing(name, version)
        if name == "natten":
            module.__path__ = []
        made[name] = module
    for name, module in made.items():
        if name != "natten":
            setattr(made["natten"], name.removeprefix("natten."), module)
    return made


class _NotAFunction(ModuleType):
    """``natten.na2d`` is a module in 0.17 and a function from 0.20 on."""

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise NattenVersionError(
            f"{self.__name__} was called, which is a module in the NATTEN that dinat_deploy.natten "
            "stands in for.",
            'It is a function from 0.20 on: use substitute("0.21").',
        )


def _missing(module: str, version: str) -> Any:
    def getattr_of_module(name: str) -> Any:
        raise AttributeError(f"{_absent(f'{module}.{name}', version)} {_cure(module, name)}")

    return getattr_of_module


def _absent(name: str, version: str) -> str:
    return f"NATTEN {version}, which dinat_deploy.natten stands in for, has no {name}."


def _cure(module: str, name: str | None) -> str:
    found = versions_with(module, name)
    if not found:
        return "dinat_deploy.natten has it in no version: that part of NATTEN is not covered."
    listed = found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"
    return f'It is in {listed}: use substitute("{found[-1]}").'


def _explained(error: ImportError, version: str) -> NattenVersionError | None:
    """An error with a cure, if it is about a part of NATTEN."""
    if isinstance(error, ModuleNotFoundError):
        if error.name is None or not _is_natten(error.name):
            return None
        return NattenVersionError(_absent(error.name, version), _cure(error.name, None))
    found = re.match(r"cannot import name '(\w+)' from '(natten[\w.]*)'", str(error))
    if found is None or not _is_natten(found[2]):
        return None
    return NattenVersionError(_absent(f"{found[2]}.{found[1]}", version), _cure(found[2], found[1]))


class _Distribution(metadata.Distribution):
    """What ``importlib.metadata`` knows of the stand-in."""

    def __init__(self, version: str) -> None:
        self._text = f"Metadata-Version: 2.1\nName: natten\nVersion: {version}\n"

    def read_text(self, filename: str) -> str | None:
        return self._text if filename in ("METADATA", "PKG-INFO") else None

    def locate_file(self, path: Any) -> Path:
        return Path(__file__).parent / path


class _DistributionFinder(MetaPathFinder):
    def __init__(self, version: str) -> None:
        self._version = version

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return None

    def find_distributions(self, context: Any = None) -> Iterable[metadata.Distribution]:
        name = getattr(context, "name", None)
        return [_Distribution(self._version)] if name in (None, "natten") else []
