"""Damage done to bytes, by chance that can be repeated; what leads to an answer not seen before becomes a seed of more."""

import random
from collections.abc import Callable

import msgspec

from bench.chaos import wire

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0xFE, ord('"'), ord("-"), ord("9"))
MOST = 1 << 16
"""Nothing grows beyond so many bytes."""

MOST_LEARNT = 5000
"""The most answers that make a seed."""


def _flip(dice: random.Random, data: bytearray, other: bytes) -> None:
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def _put(dice: random.Random, data: bytearray, other: bytes) -> None:
    data[dice.randrange(len(data))] = dice.choice(INTERESTING)


def _number(dice: random.Random, data: bytearray, other: bytes) -> None:
    at, size = dice.randrange(len(data)), dice.choice((1, 2, 4, 8))
    data[at : at + size] = dice.choice((0, 1, (1 << 8 * size) - 1, 1 << (8 * size - 1))).to_bytes(size, "little")


def _cut(dice: random.Random, data: bytearray, other: bytes) -> None:
    at = dice.randrange(len(data))
    del data[at : at + dice.choice((1, 2, 8, len(data)))]


def _repeat(dice: random.Random, data: bytearray, other: bytes) -> None:
    at, size = dice.randrange(len(data)), dice.choice((1, 4, 16, 64))
    data[at:at] = data[at : at + size] * dice.choice((1, 2, 50))


def _splice(dice: random.Random, data: bytearray, other: bytes) -> None:
    at, start = dice.randrange(len(data)), dice.randrange(len(other))
    data[at : at + dice.choice((0, 16, len(data)))] = other[start : start + dice.choice((8, 64, len(other)))]


WAYS: tuple[Callable[[random.Random, bytearray, bytes], None], ...] = (_flip, _put, _number, _cut, _repeat, _splice)


class Target(msgspec.Struct, frozen=True):
    """Something that takes bytes of strangers. ``judge`` gives what came of an input, in a few words."""

    seeds: list[bytes]
    judge: Callable[[bytes], str]
    message: int | None = None
    """Where a protobuf message begins in an input; None if there is none."""
    damage: Callable[[random.Random, bytes], bytes] | None = None
    """Damages an input where damage to its bytes as they are would not reach far."""
    memory: int = 512 << 20
    """Bytes that it may take beside what it has at its start."""


class Mutator:
    """Inputs made of a target's seeds: the same for the same ``seed`` and the same answers.

    A target may do its own damage. Where it has a protobuf message, most damage is done to that one's fields.
    """

    def __init__(self, target: Target, seed: int) -> None:
        self._target, self._seeds, self._dice = target, list(target.seeds), random.Random(seed)
        self._seen: set[str] = set()

    def next(self) -> bytes:
        """One more input."""
        return self.damaged(self._dice.choice(self._seeds))

    def damaged(self, data: bytes) -> bytes:
        """``data`` after one to four kinds of damage."""
        if self._target.damage is not None:
            return self._target.damage(self._dice, data)[:MOST]
        for _ in range(self._dice.choice((1, 1, 2, 4))):
            if self._target.message is None or self._dice.random() < 0.1:
                data = self._damaged(data)
            else:
                begin = self._target.message
                data = data[:begin] + wire.damaged(self._dice, data[begin:], self._damaged)
        return data[:MOST]

    def _damaged(self, data: bytes) -> bytes:
        changed = bytearray(data or b"\0")
        self._dice.choice(WAYS)(self._dice, changed, self._dice.choice(self._seeds) or b"\0")
        return bytes(changed)

    def answered(self, data: bytes, answer: str) -> bool:
        """Note what came of ``data``; whether that was new."""
        if answer in self._seen or len(self._seen) == MOST_LEARNT:
            return False
        self._seen.add(answer)
        self._seeds.append(data)
        return True
