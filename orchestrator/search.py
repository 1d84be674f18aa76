"""`python -m orchestrator.search [SWEEP] [key=value ...]`: the same as `python -m orchestrator search`."""

import sys

from orchestrator.cli import main

if __name__ == "__main__":
    sys.exit(main(["search", *sys.argv[1:]]))
