"""Changes to weights, and to the files that hold them: safetensors, PyTorch's and detectron2's."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import pickletools
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from tests.fuzzing.archive_changes import mutate_zip
from tests.fuzzing.byte_changes import mutate_bytes
from tests.fuzzing.values import PLACES, TEXTS, mutate_data, strange

Tensors = dict[str, Any]
_TYPES = (
    torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool,
    torch.uint8, torch.complex64, torch.float8_e4m3fn,
)  # fmt: skip
_NAMES = (
    "levels.99999999999.blocks.0.norm1.weight",
    "levels.-1.blocks.0.norm1.weight",
    "levels.0.blocks.7.attn.rpb",
    "layers.1.norm1.weight",
    "head.weight",
    "norm3.weight",
    "decode_head.psp_modules.9.1.conv.weight",
    "decode_head.conv_seg.weight",
    "auxiliary_head.convs.5.conv.weight",
    "sem_seg_head.predictor.query_feat.weight",
    "roi_head.bbox_head.2.fc_cls.weight",
    "rpn_head.rpn_cls.weight",
    "backbone.patch_embed.proj.0.weight",
    "dinat.embeddings.patch_embeddings.projection.0.weight",
    "encoder.levels.0.layers.0.layer_scale_parameters",
    "encoder.levels.0.layers.0.attention.self.query.weight",
    "patch_embed.proj.weight",
)


def mutate_tensors(rng: Random, tensors: Tensors) -> tuple[Tensors, str]:
    """Weights of which some are missing, or have another name, type, shape or value."""
    tensors = dict(tensors)
    said = []
    for _ in range(rng.choice((1, 1, 2, 5))):
        if not tensors:
            break
        name = rng.choice(sorted(tensors))
        change = rng.choice(_TENSOR_CHANGES)
        change(rng, tensors, name)
        said.append(f"{name} {change.__name__.strip('_')}")
    return tensors, "; ".join(said)


def _dropped(rng: Random, tensors: Tensors, name: str) -> None:
    del tensors[name]


def _all_of_a_kind_dropped(rng: Random, tensors: Tensors, name: str) -> None:
    part = rng.choice(name.split("."))
    for other in [other for other in tensors if part in other.split(".")]:
        del tensors[other]


def _renamed(rng: Random, tensors: Tensors, name: str) -> None:
    tensors[rng.choice((*_NAMES, *TEXTS[:6], name.upper(), "module." + name))] = tensors.pop(name)


def _doubled(rng: Random, tensors: Tensors, name: str) -> None:
    tensors[rng.choice(_NAMES)] = tensors[name]


def _prefixed(rng: Random, tensors: Tensors, name: str) -> None:
    prefix = rng.choice(("module.", "backbone.", "model.backbone.", "\0.", "."))
    for other in list(tensors):
        tensors[prefix + other] = tensors.pop(other)


def _other_type(rng: Random, tensors: Tensors, name: str) -> None:
    tensors[name] = tensors[name].to(rng.choice(_TYPES))


def _other_value(rng: Random, tensors: Tensors, name: str) -> None:
    value = rng.choice((float("nan"), float("inf"), -1e30, 1e-44, 0.0))
    filled = tensors[name].clone()
    with torch.no_grad():
        filled.reshape(-1)[: rng.choice((1, 10**6))] = value
    tensors[name] = filled


def _other_shape(rng: Random, tensors: Tensors, name: str) -> None:
    tensor = tensors[name]
    changes: tuple[Callable[[], Tensor], ...] = (
        lambda: tensor.flatten(),
        lambda: tensor[None],
        lambda: tensor.flatten()[:0],
        lambda: tensor.flatten()[0] if tensor.numel() else tensor,
        lambda: tensor.reshape(tensor.shape[::-1]),
        lambda: tensor[:-1] if tensor.dim() else tensor,
        lambda: torch.cat([tensor, tensor]) if tensor.dim() else tensor,
        lambda: torch.zeros((0, *tensor.shape[1:])),
        lambda: torch.zeros(1).expand(50_000, *([1] * max(tensor.dim() - 1, 0))),
    )
    tensors[name] = rng.choice(changes)().clone()


_TENSOR_CHANGES = (
    _dropped, _all_of_a_kind_dropped, _renamed, _doubled, _prefixed, _other_type, _other_value,
    _other_shape, _other_shape,
)  # fmt: skip


def _tensors_of(content: Any) -> tuple[Tensors, Callable[[Tensors], Any]]:
    """The weights in a checkpoint, and how to put others in their place."""
    if isinstance(content, dict):
        for key in ("state_dict", "model"):
            if isinstance(content.get(key), dict):
                return dict(content[key]), lambda tensors, key=key: {**content, key: tensors}
    return dict(content), lambda tensors: tensors


def mutate_safetensors(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Other weights, or a header that contradicts the data."""
    if rng.random() < 0.5:
        tensors, said = mutate_tensors(rng, safetensors.torch.load(content))
        own = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        named = {name.encode(errors="replace").decode(): value for name, value in own.items()}
        return safetensors.torch.save(named, metadata=_metadata(rng)), said
    (size,) = struct.unpack_from("<Q", content)
    header, said = mutate_data(rng, json.loads(content[8 : 8 + size]))
    text = json.dumps(header).encode()
    claimed = rng.choice(
        (len(text), len(text), len(text), 0, len(text) - 1, 1 << 40, (1 << 64) - 1)
    )
    return struct.pack("<Q", claimed) + text + content[8 + size :], f"header: {said}"


