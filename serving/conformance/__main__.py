"""Run the cases against a server.

    python -m serving.conformance --grpc=HOST:PORT --rest=HOST:PORT --server=original \
        --base-path=FOLDER

Whatever else pytest takes can be added, such as ``-k batching``. The exit status is pytest's.
"""

import sys
from pathlib import Path

import pytest


def main(arguments: list[str]) -> int:
    """The command line."""
    here = Path(__file__).parent
    return int(pytest.main([f"--config-file={here / 'pytest.ini'}", str(here), *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
