"""The specification: what is accepted, and what is said, all at once, about what is not."""

import copy
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator import spec as specs
from orchestrator.errors import SpecError
from orchestrator.spec import Spec

# A class whose `__init__` takes any keyword.
ANY = {"model": {"class_path": "argparse.Namespace"}}
NOW = datetime(2026, 11, 20, 20, 15, 30)


def data(**changes: Any) -> dict[str, Any]:
    return {"trainable": "digits", "space": "digits", "metric": "val/accuracy", "goal": "maximize", **changes}


def check(*overrides: str, **changes: Any) -> Spec:
    return specs.check(data(**changes), overrides)


def problems(*overrides: str, **changes: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        check(*overrides, **changes)
    return list(caught.value.problems)


def problem(*overrides: str, **changes: Any) -> str:
    found = problems(*overrides, **changes)
    assert len(found) == 1, found
    return found[0]


WORKERS = "workers are a whole number from 1, such as 2, or from the fewest to the most, such as 2..8"


class TestKeys:
    @pytest.mark.parametrize(
        ("override", "start"),
        [
            (
                "trainabel=x",
                "unknown key 'trainabel'; did you mean 'trainable'? keys at the top level: name, trainable,",
            ),
            (
                "lr=0.1",
                "unknown key 'lr'; a hyperparameter of the space is changed there, e.g."
                " 'space={extends: digits, fix: {lr: 0.1}}'; keys at the top level: name,",
            ),
            ("method=bayes", "unknown key 'method'; did you mean 'search.sampler'? keys at the top level: name,"),
            ("mode=max", "unknown key 'mode'; did you mean 'goal'? keys at the top level: name,"),
            ("runcap=3", "unknown key 'runcap'; did you mean 'budget.trials'? keys at the top level: name,"),
            ("parameters={a: 1}", "unknown key 'parameters'; did you mean 'space'? keys at the top level: name,"),
            ("epochs=3", "unknown key 'epochs'; did you mean 'schedule.max_epochs'? keys at the top level: name,"),
            ("max_trials=3", "unknown key 'max_trials'; did you mean 'budget.trials'? keys at the top level: name,"),
            (
                "batch_size=32",
                "unknown key 'batch_size'; did you mean 'params.batch_size'? keys at the top level: name,",
            ),
            ("config=a.yaml", "unknown key 'config'; keys at the top level: name,"),
            (
                "search.sampelr=tpe",
                "unknown key 'search.sampelr'; did you mean 'sampler'? keys in 'search': sampler, cost_aware,"
                " duplicates, seed",
            ),
            (
                "schedule.max_epoch=3",
                "unknown key 'schedule.max_epoch'; did you mean 'max_epochs'? keys in 'schedule':",
            ),
            ("resources.gpus=1", "unknown key 'resources.gpus'"),
            ("trials=3", "unknown key 'trials'; did you mean 'budget.trials'? keys at the top level:"),
            ("max_epochs=3", "unknown key 'max_epochs'; did you mean 'schedule.max_epochs'? keys at the top level:"),
            ("search.zzz=3", "unknown key 'search.zzz'; keys in 'search': sampler, cost_aware, duplicates, seed"),
        ],
    )
    def test_unknown(self, override: str, start: str) -> None:
        assert problem(override).startswith(start)

    def test_unknown_in_class_paths(self) -> None:
        trainable = {"model": {"class_path": "trainables.digits.DigitsNet", "init_arg": {}}, "dta": {}}
        assert problems(trainable=trainable) == [
            "unknown key 'trainable.model.init_arg'; did you mean 'init_args'? keys in 'trainable.model':"
            " class_path, init_args",
            "unknown key 'trainable.dta'; did you mean 'data'? keys in 'trainable': model, data",
        ]

    def test_that_are_no_text(self) -> None:
        with pytest.raises(SpecError, match="unknown key 1; keys are text"):
            specs.check({**data(), 1: 2})

    def test_required_ones(self) -> None:
        with pytest.raises(SpecError) as caught:
            specs.check({})
        assert list(caught.value.problems) == [
            f"'{key}' is required; write it in the sweep's file or as {key}=..."
            for key in ("trainable", "space", "metric", "goal")
        ]


@pytest.mark.parametrize(("written", "meant"), [("32", "32-true"), ("bf16", "bf16-mixed"), ("64", "64-true")])
def test_lightnings_short_names_of_precisions_are_taken(written: str, meant: str) -> None:
    assert check(f"resources.precision={written}").resources.precision == meant


class TestValues:
    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("search.sampler=tppe",
             "search.sampler is 'tppe'; did you mean 'tpe'? it is one of auto, curves, tpe, gp, cmaes, qmc, random,"
             " grid"),
            ("search.sampler=bayes",
             "search.sampler is 'bayes'; did you mean 'tpe'? it is one of auto, curves, tpe, gp, cmaes, qmc, random,"
             " grid"),
            ("search=tpe",
             "search is 'tpe'; did you mean search.sampler=tpe? it is a section, with the keys sampler, cost_aware,"
             " duplicates, seed"),
            ("goal=up", "goal is 'up'; it is one of maximize, minimize"),
            ("goal=max", "goal is 'max'; did you mean 'maximize'? it is one of maximize, minimize"),
            ("schedule.scheduler=ASHA",
             "schedule.scheduler is 'ASHA'; did you mean 'asha'? it is one of asha, hyperband, median, pbt, pb2, none"),
            ("name=a/b", "name is 'a/b'; a sweep's name is up to 56 letters, digits, '-' and '_', the first a letter or"
                         " digit"),
            ("trainable=3", "trainable is 3; a trainable is a name, package.module:NAME, or class paths under 'model'"
                            " and 'data'"),
            ("space=3", "space is 3; a space is a name, a YAML file, a URL, package.module:NAME, or a mapping from name"
                        " to parameter"),
            ("budget.trials=0", "budget.trials is 0; write a number from 1"),
            ("budget.trials=true", "budget.trials is True; write a number"),
            ("budget.trials=1.5", "budget.trials is 1.5; write a whole number, such as 10"),
            ("budget.wall_time_s=-1", "budget.wall_time_s is -1; write a number above 0"),
            ("budget.wall_time_s=.nan", "budget.wall_time_s is nan; input should be a finite number"),
            ("budget.wall_time_s=.inf", "budget.wall_time_s is inf; input should be a finite number"),
            ("search.seed=-1", "search.seed is -1; write a number from 0"),
            ("search.seed=4294967296", "search.seed is 4294967296; write a number below 4294967296"),
            ("resources.workers=many", f"resources.workers is 'many'; {WORKERS}"),
            ("resources.workers=0", f"resources.workers is 0; {WORKERS}"),
            ("resources.workers=8..2", f"resources.workers is '8..2'; {WORKERS}"),
            ("resources.concurrency=0", "resources.concurrency is 0; concurrency is 'auto' or a whole number from 1"),
            ("resources.concurrency=all", "resources.concurrency is 'all'; concurrency is 'auto' or a whole number from"
                                          " 1"),
            ("schedule.reduction_factor=1", "schedule.reduction_factor is 1; write a number above 1"),
            ("checkpoints.keep=last", "checkpoints.keep is 'last'; it is one of best, best_and_last, all, none"),
            ("budget=3", f"budget is 3; it is a section, with the keys {', '.join(specs.Budget.model_fields)}"),
        ],
    )  # fmt: skip
    def test_impossible(self, override: str, message: str) -> None:
        assert problem(override) == message

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["schedule.grace_epochs=5", "schedule.max_epochs=3"],
             "schedule.grace_epochs is 5 and schedule.max_epochs 3; a trial cannot be spared for longer than it trains:"
             " lower the first or raise the second"),
            (["search.sampler=grid"],
             "search.sampler is 'grid', but 'lr', 'momentum', 'weight_decay', 'dropout' in the space can take endlessly"
             " many values; give a step, or use sampler=tpe"),
            (["tracking.registry_aliases=[candidate]"],
             "tracking.registry_aliases is ['candidate'], and nothing says which collection they are of; name it as"
             " tracking.registry, or leave the aliases out"),
            *[([f"resources.strategy={name}", "tracking.predictions=3"],
               f"tracking.predictions is 3 and resources.strategy '{name}'; rank 0 alone is asked, and would wait for"
               " ever for the others' parts of a model that is shared out: use auto, ddp,"
               " ddp_find_unused_parameters_true, or leave tracking.predictions out")
              for name in ("fsdp", "collections:Counter")],
            (["training.batch_size=global", "params.batch_size=8", "resources.workers=1..2"],
             "training.batch_size is 'global', which not every number of workers can share evenly, and"
             " resources.workers is 1..2; use training.batch_size=per_worker, or a fixed number of workers"),
            (["resources.precision=16-mixed"],
             "resources.precision is '16-mixed' and trials have no GPU, without which Lightning trains in bf16-mixed:"
             " write that, or set resources.gpus_per_worker"),
            (["training.lr_scaling=linear", "resources.workers=1..2"],
             "training.lr_scaling is 'linear' and resources.workers 1..2, but an optimizer that goes on keeps its"
             " learning rate: use lr_scaling=none, or a fixed number of workers"),
            (["resources.gpus_per_worker=0.4", "resources.workers=1..2"],
             "resources.gpus_per_worker is 0.4 and resources.workers 1..2; of a GPU that is shared so, nobody knows"
             " what is left: use a whole GPU, 0.5 or 0.25, or a fixed number of workers"),
            (["training.batch_size=largest", "resources.workers=2"],
             "training.batch_size is 'largest', which is found on one worker only (Lightning's Tuner); set"
             " resources.workers=1 and resources.strategy=auto"),
            (["training.batch_size=largest", "space={batch_size: {options: [1, 2]}}"],
             "training.batch_size is 'largest', which finds what the space searches; take batch_size out of the space,"
             " or give its upper limit in params"),
            (["training.report_every_steps=9", "trainer.val_check_interval=0.5"],
             "trainer.val_check_interval is said by training.report_every_steps already; take one of them out"),
            (["trainable=plain_torch", "space={hidden: {options: [8, 16]}}",
              "training.report_every_steps=9"],
             "training.report_every_steps is 9, but a training function says itself when it reports; let what it counts"
             " as an epoch be so many steps"),
            (["trainable=plain_torch", "space={hidden: {options: [8, 16]}}", "trainer.gradient_clip_val=1"],
             "trainer.gradient_clip_val: a training function has no Lightning Trainer; leave it out"),
            (["resources.gpus_per_worker=1.5"],
             "resources.gpus_per_worker is 1.5; above 1 it is a whole number, because a GPU is shared by workers, not a"
             " worker's work by parts of GPUs"),
            (["trainer.max_epochs=3"], "trainer.max_epochs is said by schedule.max_epochs instead"),
            (["trainer.logger=false"], "trainer.logger is said by tracking instead"),
            (["params.trainer.precision=16"], "params.trainer.precision is said by resources.precision instead"),
            (["space={trainer.devices: {options: [1, 2]}}"], "space: trainer.devices is said by resources.workers"
                                                             " instead"),
            (["params.lr=0.1"], "params.lr: 'lr' is fixed there and searched in the space; take it out of one of them"),
            (["storage=ftp://host/x"],
             "storage is 'ftp://host/x'; a URL starts with one of file, s3, gs, gcs, abfs, abfss, hdfs, viewfs, hf"),
        ],
    )  # fmt: skip
    def test_impossible_together(self, overrides: list[str], message: str) -> None:
        assert problem(*overrides) == message

    @pytest.mark.parametrize(
        ("override", "start"),
        [
            ("trainer.callbacks=x", "trainer.callbacks is 'x'; it is a list of class_path and init_args"),
            ("trainer.callbacks=[x]", "trainer.callbacks has 'x'; each is a mapping of class_path"),
            (
                "trainer.callbacks=[{class_path: nowhere.Stop}]",
                "trainer.callbacks: 'nowhere.Stop': no module 'nowhere'",
            ),
            ("params.trainer.callbacks=x", "trainer.callbacks is no hyperparameter"),
            (
                "training.batch_size=global",
                "training.batch_size is 'global', but neither params nor the space says how",
            ),
            ("resources.strategy=dpp", "resources.strategy is 'dpp'; it is one of auto, ddp"),
            ("resources.strategy=nowhere:X", "resources.strategy is 'nowhere:X'; 'nowhere:X': no module 'nowhere'"),
        ],
    )
    def test_callbacks_strategies_and_shares(self, override: str, start: str) -> None:
        assert problem(override).startswith(start)

    @pytest.mark.parametrize("name", specs.TRAINER_ELSEWHERE)
    def test_what_the_trainer_is_told_elsewhere_is_a_key_of_the_spec(self, name: str) -> None:
        section, _, key = specs.TRAINER_ELSEWHERE[name].partition(".")
        assert section in Spec.model_fields
        assert not key or key in Spec.model_fields[section].annotation.model_fields  # type: ignore[union-attr]
        assert problem(f"trainer.{name}=x").startswith(f"trainer.{name} is said by {section}")

    def test_what_nothing_takes_is_said_with_what_the_trainer_does_not(self) -> None:
        found = problems("params.droput=1", "trainer.gradient_clip=1")
        assert len(found) == 2
        assert "did you mean 'dropout'?" in found[0]
        assert found[1].startswith("trainer.gradient_clip: Lightning's Trainer takes no 'gradient_clip'")

    def test_gpus_above_one_may_be_whole(self) -> None:
        assert check("resources.gpus_per_worker=2").resources.gpus_per_worker == 2


