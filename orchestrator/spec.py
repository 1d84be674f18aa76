"""A sweep's specification: typed, validated at once and in full, from YAML and `key=value` overrides (pydantic)."""

from __future__ import annotations

import copy
import os
import random
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from orchestrator import arguments, catalog, sources, wandb_yaml
from orchestrator.credentials import NAME, take_keys, tracking_mode, wrong_variables
from orchestrator.errors import InputError, SpaceError, SpecError
from orchestrator.limit import Limit
from orchestrator.naming import (
    DEFAULT_STORAGE,
    SWEEP_NAME,
    SWEEP_NAME_RULE,
    closest,
    default_storage,
    is_artifact,
    near_miss,
    sweep_name,
)
from orchestrator.parameter import Float, Int
from orchestrator.plain import one_line
from orchestrator.space import Space
from orchestrator.trainable import TrainFunction

DEFAULT_SWEEP = "default"
DEFAULT_TRIALS = 20
DEFAULT_PROJECT = "orchestrator"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


def _sweep_name(value: object) -> object:
    if isinstance(value, str) and not SWEEP_NAME.fullmatch(value):
        raise ValueError(f"a sweep's name is {SWEEP_NAME_RULE}")
    return value


def _concurrency(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("concurrency is 'auto' or a whole number from 1")


def _workers(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, str) and (found := RANGE.fullmatch(value.strip())):
        low, high = map(int, found.groups())
        if 1 <= low < high:
            return f"{low}..{high}"
    raise ValueError("workers are a whole number from 1, such as 2, or from the fewest to the most, such as 2..8")


RANGE = re.compile(r"(\d+) *\.\. *(\d+)")


def _precision(value: object) -> object:
    return PRECISIONS.get(str(value), value)


# Lightning's short names (`lightning.fabric.connector._PRECISION_INPUT_STR_ALIAS_CONVERSION`).
PRECISIONS = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
# Under which every rank has the whole model, and the others.
WHOLE = ("auto", "ddp", "ddp_find_unused_parameters_true")
STRATEGIES = (*WHOLE, "fsdp")


def _strategy(value: object) -> object:
    if value in STRATEGIES:
        return value
    if isinstance(value, str) and ":" in value:
        if problem := catalog.problem_with_object(value):
            raise ValueError(problem)
        return value
    hint = near_miss(str(value), STRATEGIES) or ";"
    raise ValueError(f"it is one of {', '.join(STRATEGIES)}, or package.module:NAME{hint.rstrip(';')}")


class ClassPath(_Section):
    """A class and its fixed arguments, as LightningCLI users write them."""

    class_path: str
    """`package.module.Class`, importable where the sweep is started."""
    init_args: dict[str, Any] = {}
    """Arguments that are the same in every trial, objects again as class paths; the space adds those that vary."""


class ClassPaths(_Section):
    """Any LightningModule and LightningDataModule, unchanged."""

    model: ClassPath
    """The LightningModule."""
    data: ClassPath | None = None
    """The LightningDataModule; none where the module brings its own dataloaders."""


def _trainable(value: object) -> object:
    if isinstance(value, str | Mapping | ClassPaths):
        return value
    raise ValueError("a trainable is a name, package.module:NAME, or class paths under 'model' and 'data'")


def _space(value: object) -> object:
    if isinstance(value, str | Mapping):
        return value
    raise ValueError("a space is a name, a YAML file, a URL, package.module:NAME, or a mapping from name to parameter")


def _whole(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("write a number")  # noqa: TRY004 - pydantic passes on nothing but ValueError
    return value


def _limit(value: object) -> object:
    try:
        Limit.parse(str(value))
    except ValueError as exc:
        raise ValueError("a constraint is a metric, <= or >=, and a number, e.g. 'latency_ms <= 5'") from exc
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_whole)]


class Search(_Section):
    """Who proposes hyperparameters."""

    sampler: Literal["auto", "curves", "tpe", "gp", "cmaes", "qmc", "random", "grid"] = "auto"
    """A surrogate of all curves, Optuna's TPE, Gaussian process, CMA-ES, quasi-random or random search, or every point
    of a finite space once."""
    cost_aware: bool = True
    """`curves`: whether an improvement is weighed against what an epoch of a configuration costs, less and less towards
    the last trial; if not, a seed and the values alone decide, not how fast a machine is."""
    duplicates: bool = False
    """Whether a configuration may be run again; if not, a finite space that is exhausted ends the sweep."""
    seed: Whole | None = Field(default=None, ge=0, lt=2**32)
    """Seed of the proposals and, with a trial's number, of every trial; drawn and recorded where none is given."""


class WarmStart(_Section):
    """What the search begins with: results that are known, which teach the sampler and are not run again, and points.

    Spaces need to overlap only: what an earlier trial did not have takes its default here, or is drawn; what is outside
    this space is left out.
    """

    sweeps: list[str] = []
    """Earlier sweeps of the same metric, each by name, folder or URL."""
    runs: str | None = Field(default=None, pattern=r"^([^/\\#?%:]+/)?[^/\\#?%:]+$")
    """A W&B project, `PROJECT` or `ENTITY/PROJECT`: its runs, by their `config` and the `metric` of their summary."""
    filters: dict[str, Any] = {}
    """Which of these runs, as W&B's API takes it, e.g. `{sweep: 3fx8a1b2}` or `{config.data: cifar10}`."""
    points: list[dict[str, Any]] = []
    """Configurations to run first, after the space's default; what one leaves out is sampled."""


