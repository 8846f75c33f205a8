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


def seed_global(device: torch.device, *parts: int | str) -> None:
    """Seed what networks draw from by themselves (dropout): the CPU's default generator and that of ``device``.

    ``torch.manual_seed`` does the same for every kind of device at the cost of a millisecond where CUDA is not in use.
    """
    seed = derive(*parts)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