class TestNames:
    @pytest.mark.parametrize(
        ("override", "start"),
        [
            ("trainable=digit", "no trainable 'digit'; did you mean 'digits'? available: "),
            ("trainable=zzz", "no trainable 'zzz'; available: "),
            ("space=digit", "no search space 'digit'; did you mean 'digits'? available: "),
            ("space=missing.yaml", "no search space file 'missing.yaml'"),
            ("trainable=trainables.digits:TRAINABEL", "'trainables.digits:TRAINABEL': "),
            ("trainable=nowhere.at.all:X", "'nowhere.at.all:X': no module 'nowhere.at.all' is importable from "),
            ("space=search_spaces.digits:SPAC", "'search_spaces.digits:SPAC': "),
            ("trainable.model.class_path=trainables.digits.Digit", "'trainable' is 'digits', which has no keys"),
        ],
    )
    def test_that_do_not_exist(self, override: str, start: str) -> None:
        found = problem(override)
        assert start in found
        if "TRAINABEL" in override:
            assert found.endswith("did you mean 'TRAINABLE'?")

    def test_class_paths_are_looked_up(self) -> None:
        trainable = {"model": {"class_path": "trainables.digits.DigitNet"}, "data": {"class_path": "Digits"}}
        model, given = problems(trainable=trainable)
        assert model.startswith("trainable.model.class_path: 'trainables.digits.DigitNet': ")
        assert model.endswith("; did you mean 'DigitsNet'?")
        assert (
            given
            == "trainable.data.class_path: 'Digits' is not a class path; write package.module.Class, with dots alone"
        )

    def test_class_paths_that_exist(self) -> None:
        spec = check(trainable={"model": {"class_path": "trainables.digits.DigitsNet", "init_args": {"lr": 0.1}}})
        assert not isinstance(spec.trainable, str)
        assert spec.trainable.model.init_args == {"lr": 0.1}
        assert spec.trainable.data is None

    def test_a_space_written_out_breaks_its_own_rules(self) -> None:
        assert problem(space={"lr": {"type": "floot"}}) == (
            "space: 'lr' has type 'floot', which there is none of; did you mean 'float'?"
        )


