"""The command line on small sweep folders, made without running anything."""

import json
import re
import shutil
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from orchestrator import cli, results
from orchestrator.folder import SweepFolder
from orchestrator.ledger import Ledger
from orchestrator.messages import Ended, Outcome, Report, Started
from orchestrator.results import Status
from orchestrator.spec import Spec
from orchestrator.verbs import resume

VERBS = ("search", "validate", "resume", "status", "best", "trainables", "spaces")


def make_report(number: int, epoch: int, value: float) -> Report:
    path = f"trials/{number}/epoch-{epoch:04d}.ckpt"
    return Report(number=number, epoch=epoch, value=value, metrics={}, best_epoch=epoch, checkpoint=path,
                  best_checkpoint=path)  # fmt: skip


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepFolder:
    """A sweep of three trials, in ./results: one complete, one failed, one running."""
    monkeypatch.chdir(tmp_path)
    spec = Spec.model_validate(
        {
            "name": "small",
            "trainable": "digits",
            "space": {"lr": {"options": [0.1, 0.2]}},
            "metric": "val/accuracy",
            "goal": "maximize",
            "search": {"sampler": "random", "seed": 0, "duplicates": True},
            "budget": {"trials": 5},
            "tracking": {"mode": "offline"},
            "storage": str(tmp_path / "results"),
        }
    )
    folder = SweepFolder(spec.storage, "small")
    folder.create()
    folder.write_text("sweep.yaml", spec.to_yaml())
    ledger = Ledger(folder, spec, create=True)
    for number, value in enumerate((0.9, 0.8, 0.7)):
        ledger.ask()
        ledger.start(Started(number=number, slot="slot", wandb_run=None))
        ledger.report(make_report(number, 1, value))
        folder.write_text(folder.checkpoint(number, 1), f"weights {number}")
    ledger.end(Ended(number=0, outcome=Outcome.COMPLETE))
    ledger.end(Ended(number=1, outcome=Outcome.FAILED, error="ValueError: boom"))
    results.write(folder, results.build(spec, folder, ledger.records, Status.RUNNING))
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = cli.main(arguments)
    except SystemExit as exc:
        code = int(exc.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


class TestHelp:
    def test_the_verbs(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, _ = run(capsys, "--help")
        assert code == 0
        for verb in VERBS:
            assert re.search(rf"\n    {verb}\s", out)

    @pytest.mark.parametrize("verb", VERBS)
    def test_of_each(self, capsys: pytest.CaptureFixture[str], verb: str) -> None:
        code, out, _ = run(capsys, verb, "--help")
        assert code == 0
        assert out.startswith(f"usage: python -m orchestrator {verb}")

    def test_no_verb_or_another_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(capsys)[0] == 2
        code, _, err = run(capsys, "serach")
        assert code == 2
        assert "no verb 'serach'; did you mean 'search'?" in err


class TestWhatDoesNotExist:
    @pytest.mark.parametrize("verb", ["status", "best", "resume"])
    def test_a_sweep_of_another_name(self, capsys: pytest.CaptureFixture[str], sweep: SweepFolder, verb: str) -> None:
        assert run(capsys, verb, "smal") == (
            2, "", "error: no sweep 'smal' in ./results; did you mean 'small'? there are: small\n"
        )  # fmt: skip

    @pytest.mark.parametrize("verb", ["status", "best"])
    def test_any_sweep(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert run(capsys, verb) == (
            2, "", "error: no sweep in ./results; name one, or say where with --storage\n"
        )  # fmt: skip
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("verb", ["status", "best", "resume"])
    def test_a_folder(self, capsys: pytest.CaptureFixture[str], tmp_path: Path, verb: str) -> None:
        code, out, err = run(capsys, verb, f"{tmp_path}/nowhere/x")
        assert (code, out) == (2, "")
        assert err.startswith(f"error: no sweep 'x' in {tmp_path}/nowhere;")
        assert len(err.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []

    def test_a_sweep_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, _, err = run(capsys, "search", "defautl")
        assert code == 2
        assert err.startswith("error: no sweep 'defautl'; did you mean 'default'? available: ")

    def test_two_sweep_files(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, _, err = run(capsys, "validate", "a", "b")
        assert (code, err) == (2, "error: one sweep at a time, not 2: a, b; overrides are key=value\n")

    def test_an_override_with_spaces(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, _, err = run(capsys, "search", "default", "budget.trials", "=", "5")
        assert (code, err) == (2, "error: an override has no spaces: write budget.trials=5\n")

    def test_a_folder_or_a_file_without_its_ending(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        assert f"error: '{tmp_path}' is a folder; give a sweep's YAML file" in run(capsys, "validate", str(tmp_path))[2]
        (tmp_path / "mine.yaml").write_text("{}")
        code, _, err = run(capsys, "validate", str(tmp_path / "mine"))
        assert code == 2
        assert f"did you mean '{tmp_path / 'mine.yaml'}'?" in err

    def test_no_verb(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, _, err = run(capsys)
        assert code == 2
        assert err.startswith("error: a verb is wanted, one of ")


class TestStatus:
    def test_json_is_the_document(self, capsys: pytest.CaptureFixture[str], sweep: SweepFolder) -> None:
        code, out, _ = run(capsys, "status", "--json")
        document = json.loads(out)
        assert code == 0
        assert document["status"] == "dead"  # says that it runs, and no process has its lock
        assert [trial["state"] for trial in document["trials"]] == ["COMPLETE", "FAIL", "RUNNING"]
        assert document["best"] == document["trials"][0]
        assert {**document, "status": "running"} == json.loads(sweep.read_text("results.json"))

    def test_a_live_one_runs(self, capsys: pytest.CaptureFixture[str], sweep: SweepFolder) -> None:
        with sweep.locked():
            assert json.loads(run(capsys, "status", "small", "--json")[1])["status"] == "running"

    @pytest.mark.parametrize("reference", ["small", "results/small", "results/small/", "{root}/results/small", None])
    def test_text(
        self, capsys: pytest.CaptureFixture[str], sweep: SweepFolder, tmp_path: Path, reference: str | None
    ) -> None:
        code, out, _ = run(capsys, "status", *([reference.format(root=tmp_path)] if reference else []))
        assert code == 0
        assert out.startswith("small: dead  2/5 trials  best val/accuracy 0.9 (trial 0)")
        assert "trial 1: ValueError: boom" in out
        assert f"to go on: python -m orchestrator resume {tmp_path}/results/small" in out

    def test_killed_before_its_first_results(self, capsys: pytest.CaptureFixture[str], sweep: SweepFolder) -> None:
        sweep.delete("results.json")
        assert json.loads(run(capsys, "status", "--json")[1])["status"] == "dead"
        with sweep.locked():
            assert json.loads(run(capsys, "status", "--json")[1])["status"] == "running"

    def test_without_a_record(self, capsys: pytest.CaptureFixture[str], sweep: SweepFolder) -> None:
        sweep.ledger.unlink()
        code, _, err = run(capsys, "status")
        assert code == 1
        assert err == f"error: {sweep.ledger} is missing: there is no record of this sweep\n"


class TestBest:
    def test_where_it_is(self, capsys: pytest.CaptureFixture[str], sweep: SweepFolder) -> None:
        code, out, _ = run(capsys, "best")
        rows: dict[str, Any] = dict(line.split(maxsplit=1) for line in out.splitlines())
        assert code == 0
        assert (rows["trial"], rows["val/accuracy"], rows["epoch"]) == ("0", "0.9", "1")
        assert Path(rows["checkpoint"]).read_text() == "weights 0"

    def test_download(self, capsys: pytest.CaptureFixture[str], sweep: SweepFolder, tmp_path: Path) -> None:
        code, out, _ = run(capsys, "best", "small", "--download", str(tmp_path / "winner"))
        target = tmp_path / "winner" / "small-0.ckpt"
        assert code == 0
        assert str(target) in out
        assert target.read_text() == "weights 0"
        assert [path.name for path in target.parent.iterdir()] == ["small-0.ckpt"]

    def test_a_folder_that_was_moved(
        self, capsys: pytest.CaptureFixture[str], sweep: SweepFolder, tmp_path: Path
    ) -> None:
        shutil.move(tmp_path / "results", tmp_path / "moved")
        code, out, _ = run(capsys, "best", "--storage", "moved")
        assert code == 0
        assert f"{tmp_path}/moved/small/trials/0/epoch-0001.ckpt" in out


@pytest.mark.parametrize(
    ("words", "stays"),
    [
        (["name=x"], "name {} small"),
        (["storage=/x"], "storage {} {storage}"),
        (["space=digits"], "space {}"),
        (["space.lr.high=0.2"], "space {}"),
        (["goal=minimize"], "goal {} maximize"),
        (["metric=x"], "metric {} val/accuracy"),
        (["objectives={latency_ms: minimize}", "schedule.scheduler=none"], "objectives {}"),
        (["constraints=[latency_ms <= 5]"], "constraints {}"),
        (["params.held_out=120"], "params {}"),
        (["start_from=a/b/c:best"], "start_from {}"),
        (["warm_start.points=[{lr: 0.1}]"], "warm_start {}"),
        (["search.seed=9"], "search.seed {} 0"),
        (["training.batch_size=largest"], "training.batch_size {} per_worker"),
        (["training.lr_scaling=sqrt"], "training.lr_scaling {} none"),
        (["training.report_every_steps=5"], "training.report_every_steps {}"),
    ],
)
def test_resume_keeps_what_the_sweep_is(
    capsys: pytest.CaptureFixture[str], sweep: SweepFolder, words: list[str], stays: str
) -> None:
    code, _, err = run(capsys, "resume", "small", *words)
    said = stays.format("is part of what the sweep is, and stays", storage=Path("results").resolve())
    assert (code, err) == (2, f"error: {said}; start a new sweep for another\n")


@pytest.mark.parametrize(
    "key", ["search.sampler=qmc", "schedule.scheduler=none", "schedule.max_epochs=30", "training.deterministic=true"]
)
def test_resume_takes_another_sampler_or_scheduler(
    capsys: pytest.CaptureFixture[str], sweep: SweepFolder, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    began: list[Spec] = []
    monkeypatch.setattr("orchestrator.sweep.resume", lambda folder, spec, view: began.append(spec))
    monkeypatch.setattr("orchestrator.front.run_sweep", lambda begin: begin() or 0)
    assert run(capsys, "resume", "small", key)[0] == 0
    before = Spec.from_yaml(sweep.read_text("sweep.yaml"))
    (changed,) = began
    name, _, value = key.partition("=")
    assert str(attrgetter(name)(changed)).lower() == value != str(attrgetter(name)(before)).lower()
    assert changed.search.seed == before.search.seed


def test_the_schedule_of_a_population_stays(capsys: pytest.CaptureFixture[str], sweep: SweepFolder) -> None:
    said = (
        "error: schedule stays that of scheduler={}: trials of a population (pbt, pb2) copy each other's checkpoints,"
        " which no other schedule keeps; start a new sweep for another\n"
    )
    mutated = "schedule.mutate=[lr]"
    assert run(capsys, "resume", "small", "schedule.scheduler=pbt", mutated)[::2] == (2, said.format("asha"))
    spec = Spec.from_yaml(sweep.read_text("sweep.yaml"))
    population = spec.schedule.model_copy(update={"scheduler": "pbt", "mutate": ["lr"]})
    sweep.write_text("sweep.yaml", spec.model_copy(update={"schedule": population}).to_yaml())
    for key in ("schedule.scheduler=asha", "schedule.interval_epochs=3"):
        assert run(capsys, "resume", "small", key)[::2] == (2, said.format("pbt"))


def test_a_budget_that_is_spent_starts_nothing(capsys: pytest.CaptureFixture[str], sweep: SweepFolder) -> None:
    spec = Spec.from_yaml(sweep.read_text("sweep.yaml"))
    ledger = Ledger(sweep, spec)
    for record in ledger.records:
        ledger.end(Ended(number=record.number, outcome=Outcome.PRUNED))
    results.write(sweep, results.build(spec, sweep, ledger.records, Status.FINISHED))
    run_already = len(ledger.records)
    for words in (["budget.trials=2"], ["budget.trials=2", "search.sampler=qmc", "schedule.scheduler=none"]):
        code, _, err = run(capsys, "resume", "small", *words)
        assert code == 2
        assert err == (
            f"error: small has run {run_already} trials, and budget.trials is 2: nothing is left to run; write a larger"
            " number\n"
        )


def test_a_trial_that_goes_back_says_so(
    capsys: pytest.CaptureFixture[str], sweep: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(sweep, Spec.from_yaml(sweep.read_text("sweep.yaml")))
    ledger.report(make_report(2, 2, 0.75))
    sweep.write_text(sweep.checkpoint(2, 2), "weights 2")
    monkeypatch.setattr("orchestrator.front.run_sweep", lambda _: 0)
    said = (
        "trial 2 goes back from epoch 2 to 1: what it trains again stays on record as it was, and its later checkpoints"
        " are deleted, so that of epoch 2, its best one, is missing until it gets there again\n"
    )
    for epoch, says in ((2, False), (1, True)):
        code, out, _ = run(capsys, "resume", "small", "--from", f"2={sweep.show(sweep.checkpoint(2, epoch))}")
        assert code == 0
        assert (said in out) is says
        # An earlier one may be that of its best epoch, which the record names.
        assert list(sweep.checkpoints(2)) == [1, 2][:epoch]


def test_a_trial_that_ended_while_its_checkpoint_was_fetched_keeps_its_own(
    capsys: pytest.CaptureFixture[str], sweep: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.write_text(sweep.checkpoint(2, 2), "weights 2")
    given = f"2={sweep.show(sweep.checkpoint(2, 1))}"
    fetched = resume._fetched

    def slowly(*arguments: Any) -> tuple[str, Path]:
        ledger = Ledger(sweep, Spec.from_yaml(sweep.read_text("sweep.yaml")))
        ledger.end(Ended(number=2, outcome=Outcome.COMPLETE))
        return fetched(*arguments)

    monkeypatch.setattr(resume, "_fetched", slowly)
    code, _, err = run(capsys, "resume", "small", "--from", given)
    assert (code, err) == (2, "error: --from: trial 2 has ended meanwhile\n")
    assert list(sweep.checkpoints(2)) == [1, 2]


def test_a_trial_keeps_its_checkpoints_where_another_ones_is_refused(
    capsys: pytest.CaptureFixture[str], sweep: SweepFolder
) -> None:
    sweep.write_text(sweep.checkpoint(2, 2), "weights 2")
    good, bad = f"2={sweep.show(sweep.checkpoint(2, 1))}", "2=nowhere.ckpt"
    code, _, err = run(capsys, "resume", "small", "--from", good, "--from", good, "--from", bad, "--from", "zero")
    assert code == 2
    assert f"error: --from {good}: trial 2 has one already, and goes on from one; take one out\n" in err
    assert f"error: --from {bad}: nowhere.ckpt is no checkpoint of a sweep (epoch-0003.ckpt)\n" in err
    assert "'zero' is no unfinished trial" in err
    assert list(sweep.checkpoints(2)) == [1, 2]


def test_resume_keeps_the_place_of_the_sweeps_page(capsys: pytest.CaptureFixture[str], sweep: SweepFolder) -> None:
    Ledger(sweep, Spec.from_yaml(sweep.read_text("sweep.yaml"))).remember("wandb_sweep", "abc")
    code, _, err = run(capsys, "resume", "small", "tracking.project=other", "tracking.entity=others")
    assert code == 2
    for key in ("project", "entity"):
        assert f"error: tracking.{key} is where W&B has the sweep, and stays; start a new sweep for another\n" in err


@pytest.mark.parametrize("given", [["--from", "2=elsewhere.ckpt"], ["budget.trials=9"]])
def test_what_a_paused_sweep_cannot_take_in_is_refused(
    capsys: pytest.CaptureFixture[str], sweep: SweepFolder, given: list[str]
) -> None:
    """Its process has read its spec, and its trials; without a word that would be lost."""
    ledger = Ledger(sweep, spec := Spec.from_yaml(sweep.read_text("sweep.yaml")), read_only=True)
    results.write(sweep, results.build(spec, sweep, ledger.records, Status.PAUSED))
    with sweep.locked():
        code, _, err = run(capsys, "resume", "small", *given)
    assert code == 2
    assert err.startswith(f"error: small is paused, and its process goes on as it was begun: for {' '.join(given)}, ")
    assert f"first `python -m orchestrator stop {sweep.show('').rstrip('/')}`" in err


@pytest.mark.parametrize("given", ["0=team/project/model-small-0:best", "9=elsewhere.ckpt", "zero"])
def test_a_finished_sweep_has_no_trial_to_go_on_from_elsewhere(
    capsys: pytest.CaptureFixture[str], sweep: SweepFolder, given: str
) -> None:
    """Without a word it would be lost, beside the news that the sweep is finished."""
    ledger = Ledger(sweep, spec := Spec.from_yaml(sweep.read_text("sweep.yaml")))
    ledger.end(Ended(number=2, outcome=Outcome.FAILED))
    results.write(sweep, results.build(spec, sweep, ledger.records, Status.FINISHED))
    del ledger
    code, out, err = run(capsys, "resume", "small", "--from", given)
    assert (code, out, err) == (2, "", f"error: {no_trial(given, 'none')}\n")


def no_trial(given: str, there: str) -> str:
    number = given.partition("=")[0]
    return f"--from {given}: '{number}' is no unfinished trial; there are: {there} (write TRIAL=CHECKPOINT)"


def test_every_wrong_trial_is_named_before_a_checkpoint_is_placed(
    capsys: pytest.CaptureFixture[str], sweep: SweepFolder
) -> None:
    right, wrong = f"2={sweep.show(sweep.checkpoint(2, 1))}", ["7=elsewhere.ckpt", "two=elsewhere.ckpt"]
    sweep.write_text(sweep.checkpoint(2, 1), "weights")
    code, _, err = run(capsys, "resume", "small", *(word for each in (right, *wrong) for word in ("--from", each)))
    assert (code, err) == (2, "".join(f"error: {no_trial(each, '2')}\n" for each in wrong))
    assert sweep.source(2) is None


def test_validate(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "validate", "space={lr: {options: [1, 2]}}")
    assert (code, out) == (
        0,
        "valid: digits, maximize val/accuracy over lr\nthe cluster and W&B were not asked: `preflight` does\n",
    )
    code, _, err = run(capsys, "validate", "warm_start.sweeps=[nowhere]")
    assert code == 2
    assert err.startswith("error: warm_start.sweeps: no sweep 'nowhere' in ")


@pytest.mark.parametrize(
    ("words", "doubt"),
    [
        (["goal=minimize"], "the goal is to minimize val/accuracy: is that the right way round?"),
        (["metric=val_loss"], "the goal is to maximize val_loss: is that the right way round?"),
        (["metric=valLoss"], "the goal is to maximize valLoss: is that the right way round?"),
        (["metric=glossary"], None),
        (["metric=neg_mean_squared_error"], None),
        (["metric=val/iou_loss", "goal=minimize"], None),
    ],
)
def test_validate_doubts_a_goal(capsys: pytest.CaptureFixture[str], words: list[str], doubt: str | None) -> None:
    code, _, err = run(capsys, "validate", *words)
    assert (code, err) == (0, f"note: {doubt}\n" if doubt else "")


def test_a_place_that_cannot_be_written_is_said(
    capsys: pytest.CaptureFixture[str], sweep: SweepFolder, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, "report", "small", "--output", str(tmp_path / "file/page.html"))
    assert code == 2
    assert err.startswith(f"error: --output {tmp_path}/file/page.html cannot be written: ")
    code, _, err = run(capsys, "best", "small", "--download", str(tmp_path / "file"))
    assert code == 1
    assert f"cannot be copied to {tmp_path}/file/small-" in err


def test_a_file_for_ray_up_is_no_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "validate", "cluster.yaml")
    assert (code, err) == (2, "error: cluster.yaml is a file for `ray up`, not a sweep's; write cluster=cluster.yaml\n")


def test_storage_that_cannot_be_made_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, "search", f"storage={tmp_path}/file")
    assert code == 2
    assert err.startswith(f"error: storage is '{tmp_path}/file': ")
    assert err.endswith("; give a folder or a URL that can be written\n")


@pytest.mark.parametrize("kind", ["trainables", "spaces"])
def test_listings_name_and_describe(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    code, out, _ = run(capsys, kind)
    assert code == 0
    assert all(len(line.split(maxsplit=1)) == 2 for line in out.splitlines())
    assert "\ndigits" in f"\n{out}"


class TestSpaces:
    """The verb `spaces`, on the shipped spaces and on the sweep of the fixture."""

    @pytest.fixture
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "search_spaces").mkdir()
        (tmp_path / "search_spaces/own.yaml").write_text("# One's own\nlr: {type: float, low: 0, high: 1}\n")
        (tmp_path / "search_spaces/own@2.yaml").write_text("extends: own@1\nnarrow: {lr: {high: 0.5}}\n")
        (tmp_path / "search_spaces/bad.yaml").write_text("lr: {type: flaot}\n")
        return tmp_path

    @pytest.mark.usefixtures("here")
    def test_list_and_show(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, listed, _ = run(capsys, "spaces", "list")
        assert code == 0
        assert listed == run(capsys, "spaces")[1]
        assert re.search(r"^own@1,2 +$|^own@1,2$", listed, re.MULTILINE)
        code, shown, _ = run(capsys, "spaces", "show", "own")
        assert code == 0
        assert shown.splitlines()[0] == "lr  0 to 0.5"
        assert "1 parameters, digest " in shown
        assert "  own@2 (" in shown
        assert "    narrow lr: 0 to 1 -> 0 to 0.5" in shown

    @pytest.mark.usefixtures("here")
    def test_validate_says_every_mistake(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, err = run(capsys, "spaces", "validate", "own", "bad", "onw", "own@1")
        assert code == 2
        assert [line.partition(",")[0] for line in out.splitlines()] == ["valid: own", "valid: own@1"]
        assert "error: bad: space: 'lr' has type 'flaot'" in err
        assert "error: onw: no search space 'onw'; did you mean 'own'?" in err
        (Path("search_spaces") / "never.yaml").write_text(
            "parameters: {a: {type: int, low: 1, high: 2}}\nconstraints: ['a > 2']\n"
        )
        code, _, err = run(capsys, "spaces", "validate", "never")
        assert code == 2
        assert "none of 10000 configurations drawn fulfils 'a > 2'" in err

    def test_diff_of_spaces_and_of_sweeps(
        self, capsys: pytest.CaptureFixture[str], sweep: SweepFolder, here: Path
    ) -> None:
        assert run(capsys, "spaces", "diff", "own@1", "search_spaces/own.yaml")[0] == 0
        code, out, _ = run(capsys, "spaces", "diff", "own@1", "own@2")
        assert code == 1
        assert out.splitlines()[1:] == ["~ lr: 0 to 1 -> 0 to 0.5"]
        code, out, _ = run(capsys, "spaces", "diff", "small", sweep.show("").rstrip("/"))
        assert code == 0
        assert out.startswith("the same space: 1 parameters, digest ")
        code, out, _ = run(capsys, "spaces", "diff", "small", "own")
        assert code == 1
        assert "~ lr: 0.1, 0.2 -> 0 to 0.5" in out
        code, _, err = run(capsys, "spaces", "diff", "smal", "own")
        assert code == 2
        assert "no search space 'smal'" in err
        assert "no sweep 'smal' in ./results; did you mean 'small'?" in err

    @pytest.mark.usefixtures("here")
    def test_export_and_back(self, capsys: pytest.CaptureFixture[str]) -> None:
        for form, name in (("yaml", "again.yaml"), ("wandb", "theirs.yaml"), ("json", "json.yaml")):
            code, out, _ = run(capsys, "spaces", "export", "own", "--to", form)
            assert code == 0
            Path(name).write_text(out)
            assert run(capsys, "spaces", "diff", "own", name)[0] == 0
        code, out, _ = run(capsys, "spaces", "export", "own", "--to", "optuna")
        assert json.loads(out)["lr"]["name"] == "FloatDistribution"

    @pytest.mark.parametrize("form", ["wandb", "optuna"])
    def test_export_says_what_would_be_lost(self, capsys: pytest.CaptureFixture[str], here: Path, form: str) -> None:
        (here / "rich.yaml").write_text(
            "parameters:\n"
            "  a: {options: {x: {b: {type: float, low: 0, high: 1}}, y: {}}, default: x}\n"
            "  c: {type: float, low: 0, high: 1, prior: {centre: 0.5, spread: 0.1}}\n"
            "constraints: [b <= c]\n"
        )
        code, out, err = run(capsys, "spaces", "export", "rich.yaml", "--to", form)
        assert (code, out) == (2, "")
        for said in (
            "'b' is only active when a is x",
            "'a' has a default, 'x'",
            "'c' has a prior",
            "constraint 'b <= c'",
        ):
            assert said in err
        code, out, _ = run(capsys, "spaces", "export", "rich.yaml", "--to", form, "--lossy")
        assert code == 0
        assert "b" in out


def test_resume_notices_that_the_space_changed(
    capsys: pytest.CaptureFixture[str], sweep: SweepFolder, tmp_path: Path
) -> None:
    from orchestrator import sources

    (tmp_path / "space.yaml").write_text("lr: {options: [0.1, 0.2]}\n")
    spec = Spec.from_yaml(sweep.read_text("sweep.yaml"))
    written = spec.model_copy(update={"space": sources.written_out("space.yaml")})
    sweep.write_text("sweep.yaml", written.to_yaml())
    (tmp_path / "space.yaml").write_text("lr: {options: [0.1, 0.2, 0.3]}\n")
    code, _, err = run(capsys, "resume", "small")
    assert code == 2
    assert "space.yaml has changed since the sweep began: its digest was " in err
    assert "~ lr: 0.1, 0.2 -> 0.1, 0.2, 0.3" in err
    assert "--as-recorded goes on with the space as it was" in err
    code, _, err = run(capsys, "resume", "small", "goal=minimize", "--as-recorded")
    assert err == "error: goal is part of what the sweep is, and stays maximize; start a new sweep for another\n"


def test_a_word_that_a_verb_does_not_know_gets_the_near_miss(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["spaces", "lst"]) == 2
    assert (
        "no 'lst' here; did you mean 'list'? there are: list, show, validate, diff, export" in capsys.readouterr().err
    )
    assert cli.main(["spaces", "export", "mlp", "--lossi"]) == 2
    assert "no option '--lossi'; did you mean '--lossy'? spaces export has: --help" in capsys.readouterr().err
    assert cli.main(["search", "budget.trials"]) == 2
    assert "to set a key of the spec, write budget.trials=VALUE" in capsys.readouterr().err
    assert cli.main(["search", "tracking.project=a/b", "--dry-run"]) == 2
    assert "write PROJECT, a name without any of / \\ # ? % :" in capsys.readouterr().err
