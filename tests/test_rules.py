"""The rules, which decide without doing: failures, ranking, capacity, names, credentials."""

import math
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from wandb.sdk.lib.settings_file import SettingsFiles

from orchestrator import failures, naming, ranking
from orchestrator.capacity import HEAD, SLOT_SHARE, concurrency, workers_that_fit
from orchestrator.credentials import (
    base_url,
    has_key,
    redacted,
    take_keys,
    to_workers,
    tracking_mode,
    wrong_variables,
)
from orchestrator.errors import SpecError
from orchestrator.messages import Outcome
from orchestrator.ranking import Goal
from orchestrator.scaling import scaled
from orchestrator.spec import Resources, Training

NAN, INF = math.nan, math.inf


class TestFailures:
    @pytest.mark.parametrize("outcome", Outcome)
    def test_only_failed_trials_are_tried_again(self, outcome: Outcome) -> None:
        assert failures.is_retried(outcome=outcome, attempt=0, retries=1) == (outcome is Outcome.FAILED)

    @pytest.mark.parametrize(
        ("attempt", "retries", "again"), [(0, 0, False), (0, 1, True), (1, 1, False), (1, 2, True)]
    )
    def test_as_often_as_retries_say(self, attempt: int, retries: int, again: bool) -> None:
        assert failures.is_retried(outcome=Outcome.FAILED, attempt=attempt, retries=retries) is again

    @pytest.mark.parametrize(
        ("error", "outcome"),
        [
            ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", Outcome.OUT_OF_MEMORY),
            ("AcceleratorError: CUDA error: out of memory", Outcome.OUT_OF_MEMORY),  # in a context that others fill
            ("rank 1: RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to", Outcome.OUT_OF_MEMORY),
            ("RuntimeError: [enforce fail] DefaultCPUAllocator: not enough memory: you tried", Outcome.OUT_OF_MEMORY),
            ("MemoryError", Outcome.OUT_OF_MEMORY),
            ("the worker process died: Task was killed due to the node running low on memory.", Outcome.OUT_OF_MEMORY),
            # Ray's list of what may have happened to a process that is gone, whatever it was.
            ("(1) The process is killed by SIGKILL by OOM killer due to high memory usage.", Outcome.FAILED),
            # What torch says as well where a label is out of range.
            ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`", Outcome.FAILED),
            ("ValueError: the probe raises", Outcome.FAILED),
        ],
    )
    def test_running_out_of_memory_is_a_kind_of_its_own(self, error: str, outcome: Outcome) -> None:
        assert failures.kind(error) is outcome

    def test_a_trial_is_moved_without_an_attempt_but_not_for_ever(self) -> None:
        assert failures.is_moved(outcome=Outcome.MOVED, moves=0)
        assert not failures.is_moved(outcome=Outcome.MOVED, moves=failures.MAX_MOVES)
        assert not failures.is_moved(outcome=Outcome.FAILED, moves=0)

    @pytest.mark.parametrize(
        ("failed", "alive", "bad"),
        [
            ({}, "abc", []),
            ({"a": [1, 1]}, "abc", []),  # one trial, twice: it may be the trial
            ({"a": [1, 2]}, "abc", ["a"]),
            ({"a": [1, 2]}, "bcd", []),  # gone already
            ({"a": [1, 2]}, "a", []),
            ({"a": [1, 2], "b": [1, 2]}, "abcd", []),  # half of them: it is not the nodes
            ({"a": [1, 2], "b": [3, 4]}, "abcde", ["a", "b"]),
        ],
    )
    def test_nodes_that_fail_where_others_do_not_are_avoided(
        self, failed: dict[str, list[int]], alive: str, bad: list[str]
    ) -> None:
        assert failures.avoided(failed, alive) == bad

    @pytest.mark.parametrize("outcome", Outcome)
    def test_what_would_happen_to_every_trial_ends_the_sweep(self, outcome: Outcome) -> None:
        assert failures.ends_sweep(outcome) == (outcome in (Outcome.REJECTED, Outcome.BROKEN))

    @pytest.mark.parametrize(("failed", "most", "over"), [(4, 5, False), (5, 5, True), (6, 5, True), (99, None, False)])
    def test_too_many(self, failed: int, most: int | None, over: bool) -> None:
        assert failures.too_many(failed=failed, max_failed=most) is over

    @pytest.mark.parametrize(
        ("errors", "has_epochs", "everyones"),
        [(["a"], False, False), (["a", "a"], False, True), (["a", "b"], False, False), (["a", "a"], True, False)],
    )
    def test_what_fails_every_trial_alike(self, errors: list[str], has_epochs: bool, everyones: bool) -> None:
        assert failures.is_everyones(errors, has_epochs=has_epochs) is everyones


@dataclass(frozen=True)
class Trial:
    number: int
    value: float | None
    state: str = "COMPLETE"


def numbers(trials: list[Trial]) -> list[int]:
    return [trial.number for trial in trials]


class TestRanking:
    @pytest.mark.parametrize(
        ("goal", "curve", "best"),
        [
            ("maximize", {1: 0.5, 2: 0.9, 3: 0.9}, 2),
            ("minimize", {1: 0.5, 2: 0.2, 3: 0.9}, 2),
            ("maximize", {1: NAN, 2: 0.1, 3: INF}, 2),
            ("minimize", {1: -INF, 2: 0.1}, 2),
            ("maximize", {1: NAN}, None),
            ("maximize", {}, None),
        ],
    )
    def test_best_epoch_is_the_earliest_of_the_best_finite_ones(
        self, goal: Goal, curve: dict[int, float], best: int | None
    ) -> None:
        assert ranking.best_epoch(goal, curve) == best

    @pytest.mark.parametrize(("goal", "order"), [("maximize", [2, 0, 1, 3]), ("minimize", [0, 1, 2, 3])])
    def test_ranked(self, goal: Goal, order: list[int]) -> None:
        trials = [
            Trial(3, 0.7, "PRUNED"),
            Trial(1, 0.5),
            Trial(2, 0.9),
            Trial(0, 0.5),
            Trial(4, None),
            Trial(5, 1.0, "FAIL"),
            Trial(6, NAN),
            Trial(7, INF),
        ]
        assert numbers(ranking.ranked(goal, trials)) == order
        assert numbers(ranking.ranked(goal, trials[::-1])) == order

    @pytest.mark.parametrize(
        ("keep", "best", "kept"),
        [
            ("best", 2, {2}),
            ("best_and_last", 2, {2, 5}),
            ("best_and_last", 5, {5}),
            ("all", 2, {1, 2, 5}),
            ("none", 2, set()),
            ("best", None, set()),
            ("best_and_last", None, {5}),
            ("best", 3, set()),
        ],
    )
    def test_kept_epochs(self, keep: ranking.Keep, best: int | None, kept: set[int]) -> None:
        assert ranking.kept_epochs(keep, [1, 2, 5], best) == kept
        assert ranking.kept_epochs(keep, [], best) == set()

    def test_the_best_that_have_ended_keep_their_checkpoints(self) -> None:
        trials = [
            Trial(0, 0.1),
            Trial(1, 0.9, "RUNNING"),
            Trial(2, 0.8),
            Trial(3, None, "FAIL"),
            Trial(4, 0.85, "PRUNED"),
        ]
        assert numbers(ranking.evicted("maximize", trials, 1)) == [0, 3, 4]
        assert numbers(ranking.evicted("maximize", trials, 2)) == [3, 4]
        assert numbers(ranking.evicted("maximize", iter(trials), 3)) == [3]
        assert ranking.evicted("maximize", trials, None) == []


def at_once(*nodes: dict[str, float], budget: int = 100, head: bool = True, **resources: Any) -> int:
    return concurrency(Resources(**resources), [*nodes, *([{HEAD: 1.0}] if head else [])], budget).trials


class TestCapacity:
    @pytest.mark.parametrize(
        ("cpus", "gpus", "resources", "trials"),
        [
            (8, 0, {}, 8),
            (8, 0, {"workers": 3}, 2),
            (2, 0, {"cpus_per_worker": 0.1}, 20),
            (8, 2, {"gpus_per_worker": 1}, 2),
            (8, 2, {"gpus_per_worker": 0.5}, 4),
            (8, 1, {"gpus_per_worker": 0.2}, 5),
            (8, 2, {"gpus_per_worker": 0.6}, 2),  # not 3: what is left of two GPUs is not one
            (8, 2, {"gpus_per_worker": 0.5, "workers": 2}, 2),
            (8, 4, {"gpus_per_worker": 2}, 2),
            (3, 4, {"gpus_per_worker": 1}, 3),
            (8, 0, {"workers": "2..4"}, 2),
            (3, 0, {"workers": "2..4"}, 1),  # with fewer than it would have
        ],
    )
    def test_as_many_as_fit(self, cpus: float, gpus: float, resources: dict[str, Any], trials: int) -> None:
        assert at_once({"CPU": cpus, "GPU": gpus}, **resources) == trials

    def test_slots_pay_their_share_in_cpus_where_there_is_no_head(self) -> None:
        assert at_once({"CPU": 4}, head=False) == 3
        assert at_once({"CPU": 4}, head=False, cpus_per_worker=1 - SLOT_SHARE) == 4

    def test_no_more_than_the_budget(self) -> None:
        assert at_once({"CPU": 8}, budget=3) == 3
        assert at_once({"CPU": 8}, budget=3, concurrency=5) == 3

    def test_as_many_as_asked_for(self) -> None:
        assert at_once({"CPU": 8}, concurrency=5) == 5
        assert at_once({"CPU": 8}, concurrency=8) == 8

    def test_the_reason_says_what_is_scarce(self) -> None:
        reason = concurrency(Resources(workers=2, gpus_per_worker=0.5), [{"CPU": 64, "GPU": 1, HEAD: 1}], 9).reason
        assert reason == "a trial needs 2 CPUs and 1 GPU (resources.workers=2), and there can be 1 GPU"

    def test_a_worker_lies_on_one_node(self) -> None:
        one_gpu = {"CPU": 8.0, "GPU": 1.0}
        assert at_once(one_gpu, one_gpu, workers=2, gpus_per_worker=1) == 1
        assert at_once(one_gpu, one_gpu, one_gpu, gpus_per_worker=1, cpus_per_worker=5) == 3
        with pytest.raises(SpecError, match=r"there can be 2 GPUs, on nodes that hold 0 such workers"):
            at_once(one_gpu, one_gpu, gpus_per_worker=2)

    def test_room_for_the_workers_of_one_trial(self) -> None:
        elastic = Resources(workers="2..4", gpus_per_worker=1)
        free = [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 0.5, "GPU": 4.0}, {"CPU": 8.0, "GPU": 2.0}, {HEAD: 1.0}]
        assert workers_that_fit(elastic, free) == 3
        assert workers_that_fit(elastic, free * 2) == 4
        shared = Resources(workers="1..4", gpus_per_worker=0.5)
        assert workers_that_fit(shared, [{"CPU": 8.0, "GPU": 0.5}, {"CPU": 8.0, "GPU": 1.0}]) == 3
        with pytest.raises(SpecError, match=r"at most 8 at once"):
            at_once({"CPU": 8}, workers="1..8", concurrency=9)
        assert at_once({"CPU": 8}, workers="2..8", concurrency=4) == 4  # each with fewer than it would have

    @pytest.mark.parametrize(
        ("have", "resources", "message"),
        [
            ({"CPU": 2}, {"workers": 3}, "a trial needs 3 CPUs (resources.workers=3), and there can be 2 CPUs; ask"),
            ({"CPU": 2}, {"workers": "3..4"}, "needs 3 CPUs (resources.workers=3..4), and there can be 2 CPUs;"),
            ({"CPU": 2}, {"gpus_per_worker": 0.5}, "a trial needs 1 CPU and 0.5 GPUs (resources.workers=1), and there "
                                                   "can be 0 GPUs; ask for"),
            ({"CPU": 2}, {"concurrency": 3}, "resources.concurrency is 3, but a trial needs 1 CPU (resources.workers=1)"
                                             ", and there can be 2 CPUs: at most 2 at once"),
        ],
    )  # fmt: skip
    def test_what_does_not_fit_is_refused(self, have: dict[str, float], resources: Any, message: str) -> None:
        with pytest.raises(SpecError) as caught:
            at_once(have, **resources)
        assert message in str(caught.value)


class TestNaming:
    def test_run_ids_are_what_wandb_allows(self) -> None:
        assert naming.run_id("a" * 56, 9_999_999) == "a" * 56 + "-9999999"
        assert len(naming.run_id("a" * 56, 9_999_999)) <= 64

    @pytest.mark.parametrize(
        ("trainable", "stem"),
        [
            ("digits", "digits"),
            ("package.module:MyNet", "mynet"),
            ("package.module.MyNet", "mynet"),
            ("über.größe:Ä", "sweep"),
            ("x" * 99, "x" * 40),
            ("a_b", "a-b"),
        ],
    )
    def test_a_sweep_without_a_name_gets_a_valid_one(self, trainable: str, stem: str) -> None:
        name = naming.sweep_name(trainable, datetime(2026, 11, 20, 20, 15, 30))
        assert name == f"{stem}-20261120-201530"
        assert naming.SWEEP_NAME.fullmatch(name)

    @pytest.mark.parametrize("name", ["", "-a", "_a", "a b", "a/b", "a.b", "a" * 57, "ä", "a\n"])
    def test_names_that_are_none(self, name: str) -> None:
        assert not naming.SWEEP_NAME.fullmatch(name)

    def test_trial_seeds_are_the_same_everywhere_and_for_ever(self) -> None:
        assert [naming.trial_seed(0, number) for number in range(2)] == [4025431107, 2565342421]
        assert len({naming.trial_seed(seed, number) for seed in range(20) for number in range(50)}) == 1000

    @pytest.mark.parametrize(
        ("word", "hint"),
        [
            ("cifr10", "; did you mean 'cifar10'?"),
            ("CIFAR10", "; did you mean 'cifar10'?"),
            ("digit.cifar10", "; did you mean 'cifar10'?"),
            ("zzz", ""),
        ],
    )
    def test_near_miss(self, word: str, hint: str) -> None:
        assert naming.near_miss(word, ["digits", "cifar10"]) == hint


class TestCredentials:
    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        return tmp_path

    def key(self, home: Path, **environ: str) -> bool:
        return has_key({"HOME": str(home), **environ})

    def test_from_the_environment(self, home: Path) -> None:
        assert not self.key(home)
        assert self.key(home, WANDB_API_KEY="x")
        assert self.key(home, WANDB_IDENTITY_TOKEN_FILE="/token")
        assert not self.key(home, WANDB_API_KEY="")

    @pytest.mark.parametrize("file", [".netrc", "_netrc"])
    def test_from_netrc(self, home: Path, file: str) -> None:
        (home / file).write_text("machine api.wandb.ai\n  login user\n  password secret\n")
        assert self.key(home)
        assert not self.key(home, WANDB_BASE_URL="https://wandb.example.com")

    def test_of_another_host(self, home: Path) -> None:
        (home / ".netrc").write_text("machine wandb.example.com:8443 login user password secret\n")
        assert not self.key(home)
        assert not self.key(home, WANDB_BASE_URL="https://wandb.example.com/")  # the SDK would not find it either
        assert self.key(home, WANDB_BASE_URL="https://wandb.example.com:8443/")

    def test_of_the_host_that_was_logged_in_to(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Written as the SDK writes them, and found where it finds them, in its order."""
        monkeypatch.chdir(home)
        (home / ".netrc").write_text("machine wandb.example.com login user password secret\n")
        environ, found = {"HOME": str(home)}, {"WANDB_CONFIG_DIR": str(home / "elsewhere")}
        files = SettingsFiles(
            global_settings=home / ".config/wandb/settings", local_settings=home / "elsewhere/settings"
        )
        files.set("base_url", "https://wandb.example.com", globally=True)  # as `wandb login --host` does
        files.set("base_url", "localhost")
        assert not self.key(home)
        files.save()
        assert self.key(home)
        assert tracking_mode("auto", environ) == "online"
        assert to_workers(environ) == {"WANDB_BASE_URL": "https://wandb.example.com"}
        assert list(wrong_variables("online", environ)) == []
        assert list(wrong_variables("online", environ | found)) == [
            f"base_url in {home}/elsewhere/settings is 'localhost'; write the server's whole address, e.g."
            " https://wandb.example.com"
        ]
        (home / "wandb").mkdir()
        (home / "wandb/settings").write_text("[default]\nbase_url = https://here.example.com\n")  # as by `wandb init`
        assert base_url(environ) == base_url(environ | found) == "https://here.example.com"
        assert base_url(environ | {"WANDB_BASE_URL": "https://said.example.com"}) == "https://said.example.com"
        (home / ".wandb").mkdir()  # the folder that the SDK uses then
        (home / ".wandb/settings").write_bytes(b"base_url, \xff")
        assert base_url(environ) == "https://wandb.example.com"
        shutil.rmtree(home / ".config")
        assert base_url(environ) == "https://api.wandb.ai"

    def test_from_a_netrc_elsewhere(self, home: Path) -> None:
        (home / "elsewhere").write_text("machine api.wandb.ai login user password secret\n")
        assert self.key(home, NETRC=str(home / "elsewhere"))
        (home / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
        assert not self.key(home, NETRC=str(home / "missing"))

    @pytest.mark.parametrize("content", [b"machine", b"machine api.wandb.ai nonsense", b"\xff\xfe\x00machine"])
    def test_a_netrc_that_cannot_be_read_is_none(self, home: Path, content: bytes) -> None:
        (home / ".netrc").write_bytes(content)
        assert not self.key(home)

    def test_a_folder_of_that_name_is_none(self, home: Path) -> None:
        (home / ".netrc").mkdir()
        assert not self.key(home)

    @pytest.mark.parametrize(
        ("asked", "environ", "mode"),
        [
            ("online", {"WANDB_MODE": "offline"}, "online"),
            ("offline", {"WANDB_API_KEY": "x"}, "offline"),
            ("disabled", {"WANDB_API_KEY": "x"}, "disabled"),
            ("auto", {}, "offline"),
            ("auto", {"WANDB_API_KEY": "x"}, "online"),
            ("auto", {"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}, "offline"),
            ("auto", {"WANDB_API_KEY": "x", "WANDB_MODE": "dryrun"}, "offline"),
            ("auto", {"WANDB_API_KEY": "x", "WANDB_MODE": "Disabled"}, "disabled"),
            ("auto", {"WANDB_MODE": "online"}, "online"),
        ],
    )
    def test_mode(self, home: Path, asked: Any, environ: dict[str, str], mode: str) -> None:
        assert tracking_mode(asked, {"HOME": str(home), **environ}) == mode


class TestScaling:
    def test_each_worker_gets_what_the_spec_says(self) -> None:
        params = {"lr": 0.1, "data.batch_size": 64, "depth": 4}
        assert scaled(params, Training(), 4) == params
        assert scaled(params, Training(batch_size="global"), 4) == {**params, "data.batch_size": 16}
        assert scaled(params, Training(lr_scaling="linear"), 4) == {**params, "lr": 0.4}
        assert scaled({"model.learning_rate": 0.1}, Training(lr_scaling="sqrt"), 4) == {"model.learning_rate": 0.2}

    def test_what_cannot_be_shared_evenly_is_refused(self) -> None:
        with pytest.raises(SpecError, match=r"batch_size is 30 for all workers .* make it a multiple of 4"):
            scaled({"batch_size": 30}, Training(batch_size="global"), 4)


@pytest.mark.parametrize(
    ("data", "places"),
    [
        ({"tracking": {"api_key": "anything"}}, ["tracking.api_key"]),
        ({"params": {"WANDB_API_KEY": "anything"}}, ["params.WANDB_API_KEY"]),
        ({"tracking": {"tags": ["fine", "0123456789" * 4]}}, ["tracking.tags.1"]),
        ({"params": {"note": "local-" + "0123456789" * 4}}, ["params.note"]),
        ({"name": "wandb_v1_0123456789abcdefXYZ"}, ["name"]),
        ({"params": {"shared_secret": "0123456789" * 4}}, ["params.shared_secret"]),
        ({"trainable": {"env": "export WANDB_API_KEY='" + "0123456789" * 4 + "'"}}, ["trainable.env"]),
        ({"space": "https://example.com/blob/" + "0123456789" * 4 + "/space.yaml"}, []),
        ({"params": {"revision": "0123456789" * 4, "lr": 0.1, "key": "value"}}, []),
    ],
)
def test_keys_are_found_and_taken_out(data: dict[str, Any], places: list[str]) -> None:
    before = repr(data)
    assert list(take_keys(data)) == places
    assert ("(a key)" in repr(data)) == bool(places)
    if not places:
        assert repr(data) == before


def test_what_is_secret_in_a_command_is_not_shown() -> None:
    command = "search storage=s3://me:pass@bucket/x?secret_key=hidden&region=eu lr=0.1"
    assert redacted(command) == "search storage=s3://***@bucket/x?secret_key=***&region=eu lr=0.1"


def test_workers_get_variables_without_secrets() -> None:
    given = {"WANDB_NOTES": "n", "WANDB_API_KEY": "k", "WANDB_IDENTITY_TOKEN_FILE": "f", "HOME": "/"}
    assert to_workers(given) == {"WANDB_NOTES": "n"}
