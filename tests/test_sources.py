"""Where spaces come from: files with versions, documents that extend others, packages' entry points, URLs."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestrator import sources
from orchestrator.errors import SpaceError
from orchestrator.space import Choice, Fixed, Float, Int, Space
from orchestrator.spec import Spec

FILES = {
    "search_spaces/plain.yaml": "# In YAML\nlr: {type: float, low: 1e-4, high: 1}\n",
    "search_spaces/team/net.py": '"""In Python."""\nfrom orchestrator import Int, Space\n'
    'FIRST = Space({"width": Int(1, 9)})\nVERSIONS = {1: FIRST, 3: FIRST.narrow({"width": {"high": 5}})}\n',
    "search_spaces/team/deep.yaml": "a: {b: {c: {options: [1, 2]}, d: {value: [1, x]}}}\n",
    "search_spaces/team/deep@2.yaml": "extends: team/deep@1\nfix: {a.b.c: 1}\n",
    "search_spaces/_private.py": "SPACE = 1\n",
    "search_spaces/circle.yaml": "extends: round\n",
    "search_spaces/round.yaml": "extends: [plain, circle]\n",
    "search_spaces/empty.py": "SPAEC = 1\n",
    "search_spaces/wrong.py": "def (",
    "search_spaces/theirs.yaml": "method: random\nparameters: {lr: {min: 0.0, max: 1.0}}\n",
    "search_spaces/mine.yaml": """
