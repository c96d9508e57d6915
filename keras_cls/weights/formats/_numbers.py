"""How numbers lie in files, whatever the format around them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Encoding:
    """One kind of numbers in a file, little-endian unless the file says otherwise.

    Attributes:
        dtype: NumPy's for them; that of their bits for bfloat16, which NumPy lacks.
        bfloat16: the upper halves of float32 numbers.
    """

    dtype: np.dtype
    bfloat16: bool = False

    def decode(self, content: bytes | memoryview, *, big_endian: bool = False) -> np.ndarray:
        """The numbers in this machine's byte order, bfloat16 as float32.

        Read-only where they could be taken as they lie.
        """
        raw = np.frombuffer(content, self.dtype.newbyteorder(">" if big_endian else "<"))
        if self.bfloat16:
            wide = raw.astype(np.uint32)
            wide <<= 16
            return wide.view(np.float32)
        return raw.astype(self.dtype.newbyteorder("="), copy=False)


FLOAT64, FLOAT32, FLOAT16 = (Encoding(np.dtype(f"f{size}")) for size in (8, 4, 2))
BFLOAT16 = Encoding(np.dtype("u2"), bfloat16=True)
INT64, INT32, INT16, INT8 = (Encoding(np.dtype(f"i{size}")) for size in (8, 4, 2, 1))
UINT64, UINT32, UINT16, UINT8 = (Encoding(np.dtype(f"u{size}")) for size in (8, 4, 2, 1))
BOOL = Encoding(np.dtype("?"))
