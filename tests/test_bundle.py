"""Reading bundles: what is missing, altered or from elsewhere is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dinat_deploy.bundle import (
    FORMAT_VERSION,
    Case,
    is_bundle,
    open_bundle,
    read_cases,
    write_cases,
)
from dinat_deploy.errors import BundleError


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def edit(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    data = json.loads((path / "model.json").read_text())
    change(data)
    (path / "model.json").write_text(json.dumps(data))


def test_a_whole_bundle_opens(bundle: Path) -> None:
    opened = open_bundle(bundle)
    opened.check_model()
    assert opened.manifest.graph.op_nodes == 3
    assert [spec.name for spec in opened.manifest.graph.inputs] == ["image"]
    assert len(opened.reference()) == 2
    assert is_bundle(bundle)
    assert not is_bundle(bundle.parent)


def test_the_manifest_says_how_the_file_was_checked(bundle: Path) -> None:
    checked = open_bundle(bundle).manifest.verification
    assert checked is not None
    assert checked.passed
    assert checked.max_abs_error < 1e-5
    assert checked.runtime.startswith("ONNX Runtime")


def test_what_is_not_there(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(BundleError, match="There is no bundle"):
        open_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"is not a bundle: it has no model\.json"):
        open_bundle(tmp_path)
    with pytest.raises(BundleError, match=r"is not a bundle"):
        open_bundle(bundle / "model.onnx")
    (bundle / "reference.npz").unlink()
    with pytest.raises(BundleError, match=r"There is no .*reference\.npz"):
        open_bundle(bundle).reference()
    (bundle / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"has no model\.onnx"):
        open_bundle(bundle).check_model()


def test_a_changed_model_file_is_noticed(bundle: Path) -> None:
    model = bundle / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    with pytest.raises(BundleError, match="was written for"):
        open_bundle(bundle).check_model()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format_version": 1}', "\x00\xff"])
def test_damaged_manifests_are_refused(text: str, bundle: Path) -> None:
    (bundle / "model.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError, match=r"model\.json is not"):
        open_bundle(bundle)


def test_newer_formats_ask_for_an_upgrade(bundle: Path) -> None:
    edit(bundle, lambda data: data.update(format_version=FORMAT_VERSION + 1))
    with pytest.raises(
        BundleError,
        match=f"has format {FORMAT_VERSION + 1}; this dinat-deploy reads up to {FORMAT_VERSION}",
    ) as caught:
        open_bundle(bundle)
    assert caught.value.cure == "Upgrade dinat-deploy."


def test_invalid_fields_are_named(bundle: Path) -> None:
    edit(bundle, lambda data: data["config"].update(embed_dim="wide"))  # type: ignore[attr-defined]
    with pytest.raises(BundleError, match=r"config\.embed_dim"):
        open_bundle(bundle)


@pytest.mark.parametrize("keep", [0, 30, -50])
def test_damaged_references_are_refused(keep: int, bundle: Path) -> None:
    path = bundle / "reference.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BundleError, match=r"reference\.npz is damaged"):
        open_bundle(bundle).reference()


def test_references_of_another_model_are_refused(bundle: Path) -> None:
    write_cases(bundle / "reference.npz", [Case("x", {"other": np.zeros(1, np.float32)}, {})])
    with pytest.raises(BundleError, match="case x has tensors \\['other'\\], the model has"):
        open_bundle(bundle).reference()


def test_references_with_pickled_objects_are_not_loaded(bundle: Path) -> None:
    np.savez(bundle / "reference.npz", **{"a/in/image": np.array([object()], dtype=object)})
    with pytest.raises(BundleError, match="is damaged"):
        open_bundle(bundle).reference()


def test_cases_are_written_and_read_back(tmp_path: Path) -> None:
    cases = [
        Case(f"c{i}", {"image": np.full(3, i, np.float32)}, {"a/b": np.ones(i + 1, np.float32)})
        for i in range(3)
    ]
    write_cases(tmp_path / "r.npz", cases)
    found = read_cases(tmp_path / "r.npz")
    assert [case.name for case in found] == ["c0", "c1", "c2"]
    for case, expected in zip(found, cases, strict=True):
        assert np.array_equal(case.inputs["image"], expected.inputs["image"])
        assert np.array_equal(case.outputs["a/b"], expected.outputs["a/b"])