extends: [team/net@1, {extends: plain, nest: optimizer}]
narrow: {width: {low: 3}}
rename: {optimizer: opt}
fix: {opt.lr: 0.5}
parameters: {depth: {type: int, low: 1, high: 3}}
constraints: [depth <= width]
""",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with spaces of its own."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def problems(reference) -> str:
    with pytest.raises(SpaceError) as caught:
        sources.load_space(reference)
    return "\n".join(caught.value.problems)


@pytest.mark.usefixtures("here")
class TestNames:
    def test_files_and_their_versions(self):
        found = {name: list(versions) for name, versions in sources.names().items()}
        assert found | {"plain": [1], "team/net": [1, 3], "team/deep": [1, 2]} == found
        assert {"_private", "__init__", "team/__init__"}.isdisjoint(found)
        assert "digits" in found, "shipped ones are there too"

    def test_of_a_sweeps_file_its_space_is_meant(self, tmp_path):
        file = tmp_path / "sweep.yaml"
        file.write_text("{trainable: digits, metric: loss, goal: minimize, space: {lr: {options: [1, 2]}}}")
        assert sources.load_space(str(file)) == Space({"lr": Choice([1, 2])})
        named_alike = {"space": {"options": [1, 2]}, "metric": {"options": [3, 4]}}
        assert sources.load_space(named_alike) == Space({"space": Choice([1, 2]), "metric": Choice([3, 4])})

    def test_the_latest_is_meant_where_none_is_said(self):
        assert sources.load_space("team/net") == sources.load_space("team/net@3") == Space({"width": Int(1, 5)})
        assert sources.load_space("search_spaces.team/net@1") == Space({"width": Int(1, 9)})
        assert sources.load_space("team/deep@1") == Space({"a.b.c": Choice([1, 2]), "a.b.d": Fixed([1, "x"])})
        assert sources.load_space("team/deep") == Space({"a.b.c": Fixed(1), "a.b.d": Fixed([1, "x"])})

    def test_the_origin_says_which_it_was(self):
        space = sources.load_space("team/deep")
        inner = sources.load_space("team/deep@1")
        assert space.origin == (f"team/deep@2 ({space.digest})", f"  team/deep@1 ({inner.digest})", "  fix a.b.c: 1")

    @pytest.mark.parametrize(
        ("reference", "said"),
        [
            ("team/nte", "no search space 'team/nte'; did you mean 'team/net'? available: "),
            ("team/net@2", "search space 'team/net' has no version '2'; available: 1, 3"),
            ("team/net:1", "'team/net:1' is no search space; a version is written with an at sign: team/net@1"),
            ("team/net.yaml", "no search space file 'team/net.yaml'; by name it is 'team/net'"),
            ("search_spaces/team/net.py", "no search space 'search_spaces/team/net.py'; by name it is 'team/net'"),
            ("team/net@latest", "search space 'team/net' has no version 'latest'; available: 1, 3"),
            ("empty", "empty.py defines no 'SPACE'; did you mean 'SPAEC'?"),
            ("wrong", "wrong.py is not Python"),
            ("circle", "space: 'circle@1' extends itself: circle@1 extends round@1 extends circle@1"),
            ("nowhere.yaml", "no search space file 'nowhere.yaml'; is this the right folder?"),
            ("nowhere:SPACE", "no module 'nowhere' is importable"),
        ],
    )
    def test_what_leads_nowhere(self, reference, said):
        assert said in problems(reference)


@pytest.mark.usefixtures("here")
class TestExtending:
    def test_steps_are_taken_in_their_order(self):
        assert sources.load_space("mine") == Space(
            {"width": Int(3, 9), "opt.lr": Fixed(0.5), "depth": Int(1, 3)}, ["depth <= width"]
        )

    def test_every_step(self):
        data = {
            "extends": "mine",
            "drop": ["depth <= width", "depth"],
            "replace": {"width": {"options": [7, 70]}},
            "nest": "net",
        }
        assert sources.load_space(data) == Space({"net.width": Choice([7, 70]), "net.opt.lr": Fixed(0.5)})
        assert sources.load_space({"extends": "mine", "keep": ["width"]}) == Space({"width": Int(3, 9)})
        assert sources.load_space({"extends": "mine", "drop": "depth <= width"}).constraints == ()

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            ({"extends": "plain", "narow": {}}, "space: unknown key 'narow'; did you mean 'narrow'?"),
            ({"extends": "plain", "fix": ["lr"]}, "space: fix is ['lr']; write a mapping from name to value"),
            ({"extends": []}, "space: extends is []; name a space, or list some"),
            ({"extends": 3}, "space: extends is 3; name a space, or list some"),
            ({"extends": "plain", "narrow": {"lr": {"high": 2}}}, "'lr' is to be narrowed, but can be 2"),
            ({"extends": ["plain", {"lr": {"value": 1}}]}, "space: 'lr' is 0.0001 to 1 in one space and fixed at 1"),
            ({"extends": "plain", "parameters": {"x": {"type": "itn"}}}, "'x' has type 'itn', which there is none of"),
            ({"parameters": {}, "fix": {}}, "space: unknown key 'fix'; "),
            ({"parameters": [1]}, "a space maps names to parameters, and [1] is no mapping"),
            ({"parameters": {}, "constraints": "x"}, "space: constraints is 'x', which is not a list"),
        ],
    )
    def test_what_cannot_be(self, data, said):
        assert said in problems(data)

    def test_a_wandb_sweep_is_the_space_of_its_parameters(self):
        assert sources.load_space("theirs") == Space({"lr": Float(0, 1)})


@pytest.mark.usefixtures("here")
class TestWrittenOut:
    @pytest.mark.parametrize("reference", ["mine", "team/net@1", "search_spaces/mine.yaml", {"lr": {"value": 1}}])
    def test_it_needs_nothing_else(self, reference):
        document, space = sources.written_out(reference), sources.load_space(reference)
        again = sources.load_space(document)
        assert again == space
        assert again.origin == space.origin
        assert document["digest"] == space.digest
        assert sources.written_out(document) == document

    def test_what_it_says_of_itself(self, here):
        document = sources.written_out("team/net")
        assert sources.identity(document) == {"name": "team/net", "version": 3, "digest": document["digest"]}
        assert document["source"] == "team/net@3"
        assert sources.written_out("search_spaces/plain.yaml")["source"] == str(here / "search_spaces/plain.yaml")
        assert sources.identity(sources.written_out({"lr": {"value": 1}})).keys() == {"digest"}
        assert sources.identity("digits") == {"name": "digits"}

    def test_one_that_was_tampered_with(self):
        document = sources.written_out("plain")
        document["parameters"] = {"lr": {"type": "float", "low": 0, "high": 9}}
        assert f"not {document['digest']} as it says: it was changed since that was written" in problems(document)

    def test_a_source_that_changed_is_noticed(self, here):
        for reference in ("plain", "search_spaces/plain.yaml", {"extends": "plain", "nest": "a"}):
            document = sources.written_out(reference)
            (here / "search_spaces/plain.yaml").write_text("# Of more\n" + FILES["search_spaces/plain.yaml"])
            assert sources.changed_since(document) is None
            (here / "search_spaces/plain.yaml").write_text("lr: {type: float, low: 1e-4, high: 0.5}\n")
            said = sources.changed_since(document) or ""
            assert f"has changed since the sweep began: its digest was {document['digest']} and is " in said
            assert "lr: 0.0001 to 1 -> 0.0001 to 0.5" in said
            (here / "search_spaces/plain.yaml").unlink()
            assert sources.changed_since(document) is None, "what is gone cannot be compared"
            (here / "search_spaces/plain.yaml").write_text(FILES["search_spaces/plain.yaml"])
        assert sources.changed_since({"lr": {"value": 1}}) is None

    def test_a_spec_keeps_it(self):
        spec = Spec(trainable="x", space=sources.written_out("mine"), metric="m", goal="minimize")
        assert Spec.from_yaml(spec.to_yaml()) == spec
        assert spec.load_space() == sources.load_space("mine")
        assert spec.space_identity["name"] == "mine"


class TestPackages:
    def test_entry_points(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        files = {
            "acme_spaces/__init__.py": "",
            "acme_spaces/vision/net@2.yaml": "# Theirs\nwidth: {options: [1, 2]}\n",
            "acme_spaces/one.py": "from orchestrator import Int, Space\n"
            'VERSIONS = {4: Space({"a": Int(1, 2)}), 5: Space({"a": Int(1, 3)})}\n',
            "acme-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n",
            "acme-1.0.dist-info/entry_points.txt": f"[{sources.GROUP}]\nacme = acme_spaces\n"
            "lone = acme_spaces.one:VERSIONS\ngone = acme_nowhere\n",
        }
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        found = {name: list(versions) for name, versions in sources.names().items()}
        assert {name: versions for name, versions in found.items() if name.startswith(("acme", "lone", "gone"))} == {
            "acme/one": [4, 5],
            "acme/vision/net": [2],
            "lone": [4, 5],
        }
        assert sources.load_space("acme/vision/net") == Space({"width": Choice([1, 2])})
        assert sources.load_space("lone@4") == sources.load_space("acme/one@4") == Space({"a": Int(1, 2)})
        assert sources.load_space({"extends": "lone", "fix": {"a": 3}}) == Space({"a": Fixed(3)})


@pytest.fixture
def url() -> Iterator[str]:
    """A web server of this machine; each path is served as often as the test asks, and `/gone` never."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            texts = {
                "/space.yaml": b"lr: {type: float, low: 0, high: 1}",
                "/bad.yaml": b"lr: {low",
                "/bytes": b"\xff\xfe",
            }
            texts["/large"] = b"#" * (sources.MAX_URL_BYTES + 1)
            self.send_response(200 if self.path in texts else 404)
            self.end_headers()
            self.wfile.write(texts.get(self.path, b""))

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class TestUrls:
    def test_one_is_fetched_and_then_needed_no_more(self, url: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        document = sources.written_out(f"{url}/space.yaml")
        assert document["source"] == f"{url}/space.yaml"
        assert sources.load_space(document) == Space({"lr": Float(0, 1)})
        sources._fetch.cache_clear()
        monkeypatch.setattr(sources, "_fetch", None)
        assert sources.changed_since(document) is None
        assert Spec(trainable="x", space=document, metric="m", goal="minimize").load_space() == Space(
            {"lr": Float(0, 1)}
        )

    @pytest.mark.parametrize(
        ("path", "said"),
        [
            ("/gone", "cannot be read: HTTP Error 404: Not Found"),
            ("/large", "holds more than 1048576 bytes"),
            ("/bytes", "is not text"),
        ],
    )
    def test_what_is_no_space(self, url: str, path: str, said: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert said in problems(url + path)

    def test_nobody_there(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert "http://127.0.0.1:9/x.yaml cannot be read: " in problems("http://127.0.0.1:9/x.yaml")
