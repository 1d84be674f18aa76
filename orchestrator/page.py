"""The sweep's page in Weights & Biases: what is asked of the server, and told to it (wandb).

Only the desk, `sync` and commands that take a checkpoint's reference come here; whatever the SDK raises, because a
server is down, slow or says no, leaves this module as a `TrackingError` in words that a user can act on.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import wandb_yaml
from orchestrator.credentials import base_url, wrong_variables
from orchestrator.errors import InputError, TrackingError, UndeliverableError
from orchestrator.messages import first_line
from orchestrator.naming import near_miss
from orchestrator.runlog import MODEL
from orchestrator.spec import Spec

# How long the server may take for an answer, and how often it is asked again, before it counts as not reached; the
# transfer of runs and files has the SDK's own, far longer, patience.
ANSWER_TIMEOUT_S, RETRIES = 10.0, 2
# Runs that are asked about in one request.
RUNS_AT_ONCE = 50
# What is said where a sweep has gone that was there.
REMADE = "the sweep's page is not in W&B any more: another one is made"
# The alias of the sweep's best checkpoint.
BEST = "sweep-best"
# What W&B calls the project of a registry, before the registry's name.
REGISTRY = "wandb-registry-"
# The aliases that its trials' checkpoints have.
OWN = {"best", "latest"}

# What is asked of a run beside its lists.
ASKED = "sweepName state historyLineCount historyKeys"

# What an UpsertBucket of wandb-core says, too; here only that a run is a member of a sweep.
JOIN = """
mutation UpsertBucket($name: String, $project: String, $entity: String, $sweep: String) {
  upsertBucket(input: {name: $name, modelName: $project, entityName: $entity, sweep: $sweep}) {
    bucket { id sweepName }
    inserted
  }
}
"""


# The MD5 of a file that was announced and never came; `restore` of the SDK's `wandb_run.py`.
NOT_UPLOADED = "0"
# What is listed of a run, a hundred at a time, and what of each.
LISTS = {"outputArtifacts": "digest", "files": "name md5"}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the server holds of a run."""

    sweep: str | None
    """That it is a member of, by id."""
    state: str
    """running, finished, failed, crashed or preempted."""
    rows: int
    """Lines of its history; those that were sent twice count twice."""
    steps: int
    """How far these go: the number of the last one, and one more."""
    digests: frozenset[str]
    """Of the artifacts that it logged, checkpoints and others."""
    files: Mapping[str, str | None]
    """The MD5, in base64, of every file that was saved with it, by name; None where the server does not say."""


