"""`python -m orchestrator VERB`: the front door."""

import sys

from orchestrator.cli import main

if __name__ == "__main__":
    sys.exit(main())
