"""Hosts on one machine: network, process, mount, name and IPC namespaces, each with its own address, /tmp and sshd.

A real `ray up` (provider `local`) reaches them by ssh. Nothing outside the namespaces is changed: the network between
them is one of their own, and what they write to home, /etc and /run is theirs alone. Needs root, namespaces,
iproute2, openssh-server and rsync.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

INIT = Path(__file__).with_name("init.sh")
PROGRAMS = ("ip", "nsenter", "unshare", "/usr/sbin/sshd", "ssh", "rsync")


def missing() -> str | None:
    """Why hosts cannot be made on this machine, or None."""
    if os.geteuid() != 0:
        return "hosts need root"
    if absent := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"hosts need {', '.join(absent)} (iproute2, util-linux, openssh-server, openssh-client, rsync)"
    if any(Path(place).resolve().is_relative_to("/tmp") for place in (sys.prefix, __file__)):
        return "hosts have a /tmp of their own, and what they run is in this machine's: check it out elsewhere"
    probe = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--mount-proc", "true"]
    done = subprocess.run(probe, capture_output=True, text=True)
    return f"namespaces cannot be made here: {done.stderr.strip()}" if done.returncode else None


class Hosts:
    """A network of hosts, by name; `folder` (under /tmp) is what they all see as the same."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, names
        self._prefix = f"o{os.getpid() % 100_000}"
        self._inits: dict[str, subprocess.Popen[bytes]] = {}

    def address(self, name: str) -> str:
        """A host's address in their network."""
        return f"10.99.0.{10 + self.names.index(name)}"

    def up(self) -> None:
        """Make the network and start every host."""
        keys = self.folder / "keys"
        keys.mkdir()
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / "id"))
        _run("ip", "netns", "add", self._switch)
        _run("ip", "-n", self._switch, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", self._switch, "link", "set", "br0", "up")
        for name in self.names:
            self._cable(name)
            self.start(name)

    def start(self, name: str) -> None:
        """Switch a host on, for the first time or again."""
        ready = self.folder / f"{name}.ready"
        ready.unlink(missing_ok=True)
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "FOLDER": str(self.folder),
            "KEYS": str(self.folder / "keys"),
            "ENVIRONMENT": sys.prefix,
            "PEERS": "".join(f"{self.address(peer)} {peer}\\n" for peer in self.names),
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            self._inits[name] = subprocess.Popen(
                [
                    *("nsenter", f"--net=/run/netns/{self._netns(name)}"),
                    *("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"),
                    *("--propagation", "private", "bash", str(INIT), name, self.address(name)),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while not ready.exists():
            if time.monotonic() > deadline or self._inits[name].poll() is not None:
                raise RuntimeError(f"{name} did not start: {(self.folder / f'{name}.log').read_text()}")
            time.sleep(0.05)

    def command(self, name: str, script: str) -> list[str]:
        """What runs a script on a host, in a login shell as ssh would give it."""
        return [
            *("nsenter", "-t", str(self._first_process(name)), "-n", "-p", "-m", "-u", "-i"),
            *("env", "-i", "HOME=/root", "USER=root", "LOGNAME=root", "TERM=dumb", "LANG=C.UTF-8"),
            f"PATH={sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            *("PYTHONDONTWRITEBYTECODE=1", "RAY_AUTH_MODE=token", "bash", "-c", script),
        ]

    def run(self, name: str, script: str, *, code: int = 0, timeout_s: float = 600) -> str:
        """Run a script on a host to its end; what it printed, on both streams."""
        done = subprocess.run(
            self.command(name, script), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
        )
        assert done.returncode == code, f"{name}: {script}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def runs(self, name: str) -> bool:
        """Whether a host is switched on."""
        return name in self._inits

    def cut(self, name: str) -> None:
        """Take a host's network away."""
        _run("ip", "-n", self._switch, "link", "set", f"v-{name}", "down")

    def heal(self, name: str) -> None:
        """Give it back."""
        _run("ip", "-n", self._switch, "link", "set", f"v-{name}", "up")

    def kill(self, name: str) -> None:
        """Switch a host off, and every process of it."""
        init = self._inits.pop(name)
        init.send_signal(
            signal.SIGKILL
        )  # --kill-child: the host's first process goes with it, and all others with that
        init.wait(30)

    def down(self) -> None:
        """Switch everything off and take the network away; what is left of a failed `up`, too."""
        for name in list(self._inits):
            self.kill(name)
        for netns in [*(self._netns(name) for name in self.names), self._switch]:
            subprocess.run(["ip", "netns", "del", netns], capture_output=True)

    @property
    def _switch(self) -> str:
        return f"{self._prefix}-switch"

    def _netns(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _cable(self, name: str) -> None:
        netns = self._netns(name)
        _run("ip", "netns", "add", netns)
        _run(
            "ip", "-n", self._switch, "link", "add", f"v-{name}", "type", "veth", "peer", "name", "eth0", "netns", netns
        )
        _run("ip", "-n", self._switch, "link", "set", f"v-{name}", "master", "br0", "up")
        _run("ip", "-n", netns, "link", "set", "lo", "up")
        _run("ip", "-n", netns, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
        _run("ip", "-n", netns, "link", "set", "eth0", "up")

    def _first_process(self, name: str) -> int:
        pid = self._inits[name].pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
