"""The clouds' announcements, from small doubles of their metadata servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from orchestrator import spot
from orchestrator.errors import SweepError


class Metadata(BaseHTTPRequestHandler):
    """AWS's IMDSv2 and Google's metadata server, as far as spot nodes are concerned."""

    announced = False

    def do_PUT(self) -> None:
        assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self._answer(200, "token")

    def do_GET(self) -> None:
        if self.path.startswith("/computeMetadata/"):
            assert self.headers["Metadata-Flavor"] == "Google"
            self._answer(200, "TRUE" if type(self).announced else "FALSE")
        elif self.headers["X-aws-ec2-metadata-token"] != "token":
            self._answer(401, "")
        elif type(self).announced:
            self._answer(200, '{"action": "terminate", "time": "2030-01-02T03:04:05Z"}')
        else:
            self._answer(404, "")

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Metadata.announced = False
    with HTTPServer(("127.0.0.1", 0), Metadata) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_aws_says_when(server: str) -> None:
    assert spot.aws_deadline(server) is None
    Metadata.announced = True
    assert spot.aws_deadline(server) == 1893553445.0  # 2030-01-02T03:04:05Z


def test_google_gives_half_a_minute(server: str) -> None:
    assert spot.gcp_deadline(server) is None
    Metadata.announced = True
    before = time.time()
    deadline = spot.gcp_deadline(server)
    assert deadline is not None
    assert before + spot.GCP_NOTICE_S <= deadline <= time.time() + spot.GCP_NOTICE_S


def test_the_watch_asks_until_it_is_told_and_says_once_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    at = time.time() + 100
    answers: Iterator[object] = iter([OSError("down"), OSError("down"), None, at, at])
    drained: list[float] = []
    refused = iter([True, False])

    def drain(seconds: float) -> None:
        if next(refused):
            raise SweepError("no Ray at RAY_ADDRESS=auto")
        drained.append(seconds)

    def deadline() -> float | None:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        assert answer is None or isinstance(answer, float)
        return answer

    spot.watch(deadline, drain, poll_s=0)
    assert len(drained) == 1
    assert 90 < drained[0] <= 100
    said = capsys.readouterr().err
    assert said.count("asking again") == 2
    assert "asking again: no Ray at RAY_ADDRESS=auto" in said
