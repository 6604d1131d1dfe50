"""The registered operators under PyTorch's own compilers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dinat_deploy.ops import library
from dinat_deploy.ops.functional import neighborhood_attention_2d, neighborhood_attention_qkv_2d


def _split_arguments(**changes: object) -> tuple[object, ...]:
    query, key, value = (torch.randn(2, 9, 8, 2, 4, requires_grad=True) for _ in range(3))
    arguments = {
        "rpb": torch.randn(2, 5, 5, requires_grad=True),
        "kernel_size": [3, 3],
        "dilation": [2, 1],
        "stride": [1, 1],
        "is_causal": [False, False],
        "scale": 0.5,
    } | changes
    return query, key, value, *arguments.values()


@pytest.mark.parametrize(
    "changes", [{}, {"rpb": None}, {"rpb": None, "stride": [2, 3], "is_causal": [True, False]}]
)
def test_split_operator_is_registered_correctly(changes: dict[str, object]) -> None:
    torch.library.opcheck(library.neighborhood_attention, _split_arguments(**changes))


@pytest.mark.parametrize("has_rpb", [True, False])
def test_packed_operator_is_registered_correctly(has_rpb: bool) -> None:
    qkv = torch.randn(2, 9, 8, 24, requires_grad=True)
    rpb = torch.randn(2, 5, 5, requires_grad=True) if has_rpb else None
    torch.library.opcheck(library.neighborhood_attention_qkv, (qkv, rpb, 2, [3, 3], [2, 1], 0.5))


class Packed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = torch.nn.Linear(8, 24)
        self.rpb = torch.nn.Parameter(torch.randn(2, 5, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return neighborhood_attention_qkv_2d(
            self.qkv(x), self.rpb, num_heads=2, kernel_size=3, dilation=2
        )


def test_torch_compile_keeps_forward_and_gradients() -> None:
    torch.manual_seed(0)
    module, x = Packed(), torch.randn(2, 9, 8, 8)
    plain = module(x)
    plain.square().sum().backward()
    gradient = module.rpb.grad.clone()
    module.zero_grad()
    # The eager back end still traces, fakes and differentiates; it needs no C++ compiler.
    compiled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(
        module, fullgraph=True, backend="aot_eager"
    )
    found = compiled(x)
    found.square().sum().backward()
    assert torch.allclose(found, plain, atol=1e-6)
    assert torch.allclose(module.rpb.grad, gradient, atol=1e-5)


@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_export_keeps_the_operator_whole(dynamic: bool) -> None:
    module, x = Packed().eval(), torch.randn(2, 9, 8, 8)
    dims = {
        0: torch.export.Dim("b"),
        1: torch.export.Dim("h", min=6),
        2: torch.export.Dim("w", min=6),
    }
    program = torch.export.export(module, (x,), dynamic_shapes=(dims,) if dynamic else None)
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert calls.count("dinat.neighborhood_attention_qkv.default") == 1
    other = torch.randn(3, 11, 7, 8) if dynamic else x
    assert torch.allclose(program.module()(other), module(other), atol=1e-6)


def test_meta_tensors_have_a_shape_and_no_data() -> None:
    query = torch.empty(2, 9, 8, 2, 4, device="meta")
    found = neighborhood_attention_2d(query, query, query, kernel_size=3)
    assert found.shape == query.shape
    assert found.device.type == "meta"
