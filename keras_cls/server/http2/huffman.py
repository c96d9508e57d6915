"""HPACK's Huffman code (RFC 7541, section 5.2 and appendix B)."""

import functools
from typing import TypeAlias

# The length of each symbol's code, in bits; the last is EOS, the end of a string. The code is
# canonical: codes ascend by length, and within a length by symbol.
# fmt: off
CODE_LENGTHS = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
)
# fmt: on
_EOS = 256
_LONGEST_PADDING = 7

# From a state and the next four bits: the next state (-1: no string goes on so) and what is decoded
# on the way.
_Machine: TypeAlias = tuple[list[list[tuple[int, bytes]]], frozenset[int]]


class HuffmanError(Exception):
    """No string is encoded so."""


@functools.cache
def codes() -> tuple[tuple[int, int], ...]:
    """Each symbol's code and its length."""
    found = [(0, 0)] * len(CODE_LENGTHS)
    code, before = 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(CODE_LENGTHS)):
        code <<= length - before
        found[symbol] = (code, length)
        code, before = code + 1, length
    return tuple(found)


@functools.cache
def _machine() -> _Machine:
    """Reads four bits at once; and the states in which a string may end."""
    # A node of the tree has two children: a node's number, or -1 - symbol.
    nodes: list[list[int]] = [[0, 0]]
    for symbol, (code, length) in enumerate(codes()):
        node = 0
        for place in range(length - 1, 0, -1):
            bit = code >> place & 1
            if not nodes[node][bit]:
                nodes[node][bit] = len(nodes)
                nodes.append([0, 0])
            node = nodes[node][bit]
        nodes[node][code & 1] = -1 - symbol
    steps = [[_walk(nodes, node, bits) for bits in range(16)] for node in range(len(nodes))]
    # What fills the last byte up is the beginning of EOS: ones.
    ends, node = {0}, 0
    for _ in range(_LONGEST_PADDING):
        node = nodes[node][1]
        ends.add(node)
    return steps, frozenset(ends)


def _walk(nodes: list[list[int]], node: int, bits: int) -> tuple[int, bytes]:
    decoded = bytearray()
    for place in (3, 2, 1, 0):
        node = nodes[node][bits >> place & 1]
        if node < 0:
            symbol = -1 - node
            if symbol == _EOS:
                return -1, b""
            decoded.append(symbol)
            node = 0
    return node, bytes(decoded)


def decode(data: bytes) -> bytes:
    """The string behind its code.

    Raises:
        HuffmanError: it holds EOS, or is filled up with anything but its beginning.
    """
    steps, ends = _machine()
    found = bytearray()
    state = 0
    for byte in data:
        state, decoded = steps[state][byte >> 4]
        if decoded:
            found += decoded
        if state < 0:
            break
        state, decoded = steps[state][byte & 15]
        if decoded:
            found += decoded
        if state < 0:
            break
    if state not in ends:
        raise HuffmanError("a string that is no Huffman code")
    return bytes(found)


def encode(text: bytes) -> bytes:
    """The code of a string, filled up with ones."""
    table = codes()
    bits, length = 0, 0
    for symbol in text:
        code, more = table[symbol]
        bits, length = bits << more | code, length + more
    padding = -length % 8
    return (bits << padding | (1 << padding) - 1).to_bytes((length + padding) // 8)