class Schedule(_Section):
    """How long a trial may train, and which are stopped early. All terms in epochs."""

    scheduler: Literal["asha", "hyperband", "median", "pbt", "pb2", "none"] = "asha"
    """Asynchronous successive halving, HyperBand, median stopping, population based training, PB2, or none."""
    max_epochs: Whole = Field(default=9, ge=1)
    """Epochs of a trial that is not stopped."""
    grace_epochs: Whole = Field(default=1, ge=1)
    """Epochs before a trial can be stopped; ASHA's first rung."""
    reduction_factor: Number = Field(default=4, gt=1)
    """ASHA and HyperBand: of the trials that reach a rung, about one in this many goes on."""
    interval_epochs: Whole = Field(default=2, ge=1)
    """PBT and PB2: how often the worst copy the best, and go on with other hyperparameters."""
    quantile: Number = Field(default=0.25, gt=0, le=0.5)
    """PBT and PB2: this share of the population, the worst, copies the same share of the best."""
    mutate: list[str] | None = None
    """PBT and PB2: the hyperparameters that may change while a trial trains; every float where none are named."""

    @property
    def is_population(self) -> bool:
        """Whether trials copy each other, and go on with other hyperparameters."""
        return self.scheduler in ("pbt", "pb2")

    def copies_at(self, epoch: int) -> bool:
        """Whether trials copy each other's checkpoints of an epoch."""
        return self.is_population and epoch % self.interval_epochs == 0 and epoch < self.max_epochs

    def may_stop_at(self, epoch: int) -> bool:
        """Whether a trial that reports every epoch may be stopped, paused or changed at the end of this one."""
        match self.scheduler:
            case "none":
                return False
            case "asha":
                rung = float(self.grace_epochs)
                while rung <= epoch - 1:
                    rung *= self.reduction_factor
                return rung <= epoch
            case "pbt" | "pb2":
                return self.copies_at(epoch)
            case _:
                return True


class Budget(_Section):
    """When the sweep is over."""

    trials: Whole | None = Field(default=None, ge=1)
    """How many trials are run, and PBT's population; the whole grid for a grid, 20 otherwise, where none is given."""
    wall_time_s: Number | None = Field(default=None, gt=0)
    """Seconds after which nothing new starts and what runs is stopped as pruned; counted anew on resume."""
    gpu_hours: Number | None = Field(default=None, gt=0)
    """GPU hours, of all trials together, after which what runs is stopped as pruned."""
    target: Number | None = None
    """A value of the metric that is good enough: the sweep ends as soon as a trial reaches it."""
    patience: Whole | None = Field(default=None, ge=1)
    """After so many trials in a row that did not improve on the best, no further trial begins."""
    min_improvement: Number | None = Field(default=None, gt=0)
    """No further trial begins where Optuna's terminator expects less of one, in the metric's unit; after 20 trials."""
    repeat: Whole = Field(default=0, ge=0)
    """How often the best configuration is run again at the end, each time with another seed: its noise."""


class Resources(_Section):
    """What one trial gets, and how many run at once."""

    workers: Annotated[int | str, BeforeValidator(_workers)] = 1
    """Worker processes (ranks) of a trial; `2..8` is as many as there is room for, from 2 to 8: a trial that loses
    nodes goes on with fewer, and grows again when there are more."""
    cpus_per_worker: Number = Field(default=1, gt=0)
    """CPUs of a worker; fractions are allowed."""
    gpus_per_worker: Number = Field(default=0, ge=0)
    """GPUs of a worker; a fraction shares one GPU between trials."""
    precision: Annotated[
        Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"], BeforeValidator(_precision)
    ] = "32-true"
    """Lightning's precision; `32`, `bf16`, `16` and `64` are what they are there."""
    strategy: Annotated[str, BeforeValidator(_strategy)] = "auto"
    """How ranks share a model: `auto` (DDP with more than one worker), `ddp`, `ddp_find_unused_parameters_true`,
    `fsdp`, or `package.module:NAME`, which is called and returns a strategy of Lightning's."""
    concurrency: Annotated[int | Literal["auto"], BeforeValidator(_concurrency)] = "auto"
    """Trials at once; `auto` is as many as the cluster can have."""

    @property
    def fewest_workers(self) -> int:
        """Without which a trial waits."""
        return int(str(self.workers).partition("..")[0])

    @property
    def most_workers(self) -> int:
        """With which it has all that it asks for."""
        return int(str(self.workers).rpartition("..")[2])

    @property
    def worker(self) -> dict[str, float]:
        """What one worker takes, in Ray's names."""
        taken = {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker}
        return {name: amount for name, amount in taken.items() if name == "CPU" or amount}

    @property
    def is_elastic(self) -> bool:
        """Whether their number may change while a trial trains."""
        return self.fewest_workers < self.most_workers


# What of a parameter a narrower space may say.
ATTRIBUTES = ("low", "high", "step", "log", "options")
# Hyperparameters, prefix aside, that `training` gives a meaning to.
BATCH_SIZES, RATES = ("batch_size",), ("lr", "learning_rate")


class Training(_Section):
    """How a trial takes its steps, whatever its loop."""

    batch_size: Literal["per_worker", "global", "largest"] = "per_worker"
    """Whether the hyperparameter `batch_size` is each worker's, or is shared out between them (then one worker and
    several see the same batches in the same order), or is only the upper limit of the largest that fits into memory,
    which is found before the trial begins."""
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    """How the hyperparameter `lr` (or `learning_rate`) grows with the number of workers, as the global batch does."""
    compile: bool = False
    """Compile the model with `torch.compile`."""
    deterministic: bool = False
    """Only operations that give the same result every time, or an error where there is none."""
    report_every_steps: Whole | None = Field(default=None, ge=1)
    """For long epochs: a trial is validated, saved and judged after every so many batches of a worker, and what is said
    in epochs elsewhere, as in `schedule`, counts these reports instead."""


class Failures(_Section):
    """What a failure costs."""

    retries: Whole = Field(default=1, ge=0)
    """How often a trial is tried again, from its last checkpoint, before it is FAIL."""
    max_failed: Whole | None = Field(default=5, ge=1)
    """The sweep ends when this many trials have failed, or the first two alike before any epoch was over; null for
    never."""
    stall_timeout_s: Number = Field(default=1800, gt=0)
    """A worker that finishes no training or validation step for so long is killed, and the trial retried."""
    wait_timeout_s: Number | None = Field(default=21600, gt=0)
    """Where trials wait and none has had workers for so long, as when nodes do not come, the sweep ends, to be resumed;
    null for never."""


