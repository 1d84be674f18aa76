"""The way from a laptop to a head, against a double of `ray exec` that runs commands with a double of `ray`; the real
ones are in tests/test_hosts.py."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from orchestrator import cli, front, remote
from orchestrator.errors import InputError, SweepError
from orchestrator.remote import CLOSED, Head
from orchestrator.spec import Spec, check

SPEC = {"trainable": "digits", "space": "digits", "metric": "val/accuracy", "goal": "maximize"}
ROOT = Path(__file__).resolve().parent.parent
# `ray exec`: says what Ray says, and has bash run the command at home on the head, which may be away so many times.
EXEC = """
import subprocess, sys
from pathlib import Path
home, *_, file, command = sys.argv[1:]
print("2026-11-30 21:13:01,118 INFO node_provider.py:53 -- ClusterState: Loaded cluster state")
away = Path(home, "away")
if away.exists() and (times := int(away.read_text())):
    away.write_text(str(times - 1))
    print("ssh: connect to host 10.0.0.1 port 22: No route to host", "Error: Command failed:", "  ssh -tt", sep="\\n")
    sys.exit(1)
environment = {"HOME": home, "PATH": f"{home}/bin:/usr/bin:/bin"}
done = subprocess.run(["/bin/bash", "-c", command], env=environment, stdout=subprocess.PIPE, text=True)
if (breaks := Path(home, "breaks")).exists():  # the connection, before the last line is there
    breaks.unlink()
    print(done.stdout[: done.stdout.rindex("the head")], "Shared connection to 10.0.0.1 closed.", sep="\\n")
    print("2026-11-30 21:13:01,118 WARN commands.py:394 -- If you", "Error: Command failed:", sep="\\n")
    sys.exit(1)
sys.stdout.write(done.stdout)
sys.exit(done.returncode)
"""
# `ray` and `python` on the head: note what they are given, and say what is next of what they are to say.
NEXT = """#!/bin/bash
case "$1 $2" in
  "job logs" | "job status" | "job submit") name="$2" ;;
  *) name=$(basename "$0") ;;
