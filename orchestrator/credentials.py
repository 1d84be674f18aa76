"""Whether a W&B key is configured, told from where W&B itself looks; neither it nor the key is loaded."""

from __future__ import annotations

import configparser
import netrc
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from orchestrator.naming import near_miss

Mode = Literal["online", "offline", "disabled"]


def base_url(environ: Mapping[str, str] = os.environ) -> str:
    """The server: the one that `WANDB_BASE_URL` names, or `wandb login --host` in W&B's settings, or W&B's own."""
    return _server(environ)[0]


def _server(environ: Mapping[str, str]) -> tuple[str, str]:
    """The server's address, and what says so, as the SDK looks for it.

    Source: `_load_settings` of `wandb/sdk/wandb_setup.py`, `SettingsFiles` of `wandb/sdk/lib/settings_file.py`
    """
    if said := environ.get("WANDB_BASE_URL"):
        return said, "WANDB_BASE_URL"
    here = Path(".wandb") if Path(".wandb").exists() else Path("wandb")
    named = environ.get("WANDB_CONFIG_DIR")
    own = Path(named).expanduser() if named else _home(environ) / ".config" / "wandb"
    for path in (here / "settings", own / "settings"):
        settings = configparser.ConfigParser()
        try:
            settings.read(path)
            if said := settings.get("default", "base_url", fallback=""):
                return said, f"base_url in {path}"
        except (OSError, UnicodeDecodeError, configparser.Error):
            continue  # W&B passes over a file that it cannot read
    return W_AND_B, "W&B's default"


def tracking_mode(asked: Literal["auto", "online", "offline", "disabled"], environ: Mapping[str, str]) -> Mode:
    """The mode runs are opened in: as asked; for `auto` as `WANDB_MODE` says, else online where a key is configured.

    Source: https://docs.wandb.ai/guides/track/environment-variables
    """
    if asked != "auto":
        return asked
    said = MODES.get(environ.get("WANDB_MODE", "").lower())
    return said or ("online" if has_key(environ) else "offline")


def wrong_variables(mode: Mode, environ: Mapping[str, str]) -> Iterator[str]:
    """What of W&B's variables cannot be meant, where runs are opened in this mode; a sentence each."""
    if (said := environ.get("WANDB_MODE", "")) and said.lower() not in MODES:
        yield f"WANDB_MODE is '{said}'{near_miss(said, MODES) or ';'} it is one of {', '.join(MODES)}"
    for name in ("WANDB_PROJECT", "WANDB_ENTITY"):
        if (said := environ.get(name, "")) and not re.fullmatch(NAME, said):
            yield f"{name} is '{said}'; a name in W&B has 1 to 128 characters, none of them one of / \\ # ? % :"
    if mode != "online":
        return
    key, (url, origin) = environ.get("WANDB_API_KEY", ""), _server(environ)
    if 0 < len(key) < KEY_CHARACTERS:
        yield (
            f"WANDB_API_KEY has {len(key)} characters, and W&B's keys {KEY_CHARACTERS} or more: copy it again, or unset"
            " it and use `wandb login`; tracking.mode=offline needs none"
        )
    if _host(url) is None:
        yield f"{origin} is '{url}'; write the server's whole address, e.g. https://wandb.example.com"


# W&B's own server.
W_AND_B = "https://api.wandb.ai"
# A project, or a team or user.
NAME = r"^[^/\\#?%:]{1,128}$"
# What `WANDB_MODE` can say, and what a sweep's runs are then.
MODES: dict[str, Mode] = {
    "online": "online",
    "offline": "offline",
    "disabled": "disabled",
    "shared": "online",
    "run": "online",
    "dryrun": "offline",
}
# Fewer than this, and the SDK refuses a key without asking the server.
KEY_CHARACTERS = 40
# A key of W&B's: 40 hexadecimal digits, or what newer servers make. A commit looks like the former.
KEY = re.compile(r"(?:local-)?[0-9a-f]{40}|wandb_v\d+_\w{16,}")
COMMITS = {"commit", "revision", "sha", "sha1", "hash", "digest"}
NAMES = re.compile(r"(wandb_)?api_?key", re.IGNORECASE)
GIVEN = re.compile(rf"{NAMES.pattern}\W+(?:{KEY.pattern})", re.IGNORECASE)


def take_keys(data: Any, place: str = "") -> Iterator[str]:
    """Where in a spec, given as plain data, a W&B key is; each is taken out, so that no message repeats it."""
    for name, value in list(data.items() if isinstance(data, dict) else enumerate(data)):
        here = f"{place}.{name}" if place else str(name)
        if isinstance(value, dict | list):
            yield from take_keys(value, here)
        elif isinstance(value, str) and (
            (KEY.fullmatch(value) and not COMMITS & set(re.split(r"[^a-z0-9]+", str(name).lower())))
            or GIVEN.search(value)
            or (NAMES.fullmatch(str(name).rpartition(".")[2]) and value)
        ):
            data[name] = "(a key)"
            yield here


def redacted(text: str) -> str:
    """A command as it may be shown, without what is secret in URLs."""
    text = re.sub(r"(://)[^/@\s]+@", r"\1***@", text)
    return re.sub(r"(?i)((?:(?:access|secret|session)_\w+|[\w-]*(?:signature|token|sig))=)[^&\s]+", r"\1***", text)


def own_folders(work: Path) -> dict[str, str]:
    """W&B's variables that keep everything the SDK writes in a sweep's folder."""
    return {
        "WANDB_DIR": str(work),
        "WANDB_DATA_DIR": str(work / "wandb"),
        "WANDB_CACHE_DIR": str(work / "wandb" / "cache"),
    }


def to_workers(environ: Mapping[str, str]) -> dict[str, str]:
    """W&B's variables as the user set them where the sweep was started, for its workers; never what is secret.

    The server is among them wherever it is said: on other nodes nobody may have logged in.
    """
    server = {} if (url := base_url(environ)) == W_AND_B else {"WANDB_BASE_URL": url}
    return server | {
        name: value
        for name, value in environ.items()
        if name.startswith("WANDB_") and not any(word in name for word in ("KEY", "TOKEN", "SECRET", "PASSWORD"))
    }


def has_key(environ: Mapping[str, str]) -> bool:
    """A key is in the environment, or in a netrc file for W&B's host, its port included, as `wandb login` writes it."""
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    url = base_url(environ)
    host = urlsplit(url).netloc if _host(url) else ""
    home = _home(environ)
    named = environ.get("NETRC")
    for path in (Path(named).expanduser(),) if named else (home / ".netrc", home / "_netrc"):
        try:
            if netrc.netrc(str(path)).authenticators(host):
                return True
        except (OSError, UnicodeDecodeError, netrc.NetrcParseError):
            continue  # not there; or W&B skips a file it cannot read, too, and then asks for a key
    return False


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME", "~")).expanduser()


def _host(url: str) -> str | None:
    """The host of a server's whole address; None where it is no such."""
    try:
        parts = urlsplit(url)
    except ValueError:  # e.g. half an IPv6 address
        return None
    return parts.hostname if parts.scheme in ("http", "https") else None