def test_everything_is_said_at_once() -> None:
    found = problems(
        "search.sampler=tppe", "budget.trials=0", "nonsense", "trainable=digit", metric="", foo=1, space="digit"
    )
    assert len(found) == 7
    for part in ("'nonsense' is not an override", "'tppe'", "budget.trials is 0", "metric is ''", "'foo'",
                 "no trainable 'digit'", "no search space 'digit'"):  # fmt: skip
        assert sum(part in text for text in found) == 1, part


class TestOverrides:
    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("lr", "'lr' is not an override; write key=value, e.g. budget.trials=50"),
            ("=3", "'=3' is not an override; write key=value, e.g. budget.trials=50"),
            ("name.x=3", "name.x: 'name' is 'a', which has no keys; override 'name' itself"),
            (
                "space.lr.low=0.01",
                "space.lr.low: 'space' is 'digits', which has no keys; override 'space' itself, e.g."
                " 'space={extends: digits, narrow: {lr: {low: 0.01}}}'",
            ),
            (
                "space.lr.lo=0.01",
                "space.lr.lo: 'space' is 'digits', which has no keys; override 'space' itself; did you mean 'low'?",
            ),
            (
                "space.momentm.low=0.01",
                "space.momentm.low: 'space' is 'digits', which has no keys; override 'space' itself; did you mean"
                " 'momentum'?",
            ),
            ("budget.trials=", "budget.trials= has no value; write budget.trials=null where there is to be none"),
            (
                "space.channels=[8]",
                "space.channels: 'space' is 'digits', which has no keys; override 'space' itself, e.g."
                " 'space={extends: digits, narrow: {channels: [8]}}'",
            ),
            (
                "space.optimizer=adam's",
                "space.optimizer: 'space' is 'digits', which has no keys; override 'space' itself; but 'optimizer'"
                """ is fixed at "adam's", which is not one of its options; did you mean 'adamw'?""",
            ),
            (
                "space.lr={type: float, low: 0.1, high: 1}",
                "space.lr: 'space' is 'digits', which has no keys; override 'space' itself, e.g."
                " 'space={extends: digits, replace: {lr: {type: float, low: 0.1, high: 1}}}'",
            ),
            (
                "space.lr.high=0.5",
                "space.lr.high: 'space' is 'digits', which has no keys; override 'space' itself, e.g."
                " 'space={extends: digits, replace: {lr: {type: float, low: 0.001, high: 0.5, log: true}}}'",
            ),
            (
                "space.lr.high=[a",
                "space.lr.high: 'space' is 'digits', which has no keys; override 'space' itself; but the value is not"
                " valid YAML, line 1, column 3: expected ',' or ']', but got '<stream end>'",
            ),
            (
                "space.lr.low=0",
                "space.lr.low: 'space' is 'digits', which has no keys; override 'space' itself; but 'lr' is on a log"
                " scale, which needs a low above 0, not 0; raise low or drop log",
            ),
        ],
    )
    def test_that_are_none(self, override: str, message: str) -> None:
        assert message in problems(override, name="a")

    def test_of_broken_yaml(self) -> None:
        assert problem("tracking.tags=[a").startswith(
            "the value of tracking.tags is not valid YAML, line 1, column 3: expected"
        )

    def test_values_are_yaml(self) -> None:
        spec = check("budget.trials=1e2", "tracking.tags=[a, b]", "params.x=1e-4", "budget.wall_time_s=null",
                     "params.flag=true", "params.text=a=b", "params.depth=3", trainable=ANY)  # fmt: skip
        assert (spec.budget.trials, spec.tracking.tags, spec.budget.wall_time_s) == (100, ["a", "b"], None)
        assert spec.params == {"x": 1e-4, "flag": True, "text": "a=b", "depth": 3}

    def test_names_of_the_users_own_may_hold_dots(self) -> None:
        spec = check("params.optimizer.lr=0.1", "trainable.model.init_args.net.depth=3", trainable=copy.deepcopy(ANY))
        assert spec.params == {"optimizer.lr": 0.1}
        assert not isinstance(spec.trainable, str)
        assert spec.trainable.model.init_args == {"net.depth": 3}

    def test_the_last_one_counts(self) -> None:
        assert check("budget.trials=1", "budget.trials=2").budget.trials == 2

    def test_into_a_section_left_empty(self) -> None:
        assert check("budget.trials=3", budget=None).budget.trials == 3


