"""What `search.sampler: auto` stands for: a rule from the space, the budget and the parallelism, and its reason."""

from __future__ import annotations

from orchestrator.parameter import Choice
from orchestrator.space import Space
from orchestrator.spec import Spec

# Gaussian processes need seconds a proposal above this (cubic in the trials), and more dimensions than data.
GP_TRIALS, GP_PARAMETERS = 250, 20


def settle(spec: Spec, at_once: int) -> tuple[Spec, str]:
    """The spec with its sampler chosen, and why in one line.

    Args:
        spec: the sweep.
        at_once: how many trials will run at once.
    """
    if spec.search.sampler != "auto":
        return spec, "as search.sampler says"
    name, why = choose(spec, spec.load_space(), at_once)
    return spec.model_copy(update={"search": spec.search.model_copy(update={"sampler": name})}), why


def choose(spec: Spec, space: Space, at_once: int) -> tuple[str, str]:
    """A sampler's name, and why in one line.

    Bergstra and Bengio, 2012 (JMLR 13), for sampling without a model; Optuna's own AutoSampler for where Gaussian
    processes are better than TPE: few trials that all run to the end, numeric parameters without conditions.
    """
    trials, scheduler = spec.trials, spec.schedule.scheduler
    model = "tpe" if spec.objectives else "curves"
    has_results = bool(spec.warm_start.sweeps or spec.warm_start.runs)
    if not space.endless and space.grid_size() <= trials:
        return "grid", f"the budget of {trials} trials covers all {space.grid_size()} configurations"
    if scheduler in ("pbt", "pb2"):
        return "qmc", f"{scheduler} changes hyperparameters itself, and wants a population that covers the space"
    if at_once * 2 >= trials and not has_results:
        return "qmc", f"{at_once} of {trials} trials run at once, so there are few results to learn from"
    if scheduler != "none":
        return model, f"it learns from the trials that {scheduler} stops as well"
    if any(parameter.conditions for parameter in space.values()):
        return model, "the space has conditions"
    if spec.constraints:
        return model, "it is told of constraints"
    if any(isinstance(parameter, Choice) for parameter in space.values()):
        return model, "the space has choices without an order"
    if trials > GP_TRIALS or len(space) > GP_PARAMETERS:
        return model, f"{trials} trials of {len(space)} parameters are too much for a Gaussian process"
    return "gp", f"{trials} whole trials of {len(space)} numeric parameters without conditions"
