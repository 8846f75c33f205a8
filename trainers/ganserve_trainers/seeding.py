"""Random numbers as a pure function of where they are used, so that a resumed run draws what the whole run would have drawn."""

import hashlib

import torch


def derive(*parts: int | str) -> int:
    """A seed in [0, 2^63) for the place that ``parts`` name, such as ``(run seed, "noise", step, phase, repeat)``."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A fresh CPU generator seeded with :func:`derive`; always the CPU's, so that every device sees the same numbers."""
    return torch.Generator().manual_seed(derive(*parts))
