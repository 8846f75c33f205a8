"""Damage to protobuf messages field by field, so that what comes of it is mostly a message again: lengths are right, whatever they enclose."""

import random
from collections.abc import Callable

Field = tuple[int, int, int | bytes]
"""Its number, its wire type, and its value: an int for varints, else bytes."""

NUMBERS = (0, 1, 2, 3, 64, 65, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def damaged(dice: random.Random, data: bytes, leaf: Callable[[bytes], bytes]) -> bytes:
    """The message ``data`` with one field changed, somewhere in its depth; ``leaf`` changes bytes that are no message."""
    fields = _fields(data)
    if not fields:
        return leaf(data)
    at = dice.randrange(len(fields))
    number, kind, value = fields[at]
    match dice.randrange(12):
        case 0:
            del fields[at]
        case 1:
            fields.insert(dice.randrange(len(fields) + 1), fields[at])
        case 2:
            fields[at] = (dice.randrange(1, 20), kind, value)
        case _ if isinstance(value, int):
            fields[at] = (number, kind, dice.choice((*NUMBERS, value ^ 1 << dice.randrange(64))))
        case _ if kind == _BYTES and dice.random() < 0.8:
            fields[at] = (number, kind, damaged(dice, value, leaf))
        case _:
            changed = leaf(value)
            fields[at] = (number, kind, changed if kind == _BYTES else changed[: len(value)].ljust(len(value), b"\0"))
    return b"".join(map(_encoded, fields))


def _fields(data: bytes) -> list[Field] | None:
    """The fields of ``data``; None if it is no message."""
    found: list[Field] = []
    at = 0
    try:
        while at < len(data):
            tag, at = _varint(data, at)
            kind = tag & 7
            if kind == _VARINT:
                value: int | bytes
                value, at = _varint(data, at)
            elif kind in (_EIGHT, _FOUR, _BYTES):
                size = 8 if kind == _EIGHT else 4
                if kind == _BYTES:
                    size, at = _varint(data, at)
                if at + size > len(data):
                    return None
                value, at = data[at : at + size], at + size
            else:
                return None
            if not tag >> 3:
                return None
            found.append((tag >> 3, kind, value))
    except IndexError:
        return None
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value & (1 << 64) - 1, at


def _encoded(field: Field) -> bytes:
    number, kind, value = field
    head = _number(number << 3 | kind)
    if isinstance(value, int):
        return head + _number(value)
    return head + (_number(len(value)) if kind == _BYTES else b"") + value


def _number(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])