class Tracking(_Section):
    """The trial's Weights & Biases run."""

    project: str | None = Field(default=None, pattern=NAME)
    """W&B project; where none is given `WANDB_PROJECT`, else `orchestrator`."""
    entity: str | None = Field(default=None, pattern=NAME)
    """W&B team or user; where none is given `WANDB_ENTITY`, else the key's default."""
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto` is online where a key is configured, else offline."""
    tags: list[str] = []
    """Tags of every run; `WANDB_TAGS` where none are given."""
    watch: Literal["gradients", "parameters", "all"] | None = None
    """Histograms of the module's gradients or parameters in its run."""
    watch_every: Whole = Field(default=100, ge=1)
    """Training steps between two of them."""
    watch_graph: bool = False
    """The module's topology as well."""
    predictions: Whole = Field(default=0, ge=0)
    """Of so many samples of the validation data, what the module predicts, after every validation: as a table, and as
    images with captions where the samples are images."""
    registry: str | None = Field(default=None, pattern=r"^[^/:\s]+(/[^/:\s]+)?$")
    """A collection of W&B's registry that the winner's checkpoint is linked to at the end: `COLLECTION` of the
    registry `model`, or `REGISTRY/COLLECTION`."""
    registry_aliases: list[str] = []
    """Aliases that the winner gets there."""


class Checkpoints(_Section):
    """What is kept once a trial has ended; the rest is deleted."""

    keep: Literal["best", "best_and_last", "all", "none"] = "best_and_last"
    """Which checkpoints of a trial, in storage and as artifacts of its run."""
    keep_trials: Whole | None = Field(default=None, ge=1)
    """Of how many trials, best first, checkpoints stay in storage; null for all."""


class Spec(_Section):
    """A sweep."""

    name: Annotated[str | None, BeforeValidator(_sweep_name)] = None
    """Names the sweep's folder and its runs; made from the trainable and the time where none is given."""
    trainable: Annotated[str | ClassPaths, BeforeValidator(_trainable)]
    """A name from `trainables/`, `package.module:NAME`, or class paths under `model` and `data`."""
    space: Annotated[str | dict[str, Any], BeforeValidator(_space)]
    """A name (`digits`, or of a version `digits@1`), a YAML file or URL, `package.module:NAME`, or parameters."""
    params: dict[str, Any] = {}
    """Hyperparameters held fixed."""
    metric: str = Field(min_length=1)
    """What the module logs (`self.log`) and the sweep optimises; a trial's value is its best over the epochs."""
    goal: Literal["maximize", "minimize"]
    """Which way is better."""
    objectives: dict[str, Literal["maximize", "minimize"]] = {}
    """Further metrics to optimise, each with its goal: the sweep looks for the Pareto front, without early stopping."""
    constraints: list[Annotated[str, BeforeValidator(_limit)]] = []
    """Limits that a good trial keeps at its best epoch, each on a metric that the module logs: `latency_ms <= 5`."""
    search: Search = Search()
    warm_start: WarmStart = WarmStart()
    schedule: Schedule = Schedule()
    budget: Budget = Budget()
    resources: Resources = Resources()
    training: Training = Training()
    isolation: Literal["group", "process"] = "group"
    """`group` keeps worker processes warm from trial to trial; `process` gives every trial fresh ones."""
    failures: Failures = Failures()
    tracking: Tracking = Tracking()
    checkpoints: Checkpoints = Checkpoints()
    export: Literal["onnx"] | None = None
    """Once the sweep has finished, export its winner, checked, as `trials/NUMBER/model.onnx`."""
    start_from: str | None = None
    """A checkpoint whose weights every trial starts from: a path, or an artifact `ENTITY/PROJECT/NAME:ALIAS` of W&B."""
    trainer: dict[str, Any] = {}
    """Further arguments of Lightning's Trainer, e.g. `gradient_clip_val`; `callbacks` as class paths."""
    storage: str = Field(default=DEFAULT_STORAGE, min_length=1)
    """The folder, or any URL that pyarrow knows, for the sweep's own; `ORCHESTRATOR_STORAGE` is another default."""

    def load_space(self) -> Space:
        """The search space."""
        return sources.load_space(self.space)

    @property
    def space_identity(self) -> dict[str, Any]:
        """Which space it is: its name and version, where it has them, and its digest."""
        return sources.identity(self.space)

    @cached_property
    def limits(self) -> list[Limit]:
        """The constraints."""
        return [Limit.parse(text) for text in self.constraints]

    @property
    def goals(self) -> dict[str, Literal["maximize", "minimize"]]:
        """Every objective's, by its metric, the first one first."""
        return {self.metric: self.goal, **self.objectives}

    @property
    def measured(self) -> list[str]:
        """The metrics that count besides the first: objectives, and what is constrained."""
        named = [*self.objectives, *(limit.metric for limit in self.limits)]
        return list(dict.fromkeys(name for name in named if name != self.metric))

    @cached_property
    def trials(self) -> int:
        """How many trials there will be at most: as the budget says, but never more than a finite space has points."""
        grid, space = self.search.sampler == "grid", self.load_space()
        if grid and self.budget.trials is None:
            return space.grid_size()
        asked = self.budget.trials or DEFAULT_TRIALS
        if not grid and (self.search.duplicates or space.endless):
            return asked
        return sum(1 for _ in islice(space.grid(), asked))

    @classmethod
    def from_yaml(cls, text: str) -> Spec:
        """Read back what `to_yaml` wrote."""
        return cls.model_validate(yaml.safe_load(text))

    def to_yaml(self) -> str:
        """The specification as YAML that `from_yaml` reads back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


# Arguments of Lightning's Trainer that the spec says elsewhere, or that are the sweep's own, and where to say them.
TRAINER_ELSEWHERE = {
    "max_epochs": "schedule.max_epochs",
    "min_epochs": "schedule.grace_epochs",
    "min_steps": "schedule.grace_epochs",
    "max_steps": "schedule.max_epochs",
    "max_time": "budget.wall_time_s",
    "fast_dev_run": "schedule.max_epochs",
    "precision": "resources.precision",
    "strategy": "resources.strategy",
    "devices": "resources.workers",
    "num_nodes": "resources.workers",
    "accelerator": "resources.gpus_per_worker",
    "logger": "tracking",
    "plugins": "resources.strategy",
    "enable_checkpointing": "checkpoints.keep",
    "deterministic": "training.deterministic",
    "default_root_dir": "storage",
}


# Words in the names of metrics that hardly anybody would have a goal for.
UNUSUAL = {
    "maximize": {"loss", "error", "err", "mse", "rmse", "mae", "nll", "perplexity", "ppl", "wer", "cer", "fid"},
    "minimize": {"acc", "accuracy", "auc", "auroc", "iou", "bleu", "rouge", "psnr", "ssim"},
}
# Words that turn the meaning of others.
OPPOSITE = {"neg", "negative", "improvement", "reduction", "drop", "gap"}


# What W&B, Optuna and Ray Tune call what is said here in another way.
ALSO_CALLED = {
    "method": "search.sampler",
    "mode": "goal",
    "direction": "goal",
    "run_cap": "budget.trials",
    "n_trials": "budget.trials",
    "num_samples": "budget.trials",
    "parameters": "space",
    "early_terminate": "schedule",
    "program": "trainable",
}
# Sections whose keys are names of the user's own, which may hold dots: `params.optimizer.lr=0.1`.
FREE_NAMES = ("params", "init_args", "filters")

# What pyarrow.fs.FileSystem.from_uri takes: https://arrow.apache.org/docs/python/filesystems.html
STORAGE_SCHEMES = ("file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "hf")


def read(reference: str | None, overrides: Sequence[str] = (), note: Callable[[str], object] = lambda _: None) -> Spec:
    """Read a sweep's YAML file (or name; the default sweep for None), override it, and check everything.

    Args:
        reference: the file or name; it may also be a W&B sweep's file.
        overrides: `key=value` each.
        note: told what of a W&B sweep's file means nothing here, and of a goal that is probably the wrong way round.

    Raises:
        SpecError: with every problem found, of syntax, keys, values and names.
    """
    path = catalog.find_sweep(reference or DEFAULT_SWEEP)
    data = catalog.read_yaml(path)
    if not isinstance(data, dict):
        raise SpecError(f"{path} holds {catalog.kind_of(data)}; a sweep is a mapping of keys such as 'trainable'")
    if "provider" in data and "available_node_types" in data:
        raise SpecError(f"{path} is a file for `ray up`, not a sweep's; write cluster={path}")
    if problem := wandb_yaml.flaw(data):
        raise SpecError(f"{path}: {problem}")
    if wandb_yaml.is_sweep(data):
        data, notes = wandb_yaml.to_spec(data)
        for text in notes:
            note(f"{path} is a W&B sweep: {text}")
    spec = check(data, overrides)
    for metric, goal in spec.goals.items():
        words = {word.lower() for word in re.split(r"[\W\d_]+|(?<=[a-z])(?=[A-Z])", metric)}
        usual = {other for other in UNUSUAL if other != goal and UNUSUAL[other] & words}
        if UNUSUAL[goal] & words and not usual and not words & OPPOSITE:
            note(f"the goal is to {goal} {metric}: is that the right way round?")
    return spec


def check(data: dict[str, Any], overrides: Sequence[str] = ()) -> Spec:
    """Apply `key=value` overrides to a sweep given as plain data, and check everything.

    Raises:
        SpecError: with every problem found.
    """
    problems: list[str] = []
    for override in overrides:
        problems += _override(data, override)
    data.setdefault("storage", default_storage(os.environ))
    if keys := list(take_keys(data)):
        raise SpecError(
            [
                f"{place} is a key of W&B's, which no spec may hold: it would be in the sweep's folder and on its page;"
                " use `wandb login` or WANDB_API_KEY instead, and make a new one, for this one has been seen"
                for place in keys
            ]
        )
    wrong_names = list(_problems_with_names(data))
    spec: Spec | None
    try:
        spec = Spec.model_validate(data)
    except ValidationError as exc:
        problems += dict.fromkeys(_sentence(error, data) for error in exc.errors() if not _is_other_branch(error, data))
        spec = _sound_part(data, exc)
    problems += wrong_names
    if spec is not None and not wrong_names:
        problems += _problems_between(spec)
    if problems or spec is None:
        raise SpecError(problems)
    return spec


def _sound_part(data: Mapping[str, Any], exc: ValidationError) -> Spec | None:
    """A spec without the values that are wrong by themselves, to find what is wrong between the others."""
    sound = copy.deepcopy(dict(data))
    for error in exc.errors():
        *parents, last = error["loc"]
        section: Any = sound
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section.pop(last, None)
    try:
        return Spec.model_validate(sound)
    except ValidationError:
        return None


def resolve(spec: Spec, now: datetime) -> Spec:
    """Fill in everything that is decided once: the name, the seed, the tracking mode."""
    trainable = spec.trainable if isinstance(spec.trainable, str) else spec.trainable.model.class_path
    seed = spec.search.seed
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    return spec.model_copy(
        update={
            "space": sources.written_out(spec.space),
            "name": spec.name or sweep_name(trainable, now),
            "search": spec.search.model_copy(update={"seed": seed}),
            "tracking": _tracking(spec.tracking, os.environ),
            "start_from": _absolute_file(spec.start_from),
            "storage": spec.storage if "://" in spec.storage else str(Path(spec.storage).expanduser().resolve()),
        }
    )


def _tracking(tracking: Tracking, environ: Mapping[str, str]) -> Tracking:
    """Where runs go: as the spec says, else as W&B's own variables do, else as the defaults.

    Raises:
        SpecError: a variable has what it cannot have.
    """
    mode = tracking_mode(tracking.mode, environ)
    if problems := list(wrong_variables(mode, environ)):
        raise SpecError(problems)
    tags = [tag.strip() for tag in environ.get("WANDB_TAGS", "").split(",") if tag.strip()]
    return tracking.model_copy(
        update={
            "mode": mode,
            "project": tracking.project or environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
            "entity": tracking.entity or environ.get("WANDB_ENTITY") or None,
            "tags": tracking.tags or tags,
        }
    )


def _absolute_file(checkpoint: str | None) -> str | None:
    """A checkpoint's file under its whole path, an artifact's name as it is."""
    return checkpoint if checkpoint is None or is_artifact(checkpoint) else str(Path(checkpoint).resolve())


def _override(data: dict[str, Any], override: str) -> Iterator[str]:
    """Set `a.b.c=value` in nested mappings; yields the problem instead where that cannot be."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        yield f"'{override}' is not an override; write key=value, e.g. budget.trials=50"
        return
    if not text.strip():
        yield f"{key}= has no value; write {key}=null where there is to be none"
        return
    parts = key.strip().split(".")
    for depth, part in enumerate(parts[:-1], 1):
        if part in FREE_NAMES:
            parts = [*parts[:depth], ".".join(parts[depth:])]
            break
    *parents, last = parts
    section: Any = data
    for depth, parent in enumerate(parents, 1):
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            where = ".".join(parents[:depth])
            remedy = _remedy(section, parts[1:], text) if where == "space" else ""
            yield f"{key}: '{where}' is {section!r}, which has no keys; override '{where}' itself{remedy}"
            return
    try:
        section[last] = catalog.parse_yaml(text, f"the value of {key}")
    except InputError as exc:
        yield str(exc)


def _searched(space: str) -> Collection[str]:
    try:
        return sources.load_space(space)
    except InputError:
        return ()


def _remedy(space: str, path: Sequence[str], text: str) -> str:
    """How a named space is changed at a place, or what was probably meant there."""
    known, name = _searched(space), ".".join(path)
    group, _, last = name.rpartition(".")
    if name in known or (group in known and last in ATTRIBUTES):
        return _narrower(space, path, text)
    if group in known:
        return near_miss(last, ATTRIBUTES)
    return near_miss(group if last in ATTRIBUTES else name, known)


def _narrower(space: str, path: Sequence[str], text: str) -> str:
    """The override that leaves a named space a parameter's one value, some of its options, or another range.

    Where there is none that the space would take, why.
    """
    *parents, last = path
    searched, parameter, name = _searched(space), ".".join(parents), ".".join(path)
    try:
        value = catalog.parse_yaml(text, "the value")
    except InputError as exc:
        return f"; but {exc.problems[0]}"
    if last in ATTRIBUTES and isinstance(searched, Space) and parameter in searched:
        whole = one_line(searched[parameter].to_data() | {last: value})
        changes = [f"narrow: {{{parameter}: {{{last}: {text}}}}}", f"replace: {{{parameter}: {whole}}}"]
    elif isinstance(value, Mapping):
        changes = [f"{verb}: {{{name}: {text}}}" for verb in ("narrow", "replace")]
    else:
        changes = [f"{'narrow' if isinstance(value, list) else 'fix'}: {{{name}: {text}}}"]
    for change in changes:
        derived = f"{{extends: {space}, {change}}}"
        try:
            sources.load_space(catalog.parse_yaml(derived, "the space"))
        except InputError as exc:
            problem = exc.problems[0]
        else:
            return f", e.g. {shlex.quote(f'space={derived}')}"
    return f"; but {problem.removeprefix('space: ')}"


def _is_other_branch(error: Any, data: Mapping[str, Any]) -> bool:
    """Whether an error says only that class paths are not a name, or a mapping of parameters not one."""
    return len(error["loc"]) == 2 and error["loc"][1] == "str" and isinstance(data.get(error["loc"][0]), Mapping)


# What pydantic calls a broken rule about a number, and what to write instead.
NUMBER_RULES = {
    "greater_than_equal": "write a number from {ge}",
    "greater_than": "write a number above {gt:g}",
    "less_than_equal": "write a number up to {le}",
    "less_than": "write a number below {lt}",
    "int_parsing": "write a whole number, such as 10",
    "int_type": "write a whole number, such as 10",
    "int_from_float": "write a whole number, such as 10",
    "float_parsing": "write a number, such as 0.5",
    "float_type": "write a number, such as 0.5",
}


def _sentence(error: Any, data: Mapping[str, Any]) -> str:
    """One of pydantic's errors, in this project's words: the rule, the value, the remedy."""
    place = [str(part) for part in error["loc"]]
    if "ClassPaths" in place:
        place.remove("ClassPaths")
    place = [part for part in place if part not in ("str", "dict[str,any]", "int", "literal['auto']")]
    key, value = ".".join(place), error["input"]
    match error["type"]:
        case "extra_forbidden":
            known = _keys_at(place[:-1])
            where = f"in '{'.'.join(place[:-1])}'" if place[:-1] else "at the top level"
            hint = _meant(place, known)
            if not place[:-1] and isinstance(data.get("space"), str) and key in _searched(data["space"]):
                text = one_line(value) if isinstance(value, Mapping | list) else str(value)
                hint = f"; a hyperparameter of the space is changed there{_narrower(data['space'], [key], text)};"
            return f"unknown key '{key}'{hint} keys {where}: {', '.join(known)}"
        case "invalid_key":
            return f"unknown key {error['input']!r}; keys are text"
        case "missing":
            return f"'{key}' is required; write it in the sweep's file or as {key}=..."
        case "literal_error":
            known = [word.strip(" '") for word in error["ctx"]["expected"].replace(" or ", ",").split(",")]
            called = wandb_yaml.METHODS.get(str(value)) if key == "search.sampler" else None
            near = f"; did you mean '{called}'?" if called else near_miss(str(value), known)
            return f"{key} is {value!r}{near or ';'} it is one of {', '.join(known)}"
        case "value_error":
            return f"{key} is {value!r}; {error['ctx']['error']}"
        case "string_pattern_mismatch" if place[-1] == "registry":
            return f"{key} is {value!r}; write COLLECTION, or REGISTRY/COLLECTION"
        case "list_type":
            return f"{key} is {value!r}; write a list, e.g. {key}=[a, b]"
        case "string_pattern_mismatch":  # of W&B's projects
            of_whom = "ENTITY/PROJECT or " if place[-1] == "runs" else ""
            return f"{key} is {value!r}; write {of_whom}PROJECT, a name without any of / \\ # ? % :"
        case "model_type" | "model_attributes_type":
            near = next((f"; did you mean {key}.{each}={value}?" for each in _keys_for(place, value)), ";")
            return f"{key} is {value!r}{near} it is a section, with the keys {', '.join(_keys_at(place))}"
        case kind if kind in NUMBER_RULES:
            return f"{key} is {value!r}; {NUMBER_RULES[kind].format(**error.get('ctx', {}))}"
        case _:
            return f"{key} is {value!r}; {error['msg'][0].lower()}{error['msg'][1:]}"


def _meant(place: Sequence[str], known: Sequence[str]) -> str:
    """`; did you mean 'goal'?` of a key that there is none of among those known in its place, else `;`."""
    key = ".".join(place)
    called = ALSO_CALLED.get(key)
    if called is None and (near := near_miss(place[-1], known)):
        return near
    called = called or ALSO_CALLED.get(closest(key, ALSO_CALLED) or "")
    return f"; did you mean '{called}'?" if called else _elsewhere(place[-1]) or ";"


def _elsewhere(name: str) -> str:
    """`; did you mean 'budget.trials'?` for a key like that in another section, else nothing."""
    sections = {key: _keys_at([key]) for key, field in Spec.model_fields.items() if _is_section(field.annotation)}
    places = {key: f"{section}.{key}" for section, keys in reversed(sections.items()) for key in keys}
    places |= {key: f"params.{key}" for key in BATCH_SIZES}  # how large, not whose
    close = closest(name, places)
    return "" if close is None else f"; did you mean '{places[close]}'?"


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _keys_at(place: Sequence[str]) -> list[str]:
    """The keys of a section of the spec."""
    model: type[BaseModel] = Spec
    for part in place:
        if part == "trainable":
            model = ClassPaths
            continue
        annotation = model.model_fields[part].annotation
        model = annotation if _is_section(annotation) else ClassPath
    return list(model.model_fields)


def _keys_for(place: Sequence[str], value: object) -> Iterator[str]:
    """The keys of a section at the top level for which a word is one of those that they can be."""
    section = Spec.model_fields[place[0]].annotation
    if len(place) == 1 and _is_section(section):
        for key, field in section.model_fields.items():
            if get_origin(field.annotation) is Literal and value in get_args(field.annotation):
                yield key


def _problems_with_names(data: Mapping[str, Any]) -> Iterator[str]:
    """Trainables, classes and spaces that do not exist, whatever else is wrong with the spec."""
    trainable, space = data.get("trainable"), data.get("space")
    if isinstance(trainable, str):
        if problem := catalog.problem_with_trainable(trainable):
            yield problem
    elif isinstance(trainable, Mapping):
        for part in ("model", "data"):
            given = trainable.get(part)
            class_path = given.get("class_path") if isinstance(given, Mapping) else None
            if isinstance(class_path, str) and (problem := catalog.problem_with_class(class_path)):
                yield f"trainable.{part}.class_path: {problem}"
            if isinstance(given, Mapping):
                yield from _problems_with_class_paths(given.get("init_args"), f"trainable.{part}.init_args")
    if isinstance(space, str | Mapping):
        try:
            loaded = sources.load_space(space)
            loaded.sample(random.Random(0))  # where no configuration fulfils the constraints, that is said now
        except InputError as exc:
            yield from exc.problems
        else:
            params = data.get("params")
            for name in sorted(set(loaded) & set(params if isinstance(params, Mapping) else ())):
                yield f"params.{name}: '{name}' is fixed there and searched in the space; take it out of one of them"


def _problems_between(spec: Spec) -> Iterator[str]:
    """Values that are each possible, but not together."""
    space = spec.load_space()
    schedule, resources = spec.schedule, spec.resources
    if schedule.grace_epochs > schedule.max_epochs:
        yield (
            f"schedule.grace_epochs is {schedule.grace_epochs} and schedule.max_epochs {schedule.max_epochs};"
            " a trial cannot be spared for longer than it trains: lower the first or raise the second"
        )
    yield from _problems_with_search(spec, space)
    yield from _problems_with_warm_start(spec.warm_start, space)
    yield from _problems_with_objectives(spec)
    if resources.gpus_per_worker > 1 and not resources.gpus_per_worker.is_integer():
        yield (
            f"resources.gpus_per_worker is {resources.gpus_per_worker:g}; above 1 it is a whole number, because a GPU"
            " is shared by workers, not a worker's work by parts of GPUs"
        )
    if resources.precision == "16-mixed" and not resources.gpus_per_worker:
        yield (
            "resources.precision is '16-mixed' and trials have no GPU, without which Lightning trains in bf16-mixed:"
            " write that, or set resources.gpus_per_worker"
        )
    share = resources.gpus_per_worker
    if resources.is_elastic and 0 < share < 1 and not (1 / share).is_integer():
        yield (
            f"resources.gpus_per_worker is {share:g} and resources.workers {resources.workers}; of a GPU that is shared"
            " so, nobody knows what is left: use a whole GPU, 0.5 or 0.25, or a fixed number of workers"
        )
    if spec.budget.gpu_hours is not None and not resources.gpus_per_worker:
        yield "budget.gpu_hours is counted in GPUs, and trials have none; set resources.gpus_per_worker, or wall_time_s"
    yield from _problems_with_routes(spec, space)
    yield from _problems_with_training(spec, space)
    yield from _problems_with_steps(spec, (*spec.params, *space))
    yield from _problems_with_callbacks(spec.trainer.get("callbacks", []))
    others = {name: given for name, given in spec.trainer.items() if name != "callbacks"}
    yield from _problems_with_class_paths(others, "trainer")
    if "trainer.callbacks" in {*spec.params, *space}:
        yield "trainer.callbacks is no hyperparameter; write it under 'trainer', the same for every trial"
    for name, said in TRAINER_ELSEWHERE.items():
        for place, given in (("", spec.trainer), ("params.trainer.", spec.params), ("space: trainer.", space)):
            if (f"trainer.{name}" if place else name) in given:
                yield f"{place or 'trainer.'}{name} is said by {said} instead"
    if spec.start_from and not is_artifact(spec.start_from) and not Path(spec.start_from).is_file():
        yield (
            f"start_from is '{spec.start_from}', which is no file; it is a checkpoint's path, or an artifact of W&B:"
            " ENTITY/PROJECT/NAME:ALIAS"
        )
    if spec.tracking.predictions and resources.strategy not in WHOLE:
        yield (
            f"tracking.predictions is {spec.tracking.predictions} and resources.strategy '{resources.strategy}'; rank 0"
            " alone is asked, and would wait for ever for the others' parts of a model that is shared out: use"
            f" {', '.join(WHOLE)}, or leave tracking.predictions out"
        )
    if spec.tracking.registry_aliases and spec.tracking.registry is None:
        yield (
            f"tracking.registry_aliases is {spec.tracking.registry_aliases}, and nothing says which collection they are"
            " of; name it as tracking.registry, or leave the aliases out"
        )
    scheme, is_url, rest = spec.storage.partition("://")
    if is_url and "@" in rest.partition("/")[0]:
        yield (
            "storage holds a user or a key, which would be in the sweep's folder and on its page; give credentials as"
            " its cloud's tools take them, e.g. AWS_ACCESS_KEY_ID in the environment"
        )
    if is_url and scheme not in STORAGE_SCHEMES:
        yield f"storage is '{spec.storage}'; a URL starts with one of {', '.join(STORAGE_SCHEMES)}"


def _problems_with_routes(spec: Spec, space: Space) -> Iterator[str]:
    """Hyperparameters and arguments that nothing takes, as far as the files of what is trained tell."""
    reference = spec.trainable if isinstance(spec.trainable, str) else spec.trainable.model_dump()
    trainable = catalog.foresee_trainable(reference)
    try:
        names = dict.fromkeys((*spec.params, *space))
        if spec.training.batch_size == "largest" and not {plain_name(name) for name in names} & set(BATCH_SIZES):
            names |= dict.fromkeys(BATCH_SIZES)
        routed = trainable.route(names) if trainable else {}
    except SpecError as exc:
        yield from exc.problems
        routed = {}
    yield from _problems_within({**routed, "trainer": {**spec.trainer, **routed.get("trainer", {})}})
    if isinstance(trainable, TrainFunction):
        yield from problems_with_function(spec)
    if unsure := {*spec.trainer, *routed.get("trainer", {})} - TRAINER_ELSEWHERE.keys():
        known = catalog.trainer_arguments()
        for name in sorted(unsure - known) if known else ():
            hint = near_miss(name, known) or f"; it takes: {', '.join(sorted(known - TRAINER_ELSEWHERE.keys()))}"
            yield f"trainer.{name}: Lightning's Trainer takes no '{name}'{hint}"


def _problems_within(routed: Mapping[str, Any]) -> Iterator[str]:
    """Arguments that classes do not take which are themselves arguments, written as class paths."""
    for where, given in arguments.class_paths(routed, ""):
        nested = catalog.foresee_trainable({"model": given})
        try:
            _ = nested and nested.route({})
        except SpecError as exc:
            yield from (f"{where.lstrip('.')}.{problem}" for problem in exc.problems)


def problems_with_function(spec: Spec) -> Iterator[str]:
    """What is asked of a training function that only Lightning's loop does."""
    why = "a training function does not: it is done for a LightningModule only; leave it out"
    if spec.schedule.is_population:
        yield f"schedule.scheduler is '{spec.schedule.scheduler}', which changes hyperparameters in mid-training; {why}"
    if spec.training.report_every_steps:
        yield (
            f"training.report_every_steps is {spec.training.report_every_steps}, but a training function says itself"
            " when it reports; let what it counts as an epoch be so many steps"
        )
    if spec.training.batch_size == "largest":
        yield f"training.batch_size is 'largest', which {why}"
    for name in spec.trainer.keys() - TRAINER_ELSEWHERE.keys():
        yield f"trainer.{name}: a training function has no Lightning Trainer; leave it out"
    for key in ("watch", "predictions"):
        if getattr(spec.tracking, key):
            yield f"tracking.{key} is {getattr(spec.tracking, key)!r}, which {why}"


def _problems_with_training(spec: Spec, space: Space) -> Iterator[str]:
    """What `training` says of hyperparameters that are not there, or says twice."""
    training, named = spec.training, {plain_name(name) for name in (*spec.params, *space)}
    if training.batch_size == "global" and not named & set(BATCH_SIZES):
        yield "training.batch_size is 'global', but neither params nor the space says how large: give batch_size"
    if training.batch_size == "global" and spec.resources.is_elastic:
        yield (
            "training.batch_size is 'global', which not every number of workers can share evenly, and"
            f" resources.workers is {spec.resources.workers}; use training.batch_size=per_worker, or a fixed number of"
            " workers"
        )
    if training.lr_scaling != "none" and spec.resources.is_elastic:
        yield (
            f"training.lr_scaling is '{training.lr_scaling}' and resources.workers {spec.resources.workers}, but an"
            " optimizer that goes on keeps its learning rate: use lr_scaling=none, or a fixed number of workers"
        )
    if training.batch_size == "largest" and (spec.resources.most_workers > 1 or spec.resources.strategy != "auto"):
        yield (
            "training.batch_size is 'largest', which is found on one worker only (Lightning's Tuner); set"
            " resources.workers=1 and resources.strategy=auto"
        )
    if training.batch_size == "largest" and (searched := {*BATCH_SIZES} & {plain_name(each) for each in space}):
        yield (
            f"training.batch_size is 'largest', which finds what the space searches; take {', '.join(searched)} out of"
            " the space, or give its upper limit in params"
        )
    if training.lr_scaling != "none" and not named & set(RATES):
        yield f"training.lr_scaling is '{training.lr_scaling}', but neither params nor the space has an lr to scale"
    if training.lr_scaling != "none" and training.batch_size == "global":
        yield (
            f"training.lr_scaling is '{training.lr_scaling}' and training.batch_size 'global', which does not grow with"
            " the number of workers: take one of them out"
        )


def _problems_with_steps(spec: Spec, named: Iterable[str]) -> Iterator[str]:
    """When to validate, said twice."""
    given = {*(f"trainer.{name}" for name in spec.trainer), *named}
    if spec.training.report_every_steps:
        for name in ("trainer.val_check_interval", "trainer.check_val_every_n_epoch"):
            if name in given:
                yield f"{name} is said by training.report_every_steps already; take one of them out"


def _problems_with_callbacks(callbacks: object) -> Iterator[str]:
    """Callbacks are written as LightningCLI users write them: each a class path and its arguments."""
    if not isinstance(callbacks, list):
        yield f"trainer.callbacks is {callbacks!r}; it is a list of class_path and init_args"
        return
    for given in callbacks:
        try:
            path = ClassPath.model_validate(given).class_path
        except ValidationError:
            yield f"trainer.callbacks has {given!r}; each is a mapping of class_path and, if need be, init_args"
        else:
            if problem := catalog.problem_with_class(path):
                yield f"trainer.callbacks: {problem}"


def _problems_with_class_paths(value: object, where: str) -> Iterator[str]:
    """Class paths, among arguments, that lead nowhere."""
    for place, given in arguments.class_paths(value, where):
        if problem := catalog.problem_with_class(given["class_path"]):
            yield f"{place}.class_path: {problem}"
    for place, given in arguments.mappings(value, where):
        for key in given.keys() - arguments.KEYS if isinstance(given.get("class_path"), str) else ():
            if hint := near_miss(str(key), arguments.KEYS):  # else it is a mapping of the user's own
                yield f"{place}.{key}: what is made of a class path has no '{key}'{hint}"


def plain_name(hyperparameter: str) -> str:
    """A hyperparameter's name without the prefix that says where it goes: `data.batch_size` is `batch_size`."""
    return hyperparameter.rpartition(".")[2]


def _problems_with_search(spec: Spec, space: Space) -> Iterator[str]:
    """Samplers and schedulers that cannot work on the space."""
    sampler, schedule = spec.search.sampler, spec.schedule
    if sampler == "grid" and space.endless:
        yield (
            f"search.sampler is 'grid', but {', '.join(repr(name) for name in space.endless)} in the space can take"
            " endlessly many values; give a step, or use sampler=tpe"
        )
    ranges = [name for name, parameter in space.items() if isinstance(parameter, Float | Int)]
    always = [name for name in ranges if not space[name].conditions]
    if sampler == "cmaes" and len(always) < 2:
        yield (
            "search.sampler is 'cmaes', which needs two numeric parameters without conditions, and the space has"
            f" {len(always)}; use sampler=tpe"
        )
    if not schedule.is_population:
        return
    if spec.budget.repeat:
        yield (
            f"budget.repeat is {spec.budget.repeat}, which runs the best configuration again, but with"
            f" scheduler={schedule.scheduler} a trial has no single one: its hyperparameters change; leave it out"
        )
    if not (mutated := schedule.mutate if schedule.mutate is not None else mutable(space)):
        yield (
            f"schedule.scheduler is '{schedule.scheduler}', which changes hyperparameters of the space, but it has no"
            " float; name those that may change in schedule.mutate"
        )
    for name in mutated:
        if name not in space:
            yield f"schedule.mutate names '{name}'{near_miss(name, space) or ';'} the space has: {', '.join(space)}"
        elif schedule.scheduler == "pb2" and name not in ranges:
            yield f"schedule.mutate names '{name}', a choice, but PB2 changes ranges only; use scheduler=pbt"


def _problems_with_objectives(spec: Spec) -> Iterator[str]:
    """What needs one number to compare trials by."""
    sampler = spec.search.sampler
    if spec.constraints and sampler in ("gp", "cmaes"):
        yield f"search.sampler is '{sampler}', which is not told of constraints; use sampler=tpe"
    if spec.constraints and spec.budget.target is not None:
        yield (
            f"budget.target is {spec.budget.target:g}, which a trial may reach that breaks one of the constraints;"
            " leave one of them out"
        )
    if not spec.objectives:
        return
    if spec.metric in spec.objectives:
        yield f"objectives names '{spec.metric}', which is the metric already; name further ones only"
    one = "compares trials by one number; with objectives"
    if spec.schedule.scheduler != "none":
        yield f"schedule.scheduler is '{spec.schedule.scheduler}', which {one} use scheduler=none"
    if sampler in ("cmaes", "curves"):
        yield f"search.sampler is '{sampler}', which {one} use sampler=tpe"
    for key in ("patience", "min_improvement"):
        if (given := getattr(spec.budget, key)) is not None:
            yield f"budget.{key} is {given}, which {one} leave it out"
    if spec.checkpoints.keep_trials is not None:
        yield f"checkpoints.keep_trials is {spec.checkpoints.keep_trials}, which {one} leave it out"
    if spec.warm_start.sweeps or spec.warm_start.runs:
        yield f"warm_start {one} only its points are taken: leave sweeps and runs out"


def _problems_with_warm_start(warm_start: WarmStart, space: Space) -> Iterator[str]:
    """Points that are not of the space; what sweeps and runs hold is looked at when the sweep starts."""
    if warm_start.filters and warm_start.runs is None:
        yield "warm_start.filters chooses among the runs of a W&B project; name it in warm_start.runs"
    for index, point in enumerate(warm_start.points):
        place = f"warm_start.points[{index}]"
        try:
            there = space.fix(point)
            there.sample(random.Random(0))
        except SpaceError as exc:
            yield from (f"{place}: {problem.removeprefix('space: ')}" for problem in exc.problems)
        else:
            yield from (f"{place}: {name!r} is not active there; leave it out" for name in point if name not in there)


def mutable(space: Space) -> list[str]:
    """The parameters that PBT changes where none are named: floats; the others may well be the model's shape."""
    return [name for name, parameter in space.items() if isinstance(parameter, Float)]
