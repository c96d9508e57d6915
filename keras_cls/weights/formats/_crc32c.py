"""CRC-32C (Castagnoli), the checksum of TensorFlow's files, over hundreds of megabytes.

The plain loop over bytes would take a minute for a large network. But the register of a message
that begins with zeros does not see them, and the register of two messages in a row is that of the
first, moved over as many zeros as the second has bytes, plus that of the second: so the bytes are
laid out in rows, all rows are run through at once, and the rows' registers are added up in pairs.
"""

import numpy as np

_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8
_LONGEST_ROW = 12  # bytes, as a power of two


def masked(content: bytes | memoryview) -> int:
    """The checksum as TensorFlow writes it (tsl/lib/hash/crc32c.h): turned, and a number added."""
    found = crc32c(content)
    return (((found >> 15) | (found << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def crc32c(content: bytes | memoryview) -> int:
    """The checksum of the bytes."""
    message = np.frombuffer(content, np.uint8)
    count = max(len(message), 4)
    length = 1 << min(_LONGEST_ROW, count.bit_length() // 2)
    rows = np.zeros((-(-count // length), length), np.uint8)
    end = rows.reshape(-1)[rows.size - len(message) :]
    end[:] = message
    # A register that starts as all ones is one that starts as zero, the first four bytes inverted.
    end[:4] ^= 0xFF
    registers = np.zeros(len(rows), np.uint32)
    for pairs in rows.view("<u2").T.copy():
        registers = _TWO_BYTES[(registers ^ pairs) & 0xFFFF] ^ (registers >> 16)
    zeros = _ONE_ZERO
    for _ in range(length.bit_length() - 1):
        zeros = _move(zeros, zeros)
    while len(registers) > 1:
        if len(registers) % 2:
            registers = np.concatenate([np.zeros(1, np.uint32), registers])
        registers = _move(registers[0::2], zeros) ^ registers[1::2]
        zeros = _move(zeros, zeros)
    left_over = 0xFFFFFFFF >> (8 * len(message))  # of the ones, by less than four bytes
    return int(registers[0]) ^ left_over ^ 0xFFFFFFFF


def _move(registers: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """Registers after as many zero bytes as the table [4, 256], a row for each byte, stands for."""
    moved = zeros[0][registers & 0xFF]
    for byte in (1, 2, 3):
        moved = moved ^ zeros[byte][(registers >> (8 * byte)) & 0xFF]
    return moved


def _byte_table() -> np.ndarray:
    table: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return table


_BYTE = _byte_table()
_PAIRS = _BYTE[np.arange(1 << 16) & 0xFF] ^ (np.arange(1 << 16, dtype=np.uint32) >> 8)
_TWO_BYTES = _BYTE[_PAIRS & 0xFF] ^ (_PAIRS >> 8)
_SINGLE = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32)[:, None])
_ONE_ZERO = _BYTE[_SINGLE & 0xFF] ^ (_SINGLE >> 8)
