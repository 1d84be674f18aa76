"""Finding trainables, spaces and sweeps: one file is one of them, and nothing is imported to look."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import catalog, sources
from orchestrator.errors import InputError, SpaceError, SpecError
from orchestrator.space import Choice, Float, Space

ROOT = Path(catalog.__file__).resolve().parent.parent

NET = '''"""A net of one's own."""

from orchestrator import Trainable


class Net:
    def __init__(self, width=1):
        self.width = width


TRAINABLE = Trainable(model=Net)
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own folder, with one of everything; none of its folders is a package."""
    monkeypatch.chdir(tmp_path)
    files = {
        "trainables/mine.py": NET,
        "trainables/_private.py": NET,
        "trainables/broken.py": "def (",
        "trainables/empty.py": '"""Nothing yet."""\nTRAINABEL = 1\n',
        "search_spaces/own.py": '"""Of one\'s own."""\nfrom orchestrator import Float, Space\n'
        'SPACE = Space({"lr": Float(0, 1)})\n',
        "search_spaces/written.yaml": "# Written down\nlr: {type: float, low: 1e-4, high: 1}\n",
        "search_spaces/notone.py": "SPACE = 3\n",
        "sweeps/own.yaml": "# Of one's own\ntrainable: mine\n",
        "mine_too.py": NET,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def run_here(here: Path, script: str) -> str:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=here, env=environ, capture_output=True, text=True, check=True).stdout


class TestNames:
    def test_own_ones_and_shipped_ones(self, here: Path) -> None:
        assert list(catalog.names("trainables"))[:3] == ["broken", "empty", "mine"]
        assert {"mine", "digits"} <= set(catalog.names("trainables"))
        assert {"own", "written", "digits"} <= set(sources.names())
        assert {"own", "default"} <= set(catalog.names("sweeps"))

    def test_own_ones_come_first(self, here: Path) -> None:
        (here / "trainables/digits.py").write_text(NET)
        assert catalog.names("trainables")["digits"] == here / "trainables/digits.py"

    def test_summaries(self, here: Path) -> None:
        assert catalog.summary(here / "trainables/mine.py") == "A net of one's own."
        assert catalog.summary(here / "search_spaces/written.yaml") == "Written down"
        assert catalog.summary(here / "search_spaces/notone.py") == ""
        assert catalog.summary(here / "trainables/broken.py").startswith("is not Python: ")

    def test_sweeps(self, here: Path) -> None:
        assert catalog.find_sweep("own") == here / "sweeps/own.yaml"
        assert catalog.find_sweep("sweeps/own.yaml") == Path("sweeps/own.yaml")
        with pytest.raises(SpecError, match=r"no sweep 'onw'; did you mean 'own'.") as caught:
            catalog.find_sweep("onw")
        assert caught.value.exit_code == 2


class TestProblems:
    @pytest.mark.parametrize(
        ("reference", "problem"),
        [
            ("mine", None),
            ("mine_too:TRAINABLE", None),
            ("mine_too:Net", None),
            ("trainables.digits:TRAINABLE", None),
            ("json:loads", None),
            ("math:pi", None),
            ("mien", "no trainable 'mien'; did you mean 'mine'? available: "),
            ("mine_too:Nett", "defines no 'Nett'; did you mean 'Net'?"),
            ("mine_too:width", "defines no 'width'"),
            ("nowhere:X", "'nowhere:X': no module 'nowhere' is importable from "),
            ("mine_to:X", "or the installed packages; did you mean 'mine_too'?"),
            ("json.foo:X", "or the installed packages"),
            ("bare.folders.net:Net", None),
            ("bare.folders.nett:Net", "or the installed packages; did you mean 'bare.folders.net'?"),
            ("bare.foldres.net:Net", "or the installed packages"),
            ("trainables.digts:X", "or the installed packages; did you mean 'trainables.digits'?"),
            ("mine_too.deeper:X", "no module 'mine_too.deeper' is importable from "),
            (":X", "':X' is not package.module:NAME"),
            ("mine_too:", "'mine_too:' is not package.module:NAME"),
            ("..mine_too:Net", "is not package.module:NAME"),
            ("broken", "broken.py is not Python: "),
            ("empty", "empty.py defines no 'TRAINABLE'; did you mean 'TRAINABEL'?"),
        ],
    )
    def test_with_trainables(self, here: Path, reference: str, problem: str | None) -> None:
        (here / "bare/folders").mkdir(parents=True)
        (here / "bare/folders/net.py").write_text("class Net: ...\n")
        found = catalog.problem_with_trainable(reference)
        assert found is None if problem is None else found is not None and problem in found
        assert found is None or problem is None or "did you mean" not in found or "did you mean" in problem
        assert "mine_too" not in sys.modules

    @pytest.mark.parametrize(
        ("class_path", "problem"),
        [
            ("mine_too.Net", None),
            ("lightning.pytorch.LightningModule", None),
            ("Net", "'Net' is not a class path; write package.module.Class"),
            ("mine_too.", "is not a class path"),
            ("mine_too.Nte", "did you mean 'Net'?"),
        ],
    )
    def test_with_classes(self, here: Path, class_path: str, problem: str | None) -> None:
        found = catalog.problem_with_class(class_path)
        assert found is None if problem is None else found is not None and problem in found

    @pytest.mark.parametrize(
        ("statement", "name"),
        [
            ("if True:\n    X = 1", "X"),
            ("try:\n    from a import X\nexcept ImportError:\n    X = None", "X"),
            ("A, (X, *B) = f()", "X"),
            ("X: int = 3", "X"),
            ("with f() as X: pass", "X"),
            ("import X.y", "X"),
            ("from a import b as X", "X"),
            ("from a import *", "X"),
            ("from other import *", "Y"),
            ("from module import *", "X"),
            ("from broken import *", "X"),
            ("from other import *\ntry:\n    from a import *\nexcept ImportError: pass", "X"),
            ("def __getattr__(name): ...", "X"),
            ("async def X(): ...", "X"),
        ],
    )
    def test_what_a_module_defines_is_told_from_its_text(self, here: Path, statement: str, name: str) -> None:
        (here / "module.py").write_text(statement)
        (here / "other.py").write_text("Y = 1")
        (here / "broken.py").write_text("Y = ")
        assert catalog.problem_with_trainable(f"module:{name}") is None

    def test_nothing_is_imported_to_look(self, here: Path) -> None:
        script = """
import sys
from orchestrator import catalog, sources
print(catalog.problem_with_trainable("digits"), catalog.problem_with_trainable("mine"),
      catalog.problem_with_trainable("trainables.digits:TRAINABLE"),
      catalog.problem_with_class("trainables.digits.DigitsNet"),
      catalog.problem_with_class("lightning.pytorch.LightningModule"),
      len(sources.load_space("digits")) > 1, len(sources.load_space("own")),
      sorted({"torch", "ray", "lightning", "trainables.digits", "trainables.mine"} & set(sys.modules)))
"""
        assert run_here(here, script) == "None None None None None True 1 []\n"


