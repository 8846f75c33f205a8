"""What lets a discriminator see whether images vary: the minibatch's standard deviation."""

import torch
from torch import Tensor, nn


class MinibatchDeviation(nn.Module):
    """``[n, C, H, W]`` → ``[n, C + 1, H, W]``: one more channel, how much the images of a group differ.

    The standard deviation over a group of each feature at each place, averaged to one number a group (Karras et al., 2018,
    "Progressive Growing of GANs", section 3). Row i is in the group of the rows i + k n / group; where labels are given, rows in
    order of their labels make up the groups instead, so that a class whose images are all the same shows. Rows do meet here.
    """

    def __init__(self, group: int) -> None:
        """``group`` rows are compared, or as many as divide the rows that there are."""
        super().__init__()
        self.group = group

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """``features`` with the deviation behind them; ``labels`` int64 ``[n]``."""
        rows, channels, height, width = features.shape
        group = next(size for size in range(min(self.group, rows), 0, -1) if rows % size == 0)
        order = None if labels is None else labels.argsort(stable=True).view(-1, group).T.flatten()
        met = features if order is None else features[order]
        groups = met.float().reshape(group, rows // group, channels, height, width)
        # Not Tensor.var: over this axis it takes twenty times as long on a CPU.
        variance = (groups - groups.mean(0)).square().mean(0)
        deviation = (variance + TINY).sqrt().mean((1, 2, 3))
        of_rows = deviation.repeat(group).to(features.dtype)
        if order is not None:
            of_rows = of_rows[order.argsort()]
        channel = of_rows[:, None, None, None].expand(-1, 1, height, width)
        return torch.cat([features, channel], 1)


TINY = 1e-8
"""Added below the square root, whose slope at 0 is infinite: a group of equal images must not give NaN."""
