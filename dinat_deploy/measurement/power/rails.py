"""Which rails of a Jetson make up the whole, so that no current is counted twice.

A module has rails for parts of it, and on some modules one for its input, which contains the
others. Names are those of NVIDIA's device trees.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# One rail that contains all others, the module's own input first: it compares across boards.
_INPUTS = {
    "VDD_IN": "the input of the module",
    "POM_5V_IN": "the input of the module",
    "VIN": "the input of the carrier board, and so of the module and everything on the board",
}
# Modules with several inputs. Others of their rails are fed by one of these, such as the memory's
# VDDQ_VDD2_1V8AO of AGX Orin by VIN_SYS_5V0.
_SUMS = {
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"): "the module (Jetson AGX Orin)",
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"): "the module (Jetson Thor)",
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"): "the module (Jetson AGX Xavier)",
}


@dataclass(frozen=True)
class Total:
    """What the power of the whole is.

    Attributes:
        rails: those that are added; empty if the whole cannot be told.
        words: what the sum stands for, or why there is none; without a full stop.
    """

    rails: tuple[str, ...]
    words: str

    @property
    def known(self) -> bool:
        return bool(self.rails)


def total_of(rails: Iterable[str]) -> Total:
    """The whole, from the names of the rails that can be read.

    A sum is only made of a set that is known to be complete: with a rail missing, or with names
    that are not known, there are rails but no total.
    """
    present = list(rails)
    for name, meaning in _INPUTS.items():
        if name in present:
            return Total((name,), f"{name}, {meaning}")
    for names, meaning in _SUMS.items():
        if set(names) <= set(present):
            return Total(names, f"{' + '.join(names)}, {meaning}")
    for names, meaning in _SUMS.items():
        there = [name for name in names if name in present]
        # VIN_SYS_5V0 alone does not say which module it is.
        if set(there) - {"VIN_SYS_5V0"}:
            missing = " and ".join(name for name in names if name not in present)
            return Total((), f"{missing} cannot be read, without which {meaning} has no total")
    known = ", ".join(present)
    return Total(
        (), f"which of the rails {known} contain which is not known, so they have no total"
    )