class Page:
    """One sweep, as W&B has it."""

    def __init__(self, spec: Spec, sweep_id: str | None = None) -> None:
        import wandb  # noqa: F401 - before there are threads: two that import it at once may see halves of it

        self._spec, self.sweep_id = spec, sweep_id
        self.deleted: str | None = None
        """The id of the sweep that it had, and that somebody deleted, until its runs are members of another one."""
        self._api: Any = None
        self.project = spec.tracking.project or ""
        self.entity = ""

    def connect(self) -> None:
        """Reach the server, and learn whom the key belongs to; again after trouble.

        A sweep that somebody has deleted there has no `sweep_id` any more, and can be made again.

        Raises:
            TrackingError: it cannot be reached, or refuses.
        """
        with translated(key=True):
            self._api = self._api or public_api()
            self.entity = self._spec.tracking.entity or self._api.default_entity
            self._api._service_api.execute_graphql("query Viewer { viewer { entity } }", variables={})
        if self.sweep_id:
            project = self._ask_project(f'id sweep(sweepName: "{self.sweep_id}") {{ state }}')
            if not project:
                raise TrackingError(
                    f"W&B has no project {self.entity}/{self.project}, or not for the owner of this key, where the page"
                    f" of {self._spec.name} was made: use the key it was made with, or make that project again"
                )
            if project["sweep"] is None:
                self.deleted, self.sweep_id = self.sweep_id, None

    def make_sweep(self, command: str | None) -> str:
        """Make the W&B sweep that every run joins; its id.

        Args:
            command: the one that made the sweep, where that is known.
        """
        import wandb

        spec = self._spec
        config = {
            "method": spec.search.sampler if spec.search.sampler in ("random", "grid") else "custom",
            "name": spec.name,
            "description": f"Started by: {command}" if command else f"The sweep {spec.name}",
            "metric": {"name": spec.metric, "goal": spec.goal},
            "parameters": wandb_yaml.to_wandb(spec.load_space(), spec.params),
        }
        with translated(), contextlib.redirect_stdout(io.StringIO()):  # it prints
            self.sweep_id = str(wandb.sweep(config, project=self.project, entity=self.entity))
        return self.sweep_id

    def address(self, run_id: str) -> str:
        """Where a run is looked at."""
        return f"{self._api._service_api.app_url.rstrip('/')}/{self.entity}/{self.project}/runs/{run_id}"

    def admit(self, run_id: str) -> None:
        """Make a run a member of the sweep, and the run, where there is none yet.

        Raises:
            UndeliverableError: there is one, of another sweep.
        """
        if self._sweep_of(run_id) is None:
            names = {"name": run_id, "project": self.project, "entity": self.entity, "sweep": self.sweep_id}
            self._see_that_ours(self._ask(JOIN, names)["upsertBucket"]["bucket"]["sweepName"])

    def _sweep_of(self, run_id: str) -> str | None:
        """The sweep that a run is a member of, which is this one; None where it is of none, or there is no such run.

        Raises:
            UndeliverableError: it is another sweep's.
        """
        found = self._ask_project(f'run(name: "{run_id}") {{ sweepName config }}').get("run")
        if found is None:
            return None
        told = json.loads(found["config"] or "{}").get("sweep", {}).get("value")
        if not found["sweepName"] and (not isinstance(told, dict) or told.get("name") != self._spec.name):
            raise UndeliverableError(
                f"W&B's project {self.entity}/{self.project} has a run {run_id} which is of no sweep: it is left alone,"
                " and this sweep's stays on disk; delete or move that one, and `sync`"
            )
        return self._see_that_ours(found["sweepName"])

    def _see_that_ours(self, sweep_id: str | None) -> str | None:
        if sweep_id and self.sweep_id and sweep_id != self.sweep_id:
            raise UndeliverableError(
                f"W&B's project {self.entity}/{self.project} has the runs of another sweep called {self._spec.name}"
                f" ({sweep_id}): they are left alone, and this sweep's runs stay on disk; give a sweep a name of its"
                " own there (name=...), or another project (tracking.project=...)"
            )
        return sweep_id

    def look(self, run_ids: Sequence[str] = ()) -> tuple[str, set[str]]:
        """The sweep's state, e.g. RUNNING or PAUSED, and which of some runs were stopped on the page."""
        runs = " ".join(f'r{index}: run(name: "{run_id}") {{ stopped }}' for index, run_id in enumerate(run_ids))
        found = self._ask_project(f'sweep(sweepName: "{self.sweep_id}") {{ state }} {runs}')
        stopped = {run_id for index, run_id in enumerate(run_ids) if (found.get(f"r{index}") or {}).get("stopped")}
        return str((found.get("sweep") or {}).get("state") or "").upper(), stopped

    def set_state(self, state: str) -> None:
        """Say how the sweep stands: RUNNING, PAUSED, FINISHED or CANCELED."""
        now, _ = self.look()
        over = now not in ("RUNNING", "PAUSED", "PENDING")
        if over and now == state:
            return
        if (over and state != "RUNNING") or (state == "PAUSED" and now == "PENDING"):  # W&B pauses, and ends, what runs
            self._set_state("RUNNING")
        self._set_state(state)

    def _set_state(self, state: str) -> None:
        from wandb.apis.public.sweeps import _set_sweep_state

        with translated():
            _set_sweep_state(self._api, self.sweep_id, state, entity=self.entity, project=self.project)

    def facts(self, run_ids: Sequence[str]) -> dict[str, Facts]:
        """What the server holds of some runs; one that it does not have is not among them."""
        facts: dict[str, Facts] = {}
        wanted = [(run_id, dict.fromkeys(LISTS, "")) for run_id in run_ids]  # each with where its lists go on
        while wanted:
            asked, wanted = wanted[:RUNS_AT_ONCE], wanted[RUNS_AT_ONCE:]
            found = self._ask_project(
                " ".join(
                    f'r{index}: run(name: "{run_id}") {{ {ASKED} {_listing(after)} }}'
                    for index, (run_id, after) in enumerate(asked)
                )
            )
            for index, (run_id, _) in enumerate(asked):
                if (run := found.get(f"r{index}")) is None:
                    continue
                facts[run_id] = _facts(run, facts.get(run_id))
                pages = {name: run[name]["pageInfo"] for name in LISTS if name in run}
                if more := {name: page["endCursor"] for name, page in pages.items() if page["hasNextPage"]}:
                    wanted.append((run_id, more))
        return facts

    def add_to_summary(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Put values into a run's summary, beside those that are there."""
        with translated():
            self._run(run_id).summary.update(dict(values))

    def use(self, run_id: str, reference: str) -> bool:
        """Say that a run started from an artifact; whether W&B has that still."""
        from wandb.errors import CommError

        with translated():
            try:
                artifact = self._api.artifact(reference)
            except CommError as exc:
                if "not found" in str(exc):
                    return False
                raise
            self._run(run_id).use_artifact(artifact)
        return True

    def drop_checkpoints(self, run_id: str, digests: Collection[str]) -> None:
        """Delete those versions of a run's checkpoints that have some digests.

        One that was given an alias beside those of the sweep's own stays: somebody counts on it.
        """
        with translated():
            for version in self._versions(run_id):
                if OWN.issuperset(version.aliases) and version.digest in digests:
                    version.delete(delete_aliases=True)

    def crown(self, run_id: str, former: Iterable[str]) -> None:
        """Mark a run's best checkpoint as the sweep's.

        Args:
            run_id: the winner's run.
            former: the runs of earlier winners, which are the sweep's best no more.

        Raises:
            TrackingError: W&B has no such checkpoint, cannot be reached, or refuses.
        """
        with translated():
            for name in former:
                with contextlib.suppress(UndeliverableError):
                    self._uncrown(name)
            best = self._best(run_id)
            if BEST not in best.aliases:
                best.aliases = [*best.aliases, BEST]
                best.save()

    def _uncrown(self, run_id: str) -> None:
        for version in self._versions(run_id):
            if BEST in version.aliases:
                version.aliases = [alias for alias in version.aliases if alias != BEST]
                version.save()

    def link(self, run_id: str, collection: str, aliases: Sequence[str]) -> None:
        """Link a run's best checkpoint to `COLLECTION` or `REGISTRY/COLLECTION` of W&B's registry, with aliases there.

        Raises:
            TrackingError: W&B has no such checkpoint, cannot be reached, or refuses.
        """
        registry, _, name = collection.rpartition("/")
        target = f"{REGISTRY}{registry.removeprefix(REGISTRY) or MODEL}/{name}"
        with translated():
            self._best(run_id).link(target, aliases=list(aliases) or None)

    def keep(self, run_id: str, path: Path) -> None:
        """Save a file with a run that has ended, in place of one of that name."""
        with translated():
            self._run(run_id).upload_file(str(path), root=str(path.parent))

    def _run(self, run_id: str) -> Any:
        self._sweep_of(run_id)
        run = self._api.run(f"{self.entity}/{self.project}/{run_id}")
        with contextlib.suppress(OSError):  # the SDK makes a folder for what could be downloaded
            os.removedirs(run.dir)
        return run

    def _best(self, run_id: str) -> Any:
        """The version of a run's checkpoint at its best epoch."""
        for version in self._versions(run_id):
            if "best" in version.aliases:
                return version
        raise TrackingError(f"W&B has no checkpoint of run {run_id} with the alias `best`")

    def _versions(self, run_id: str) -> list[Any]:
        """The versions of a run's checkpoints, newest first."""
        self._sweep_of(run_id)
        name = f"{self.entity}/{self.project}/model-{run_id}"
        with translated():
            if not self._api.artifact_collection_exists(name=name, type=MODEL):
                return []
            return list(self._api.artifacts(MODEL, name))

    def _ask_project(self, selection: str) -> dict[str, Any]:
        query = (
            "query Project($project: String!, $entity: String) { project(name: $project, entityName: $entity)"
            f" {{ {selection} }} }}"
        )
        found = self._ask(query, {"project": self.project, "entity": self.entity})
        return dict((found or {}).get("project") or {})

    def _ask(self, query: str, variables: Mapping[str, Any] | None = None) -> Any:
        with translated():
            return self._api._service_api.execute_graphql(query, variables=dict(variables or {}))


def _listing(cursors: Mapping[str, str]) -> str:
    """The part of a query that lists what a run has, each list from its cursor on ('': from the beginning)."""
    return " ".join(
        f"{name}(first: 100, after: {json.dumps(cursor or None)})"
        f" {{ edges {{ node {{ {LISTS[name]} }} }} pageInfo {{ endCursor hasNextPage }} }}"
        for name, cursor in cursors.items()
    )


def _facts(run: Mapping[str, Any], before: Facts | None) -> Facts:
    """What an answer says of a run, with what earlier ones have listed."""
    listed = {name: [edge["node"] for edge in run[name]["edges"]] for name in LISTS if name in run}
    files = {node["name"]: node["md5"] for node in listed.get("files", []) if node["md5"] != NOT_UPLOADED}
    return Facts(
        sweep=run["sweepName"],
        state=run["state"],
        rows=run["historyLineCount"] or 0,
        steps=(run["historyKeys"] or {}).get("lastStep", -1) + 1,  # as `Run.lastHistoryStep` of the SDK
        digests=frozenset(node["digest"] for node in listed.get("outputArtifacts", []))
        | (before.digests if before else frozenset()),
        files={**(before.files if before else {}), **files},
    )


def public_api() -> Any:
    """The SDK's own way to ask the server, with a patience that suits somebody who waits for the answer.

    Raises:
        InputError: W&B's variables cannot be meant.
    """
    import wandb

    if problems := list(wrong_variables("online", os.environ)):
        raise InputError(problems)

    wandb.setup(
        settings=wandb.Settings(x_graphql_retry_max=RETRIES, x_graphql_timeout_seconds=ANSWER_TIMEOUT_S, silent=True)
    )
    return wandb.Api()


def fetch(reference: str, into: Path) -> tuple[str, Path]:
    """Download the checkpoint that `ENTITY/PROJECT/NAME:ALIAS` names; its `ENTITY/PROJECT/NAME:vN`, and local path.

    Raises:
        InputError: the server has no such artifact.
        TrackingError: the server cannot be reached, or refuses, or the artifact holds no checkpoint.
    """
    import wandb

    with translated():
        api = public_api()
        try:
            artifact = api.artifact(reference, type=MODEL)
        except wandb.errors.CommError as exc:
            if "not found" in str(exc):
                raise InputError(_unknown(api, reference)) from exc
            if "artifact is of type" in str(exc):
                raise InputError(f"'{reference}' is no checkpoint, whose type is '{MODEL}'") from exc
            raise
        files = [str(name) for name in artifact.manifest.entries if name.endswith(".ckpt")]
        if len(files) != 1:
            raise TrackingError(f"artifact {reference} holds {len(files)} checkpoints (*.ckpt); it should hold one")
        version = f"{reference.rpartition(':')[0]}:{artifact.version}"
        own = into / artifact.collection.name.removeprefix("model-")  # another trial's may be of the same epoch
        return version, Path(str(artifact.download(root=str(own)))) / files[0]


def _unknown(api: Any, reference: str) -> str:
    """What of an artifact's reference the server does not know, and what it does."""
    collection, _, alias = reference.rpartition(":")
    project, _, name = collection.rpartition("/")
    if api.artifact_collection_exists(name=collection, type=MODEL):
        versions = api.artifacts(MODEL, collection)
        known = [*dict.fromkeys(alias for version in versions for alias in (*version.aliases, version.version))]
        there = ", ".join(known) or "no version of it"
        return f"'{collection}' has no alias or version '{alias}'{near_miss(alias, known) or ';'} W&B has {there}"
    try:
        names = [each.name for each in api.artifact_collections(project, MODEL)]
    except ValueError:  # there is no such project, or no checkpoint in it
        return f"'{reference}': W&B has no project '{project}' with checkpoints, or not for the owner of this key"
    return f"W&B's project '{project}' has no checkpoints '{name}'{near_miss(name, names) or f', of {len(names)}'}"


def results(project: str, entity: str | None, filters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the runs of a project came to, the oldest first: `state`, `config` and `summary` of each.

    Raises:
        TrackingError: the server cannot be reached, refuses, or has no such project.
    """
    import wandb

    with translated():
        api = public_api()
        path = f"{entity or api.default_entity}/{project}"
        runs = api.runs(path, filters=dict(filters) or None, order="+created_at", per_page=500, lazy=False)
        found = [{"state": run.state, "config": run.config, "summary": run.summary_metrics} for run in runs]
    wandb.teardown()
    return found


@contextlib.contextmanager
def translated(*, key: bool = False) -> Iterator[None]:
    """Turn what the SDK raises into a `TrackingError`; with `key`, what is asked is open to every key that is valid."""
    from wandb.errors import CommError, Error
    from wandb.sdk.lib.asyncio_manager import RunCancelledError
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError
    from wandb.sdk.lib.service.service_token import WandbServiceConnectionError
    from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

    lost = (HandleAbandonedError, MailboxClosedError, RunCancelledError, WandbServiceConnectionError)
    try:
        yield
    except TrackingError:
        raise
    except lost as exc:
        raise TrackingError(f"the SDK's own process (wandb-core) is gone: {first_line(exc)}") from exc
    except (Error, CommError, WandbApiFailedError, ValueError, TypeError, OSError, TimeoutError) as exc:
        raise TrackingError(_in_words(exc, key=key)) from exc
    except Exception as exc:  # `_set_sweep_state` raises no other kind
        if type(exc) is not Exception:
            raise
        raise TrackingError(_in_words(exc, key=key)) from exc


def _in_words(exc: BaseException, *, key: bool) -> str:
    """What the server's trouble is, and what a user does about it; `key` as in `translated`."""
    said = " ".join(str(exc).split())
    host = base_url().partition("://")[2].partition("/")[0]  # which may be wrong, and is shown then
    # Not what is in a name, such as the run digits-401.
    match re.search(r"(?<![\w/:.-])(401|403|404|429|5\d\d)\b(?!-)", said):
        case None if "No API key" in said or "api_key not configured" in said:
            return f"W&B at {host} wants a key: `wandb login`, or WANDB_API_KEY in the environment of this command"
        case found if found and (found[1] == "401" or (found[1] == "403" and key)):
            return (
                f"W&B at {host} refuses the key ({found[1]}): `wandb login --relogin`, or a valid WANDB_API_KEY,"
                " where this command runs"
            )
        case found if found and found[1] == "403":
            return f"W&B at {host} does not permit that to the owner of the key (403): {said[:200]}"
        case found if found and found[1] == "429":
            return f"W&B at {host} limits the rate of requests (429)"
        case found if found and found[1] != "404":
            return f"W&B at {host} fails ({found[1]})"
        case _ if re.search(
            r"dial tcp|connection refused|no such host|timeout|deadline|giving up|did not respond in time",
            said,
            re.IGNORECASE,
        ):
            return f"W&B at {host} cannot be reached"
        case _:
            return f"W&B at {host}: {said[:200]}"
