"""The random parameters of ADA's transformations (Karras et al., 2020, "Training Generative Adversarial Networks with Limited
Data", figure 10: "apply … with probability p")."""

from dataclasses import dataclass

from torch import Tensor

from ganserve_trainers.recipe import Source


@dataclass(frozen=True)
class Draws:
    """Parameters for each row of a batch: float64, zero in the rows that skip the transformation.

    ``p`` in [0, 1] is the probability with which a row does not skip it. All parameters of one call are applied or skipped
    together. A transformation must therefore change nothing where its parameters are zero. ``source`` should draw on the CPU,
    where the small matrices are made.
    """

    source: Source
    p: float

    def normal(self, sigma: float, *shape: int) -> Tensor:
        """Numbers from N(0, sigma^2): [rows, *shape]. Their exponential is log-normal, and 1 where it is skipped."""
        return self._applied(self.source.normal(*shape) * sigma, self.p)

    def uniform(self, low: float, high: float, *shape: int, p: float | None = None) -> Tensor:
        """Numbers uniform in [low, high): [rows, *shape]; ``p`` where the probability is another."""
        return self._applied(self.source.uniform(*shape, low=low, high=high), self.p if p is None else p)

    def whole(self, count: int) -> Tensor:
        """Whole numbers, each of 0 … count - 1 equally likely: [rows]."""
        return self._applied(self.source.uniform(high=count).floor(), self.p)

    def _applied(self, parameters: Tensor, p: float) -> Tensor:
        applied = self.source.uniform() < p
        return parameters.double() * applied.view(-1, *[1] * (parameters.ndim - 1))