def _metadata(rng: Random) -> dict[str, str] | None:
    return None if rng.random() < 0.7 else {"format": rng.choice(("pt", "tf", "", "x" * 1000))}


def mutate_pth(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Other weights, other things around them, or another archive around both."""
    action = rng.random()
    if action < 0.25:
        return mutate_zip(rng, content) if content[:2] == b"PK" else mutate_bytes(rng, content)
    loaded = torch.load(io.BytesIO(content), weights_only=True)
    tensors, put = _tensors_of(loaded)
    said = "wrapped"
    if action < 0.7:
        tensors, said = mutate_tensors(rng, tensors)
    wrapped = _wrapped(rng, put(tensors)) if action > 0.5 else put(tensors)
    if content[:2] != b"PK" and (old := old_format(wrapped)):
        return old, said
    stream = io.BytesIO()
    torch.save(wrapped, stream)
    return stream.getvalue(), said


def old_format(content: Any) -> bytes:
    """What ``torch.save`` wrote before 1.6, with numbers in place of the addresses of tensors, by
    which it names and sorts them; empty if there is more in it than plain tensors in dictionaries.
    """
    tensors = _plain_tensors(content)
    stream = io.BytesIO()
    if tensors is None:
        return b""
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    data = stream.getvalue()
    storages = {str(t.untyped_storage()._cdata): t for t in tensors}
    stream.seek(0)
    for _ in range(4):
        for _ in pickletools.genops(stream):
            pass
    head = data[: stream.tell()]
    names = [f"{number:015d}" for number in range(len(storages))]
    for old, new in zip(storages, names, strict=True):
        before = b"X" + struct.pack("<I", len(old)) + old.encode()
        head = head.replace(before, b"X" + struct.pack("<I", len(new)) + new.encode())
    tail = pickle.dumps(names, protocol=2)
    for tensor in storages.values():
        raw = bytes(tensor.untyped_storage())
        tail += struct.pack("<q", len(raw) // tensor.element_size()) + raw
    return head + tail


def _plain_tensors(content: Any, depth: int = 0) -> list[Tensor] | None:
    if type(content) is Tensor and content.layout == torch.strided and not content.is_meta:
        return [content]
    if not isinstance(content, dict) or depth > 9:
        return None if isinstance(content, Tensor | list | tuple | dict) else []
    found: list[Tensor] = []
    for value in content.values():
        inner = _plain_tensors(value, depth + 1)
        if inner is None:
            return None
        found += inner
    return found


def _wrapped(rng: Random, content: Any) -> Any:
    endless: dict[str, Any] = {}
    endless["state_dict"] = endless
    endless["model"] = [endless]
    deep: Any = content
    for _ in range(rng.choice((1, 5, 300))):
        deep = {"model": deep}
    inner, _ = _tensors_of(content)
    inner = {name: value for name, value in inner.items() if isinstance(value, Tensor)}
    choices: tuple[Callable[[], Any], ...] = (
        lambda: {"model": inner, "model_ema": inner, "epoch": strange(rng)},
        lambda: {"state_dict": inner, "meta": strange(rng)},
        lambda: {"state_dict": inner, "meta": {"CLASSES": strange(rng)}},
        lambda: {"state_dict": inner, "meta": {"dataset_meta": {"classes": strange(rng)}}},
        lambda: {"state_dict": {"state_dict": inner}},
        lambda: {**inner, 0: torch.zeros(1), None: 1, ("a", 1): 2},
        lambda: {**inner, "x": strange(rng)},
        lambda: deep,
        lambda: endless,
        lambda: {**inner, "again": endless},
        lambda: list(inner.values()),
        lambda: next(iter(inner.values()), None),
        lambda: {"model": {}, "state_dict": []},
        lambda: collections.OrderedDict(inner),
        lambda: torch.nn.Parameter(torch.zeros(3)),
        lambda: {name: torch.nn.Parameter(t.float()) for name, t in inner.items()},
        lambda: {name: t.to_sparse() for name, t in inner.items() if t.dim() == 2},
        lambda: {name: torch.empty(t.shape, device="meta") for name, t in inner.items()},
    )
    return rng.choice(choices)()


class _Harmful:
    """Unpickled as usual, it would write a file that the guard looks out for."""

    def __init__(self, rng: Random) -> None:
        self.how = rng.choice(("system", "eval", "open", "getattr"))

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        place = PLACES[5]
        if self.how == "system":
            return os.system, (f"touch {place}",)
        if self.how == "eval":
            return eval, (f"open({place!r}, 'w')",)
        if self.how == "open":
            return open, (place, "w")
        return getattr, (os, "system")


def mutate_pkl(rng: Random, content: bytes) -> tuple[bytes, str]:
    """A pickle of NumPy arrays: other arrays, other things around them, or code."""
    data = pickle.loads(content)
    model = dict(data["model"])
    endless: dict[str, Any] = {}
    endless["model"] = endless
    name = rng.choice(sorted(model))
    choices: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("dropped", lambda: {"model": {k: v for k, v in model.items() if k != name}}),
        ("no numbers", lambda: {"model": {**model, name: strange(rng)}}),
        ("strange type", lambda: {"model": {**model, name: _array(rng, model[name])}}),
        ("strange type", lambda: {"model": {**model, name: _array(rng, model[name])}}),
        ("code", lambda: {"model": {**model, name: _Harmful(rng)}}),
        ("code", lambda: _Harmful(rng)),
        ("in itself", lambda: endless),
        ("in itself", lambda: {"model": {**model, name: endless}}),
        ("deep", lambda: {"model": _deep(model, rng.choice((10, 400)))}),
        ("keys that are no text", lambda: {"model": {**model, 1: 2, None: 3, ("a",): model[name]}}),
        ("tensors", lambda: {"model": {key: torch.from_numpy(v) for key, v in model.items()}}),
        ("list", lambda: [model]),
        ("nothing", lambda: None),
        ("the same", lambda: data),
    )
    said, make = rng.choice(choices)
    changed = pickle.dumps(make(), protocol=rng.choice((2, 2, 3, 4, 5)))
    if rng.random() < 0.3:
        changed, more = mutate_bytes(rng, changed)
        said += ", " + more
    return changed, f"pickle: {said}"


def _deep(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = {"model": value}
    return value


def _array(rng: Random, array: Any) -> Any:
    choices: tuple[Callable[[], Any], ...] = (
        lambda: array.astype(rng.choice((">f4", "<f8", "c8", "U3", "S4", "M8[s]", "?", "<i2"))),
        lambda: array.astype(object),
        lambda: np.asfortranarray(array),
        lambda: array[:0],
        lambda: array.reshape(-1),
        lambda: np.array(3.0, np.float32),
        lambda: np.zeros(2, [("a", "<f4"), ("b", "<i4")]),
        lambda: np.float32(2.0),
        lambda: array * np.nan,
    )
    return rng.choice(choices)()
