"""What Triton refuses in an ensemble: steps and tensors that do not go together.

The rules are those of its core (``model_config_utils.cc`` and ``ensemble_utils.cc``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dinat_deploy.serving.problems import Problem
from dinat_deploy.serving.triton_checks import compatible, shown
from dinat_deploy.serving.triton_config import DYNAMIC, ENSEMBLE, ModelConfig, Step, Tensor

_AGAIN = "Package the model again, or correct config.pbtxt."


@dataclass(frozen=True)
class _Seen:
    """A tensor of the ensemble, as the model ``by`` has it."""

    by: str
    data_type: str
    dims: tuple[int, ...]
    full_dims: tuple[int, ...]

    @classmethod
    def of(cls, model: ModelConfig, tensor: Tensor) -> _Seen:
        batch = (DYNAMIC,) if model.max_batch_size > 0 else ()
        return cls(model.name, tensor.data_type, tensor.dims, (*batch, *tensor.dims))


def check_ensemble(config: ModelConfig, models: Mapping[str, ModelConfig]) -> Iterator[Problem]:
    """What is wrong with an ensemble.

    Args:
        models: of the repository, by name.
    """
    where = config.name
    if config.platform != ENSEMBLE:
        yield Problem(where, f"It has steps, and its platform is {config.platform!r}.", _AGAIN)
        return
    if not config.steps:
        yield Problem(where, "It is an ensemble without steps.", _AGAIN)
        return
    if config.instances or config.warm_up:
        yield Problem(
            where,
            "It is an ensemble with instance_group or model_warmup, which its models have.",
            "Leave them out.",
        )
    seen: dict[str, _Seen] = {t.name: _Seen.of(config, t) for t in config.inputs}
    seen |= {t.name: _Seen.of(config, t) for t in config.outputs}
    for step in config.steps:
        model = models.get(step.model)
        if model is None:
            yield Problem(
                where,
                f"A step is the model {step.model!r}, which the repository does not have.",
                f"It has {', '.join(sorted(models))}.",
            )
            continue
        if 0 < model.max_batch_size < config.max_batch_size:
            yield Problem(
                where,
                f"It takes batches of up to {config.max_batch_size}, and its step {step.model} of "
                f"up to {model.max_batch_size}.",
                _AGAIN,
            )
        yield from _check_map(where, "input", step.inputs, model, model.inputs, seen)
        yield from _check_map(where, "output", step.outputs, model, model.outputs, seen)
    yield from _check_flow(config)


def _check_map(
    where: str,
    side: str,
    mapped: Mapping[str, str],
    model: ModelConfig,
    tensors: tuple[Tensor, ...],
    seen: dict[str, _Seen],
) -> Iterator[Problem]:
    known = {tensor.name: tensor for tensor in tensors}
    for name in [name for name in mapped if name not in known]:
        yield Problem(
            where,
            f"The {side} {name} of the step {model.name} is mapped, and that model has "
            f"{', '.join(known)}.",
            _AGAIN,
        )
    if side == "input":
        for name in [name for name in known if name not in mapped]:
            yield Problem(
                where, f"The input {name} of the step {model.name} is not mapped.", _AGAIN
            )
    for name, tensor in mapped.items():
        if name not in known:
            continue
        here = _Seen.of(model, known[name])
        there = seen.setdefault(tensor, here)
        if here.data_type != there.data_type:
            yield Problem(
                where,
                f"The tensor {tensor} is {there.data_type} for {there.by}, and {here.data_type} "
                f"for {here.by}.",
                _AGAIN,
            )
        if not compatible(here.dims, there.dims) and not compatible(
            here.full_dims, there.full_dims
        ):
            yield Problem(
                where,
                f"The tensor {tensor} is {shown(there.full_dims)} for {there.by}, and "
                f"{shown(here.full_dims)} for {here.by}.",
                _AGAIN,
            )


def _check_flow(config: ModelConfig) -> Iterator[Problem]:
    """Every tensor is written once, before it is read, and read or given out."""
    where = config.name
    written = [tensor for step in config.steps for tensor in step.outputs.values()]
    read = {tensor for step in config.steps for tensor in step.inputs.values()}
    given = {tensor.name for tensor in config.inputs}
    for tensor in sorted({tensor for tensor in written if written.count(tensor) > 1}):
        yield Problem(where, f"Two steps write the tensor {tensor}.", _AGAIN)
    for tensor in sorted(given - read):
        yield Problem(where, f"No step reads the input {tensor}.", _AGAIN)
    ready = _reachable(config, given)
    for output in config.outputs:
        if output.name not in ready:
            yield Problem(where, f"No step writes the output {output.name}.", _AGAIN)
    for tensor in sorted(read - ready):
        yield Problem(where, f"A step reads the tensor {tensor}, which none writes.", _AGAIN)
    outputs = {tensor.name for tensor in config.outputs}
    for tensor in sorted(set(written) - read - outputs):
        yield Problem(where, f"Nothing reads the tensor {tensor}.", _AGAIN)


def _reachable(config: ModelConfig, given: set[str]) -> set[str]:
    """Tensors that are there once every step that can run has run."""
    ready, waiting = set(given), list(config.steps)

    def runs(step: Step) -> bool:
        return all(tensor in ready for tensor in step.inputs.values())

    while runnable := [step for step in waiting if runs(step)]:
        for step in runnable:
            ready |= set(step.outputs.values())
            waiting.remove(step)
    return ready