class TestFiles:
    def test_yaml_floats_without_a_dot_are_numbers(self, tmp_path: Path) -> None:
        path = tmp_path / "sweep.yaml"
        path.write_text("trainable: {model: {class_path: argparse.Namespace}}\n"
                        "metric: a\ngoal: minimize\nparams: {x: 1e-4, y: -2E+3, z: 1e5x}\n"
                        "space: {lr: {type: float, low: 1e-4, high: 1e-1, log: true}}\n")  # fmt: skip
        spec = specs.read(str(path), ["budget.trials=3"])
        assert spec.params == {"x": 1e-4, "y": -2000.0, "z": "1e5x"}
        assert spec.load_space().to_data()["lr"]["low"] == 1e-4
        assert spec.budget.trials == 3

    @pytest.mark.parametrize(
        ("text", "message"),
        [("- a\n", "holds a list; a sweep is a mapping"), ("a: [", "is not valid YAML"), ("", "holds nothing")],
    )
    def test_that_hold_no_sweep(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "sweep.yaml").write_text(text)
        with pytest.raises(Exception, match=message) as caught:
            specs.read(str(tmp_path / "sweep.yaml"))
        assert caught.type.__name__ in ("SpecError", "InputError")

    def test_that_do_not_exist(self) -> None:
        with pytest.raises(SpecError, match=r"no sweep 'defautl'; did you mean 'default'. available: .*default"):
            specs.read("defautl")

    @pytest.mark.parametrize("overrides", [[], ["params.held_out=120", "budget.wall_time_s=1.5", "name=x"]])
    def test_round_trip(self, overrides: list[str]) -> None:
        for spec in (specs.read(None, overrides), specs.resolve(specs.read(None, overrides), NOW)):
            assert Spec.from_yaml(spec.to_yaml()) == spec


