"""Whether a W&B key is configured, told from where W&B itself looks; neither it nor the key is loaded."""

from __future__ import annotations

import netrc
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

Mode = Literal["online", "offline", "disabled"]


def tracking_mode(asked: Literal["auto", "online", "offline", "disabled"], environ: Mapping[str, str]) -> Mode:
    """The mode runs are opened in: as asked; for `auto` as `WANDB_MODE` says, else online where a key is configured.

    Source: https://docs.wandb.ai/guides/track/environment-variables
    """
    if asked != "auto":
        return asked
    match environ.get("WANDB_MODE", "").lower():
        case "offline" | "dryrun":
            return "offline"
        case "disabled":
            return "disabled"
        case "online" | "run":
            return "online"
    return "online" if has_key(environ) else "offline"


def has_key(environ: Mapping[str, str]) -> bool:
    """A key is in the environment, or in a netrc file for W&B's host."""
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    home = Path(environ.get("HOME", "~")).expanduser()
    named = environ.get("NETRC")
    for path in (Path(named).expanduser(),) if named else (home / ".netrc", home / "_netrc"):
        try:
            if netrc.netrc(str(path)).authenticators(host):
                return True
        except (OSError, UnicodeDecodeError, netrc.NetrcParseError):
            continue  # not there; or W&B skips a file it cannot read, too, and then asks for a key
    return False
