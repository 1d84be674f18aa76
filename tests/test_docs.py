"""Documentation is tested: links, commands, options, overrides, examples, and tables that the code also holds.

`python tests/test_docs.py` writes the tables of docs/spec.md again from orchestrator/spec.py.
"""

import argparse
import ast
import csv
import doctest
import inspect
import json
import re
import shlex
import tomllib
import types
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from pydantic import BaseModel

from orchestrator import catalog, cli, derivation, front, sources, wandb_distributions
from orchestrator import spec as specs
from orchestrator.space import Space
from orchestrator.spec import ClassPath, ClassPaths, Spec
from orchestrator.verbs import resume

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:\.venv/bin/)?python -m (orchestrator(?:\.search)?)\b([^\n`]*)")
FIELDS = re.compile(r"(?<=<!-- fields: made by tests/test_docs.py -->\n).*?(?=<!-- /fields -->)", re.DOTALL)

# The classes of the README's example of a user's own model, which are the reader's to have.
READERS_FILES = {
    "my_package/models.py": "class Net:\n    def __init__(self, lr, depth, optimizer, momentum=0.9): ...",
    "my_package/data.py": "class Images: ...",
}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(text_of(page)) if found == language]


def commands() -> Iterator[tuple[str, str, list[str]]]:
    """Every command of this project in the documentation and in `--help`: where, its module, its words."""
    sources = {page.name: text_of(page) for page in PAGES} | {"--help": cli.EXAMPLES}
    for where, text in sources.items():
        for module, rest in COMMAND.findall(text):
            if where == "--help":
                rest = rest.partition("  ")[0]
            if rest.count("'") % 2:  # within another command's quotes, as with `ray exec`
                rest = rest.partition("'")[0]
            words = shlex.split(re.split(r"&&|\||;", rest)[0], comments=True)
            words = [word for word in words if word not in ("...", "[SWEEP.yaml]", "[key=value", "...]")]
            yield where, module, words


def actions(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The verbs of the command line and their parsers."""
    [found] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.fixture
def at_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every file that the README shows in full, and the classes that it supposes."""
    shown = {
        match[1]: body
        for language in ("yaml", "python")
        for page in ("docs/spaces.md", "README.md")
        for body in blocks(ROOT / page, language)
        if (match := re.match(r"# ([\w/]+\.(?:yaml|py))\n", body))
    }
    assert {"my_sweep.yaml", "search_spaces/mine.yaml"} <= set(shown)
    for name, body in {**READERS_FILES, **shown}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(body, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestReadme:
    def test_is_short(self) -> None:
        assert len(text_of(ROOT / "README.md").splitlines()) < 150

    def test_begins_with_the_two_commands(self) -> None:
        first, second = blocks(ROOT / "README.md", "bash")[:2]
        assert first.count("\n") == 1
        assert first.rstrip().endswith(".venv/bin/python -m orchestrator.search")
        assert second == "./scripts/check\n"
        assert (ROOT / "constraints.txt").is_file(), "command one installs with it"

    def test_shows_the_output_of_a_real_run(self) -> None:
        output = re.search(r"<!-- sample output -->\n```text\n(.*?)```", text_of(ROOT / "README.md"), re.DOTALL)
        assert output
        assert "best: trial" in output[1], "fill in the end of a real run of the default sweep"

    def test_ci_runs_what_people_run(self) -> None:
        lines = [line for line in text_of(ROOT / ".ci/run").splitlines() if line and not line.startswith("#")]
        assert lines[0] == "set -euo pipefail"
        assert lines[-1] == 'exec "$(dirname "${BASH_SOURCE[0]}")/../scripts/check"'
        for line in lines[1:-1]:  # system packages, without which some tests are skipped
            assert re.match(r"if |    (apt-get|echo) |fi$", line), line
        for script in (".ci/run", "scripts/check"):
            assert (ROOT / script).stat().st_mode & 0o111, f"{script} is executable"

    def test_the_readers_sweep_is_valid(self, at_reader: Path) -> None:
        spec = specs.read("my_sweep.yaml")
        assert set(spec.load_space()) == {"lr", "depth", "optimizer", "momentum"}
        assert specs.check({**spec.model_dump(mode="json"), "space": "mine"}).load_space() == spec.load_space()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    prose = FENCE.sub("", text_of(page))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", text_of(file), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name} links to {target}; there are {headings}"


class TestCommands:
    def test_there_are_some(self) -> None:
        assert {where for where, _, _ in commands()} >= {"README.md", "spec.md", "--help"}

    @pytest.mark.parametrize(("where", "module", "words"), list(commands()), ids=str)
    def test_parses_and_names_what_exists(self, where: str, module: str, words: list[str], at_reader: Path) -> None:
        arguments = ["search", *words] if module == "orchestrator.search" else words
        if not arguments or arguments == ["--help"]:
            return
        parsed = cli.parse(arguments)
        if arguments[0] in ("search", "validate", "preflight"):
            front.read_spec(parsed.words)  # raises InputError for a sweep or an override that is none
        elif overrides := getattr(parsed, "words", []):
            specs.check(specs.read(None).model_dump(mode="json"), overrides)
            assert not set(resume.FIXED) & {override.partition("=")[0] for override in overrides}

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_overrides_in_prose_are_valid(self, page: Path) -> None:
        prose = FENCE.sub("", text_of(page))
        for override in re.findall(r"`([a-z_]+(?:\.[a-z_]+)*=[^`\s.]+)`", prose):
            if override not in ("key=value", "cluster=FILE"):
                specs.read(None, [override])

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_keys_in_prose_exist(self, page: Path) -> None:
        known = {".".join(place) for place, _ in sections()}
        known |= {".".join((*place, key)).lstrip(".") for place, model in sections() for key in model.model_fields}
        named = re.findall(rf"`((?:{'|'.join(nested())})\.[a-z_]+)`", FENCE.sub("", text_of(page)))
        assert {name for name in named if not name.endswith(".py")} <= known

    def test_every_verb_and_option_is_documented(self) -> None:
        documented = "\n".join(map(text_of, PAGES))
        for verb, parser in actions(cli.make_parser()).items():
            assert re.search(rf"python -m orchestrator[ .]{verb}\b", documented), f"{verb} is in no page"
            for action in parser._actions:
                for option in action.option_strings:
                    if option not in ("-h", "--help"):
                        assert option in documented, f"{verb} {option} is in no page"


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_sweeps_are_valid_and_say_what_they_show(path: Path) -> None:
    spec = specs.resolve(specs.read(str(path)), datetime.now(UTC))
    assert len(catalog.summary(path)) > 20, "the first line is a comment"
    assert Spec.from_yaml(spec.to_yaml()) == spec


class TestContributing:
    def test_examples_are_python(self) -> None:
        for source in blocks(ROOT / "CONTRIBUTING.md", "python"):
            assert source.isascii()
            tree = ast.parse(source)
            assert ast.get_docstring(tree)
            assert any(isinstance(node, ast.Assign) and node.targets[0].id.isupper() for node in tree.body)  # type: ignore[attr-defined]

    def test_the_space_is_one(self) -> None:
        [source] = [body for body in blocks(ROOT / "CONTRIBUTING.md", "python") if "search_spaces/" in body]
        module = types.ModuleType("mine")
        exec(compile(source, "CONTRIBUTING.md", "exec"), module.__dict__)
        assert isinstance(module.SPACE, Space)

    def test_the_places_it_names_exist(self) -> None:
        for name in set(re.findall(r"`((?:orchestrator|tests|scripts|docs|\.ci)/[\w./]*)`", text_of(PAGES[1]))):
            assert (ROOT / name).exists(), name
        for module, name in (("spec", "_problems_with_search"),):
            assert f"def {name}(" in text_of(ROOT / f"orchestrator/{module}.py")


class TestChangelog:
    def test_newest_entry_is_this_version(self) -> None:
        versions = re.findall(
            r"^## (\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d)\)$", text_of(ROOT / "CHANGELOG.md"), re.MULTILINE
        )
        assert versions[0][0] == PROJECT["project"]["version"]
        assert versions == sorted(versions, key=lambda each: each[1], reverse=True)

    def test_licence_is_the_one_declared(self) -> None:
        assert PROJECT["project"]["license"] == "Apache-2.0"
        licence = text_of(ROOT / "LICENSE")
        assert "Apache License\n" in licence
        assert "END OF TERMS AND CONDITIONS" in licence


# The spec's tables.


def nested() -> dict[str, type[BaseModel]]:
    """The sections of the spec by key."""
    return {
        key: field.annotation
        for key, field in Spec.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }


def sections() -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Every model of the spec with its place; class paths are one for the model and one for the data."""
    yield (), Spec
    yield ("trainable",), ClassPaths
    yield ("trainable", "model"), ClassPath
    yield from (((key,), model) for key, model in nested().items())


@cache
def sentences() -> dict[tuple[str, str], str]:
    """What is written under each field, by class and field; pydantic would read it at every start."""
    found = {}
    for node in ast.parse(text_of(ROOT / "orchestrator/spec.py")).body:
        for field, below in pairwise(node.body) if isinstance(node, ast.ClassDef) else ():
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=key)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[node.name, key] = " ".join(text.split())
    return found


def fields_text() -> str:
    """The tables between the marks in docs/spec.md."""
    headings = {
        (): ("The sweep", ""),
        ("trainable",): ("trainable, by class paths", f"{ClassPaths.__doc__}\n\n"),
        ("trainable", "model"): ("trainable.model, trainable.data", f"{ClassPath.__doc__}\n\n"),
    }
    parts = []
    for place, model in sections():
        title, introduction = headings.get(place, (".".join(place), f"{inspect.cleandoc(str(model.__doc__))}\n\n"))
        rows = [row(key, model) for key in model.model_fields]
        table = "\n".join(["| key | takes | default | |", "|---|---|---|---|", *rows])
        parts.append(f"\n## {title}\n\n{introduction}{table}\n")
    return "".join(parts) + "\n"


def row(key: str, model: type[BaseModel]) -> str:
    field = model.model_fields[key]
    if key in nested() and model is Spec:
        first = str(nested()[key].__doc__).partition("\n\n")[0]
        return f"| `{key}` | a section | | {first} See [below](#{key}). |"
    default = "required" if field.is_required() else f"`{json.dumps(field.get_default())}`"
    return f"| `{key}` | {takes(model, key)} | {default} | {sentences()[model.__name__, key]} |"


@cache
def schemas(model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = model.model_json_schema()["properties"]
    return found


def takes(model: type[BaseModel], key: str) -> str:
    """What a key may be set to."""
    kinds = [kind(each) for each in schemas(model)[key].get("anyOf", [schemas(model)[key]])]
    words = {"ge": "from", "gt": "above", "lt": "below"}
    # JSON schema leaves the bounds of a value that may also be null out.
    bounds = {
        name: getattr(rule, name) for rule in model.model_fields[key].metadata for name in words if hasattr(rule, name)
    }
    kinds[0] = " ".join([kinds[0], *(f"{words[name]} {bound}" for name, bound in bounds.items())])
    return ", or ".join(kinds)


def kind(schema: dict[str, Any]) -> str:
    """What one branch of a JSON schema takes."""
    if "$ref" in schema:
        return "class paths" if schema["$ref"].endswith("ClassPaths") else "a class path"
    if options := schema.get("enum") or ([schema["const"]] if "const" in schema else None):
        return ", ".join(f"`{option}`" for option in options)
    names = {"integer": "whole number", "string": "text", "array": "list", "object": "mapping"}
    return names.get(schema["type"], schema["type"])


class TestSpecPage:
    def test_tables_are_those_of_the_code(self) -> None:
        found = FIELDS.search(text_of(ROOT / "docs/spec.md"))
        assert found
        assert found[0] == fields_text(), "run `python tests/test_docs.py`"

    def test_every_field_says_what_it_is(self) -> None:
        for place, model in sections():
            missing = {key for key in model.model_fields if (model.__name__, key) not in sentences()}
            assert missing <= (set() if place else set(nested())), place

    def test_parameter_types_are_those_of_spaces(self) -> None:
        rows = re.findall(
            r"^\| `(float|int|choice|fixed)` \| (.+?) \| ", text_of(ROOT / "docs/spaces.md"), re.MULTILINE
        )
        examples = {"value": 3, "low": 1, "high": 8, "step": 2, "log": True, "options": [1, 2]}
        kinds = {kind: re.findall(r"`(\w+)`", keys) for kind, keys in rows}
        assert set(kinds) == {"float", "int", "choice", "fixed"}
        for kind, keys in kinds.items():
            given = {key: examples[key] for key in keys if key != "step"}
            Space.from_data({"x": {"type": kind, **given}})
            if "step" in keys:
                Space.from_data({"x": {"type": kind, **given, "log": False, "step": 2}})


class TestSpacesPage:
    PAGE = ROOT / "docs/spaces.md"

    def test_its_spaces_are_some(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        written = [body for body in blocks(self.PAGE, "yaml") if body.startswith("# search_spaces/")]
        monkeypatch.chdir(tmp_path)
        (tmp_path / "search_spaces").mkdir()
        for body in written:
            (tmp_path / body.partition("\n")[0].removeprefix("# ")).write_text(body, encoding="utf-8")
        loaded = {path.stem: sources.load_space(path.stem) for path in sorted((tmp_path / "search_spaces").iterdir())}
        assert len(loaded) == len(written) == 3
        assert loaded["net"]["optimizer.momentum"].conditions == {"optimizer.name": ("sgd",)}
        assert len(loaded["constrained"].constraints) == 3
        kernels = {"kernels_1", "kernels_2", "kernel_size_1", "kernel_size_2"}
        assert set(loaded["reused"]) == kernels | {"optimizer.lr", "optimizer.weight_decay", "dropout"}

    def test_its_steps_are_those_of_the_code_in_their_order(self) -> None:
        steps = re.findall(r"^\| (`.+?`) \| ", text_of(self.PAGE).partition("| step,")[2], re.MULTILINE)
        order = [name for step in steps[: len(derivation.STEPS)] for name in re.findall(r"`(\w+)`", step)]
        assert order == ["extends", *derivation.STEPS]

    def test_its_python_gives_what_it_shows(self) -> None:
        tests = doctest.DocTestParser().get_doctest("\n".join(blocks(self.PAGE, "python")), {}, "spaces.md", None, 0)
        assert len(tests.examples) > 5
        assert doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL).run(tests).failed == 0

    def test_it_names_every_distribution_and_every_shipped_space(self) -> None:
        text = text_of(self.PAGE)
        for name in wandb_distributions.DISTRIBUTIONS:
            bare = name.removeprefix("q_").removesuffix("_w_probabilities")
            assert re.search(rf"\b{bare}\b", text), name
        shipped = [name for name, versions in sources.names().items()
                   if all(each.path.is_relative_to(ROOT) for each in versions.values())]  # fmt: skip
        assert [name for name in shipped if f"`{name}`" not in text] == []


class TestResultsPage:
    PAGE = ROOT / "docs/results.md"

    def document(self, tmp_path: Path) -> dict[str, Any]:
        """What a sweep over lr and depth writes after one trial; loads optuna, so only here."""
        from orchestrator import results
        from orchestrator.folder import SweepFolder
        from orchestrator.ledger import TrialRecord

        spec = specs.read(None, ["name=x", f"storage={tmp_path}"])
        folder = SweepFolder(spec.storage, "x")
        folder.create()
        record = TrialRecord(
            number=0, state="COMPLETE", params={"lr": 0.1, "depth": 2}, value=0.9, best_epoch=1, curve={1: 0.9}, seed=1,
            wandb_run="wandb/run", checkpoint=folder.checkpoint(0, 1), error=None, started=datetime.now(UTC),
            ended=None, attempts=(),
        )  # fmt: skip
        results.write(folder, results.build(spec, folder, [record], results.Status.RUNNING))
        document: dict[str, Any] = json.loads(folder.read_text("results.json"))
        return document

    def table(self, heading: str) -> list[str]:
        """The first column of the table under a heading."""
        section = re.split(rf"^#+ {heading}$", text_of(self.PAGE), flags=re.MULTILINE)[1]
        rows = re.split(r"^#", section, maxsplit=1, flags=re.MULTILINE)[0]
        return re.findall(r"^\| `(.+?)`", rows, re.MULTILINE)

    def test_keys(self, tmp_path: Path) -> None:
        document = self.document(tmp_path)
        assert self.table("results.json") == list(document)
        assert self.table("A trial") == list(document["trials"][0])
        assert document["best"] == document["trials"][0]

    def test_csv(self, tmp_path: Path) -> None:
        self.document(tmp_path)
        with (tmp_path / "x" / "results.csv").open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file))
        assert blocks(self.PAGE, "text") == [",".join(header) + "\n"]

    def test_states(self) -> None:
        from orchestrator.ledger import STATES
        from orchestrator.results import Status

        assert set(self.table("States of a trial")) == {state.name for state in STATES.values()} | {"RUNNING"}
        assert self.table("Status of a sweep") == [str(status) for status in Status]


class TestDependencies:
    """Each line in pyproject.toml names the files that need it."""

    # What a distribution is imported as, where that is another name.
    IMPORTED_AS: ClassVar = {
        "wandb-workspaces": "wandb_workspaces",
        "pyyaml": "yaml",
        "scikit-learn": "sklearn",
        "pillow": "PIL",
    }
    TOOLS: ClassVar = {"pytest", "pytest-timeout", "pytest-xdist", "mypy", "ruff", "types-PyYAML"}

    def lines(self) -> dict[str, str]:
        """Every dependency and the comment on its line."""
        found = re.findall(r'^    "([\w-]+)[\[>=].*?",\s*# (.+)$', text_of(ROOT / "pyproject.toml"), re.MULTILINE)
        project = PROJECT["project"]
        declared = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
        assert len(found) == len(declared), "each on a line of its own, with a comment"
        return dict(found)

    def named(self, comment: str) -> list[Path]:
        """The files and folders that a comment names; `orchestrator/a.py, b.py` are in one folder."""
        found, folder = [], Path()
        for name in re.findall(r"(?<!\S)([\w./]*/[\w.]*|\w+\.py)(?=[,;\s]|$)", comment):
            folder = Path(name).parent if "/" in name else folder
            found.append(ROOT / (name if "/" in name else folder / name))
        return found

    def test_the_files_exist(self) -> None:
        for name, comment in self.lines().items():
            paths = self.named(comment)
            assert paths, f"{name}: its line names no file"
            assert all(path.exists() for path in paths), f"{name}: {paths}"

    def test_the_files_import_it(self) -> None:
        for name, comment in self.lines().items():
            if name in self.TOOLS or "through " in comment:  # a tool is called; the other is another library's need
                continue
            module = self.IMPORTED_AS.get(name, name)
            for path in self.named(comment):
                files = [path] if path.is_file() else sorted(path.rglob("*.py"))
                assert any(module in imports(file) for file in files), f"{name}: {path} does not import {module}"

    def test_the_check_calls_its_tools(self) -> None:
        assert {name for name, comment in self.lines().items() if name in self.TOOLS} == self.TOOLS
        called = re.findall(r"^\.venv/bin/(\w+)", text_of(ROOT / "scripts/check"), re.MULTILINE)
        assert set(called) == {"ruff", "mypy", "pytest"}


def imports(path: Path) -> set[str]:
    """The top-level packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_yaml_in_the_documentation_is_yaml() -> None:
    for page in PAGES:
        for body in blocks(page, "yaml"):
            assert isinstance(yaml.safe_load(body), dict)


if __name__ == "__main__":
    page = ROOT / "docs" / "spec.md"
    page.write_text(FIELDS.sub(lambda _: fields_text(), text_of(page)), encoding="utf-8")
