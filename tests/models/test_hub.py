"""Published weights: with a stand-in for the hub, and without a network."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import errors as hub_errors

from dinat_deploy.errors import CheckpointError
from dinat_deploy.models import hub
from dinat_deploy.models.zoo import get_variant


class StandIn:
    """A hub with some files of one repository."""

    def __init__(self, root: Path, files: dict[str, bytes], listed: str | None) -> None:
        self.root, self.files, self.listed = root, files, listed

    def download(self, repository: str, name: str) -> str:
        assert repository == "shi-labs/dinat-mini-in1k-224"
        if name not in self.files:
            raise hub_errors.EntryNotFoundError(f"404: no {name}")
        path = self.root / name
        path.write_bytes(self.files[name])
        return str(path)

    def info(self, *_: object, **__: object) -> SimpleNamespace:
        lfs = SimpleNamespace(sha256=self.listed) if self.listed else None
        files = [SimpleNamespace(rfilename=name, lfs=lfs) for name in self.files]
        return SimpleNamespace(siblings=files)


def install(monkeypatch: pytest.MonkeyPatch, stand_in: StandIn) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", stand_in.download)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", stand_in.info)


WEIGHTS = b"weights"
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("listed", [DIGEST, None])
def test_the_directory_of_the_downloaded_files_is_returned(
    name: str, listed: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, StandIn(tmp_path, {"config.json": b"{}", name: WEIGHTS}, listed))
    assert hub.download(get_variant("dinat_mini")) == tmp_path
    assert (tmp_path / name).read_bytes() == WEIGHTS


def test_another_digest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"altered"}
    install(monkeypatch, StandIn(tmp_path, files, DIGEST))
    with pytest.raises(CheckpointError, match=f"shi-labs/dinat-mini-in1k-224 lists {DIGEST}"):
        hub.download(get_variant("dinat_mini"))


def test_a_repository_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, StandIn(tmp_path, {"config.json": b"{}"}, None))
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        hub.download(get_variant("dinat_mini"))


def test_without_a_network_the_message_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        hub.download(get_variant("dinat_mini"))
    assert "could not be downloaded" in caught.value.cause
    assert "--checkpoint" in caught.value.cure


def test_variants_that_are_not_on_the_hub_name_their_file() -> None:
    with pytest.raises(CheckpointError, match=r"Get dinat_s_tiny_in1k_224\.pth"):
        hub.download(get_variant("dinat_s_tiny"))
