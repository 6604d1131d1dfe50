"""NATTEN's questions about the machine, and its switches.

Answers are about what can be run through this package: fused functions and 16-bit types work
everywhere, on the CPU too. The kernels that the other questions and all switches are about do not
exist here: the questions are answered no, the switches remember what they were set to and do
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_ALL_CAN = ("has_half", "has_bfloat", "has_fna", "has_fused_na")
_NO_SUCH_KERNELS = ("has_gemm", "has_tf32_gemm", "has_fp32_gemm", "has_fp64_gemm")

# Switch -> question about it, and the answer at the start.
_SWITCHES = {
    "use_deterministic_algorithms": ("are_deterministic_algorithms_enabled", False),
    "use_kv_parallelism_in_fused_na": ("is_kv_parallelism_in_fused_na_enabled", False),
    "use_fused_na": ("is_fused_na_enabled", False),
    "use_tf32_in_gemm_na": ("is_tf32_in_gemm_na_enabled", False),
    "use_tiled_na": ("is_tiled_na_enabled", True),
    "use_gemm_na": ("is_gemm_na_enabled", False),
    "allow_flex_compile": ("is_flex_compile_allowed", False),
    "allow_flex_compile_backprop": ("is_flex_compile_backprop_allowed", False),
}
# Old names: (name, the switch, what it is set to).
_SET = (
    ("enable_tf32", "use_tf32_in_gemm_na", True),
    ("disable_tf32", "use_tf32_in_gemm_na", False),
    ("enable_gemm_na", "use_gemm_na", True),
    ("disable_gemm_na", "use_gemm_na", False),
    ("enable_tiled_na", "use_tiled_na", True),
    ("disable_tiled_na", "use_tiled_na", False),
    ("disable_flex_compile", "allow_flex_compile", False),
    ("disable_flex_compile_backprop", "allow_flex_compile_backprop", False),
    ("use_flex_attention", "use_fused_na", True),
    ("force_flex_attention", "use_fused_na", True),
)
_AUTOTUNER = (
    "is_autotuner_enabled", "is_autotuner_enabled_for_forward",
    "is_autotuner_enabled_for_backward", "is_autotuner_thorough_for_forward",
    "is_autotuner_thorough_for_backward",
)  # fmt: skip


def has_cuda() -> bool:
    """Whether PyTorch has a CUDA device."""
    return torch.cuda.is_available()


def _answer(value: bool) -> Callable[..., bool]:
    def answer(device_index: Any = None) -> bool:
        return value

    return answer


def _nothing(*_: Any, **__: Any) -> None:
    return None


def functions() -> dict[str, Callable[..., Any]]:
    """All functions by name, with a state of their own."""
    state = {name: initial for name, (_, initial) in _SWITCHES.items()}
    memory = {"preference": "default"}

    def switch(name: str) -> Callable[..., None]:
        def use(mode: bool = True, *_: Any, **__: Any) -> None:
            state[name] = mode

        return use

    def fixed(name: str, value: bool) -> Callable[[], bool]:
        def use() -> bool:
            state[name] = value
            return state[name]

        return use

    def asked(name: str) -> Callable[[], bool]:
        return lambda: state[name]

    def preferred(value: str) -> Callable[[], bool]:
        return lambda: memory["preference"] == value

    def set_memory_usage_preference(pref: str = "default") -> None:
        if pref not in ("default", "strict", "unrestricted"):
            raise ValueError(f"{pref!r} is none of 'default', 'strict', 'unrestricted'.")
        memory["preference"] = pref

    found: dict[str, Callable[..., Any]] = {"has_cuda": has_cuda}
    found |= {name: _answer(True) for name in _ALL_CAN}
    found |= {name: _answer(False) for name in (*_NO_SUCH_KERNELS, *_AUTOTUNER)}
    for name, (question, _) in _SWITCHES.items():
        found[name], found[question] = switch(name), asked(name)
    found |= {name: fixed(target, value) for name, target, value in _SET}
    found["use_fna"], found["is_fna_enabled"] = found["use_fused_na"], found["is_fused_na_enabled"]
    found |= {"use_autotuner": _nothing, "disable_autotuner": _nothing}
    found["set_memory_usage_preference"] = set_memory_usage_preference
    found["get_memory_usage_preference"] = lambda: memory["preference"]
    found |= {
        f"is_memory_usage_{value}": preferred(value)
        for value in ("default", "strict", "unrestricted")
    }
    return found