esac
printf '%s\\0' "$@" >> "$HOME/$name.told"; printf '\\n' >> "$HOME/$name.told"
count=$(wc -l < "$HOME/$name.told")
if [ -f "$HOME/$name.$count" ]; then . "$HOME/$name.$count"; fi
"""


@dataclass(frozen=True)
class There:
    """The head, by its home."""

    home: Path
    file: str

    def say(self, what: str, *scripts: str) -> None:
        """What `ray job WHAT` does, one time after the other; or `python`."""
        for count, script in enumerate(scripts, start=1):
            (self.home / f"{what}.{count}").write_text(f"{script}\n")

    def told(self, what: str) -> list[list[str]]:
        """What it was given."""
        told = self.home / f"{what}.told"
        return [line.split("\0")[:-1] for line in told.read_text().splitlines()] if told.exists() else []


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> There:
    home = tmp_path / "head"
    (home / "bin").mkdir(parents=True)
    (home / "orchestrator").mkdir()
    for name in ("ray", "python"):
        (home / "bin" / name).write_text(NEXT)
        (home / "bin" / name).chmod(0o755)
    (tmp_path / "exec.py").write_text(EXEC)
    monkeypatch.setattr(remote, "EXEC", (sys.executable, str(tmp_path / "exec.py"), str(home)))
    monkeypatch.setattr(remote, "AGAIN_S", 0.0)
    return There(home, str(ROOT / "clusters/local.yaml"))


def test_a_sweep_arrives_as_it_was_given(there: There) -> None:
    spec = check(dict(SPEC), ["budget.trials=3", 'space={optimizer: {options: ["it\'s", "$HOME"]}}'])
    Head(there.file).submit(spec, "mine")
    arrived = Spec.from_yaml((there.home / "sweeps" / "mine.yaml").read_text())
    assert arrived.name == "mine"
    assert arrived.budget.trials == 3
    assert arrived.space == spec.space
    assert "storage" not in arrived.model_fields_set  # the cluster's own is meant
    (told,) = there.told("submit")
    assert told[4:9] == ["--no-wait", "--submission-id", "mine", "--", "bash"]
    assert told[10] == "cd ~/orchestrator && exec python -m orchestrator search ~/sweeps/mine.yaml"


def test_a_head_that_refuses_is_said(there: There) -> None:
    there.say("submit", "echo job mine exists already; exit 1")
    with pytest.raises(SweepError, match=r"did not take the sweep: job mine exists already$"):
        Head(there.file).submit(check(dict(SPEC)), "mine")


def test_a_head_that_is_not_reached_is_said_in_the_words_of_ssh(there: There) -> None:
    (there.home / "away").write_text("1")
    with pytest.raises(SweepError, match=r"did not take the sweep: ssh: connect to host .* No route to host$"):
        Head(there.file).submit(check(dict(SPEC)), "mine")


@pytest.mark.parametrize("does", ["exec sleep 600", "trap '' TERM; sleep 600 | cat; sleep 600"])
def test_a_head_that_does_not_answer_is_said(does: str, there: There, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote.Head._exec, "__kwdefaults__", {"limit_s": 0.5})
    there.say("submit", does)
    with pytest.raises(SweepError, match=r"did not take the sweep: it took longer than 0\.5 s$"):
        Head(there.file).submit(check(dict(SPEC)), "mine")
    home = str(there.home)
    assert [each for each in psutil.process_iter(["environ"]) if (each.info["environ"] or {}).get("HOME") == home] == []


@pytest.mark.parametrize(("said", "code"), [("succeeded", 0), ("failed", 1), ("was stopped", 143)])
def test_following_goes_on_after_a_sleep_and_ends_with_the_job(
    said: str, code: int, there: There, capsys: pytest.CaptureFixture[str]
) -> None:
    running = "echo \"Status for job 'mine': RUNNING\""
    there.say("status", running, running, f"echo \"Job 'mine' {said}\"")
    end = f"echo; echo -----; echo \"Job 'mine' {said}\"; echo Status message: -"
    own = "echo Job submission server address: http://10.0.0.1:8265; echo Running entrypoint for job mine: bash -c"
    there.say(
        "logs",
        f"{own}; printf 'trial 0\\n'",
        # Then it sleeps: `status`, `logs`, `status`.
        f"{own}; printf 'trial 0\\ntri'; echo 3 > $HOME/away; touch $HOME/breaks",
        f"{own}; printf 'trial 0\\ntrial 1\\n-----\\nbest\\n'; {end}",
    )
    assert Head(there.file).follow("mine") == code
    printed = capsys.readouterr()
    assert printed.out == "trial 0\ntri\ntrial 1\n-----\nbest\n"  # every line once, save one that was torn
    assert printed.err.count("does not answer (ssh: connect to host 10.0.0.1 port 22: No route to host)") == 1
    assert printed.err.count("answers again") == 1


def test_following_is_given_up_when_the_head_stays_away(there: There, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "AWAY_S", 0.0)
    (there.home / "away").write_text("999")
    with pytest.raises(SweepError, match=r"No route to host.*attach mine cluster="):
        Head(there.file).follow("mine")


def test_a_cluster_that_is_not_up_is_said_at_once(there: There) -> None:
    (there.home / "away").write_text("999")
    exec_py = there.home.parent / "exec.py"
    exec_py.write_text(EXEC.replace("ssh: connect to host", "RuntimeError: Head node of cluster (sweeps) not found! "))
    with pytest.raises(SweepError, match=r"mine cannot be followed on .*: it is not up; `ray up .*` brings it up"):
        Head(there.file).follow("mine")


def test_a_job_that_is_not_there_is_said_at_once(there: There) -> None:
    gone = "echo \"RuntimeError: Request failed with status code 404: Job 'mime' does not exist\"; exit 1"
    there.say("status", gone)
    there.say("logs", gone)
    with pytest.raises(InputError, match=r"no job 'mime' on the head of .*status cluster="):
        Head(there.file).follow("mime")


def test_verbs_are_run_there_and_answer_here(there: There, capsys: pytest.CaptureFixture[str]) -> None:
    there.say("python", "echo mine: running; printf 'no newline'; exit 3")
    assert cli.main(["status", "mine", f"cluster={there.file}", "--json"]) == 3
    assert capsys.readouterr().out == "mine: running\nno newline\n"
    for verb in ("pause", "stop", "cancel"):
        there.say("python", *["true"] * 9)
        assert cli.main([verb, "it's mine", f"cluster={there.file}"]) == 0
        assert there.told("python")[-1] == ["-m", "orchestrator", verb, "it's mine"]
    (there.home / "away").write_text("1")
    assert cli.main(["status", f"cluster={there.file}"]) == 1
    assert "does not answer: ssh: connect to host" in capsys.readouterr().err


def test_a_sweep_is_resumed_there_as_a_job_of_its_own(there: There, capsys: pytest.CaptureFixture[str]) -> None:
    there.say("status", *["for job in $5; do echo \"Job '$job' succeeded\"; done"] * 3)
    assert cli.main(["resume", "mine", "budget.trials=50", f"cluster={there.file}"]) == 0
    (told,) = there.told("submit")
    job = told[6]
    assert job.startswith("mine-2")
    assert told[10].endswith("exec python -m orchestrator resume mine budget.trials=50")
    assert f"python -m orchestrator attach {job} cluster={there.file}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "job"),
    [("s3://bucket/sweeps/mine?region=us-west-2&endpoint_override=x", "mine-2"), ("/data/it's mine", "it-s-mine-2")],
)
def test_what_a_sweep_is_called_breaks_no_command_there(there: There, name: str, job: str) -> None:
    there.say("status", *["for job in $5; do echo \"Job '$job' succeeded\"; done"] * 3)
    assert cli.main(["resume", name, f"cluster={there.file}"]) == 0
    (told,) = there.told("submit")
    assert told[6].startswith(job)
    assert told[10].endswith(f"exec python -m orchestrator resume {shlex.quote(name)}")


def test_a_sweep_that_fits_into_no_command_is_refused_with_the_way_to_send_it(there: There) -> None:
    spec = Spec.model_validate({**SPEC, "warm_start": {"points": [{"lr": 1 / n} for n in range(1, 9000)]}})
    with pytest.raises(SweepError, match=r"too large for a command line.*`ray rsync-up"):
        Head(there.file).submit(spec, "x")


def test_a_line_of_a_trials_own_is_not_sshs() -> None:
    assert not CLOSED.match("Connection to 10.0.0.3 closed by peer, retrying")
    for line in ("Shared connection to 10.0.0.3 closed.", "Connection to 10.0.0.3 closed by remote host."):
        assert CLOSED.match(line)


@pytest.mark.parametrize("word", ["params.cluster=3", "model.cluster=1", "params.clusters=5"])
def test_a_hyperparameter_may_be_called_like_it(word: str) -> None:
    assert front.take_cluster(["search", word]) == (None, ["search", word])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["best", "mine", "cluster=x.yaml"], "best takes no cluster=FILE: it does its work here"),
        (["search", "cluser=x.yaml"], "unknown key 'cluser'; did you mean 'cluster=x.yaml'?"),
        (["search", "cluster="], "cluster is '', which is no file"),
        (["attach", "mine"], "attach takes a sweep's name and cluster=FILE"),
        (["search", "--dry-run", "cluster=cluster.yaml"], "--dry-run looks at this machine"),
    ],
)
def test_what_is_not_done_there_is_said(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"which is no file; did you mean 'cluster\.yaml'\? give the one that was given to `ray up`"),
        ("a: [", "which cannot be read as YAML: while parsing"),
        ("apiVersion: ray.io/v1\nkind: RayJob\n", "which is for Kubernetes: `kubectl create -f"),
        ("trainable: digits\n", "which is no file for `ray up`: it names no provider"),
        ("cluster_name: x\nprovider: {type: local}\nauth: {ssh_user: x}\nmax_wrkers: 1\n", "which Ray does not take: "),
    ],
)
def test_a_file_that_is_none_for_ray_up(
    text: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").touch()
    if text is not None:
        (tmp_path / "cluser.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        Head("cluser.yaml")


@pytest.mark.parametrize("file", ["cluster.yaml", "clusters/local.yaml", "clusters/gcp.yaml"])
def test_our_own_files_are_taken(file: str) -> None:
    Head(str(ROOT / file))


def test_the_answer_survives_json(there: There, capsys: pytest.CaptureFixture[str]) -> None:
    there.say("python", f"cat <<'EOF'\n{json.dumps({'a': 'the head'}, indent=1)}\nEOF")
    assert cli.main(["status", f"cluster={there.file}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"a": "the head"}
