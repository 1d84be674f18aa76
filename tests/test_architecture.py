"""Who may import whom, and what must not be loaded (docs/design.md)."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import orchestrator
from orchestrator import catalog, sources

ROOT = Path(orchestrator.__file__).resolve().parent.parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT / "orchestrator").with_suffix("").parts)
    for path in (ROOT / "orchestrator").rglob("*.py")
)
VERBS = {module for module in MODULES if module.startswith("verbs.")}

SPACES = {
    "plain",
    "prior",
    "parameter",
    "constraint",
    "document",
    "narrowing",
    "soundness",
    "subspace",
    "space",
    "entry",
    "wandb_distributions",
    "wandb_yaml",
    "derivation",
    "comparison",
    "sources",
}
VOCABULARY = {
    "errors",
    "limit",
    *SPACES,
    "spec",
    "messages",
    "trainable",
    "signature",
    "arguments",
    "naming",
    "catalog",
    "context",
    "reference",
    "__init__",
}
RULES = {"advice", "auto", "ends", "failures", "known", "population", "scaling", "ranking", "capacity", "credentials"}
LOOPS = {module for module in MODULES if module.startswith("loops.") and not module.endswith("__init__")}
WORKERS = {
    "slot",
    "group",
    "worker",
    "attempt",
    "batch_size",
    "checkpoint",
    "watch",
    "preemption",
    "tracker",
    "gauge",
    "predictions",
    "process_group",
    *LOOPS,
}
# What each vendor may be imported by, at all.
VENDORS = {
    "optuna": {"ledger", "importance", "improvement", "distributions", "curves", "samplers"},
    "wandb": {"tracker", "gauge", "artifact", "page", "delivery", "runlog", "workspace"},
    "pyarrow": {"folder"},
    "pydantic": {"spec"},
    "rich": {"progress"},
    "plotly": {"report"},
    "wandb_workspaces": {"workspace"},
    "onnxruntime": {"export"},
    "torch": {"worker", "attempt", "checkpoint", "process_group", "spot", "export", "predictions", "samplers", *LOOPS},
    "lightning": {"worker", "attempt", "batch_size", "checkpoint", "tracker", "predictions", *LOOPS},
    "ray": {
        "sweep",
        "solo",
        "slot",
        "group",
        "worker",
        "watch",
        "preemption",
        "preflight",
        "schedule",
        "cluster",
        "process_group",
        "spot",
        *LOOPS,
    },
}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it, except for type checkers only."""
    stack: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        stack.extend(ast.iter_child_nodes(node))


def path_of(module: str) -> Path:
    return ROOT / "orchestrator" / f"{module.replace('.', '/')}.py"


