"""The way from a laptop to a cluster that `ray up` brought up: what is asked of its head (ray's command line).

A sweep that is sent there becomes a job on the head and lives there, whatever becomes of the laptop; to look at it
again is to follow its log again.
"""

from __future__ import annotations

import base64
import math
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from orchestrator import cluster
from orchestrator.errors import InputError, SweepError
from orchestrator.naming import default_storage, near_miss
from orchestrator.spec import Spec

# Where `file_mounts` of cluster.yaml puts this repository.
THERE = "~/orchestrator"
EXEC = (sys.executable, "-m", "ray.scripts.scripts", "exec")
# How long a head may be out of reach, as after a laptop's sleep, before following it is given up; the sweep goes on.
AWAY_S = 300.0
# How long a command may take there; and how much longer an answer may take to get here, the connection included.
ANSWER_S, WAY_S = 300.0, 90.0
AGAIN_S = 2.0
FOREVER_S = threading.TIMEOUT_MAX
# What `timeout` ends with where the time was up, and where it was killed.
TIMED_OUT, KILLED = 124, 137
ENDED = {"succeeded": 0, "failed": 1, "stopped": 143, "was stopped": 143}
# What Ray sets its colours back by.
RESET = "\x1b[0m"
# What stands before and after a command's own output, among what Ray and ssh say.
BEGIN, END = "<<< the head", re.compile(r"the head >>> (\d+)$")
# What of a job's log is Ray's own: where it is read, how it began, and how it ended, with the end of the log once more.
FIRST_WORDS = re.compile(r"Job submission server address: |\S+ \S+\s+INFO job_manager\.py|Running entrypoint for job ")
LAST_WORDS = re.compile(r"Job '[^']+' (succeeded|failed|was stopped)$")
RULE = re.compile(r"-*$")
# What Ray says where the provider has no head of that name.
NOT_UP = "Head node of cluster"
# What fits into an argument of a command: Linux takes 131,072 characters, and the rest of the command needs some.
LONGEST = 120_000
# How ssh, and an error of Python's, say what went wrong: a sentence each among much else.
REASON = re.compile(
    r"^(ssh: .+|kex_exchange_identification: .+|.*Permission denied.+|\w[\w.]*(?:Error|Exception): .+)$"
)
# What ssh says as it ends; what Ray had to say before and after it comes then.
CLOSED = re.compile(
    r"(Shared c|C)onnection to \S+ closed( by remote host)?\.\s*$|Timeout, server \S+ not responding|client_loop: "
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a command there."""

    code: int | None
    """Its exit code; None where the head was not reached, or the connection broke."""
    lines: Sequence[str]
    """What it printed."""
    trouble: str
    """Why there is no exit code, in ssh's or Ray's words."""

    @property
    def said(self) -> str:
        """Its last words, or why there are none."""
        return self.trouble if self.code is None else _reason(self.lines)


class Head:
    """The head of the cluster that a file describes, reached by `ray exec`."""

    def __init__(self, file: str) -> None:
        """Take the file.

        Raises:
            InputError: it is not there, or Ray would not take it.
        """
        _check(file)
        self._file = file

    def submit(self, spec: Spec, name: str) -> None:
        """Start a sweep there, as a job named like it.

        Raises:
            SweepError: the head cannot be reached, or refuses.
        """
        data = spec.model_dump(mode="json", exclude_unset=True) | {"name": name}
        if data.get("storage") == default_storage(os.environ):
            del data["storage"]  # the cluster's own is meant
        text = base64.b64encode(yaml.safe_dump(data, sort_keys=False).encode()).decode()
        if len(text) > LONGEST:
            raise SweepError(
                f"the sweep's file is too large for a command line, which takes {LONGEST:,} characters: in base64"
                f" it has {len(text):,}; `ray rsync-up {self._file} FILE '~/sweeps/FILE'` brings it to the head, and"
                f" `ray exec {self._file}` runs it there"
            )
        path = f"~/sweeps/{name}.yaml"
        self._submit(name, f"search {path}", before=f"mkdir -p ~/sweeps; echo {text} | base64 -d > {path}; ")

    def resume(self, name: str, words: Sequence[str]) -> str:
        """Go on with a sweep there, by the words of that verb, as a job of its own, whose name is returned.

        Raises:
            SweepError: the head cannot be reached, or refuses.
        """
        last = re.sub(r"[^\w.-]", "-", name.partition("?")[0].rstrip("/").rpartition("/")[2])
        job = f"{last}-{time.strftime('%Y%m%d-%H%M%S')}"
        self._submit(job, shlex.join(words))
        return job

    def _submit(self, job: str, words: str, before: str = "") -> None:
        run = f"cd {THERE} && exec python -m orchestrator {words}"
        # No login shell: its profile would undo the PATH that Ray was started with.
        named = f"--submission-id {shlex.quote(job)}"
        submit = f"ray job submit --log-color false --no-wait {named} -- bash -c {shlex.quote(run)}"
        answer = self._exec(f"set -eu; {before}{submit}")
        if answer.code != 0:
            raise SweepError(f"the head of {self._file} did not take the sweep: {self._explained(answer)}")

    def run(self, words: Sequence[str]) -> int:
        """Run a verb there, and show what it prints here; its exit code.

        Raises:
            SweepError: the head cannot be reached.
        """
        verb = f"python -m orchestrator {shlex.join(words)}"
        # There is a terminal there, whatever is here.
        shown = f"COLUMNS={os.get_terminal_size().columns} {verb}" if sys.stdout.isatty() else f"{verb} | cat"
        answer = self._exec(f"set -o pipefail; cd {THERE} && {shown}", _show)
        if answer.code is None:
            raise SweepError(f"the head of {self._file} does not answer: {self._explained(answer)}")
        return answer.code

    def follow(self, job: str) -> int:
        """Show a job's progress here until it ends; its exit code.

        Raises:
            InputError: there is no such job.
            SweepError: there is no head, or it cannot be reached for long.
        """
        log, silent_since = _Log(), math.inf
        while True:
            log.begin_again()
            # Without what Ray itself has to say of the log, such as that there is none: that the next question answers.
            logs = f"PYTHONUNBUFFERED=1 ray job logs --log-color false --follow {shlex.quote(job)} 2>/dev/null"
            self._exec(logs, log.take, limit_s=None)
            answer = self._exec(f"ray job status --log-color false {shlex.quote(job)}")
            if (code := self._ended(job, answer)) is not None:
                return code
            if answer.code == 0 and silent_since < math.inf:
                _note(f"the head of {self._file} answers again")
                silent_since = math.inf
            elif answer.code != 0 and silent_since == math.inf:
                silent_since = time.monotonic()
                _note(
                    f"the head of {self._file} does not answer ({answer.said}); asking again for {AWAY_S:g} s, what"
                    " runs there goes on meanwhile"
                )
            if time.monotonic() - silent_since > AWAY_S:
                raise SweepError(
                    f"the head of {self._file} has not answered for {AWAY_S:g} s ({answer.said}); the sweep may"
                    f" go on: `python -m orchestrator attach {job} cluster={self._file}` looks again"
                )
            time.sleep(AGAIN_S)

    def _ended(self, job: str, answer: Answer) -> int | None:
        """The exit code of a job that has ended, by what its head says of it; None of one that has not.

        Raises:
            InputError: there is no such job.
            SweepError: there is no head.
        """
        if answer.code is None and NOT_UP in answer.trouble:
            raise SweepError(f"{job} cannot be followed on the head of {self._file}: {self._explained(answer)}")
        if answer.code is not None and any("does not exist" in line for line in answer.lines):
            raise InputError(
                f"no job '{job}' on the head of {self._file}, which forgets its jobs when it is started anew;"
                f" `python -m orchestrator status cluster={self._file}` says which sweeps are on record there"
            )
        said = "\n".join(answer.lines)
        return next((code for state, code in ENDED.items() if f"'{job}' {state}" in said), None)  # "Job 'x' succeeded"

    def _explained(self, answer: Answer) -> str:
        if answer.code is None and NOT_UP in answer.trouble:
            return f"it is not up; `ray up {self._file}` brings it up, as docs/cluster.md says"
        return answer.said

    def _exec(
        self, command: str, show: Callable[[str], None] = lambda _: None, *, limit_s: float | None = ANSWER_S
    ) -> Answer:
        """Run a command there, for so long at most, and hand on every line that it prints.

        Without a limit it is ssh that finds out, within 15 s, when the head is not there any more.
        """
        if limit_s is not None:  # there, for a process that is killed here leaves its ssh behind
            # In a session of its own, for ssh's terminal would stop `timeout`; it kills all that the command started,
            # and itself, which a shell around it says as `timeout` does where it lives.
            killed = f"timeout -s KILL {limit_s:g} bash -c {shlex.quote(command)} 2>&3"
            around = f"exec 3>&2 2>/dev/null; {killed}; code=$?; exit $((code == {KILLED} ? {TIMED_OUT} : code))"
            command = f"setsid --wait bash -c {shlex.quote(around)}"
        heard = _Heard(show)
        with subprocess.Popen(
            [*EXEC, "--log-color", "false", self._file, f"echo '{BEGIN}'; ({command}); echo 'the head >>>' $?"],
            env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace",
        ) as process:  # fmt: skip
            assert process.stdout is not None
            last_resort = threading.Timer(FOREVER_S if limit_s is None else limit_s + WAY_S, process.kill)
            last_resort.daemon = True
            last_resort.start()
            try:
                for line in process.stdout:
                    heard.take(line.rstrip("\r\n"))
            finally:
                last_resort.cancel()
        return heard.answer(limit_s)


class _Heard:
    """What comes back: the command's own lines, among those of Ray and ssh."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show, self._code, self._begun = show, None, False
        self._lines: list[str] = []
        self._others: list[str] = []

    _code: int | None

    def take(self, line: str) -> None:
        """Take the next line."""
        if line == RESET:
            return
        if self._begun and (end := END.search(line)):
            self._code, self._begun, line = int(end[1]), False, line[: end.start()]
            if line:  # the command's, which ended without a newline
                self._keep(line)
        elif self._begun and not CLOSED.match(line):
            self._keep(line)
        elif line.endswith(BEGIN):  # a terminal may have put something before it
            self._begun = True
        else:
            self._begun = False
            self._others.append(line)

    def answer(self, limit_s: float | None) -> Answer:
        """What came of it, once nothing more comes."""
        late = [f"it took longer than {limit_s:g} s"] if self._code == TIMED_OUT and limit_s else []
        return Answer(code=self._code, lines=[*self._lines, *late], trouble=_reason(self._others))

    def _keep(self, line: str) -> None:
        self._lines.append(line)
        self._show(line)


class _Log:
    """A job's log as it comes, from its beginning each time; shows what it has not shown before."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self.begin_again()

    def begin_again(self) -> None:
        """The log comes anew."""
        self._at, self._over = 0, False
        self._held: list[str] = []

    def take(self, line: str) -> None:
        """Show a line, if it is new, or was torn when the connection broke; what may be Ray's, once it is known."""
        self._over = self._over or LAST_WORDS.match(line) is not None
        if self._over or FIRST_WORDS.match(line):
            return
        self._held.append(line)
        if RULE.match(line):
            return
        for held in self._held:
            if self._shown[self._at : self._at + 1] != [held]:
                self._shown[self._at :] = [held]
                _show(held)
            self._at += 1
        self._held = []


def _show(line: str) -> None:
    print(line, flush=True)


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def _reason(lines: Sequence[str]) -> str:
    """Of all that was said, why something failed."""
    said = [match[1] for line in lines if (match := REASON.match(line.strip()))]
    last = said or [line.strip() for line in lines if line.strip()]
    return last[-1] if last else "it was not said why"


def _check(file: str) -> None:
    """See that a file is one that `ray up` takes.

    Raises:
        InputError: it is not.
    """
    path = Path(file)
    if not path.is_file():
        there = [str(each) for folder in (path.parent, Path("clusters")) for each in sorted(folder.glob("*.yaml"))]
        miss = near_miss(file, there) or ";"
        raise InputError(f"cluster is '{file}', which is no file{miss} give the one that was given to `ray up`")
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as exc:
        raise InputError(f"cluster is '{file}', which cannot be read as YAML: {' '.join(str(exc).split())}") from exc
    if isinstance(config, dict) and "apiVersion" in config:
        raise InputError(f"cluster is '{file}', which is for Kubernetes: `kubectl create -f {file}` starts its sweep")
    if not isinstance(config, dict) or "provider" not in config:
        raise InputError(f"cluster is '{file}', which is no file for `ray up`: it names no provider")
    if (problem := cluster.problem_with(config)) is not None:
        raise InputError(f"cluster is '{file}', which Ray does not take: {problem}")
