"""The stand-in is found wherever code looks for NATTEN, and is gone afterwards."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib import metadata
from types import ModuleType

import pytest
import torch

from dinat_deploy.errors import ConfigError
from dinat_deploy.natten import VERSIONS, NattenVersionError, substitute


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_is_found_as_itself(version: str) -> None:
    with substitute(version) as stand_in:
        import natten
        import natten.functional

        assert natten is stand_in
        assert natten.__version__ == version == metadata.version("natten")
        assert importlib.util.find_spec("natten") is not None
        assert importlib.util.find_spec("natten.functional") is not None
        # How the original repository tells NATTEN's generations apart.
        assert hasattr(natten, "context") == (version >= "0.17")
        assert hasattr(natten.functional, "natten2dav") == (version < "0.17.5")
        assert hasattr(natten.functional, "na2d") == (version >= "0.17")
        assert issubclass(natten.NeighborhoodAttention2D, torch.nn.Module)


@pytest.mark.parametrize(
    ("asked", "meant"), [("0.14", "0.14.6"), ("0.17", "0.17.4"), ("0.21", "0.21.6")]
)
def test_a_series_means_its_last_version_with_all_names(asked: str, meant: str) -> None:
    with substitute(asked) as natten:
        assert natten.__version__ == meant


def test_unknown_versions_are_refused() -> None:
    with pytest.raises(ConfigError, match="no NATTEN 0.16"), substitute("0.16"):
        pass


def test_what_was_there_before_is_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real, part = ModuleType("natten"), ModuleType("natten.functional")
    monkeypatch.setitem(sys.modules, "natten", real)
    monkeypatch.setitem(sys.modules, "natten.functional", part)
    finders = list(sys.meta_path)
    with substitute("0.21"):
        assert sys.modules["natten"] is not real
        with substitute("0.14") as inner:
            assert sys.modules["natten"] is inner
        assert sys.modules["natten"].__version__ == "0.21.6"
    assert sys.modules["natten"] is real
    assert sys.modules["natten.functional"] is part
    assert "natten.context" not in sys.modules
    assert sys.meta_path == finders


def test_it_is_gone_after_an_error() -> None:
    def fail() -> None:
        with substitute():
            raise KeyError("from the model")

    before = {name for name in sys.modules if name.split(".")[0] == "natten"}
    with pytest.raises(KeyError, match="from the model"):
        fail()
    assert {name for name in sys.modules if name.split(".")[0] == "natten"} == before


@pytest.mark.parametrize(
    ("version", "code", "said"),
    [
        ("0.21", "from natten.functional import natten2dav", 'substitute("0.17.4")'),
        ("0.14", "from natten import NeighborhoodAttention3D", 'substitute("0.21.6")'),
        ("0.14", "import natten.context", 'substitute("0.21.6")'),
        ("0.17", "import natten; natten.na2d(1, 2, 3, 4)", 'substitute("0.21")'),
        ("0.17", "import natten.flops", "not covered"),
    ],
)
def test_what_a_version_lacks_is_said_with_the_version_that_has_it(
    version: str, code: str, said: str
) -> None:
    with pytest.raises(NattenVersionError) as caught, substitute(version):
        exec(code, {})
    assert said in caught.value.cure


def test_missing_attributes_are_missing_to_hasattr_and_explained() -> None:
    with substitute("0.17") as natten:
        assert not hasattr(natten, "attention")
        with pytest.raises(AttributeError, match=r'no natten\.attention.*substitute\("0\.21\.6"\)'):
            natten.attention  # noqa: B018


def test_other_import_errors_are_left_alone() -> None:
    with pytest.raises(ModuleNotFoundError) as caught, substitute():
        exec("import no_such_module_at_all", {})
    assert not isinstance(caught.value, NattenVersionError)


def test_questions_about_the_machine_are_about_what_runs_here() -> None:
    with substitute("0.17") as natten:
        assert natten.has_fused_na()
        assert natten.has_half()
        assert not natten.has_gemm()
        natten.use_fused_na(True)
        assert natten.is_fused_na_enabled()
        natten.disable_gemm_na()
        natten.set_memory_usage_preference("strict")
        assert natten.is_memory_usage_strict()
    with substitute("0.21") as natten:
        assert natten.HAS_LIBNATTEN
        assert not natten.is_memory_usage_strict()  # a state of its own


def test_imports_of_a_user_model_keep_what_they_got(strided: ModuleType) -> None:
    assert strided.version() == "0.21.6"
    assert "natten" not in sys.modules or sys.modules["natten"] is not strided.natten


def test_the_package_itself_does_not_import_it() -> None:
    code = "import sys, dinat_deploy; sys.exit('torch' in sys.modules or 'dinat_deploy.natten' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
