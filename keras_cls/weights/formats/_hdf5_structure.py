"""Walks through an HDF5 file, as a program of its own: ``python _hdf5_structure.py [FILE]``.

On some damaged files the HDF5 library never comes back, and a thread that waits for it cannot be
stopped. A process can. It reads everything but numbers that lie in one piece, and says nothing
where it could. Without a FILE, the file's bytes are its standard input.
"""

import sys
from io import BytesIO
from typing import Any

import h5py


def _walk(name: str, item: Any) -> None:
    for attribute in item.attrs:
        item.attrs[attribute]
    if isinstance(item, h5py.Dataset) and item.chunks:
        # Where the pieces are, not what is in them.
        item.id.get_num_chunks()


def main() -> None:
    """Come to an end, or do not."""
    content = sys.argv[1] if len(sys.argv) > 1 else BytesIO(sys.stdin.buffer.read())
    with h5py.File(content, "r") as file:
        _walk("/", file)
        file.visititems(_walk)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        sys.exit(str(error))