class TestLoading:
    def test_own_trainables_beside_shipped_ones(self, here: Path) -> None:
        script = """
from orchestrator import catalog, sources
for reference in ("mine", "mine_too:TRAINABLE", "mine_too:Net"):
    print(catalog.load_trainable(reference).model.__name__)
print(catalog.load_trainable({"model": {"class_path": "mine_too.Net", "init_args": {"width": 3}}}))
print(sources.load_space("digits") is not None)
"""
        lines = run_here(here, script).splitlines()
        assert lines[:3] == ["Net"] * 3
        assert "model_args={'width': 3}" in lines[3]
        assert lines[4] == "True"

    def test_spaces(self, here: Path) -> None:
        assert run_here(here, "from orchestrator import sources; print(sources.load_space('own'))") == (
            f"{Space({'lr': Float(0, 1)})!r}\n"
        )
        assert sources.load_space("written") == Space({"lr": Float(1e-4, 1)})
        assert sources.load_space("search_spaces/written.yaml") == Space({"lr": Float(1e-4, 1)})
        assert sources.load_space({"a": {"options": [1, 2]}}) == Space({"a": Choice([1, 2])})

    @pytest.mark.parametrize(
        ("reference", "message"),
        [
            ("onw", "no search space 'onw'; did you mean 'own'."),
            (
                "search_spaces/writen.yaml",
                r"no search space file 'search_spaces/writen\.yaml'; did you mean 'search_spaces/written",
            ),
            ("sweeps/list.yaml", "holds list; a search space is a mapping"),
            ("nowhere:SPACE", "no module 'nowhere' is importable"),
            ("json:loads", "'json:loads' is a function; a search space is an orchestrator.Space"),
        ],
    )
    def test_spaces_that_are_none(self, here: Path, reference: str, message: str) -> None:
        (here / "sweeps/list.yaml").write_text("- a\n")
        with pytest.raises(SpaceError, match=message):
            sources.load_space(reference)

    def test_trainables_that_are_none(self) -> None:
        with pytest.raises(
            SpecError,
            match="json:loads is a function; a trainable is a Trainable, a TrainFunction, a LightningModule class",
        ):
            catalog.load_trainable("json:loads")
        with pytest.raises(SpecError, match="module 'json' defines no 'load_all'"):
            catalog.load_trainable("json:load_all")

    def test_yaml_that_is_none(self) -> None:
        with pytest.raises(InputError, match=r"file\.yaml is not valid YAML, line 2, column \d+: "):
            catalog.parse_yaml("a: 1\nb: [", "file.yaml")


def test_a_file_that_is_not_there_is_no_name_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_sweep.yaml").touch()
    monkeypatch.chdir(tmp_path)
    for given, hint in (("my_swep.yaml", "did you mean 'my_sweep.yaml'?"), ("x.yaml", "is this the right folder?")):
        with pytest.raises(SpecError, match=re.escape(f"no file '{given}'; {hint}")):
            catalog.find_sweep(given)
