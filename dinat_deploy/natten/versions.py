"""Which names each version of NATTEN has, and what they are here."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from dinat_deploy.errors import ConfigError
from dinat_deploy.natten import context, modules_rpb, modules_stride
from dinat_deploy.natten import functional_rpb as rpb
from dinat_deploy.natten import functional_stride as stride
from dinat_deploy.natten.attending import or_default, or_false
from dinat_deploy.ops.functional import per_axis

VERSIONS = (
    "0.14.1", "0.14.2", "0.14.4", "0.14.5", "0.14.6", "0.15.0", "0.15.1", "0.17.0", "0.17.1",
    "0.17.3", "0.17.4", "0.17.5", "0.20.0", "0.20.1", "0.21.0", "0.21.1", "0.21.5", "0.21.6",
)  # fmt: skip
# What a version without its last number means. Of 0.17 the last but one: 0.17.5 has fewer names.
_SERIES = {
    "0.14": "0.14.6", "0.15": "0.15.1", "0.17": "0.17.4", "0.20": "0.20.1", "0.21": "0.21.6",
}  # fmt: skip

Namespaces = dict[str, dict[str, Any]]
"""Module name (``natten``, ``natten.functional``) -> its attributes."""

_HAS = ("cuda", "half", "bfloat", "gemm", "tf32_gemm", "fp32_gemm", "fp64_gemm")
_OLD_SWITCHES = tuple(
    f"{a}able_{b}" for a in ("en", "dis") for b in ("tf32", "gemm_na", "tiled_na")
)
_CONTEXT = {
    "0.15": tuple(f"has_{name}" for name in _HAS) + _OLD_SWITCHES,
    "0.17": tuple(f"has_{name}" for name in (*_HAS, "fna", "fused_na"))
    + _OLD_SWITCHES
    + (
        "are_deterministic_algorithms_enabled", "disable_autotuner", "get_memory_usage_preference",
        "is_autotuner_enabled", "is_autotuner_enabled_for_backward",
        "is_autotuner_enabled_for_forward", "is_autotuner_thorough_for_backward",
        "is_autotuner_thorough_for_forward", "is_fna_enabled", "is_fused_na_enabled",
        "is_gemm_na_enabled", "is_kv_parallelism_in_fused_na_enabled", "is_memory_usage_default",
        "is_memory_usage_strict", "is_memory_usage_unrestricted", "is_tf32_in_gemm_na_enabled",
        "is_tiled_na_enabled", "set_memory_usage_preference", "use_autotuner",
        "use_deterministic_algorithms", "use_fna", "use_fused_na", "use_gemm_na",
        "use_kv_parallelism_in_fused_na", "use_tf32_in_gemm_na", "use_tiled_na",
    ),
    "0.17.5": ("use_flex_attention", "force_flex_attention"),
    "0.20": (
        "allow_flex_compile", "allow_flex_compile_backprop", "are_deterministic_algorithms_enabled",
        "disable_flex_compile", "disable_flex_compile_backprop", "get_memory_usage_preference",
        "is_flex_compile_allowed", "is_flex_compile_backprop_allowed",
        "is_kv_parallelism_in_fused_na_enabled", "is_memory_usage_default",
        "is_memory_usage_strict", "is_memory_usage_unrestricted", "set_memory_usage_preference",
        "use_deterministic_algorithms", "use_kv_parallelism_in_fused_na",
    ),
}  # fmt: skip


class KernelSchedule(Enum):
    """``natten.types.KernelSchedule``: taken and ignored."""

    NonPersistent = 0
    WarpSpecializedCooperative = 1
    WarpSpecializedPingpong = 2


def resolve(version: str) -> str:
    """The full version that is meant by ``0.17`` or ``0.17.5``.

    Raises:
        ConfigError: there is no such NATTEN.
    """
    full = _SERIES.get(version, version)
    if full not in VERSIONS:
        raise ConfigError(
            f"There is no NATTEN {version} to stand in for.",
            f"Versions are {', '.join(_SERIES)}, or in full {', '.join(VERSIONS)}.",
        )
    return full


def namespaces(version: str) -> Namespaces:
    """All modules of a version of NATTEN and what is in them.

    Args:
        version: as :func:`resolve` returns it.
    """
    made = _makers(version)
    made["natten"]["__version__"] = version
    return made


def _makers(version: str) -> Namespaces:
    if version < "0.14.5":
        return _early()
    if version < "0.15":
        return _with_modules(_functional_014(), _padded(2), {}, "natten")
    if version < "0.17":
        names = _functional_015()
        chosen = _chosen_context("0.15")
        return _with_modules(names | chosen, _padded(3), chosen, "natten")
    return _017(version) if version < "0.20" else _020()


def _early() -> Namespaces:
    functional = {
        "natten1dqkrpb": rpb.natten1dqkrpb_of_bias,
        "natten2dqkrpb": rpb.natten2dqkrpb_of_bias,
        "natten1dav": rpb.natten1dav_of_weights,
        "natten2dav": rpb.natten2dav_of_weights,
    }
    two_d = modules_rpb.EarlyNeighborhoodAttention2D
    modules = {
        "NeighborhoodAttention1D": modules_rpb.EarlyNeighborhoodAttention1D,
        "NeighborhoodAttention2D": two_d,
    }
    made = _with_modules(functional, modules, {}, "natten")
    # The name of before 0.13, kept with a warning.
    for name in ("natten", "natten.natten2d"):
        made[name]["NeighborhoodAttention"] = two_d
    return made


def _padded(ranks: int) -> dict[str, Any]:
    return {
        f"NeighborhoodAttention{rank}D": getattr(modules_rpb, f"PaddedNeighborhoodAttention{rank}D")
        for rank in range(1, ranks + 1)
    }


def _with_modules(
    functional: dict[str, Any], modules: Mapping[str, Any], top: Mapping[str, Any], stem: str
) -> Namespaces:
    """The package, ``functional``, and a module ``<stem>1d`` and so on per class."""
    made: Namespaces = {"natten": {**modules, **top}, "natten.functional": functional}
    for number, (name, module) in enumerate(modules.items(), start=1):
        made[f"natten.{stem}{number}d"] = {name: module}
    return made


def _functional_014() -> dict[str, Any]:
    return {
        f"natten{rank}d{half}": getattr(rpb, f"natten{rank}d{half}")
        for rank in (1, 2)
        for half in ("qkrpb", "qk", "av")
    }


def _functional_015() -> dict[str, Any]:
    names = _functional_014()
    names |= {f"natten3d{half}": getattr(rpb, f"natten3d{half}") for half in ("qkrpb", "qk", "av")}
    for rank in (1, 2, 3):
        name = f"na{rank}d_qk_with_bias"
        names[name] = getattr(rpb, name)
    names |= {"na1d_qk": rpb.na1d_qk, "na1d_av": rpb.na1d_av}
    names |= {"na2d_qk": rpb.na2d_qk, "na2d_av": rpb.na2d_av}
    return names | {"na3d_qk": rpb.na3d_qk_with_depth, "na3d_av": rpb.na3d_av_with_depth}


def _017(version: str) -> Namespaces:
    fused = {f"na{rank}d": getattr(rpb, f"na{rank}d") for rank in (1, 2, 3)}
    functional: dict[str, Any] = dict(fused)
    for rank in (1, 2, 3):
        functional |= {
            f"na{rank}d_{half}": getattr(rpb, f"na{rank}d_{half}") for half in ("qk", "av")
        }
    if version < "0.17.5":
        old = _functional_015()
        functional |= {name: value for name, value in old.items() if name.startswith("natten")}
    modules = {
        f"NeighborhoodAttention{rank}D": getattr(modules_rpb, f"NeighborhoodAttention{rank}D")
        for rank in (1, 2, 3)
    }
    chosen = _chosen_context("0.17", *(["0.17.5"] if version >= "0.17.5" else []))
    made = _with_modules(functional, modules, chosen, "na")
    made |= {f"natten.natten{rank}d": dict(made[f"natten.na{rank}d"]) for rank in (1, 2, 3)}
    made |= {"natten.context": dict(chosen), "natten.types": _types()}
    made["natten.utils"] = {
        "get_num_na_weights": rpb.get_num_na_weights,
        "check_all_args": _check_all_args,
    }
    if version >= "0.17.4":
        made["natten.experimental"] = dict(fused)
    return made


def _020() -> Namespaces:
    fused = {
        name: getattr(stride, name)
        for name in ("na1d", "na2d", "na3d", "attention", "merge_attentions")
    }
    modules = {
        f"NeighborhoodAttention{rank}D": getattr(modules_stride, f"NeighborhoodAttention{rank}D")
        for rank in (1, 2, 3)
    }
    generic = {"neighborhood_attention_generic": stride.neighborhood_attention_generic}
    chosen = _chosen_context("0.20")
    types = _types() | {"KernelSchedule": KernelSchedule}
    return {
        "natten": {**modules, **fused, **chosen, "HAS_LIBNATTEN": True},
        "natten.functional": fused | generic,
        "natten.modules": {
            **modules,
            "NeighborhoodAttentionGeneric": modules_stride.NeighborhoodAttentionGeneric,
        },
        "natten.attn_merge": {"merge_attentions": stride.merge_attentions},
        "natten.context": dict(chosen),
        "natten.types": types,
    }


def _chosen_context(*groups: str) -> dict[str, Any]:
    made = context.functions()
    return {name: made[name] for group in groups for name in _CONTEXT[group]}


def _check_all_args(
    na_dim: int, kernel_size: Any, dilation: Any, is_causal: Any
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...]]:
    """``natten.utils.check_all_args`` of 0.17: every parameter as one value per axis."""
    return (
        per_axis(kernel_size, na_dim, "kernel_size"),
        per_axis(or_default(dilation), na_dim, "dilation"),
        per_axis(or_false(is_causal), na_dim, "is_causal"),
    )


def _types() -> dict[str, Any]:
    """Names for annotations (``natten.types``)."""
    made: dict[str, Any] = {"NoneType": type(None)}
    for kind, value in (("Dimension", int), ("CausalArg", bool)):
        tuples = [tuple[(value,) * rank] for rank in (1, 2, 3)]  # type: ignore[misc]
        for rank, of_rank in enumerate(tuples, start=1):
            made[f"{kind}{rank}DType"] = of_rank
            made[f"{kind}{rank}DTypeOrDed"] = value | of_rank
        either = tuples[0] | tuples[1] | tuples[2]
        made[f"{kind}Type"], made[f"{kind}TypeOrDed"] = either, value | either
    return made


def versions_with(module: str, name: str | None = None) -> list[str]:
    """Versions that have a module, or a name in it."""
    return [
        version
        for version in VERSIONS
        if module in (found := namespaces(version)) and (name is None or name in found[module])
    ]