def vendors(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def siblings(module: str) -> set[str]:
    """The orchestrator's modules that one of them imports."""
    found = set()
    for name in imports(path_of(module)):
        package, _, rest = name.partition(".")
        if package == "orchestrator":
            found |= {rest, rest.rpartition(".")[0]}  # a module, or a name in one
    return found & set(MODULES)


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_vendor_lives_where_it_is_said_to(vendor: str) -> None:
    found = {module for module in MODULES if vendor in vendors(path_of(module))}
    assert found <= VENDORS[vendor]
    assert found, f"nothing imports {vendor}: take it off the list"


def test_ray_train_torch_only_where_workers_live() -> None:
    for module in set(MODULES) - WORKERS:
        found = [n for n in imports(path_of(module)) if n.startswith(("ray.train", "lightning"))]
        assert found == [], module


def test_vocabulary_and_rules_import_no_vendor() -> None:
    for module in VOCABULARY | RULES:
        third_party = vendors(path_of(module)) - set(sys.stdlib_module_names) - {"orchestrator"}
        assert third_party <= {"pydantic", "yaml"}, module  # how a spec is written down; light, and loaded by no worker
        if module in RULES:
            assert third_party == set(), module


def test_vocabulary_and_rules_look_only_down() -> None:
    for module in VOCABULARY:
        assert siblings(module) <= VOCABULARY | {"credentials"}, module
    for module in RULES:
        assert siblings(module) <= VOCABULARY | RULES, module


def test_processes_import_only_those_they_start() -> None:
    front = {"cli", "front", *VERBS}
    order = ["sweep", "slot", "worker", "attempt", "tracker"]
    assert {module for module in MODULES if "tracker" in siblings(module)} == {"worker", "attempt"}
    for index, module in enumerate(order):
        assert siblings(module) & {*front, *order[:index]} == set(), module


def test_a_loop_is_imported_by_none() -> None:
    """A worker finds it by the name that the trainable gives."""
    assert LOOPS
    for module in MODULES:
        assert siblings(module) & LOOPS == set(), module


def test_a_verb_is_imported_by_none() -> None:
    assert {"verbs.search", "verbs.resume"} <= VERBS
    for module in MODULES:
        assert siblings(module) & VERBS == set(), module


def test_no_import_cycles() -> None:
    graph = {module: siblings(module) - {module} for module in MODULES}
    for start in graph:
        seen: set[str] = set()
        stack = [*graph[start]]
        while stack:
            module = stack.pop()
            assert module != start, f"{start} imports itself, by way of others"
            if module not in seen:
                seen.add(module)
                stack += graph[module]


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [("trainables", {"ray", "optuna", "wandb"}), ("search_spaces", {"torch", "ray", "optuna", "wandb", "lightning"})],
)
def test_what_trainables_and_spaces_may_not_import(folder: str, forbidden: set[str]) -> None:
    paths = list((ROOT / folder).rglob("*.py"))
    assert len(paths) > 1
    for path in paths:
        assert vendors(path) & forbidden == set(), path


def test_the_mechanism_names_no_trainable_and_no_space() -> None:
    named = {*catalog.names(catalog.TRAINABLES), *sources.names()}
    assert "digits" in named
    for module in MODULES:
        path = path_of(module)
        assert {name.partition(".")[0] for name in imports(path)} & {"trainables", "search_spaces"} == set()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        words = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert words & named == set(), module


HEAVY = ("torch", "lightning", "ray", "optuna", "pyarrow", "wandb", "numpy", "rich", "plotly")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (None, 0),
        (["--help"], 0),
        (["search", "--help"], 0),
        (["search", "search.sampler=tppe"], 2),
        (["search", "no_such_sweep"], 2),
        (["validate"], 0),
        (["trainables"], 0),
        (["spaces"], 0),
    ],
)
def test_nothing_heavy_is_loaded_to_say_no(arguments: list[str] | None, code: int, tmp_path: Path) -> None:
    script = f"""
import sys
import orchestrator
code = 0
if {arguments!r} is not None:
    from orchestrator.cli import main
    try:
        code = main({arguments!r})
    except SystemExit as exc:
        code = exc.code
print(code, sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"{code} []"


def test_a_slot_starts_without_torch(tmp_path: Path) -> None:
    """It lives on the head, once for every trial that runs."""
    script = (
        "import sys; from orchestrator import slot; from orchestrator.messages import Place;"
        "from orchestrator.spec import Spec;"
        "spec = Spec(trainable='digits', space='digits', metric='x', goal='maximize', name='s', storage=sys.argv[1]);"
        "place = Place(folder='/', environ={});"
        "assert slot.worker_group(spec, None, 'a', place, workers=1, max_failures=0);"
        "print(sorted({'torch', 'lightning', 'wandb', 'optuna'} & set(sys.modules)))"
    )
    environ = {**os.environ, "RAY_TRAIN_V2_ENABLED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_sweep_process_starts_light() -> None:
    script = (
        "import sys, orchestrator.sweep; print(sorted({'torch', 'lightning', 'sklearn', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_public_list() -> None:
    assert orchestrator.__all__ == [
        "Beta",
        "Choice",
        "Context",
        "Fixed",
        "Float",
        "InputError",
        "Int",
        "LogUniform",
        "Normal",
        "OrchestratorError",
        "Space",
        "SpaceError",
        "SpecError",
        "StorageError",
        "SweepError",
        "TrackingError",
        "TrainFunction",
        "Trainable",
        "fetch_checkpoint",
    ]
    for name in orchestrator.__all__:
        assert getattr(orchestrator, name).__module__.startswith("orchestrator.")
