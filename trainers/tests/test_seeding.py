import torch

from ganserve_trainers.data.order import batches, mirrored
from ganserve_trainers.seeding import derive, generator, seed_global


def take(count: int, **options: int) -> torch.Tensor:
    walk = batches(7, 10, **options)
    return torch.stack([next(walk) for _ in range(count)])


def test_a_seed_depends_on_every_part() -> None:
    seeds = {
        derive(1, "noise", 2, "generator", 0),
        derive(1, "noise", 2, "generator", 1),
        derive(1, "noise", 20, "generator", 0),
    }
    assert len(seeds) == 3
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Written down, so that a change of the recipe, which would break the resuming of old runs, is seen.
    assert derive(1, "noise", 2, "generator", 0) == 6990969528892932182


def test_global_seeding_governs_dropout() -> None:
    def draw(*parts: int) -> torch.Tensor:
        seed_global(torch.device("cpu"), *parts)
        return torch.nn.functional.dropout(torch.ones(100))

    assert torch.equal(draw(1, 2), draw(1, 2))
    assert not torch.equal(draw(1, 2), draw(1, 3))


def test_each_epoch_is_a_new_permutation() -> None:
    epochs = take(10, batch=5).reshape(5, 10)
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 5


def test_the_order_does_not_depend_on_where_it_starts() -> None:
    assert torch.equal(take(9, batch=4)[5:], take(4, batch=4, start=5))


def test_two_processes_walk_as_one_with_twice_the_batch() -> None:
    together = torch.cat([take(8, batch=3, rank=0, world=2), take(8, batch=3, rank=1, world=2)], dim=1)
    assert torch.equal(together, take(8, batch=6))


def test_a_batch_may_be_larger_than_the_data() -> None:
    assert take(1, batch=25)[0].bincount().tolist() == [
        3 if count else 2 for count in take(1, batch=25)[0].bincount() > 2
    ]


def test_half_of_the_rows_are_mirrored_whatever_the_number_of_processes() -> None:
    one = mirrored(3, 5, 1000)
    assert 400 < int(one.sum()) < 600
    assert torch.equal(torch.cat([mirrored(3, 5, 500, rank, 2) for rank in (0, 1)]), one)
    assert not torch.equal(one, mirrored(3, 6, 1000))


def test_generators_are_those_of_the_cpu() -> None:
    assert generator(1).device.type == "cpu"
