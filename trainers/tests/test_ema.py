import torch
from torch import nn

from ganserve_trainers.ema import Averages


def test_after_its_half_life_an_average_has_gone_half_way() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 0.0)
    averages = Averages({"g": network}, {"g": 2.0})
    nn.init.constant_(network.weight, 1.0)
    averages.update(images=2000, seen=10_000_000)
    assert averages.networks["g"].weight.item() == 0.5
    averages.update(images=2000, seen=10_000_000)
    assert averages.networks["g"].weight.item() == 0.75


def test_a_young_average_follows_at_a_half_life_of_a_twentieth_of_the_images_seen() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 0.0)
    averages = Averages({"g": network}, {"g": 1000.0})
    nn.init.constant_(network.weight, 1.0)
    averages.update(images=50, seen=1000)
    assert averages.networks["g"].weight.item() == 0.5


def test_running_statistics_are_averaged_and_other_buffers_copied() -> None:
    network = nn.BatchNorm1d(1)
    averages = Averages({"g": network}, {"g": 1.0})
    network(torch.tensor([[10.0], [10.0]]))
    assert network.running_mean is not None
    averages.update(images=1000, seen=10_000_000)
    average = averages.networks["g"]
    assert average.running_mean.item() == network.running_mean.item() / 2
    assert average.num_batches_tracked.item() == 1


def test_an_average_is_in_eval_mode_and_takes_no_gradient() -> None:
    average = Averages({"g": nn.Linear(1, 1)}, {"g": 1.0}).networks["g"]
    assert not average.training
    assert not any(parameter.requires_grad for parameter in average.parameters())
