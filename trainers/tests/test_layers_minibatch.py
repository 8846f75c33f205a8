"""The minibatch's deviation: one number a group, computed by hand, and how it is found in the features."""

import pytest
import torch

from ganserve_trainers.layers.minibatch import MinibatchDeviation


@pytest.mark.parametrize(
    ("rows", "group", "used"), [(8, 4, 4), (4, 4, 4), (6, 4, 3), (5, 4, 1), (2, 4, 2), (1, 4, 1), (8, 1, 1)]
)
def test_the_deviation_of_each_group(rows: int, group: int, used: int) -> None:
    torch.manual_seed(0)
    features = torch.randn(rows, 3, 4, 4)
    made = MinibatchDeviation(group)(features)
    assert made.shape == (rows, 4, 4, 4)
    assert torch.equal(made[:, :3], features)
    for row in range(rows):
        members = features[row % (rows // used) :: rows // used]
        assert len(members) == used
        expected = members.std(0, unbiased=False).mean().item()
        assert made[row, 3].flatten().tolist() == pytest.approx([expected] * 16, rel=1e-3, abs=2e-4)


def test_equal_images_deviate_by_nothing_and_have_a_gradient() -> None:
    features = torch.ones(4, 2, 4, 4, requires_grad=True)
    made = MinibatchDeviation(4)(features)
    assert made[:, 2].abs().max() < 1e-3
    made.sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_more_variety_is_a_larger_number() -> None:
    torch.manual_seed(0)
    features = torch.randn(4, 8, 4, 4)
    small, large = (MinibatchDeviation(4)(features * scale)[:, 8].mean() for scale in (1, 3))
    assert (large / small).item() == pytest.approx(3, rel=1e-3)


def test_half_precision_goes_in_and_comes_out() -> None:
    features = torch.randn(4, 2, 4, 4).bfloat16()
    assert MinibatchDeviation(4)(features).dtype == torch.bfloat16


def test_with_labels_those_of_one_class_are_compared() -> None:
    """Class 0 has four images that are all the same, among others that differ: only its own rows say so."""
    torch.manual_seed(0)
    labels = torch.tensor([1, 0, 2, 0, 1, 0, 2, 0, 1, 2, 1, 2])
    features = torch.randn(12, 8, 2, 2)
    features[labels == 0] = features[1].clone()
    layer = MinibatchDeviation(4)
    deviation = layer(features, labels)[:, 8, 0, 0]
    assert (deviation[labels == 0] < 1e-3).all()
    for label in (1, 2):
        own = features[labels == label]
        expected = own.var(0, correction=0).sqrt().mean()
        torch.testing.assert_close(deviation[labels == label], expected.expand(4), rtol=1e-4, atol=1e-5)
    assert (layer(features)[:, 8, 0, 0] > 0.1).all()
    assert torch.equal(layer(features, labels)[:, :8], features)