class TestResolve:
    def test_everything_is_decided(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
            monkeypatch.delenv(name, raising=False)
        spec = specs.resolve(check(), NOW)
        assert spec.name == "digits-20261120-201530"
        assert spec.trials == 20
        assert spec.search.seed is not None
        assert spec.tracking.mode == "offline"
        assert spec.storage == str(tmp_path / "results")
        assert specs.resolve(spec, NOW) == spec

    def test_what_was_said_stays(self) -> None:
        spec = specs.resolve(
            check("name=x", "budget.trials=3", "search.seed=0", "tracking.mode=online", "storage=s3://b/x?region=y"),
            NOW,
        )
        assert (spec.name, spec.budget.trials, spec.search.seed, spec.tracking.mode, spec.storage) == (
            "x", 3, 0, "online", "s3://b/x?region=y"
        )  # fmt: skip

    def test_seeds_are_drawn_anew(self) -> None:
        assert specs.resolve(check(), NOW).search.seed != specs.resolve(check(), NOW).search.seed

    @pytest.mark.parametrize(("asked", "trials"), [("null", 6), ("4", 4), ("6", 6), ("200", 6)])
    def test_a_grid_has_no_more_trials_than_points(self, asked: str, trials: int) -> None:
        space = {"a": {"options": [1, 2, 3]}, "b": {"options": [1, 2]}}
        assert check("search.sampler=grid", f"budget.trials={asked}", space=space, trainable=ANY).trials == trials

    def test_the_name_of_class_paths(self) -> None:
        spec = check(trainable={"model": {"class_path": "trainables.digits.DigitsNet"}})
        assert specs.resolve(spec, NOW).name == "digitsnet-20261120-201530"


def test_a_rejected_spec_exits_with_2_and_writes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orchestrator.search", "search.sampler=tppe", "budgt.trials=3"]
    environ = {**os.environ, "PYTHONPATH": str(Path(specs.__file__).parent.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == (
        "error: search.sampler is 'tppe'; did you mean 'tpe'? it is one of auto, curves, tpe, gp, cmaes, qmc, random,"
        " grid"
    )
    assert done.stderr.splitlines()[1].startswith("error: unknown key 'budgt'; did you mean 'budget'?")
    assert len(done.stderr.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_refused_and_not_repeated() -> None:
    key = "0123456789" * 4
    with pytest.raises(SpecError) as refused:
        specs.read(None, [f"params.token={key!r}", f"name={key!r}"])
    assert [problem.partition(" is a key")[0] for problem in refused.value.problems] == ["params.token", "name"]
    assert key not in str(refused.value)
    assert "wandb login" in str(refused.value)


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        ([], {}, ("orchestrator", None, [])),
        ([], {"WANDB_PROJECT": "p", "WANDB_ENTITY": "e", "WANDB_TAGS": "a, b"}, ("p", "e", ["a", "b"])),
        (
            ["tracking.project=mine", "tracking.entity=us", "tracking.tags=[c]"],
            {"WANDB_PROJECT": "p", "WANDB_ENTITY": "e", "WANDB_TAGS": "a"},
            ("mine", "us", ["c"]),
        ),
    ],
)
def test_the_spec_goes_before_the_environment(
    given: list[str],
    environ: dict[str, str],
    expected: tuple[str, str | None, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_TAGS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    tracking = specs.resolve(specs.read(None, given), datetime(2026, 11, 21)).tracking
    assert (tracking.project, tracking.entity, tracking.tags) == expected


def test_start_from_is_a_file_or_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="which is no file; it is a checkpoint's path, or an artifact"):
        specs.read(None, ["start_from=nowhere.ckpt"])
    (tmp_path / "x.ckpt").touch()
    for name in (str(tmp_path / "x.ckpt"), "team/project/model-a-3:best"):
        assert specs.resolve(specs.read(None, [f"start_from={name}"]), datetime(2026, 11, 21)).start_from == name


@pytest.mark.parametrize(
    ("variable", "value"), [("WANDB_PROJECT", "a/b"), ("WANDB_ENTITY", "te:am"), ("WANDB_PROJECT", "x" * 129)]
)
def test_what_cannot_be_a_name_is_refused_before_anything_starts(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    for mode in ("online", "offline"):
        with pytest.raises(SpecError, match=f"{variable} is '{value}'; a name in W&B has 1 to 128 characters"):
            specs.resolve(specs.read(None, [f"tracking.mode={mode}"]), NOW)


def test_what_cannot_be_a_key_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short")
    online = specs.read(None, ["tracking.mode=online"])
    with pytest.raises(SpecError, match=r"WANDB_API_KEY has 5 characters, and W&B's keys 40 or more"):
        specs.resolve(online, NOW)
    assert specs.resolve(specs.read(None, ["tracking.mode=offline"]), NOW).tracking.mode == "offline"
    monkeypatch.setenv("WANDB_MODE", "onlien")
    monkeypatch.setenv("WANDB_BASE_URL", "localhost")
    with pytest.raises(SpecError) as wrong:
        specs.resolve(online, NOW)
    mode, key, url = wrong.value.problems
    assert mode.startswith("WANDB_MODE is 'onlien'; did you mean 'online'? it is one of online, offline, disabled")
    assert key.startswith("WANDB_API_KEY has 5 characters")
    assert url == "WANDB_BASE_URL is 'localhost'; write the server's whole address, e.g. https://wandb.example.com"
    monkeypatch.setenv("WANDB_BASE_URL", "http://[::1")
    with pytest.raises(SpecError, match=r"WANDB_BASE_URL is 'http://\[::1'; write the server's whole address"):
        specs.resolve(online, NOW)
    with pytest.raises(SpecError, match="WANDB_MODE is 'onlien'"):
        specs.resolve(specs.read(None, ["tracking.mode=offline"]), NOW)
