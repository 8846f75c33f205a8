"""Do translated images look like those of the other domain? A classifier of the two domains, proven on real held-out images.

An unpaired translation has no target to be compared with. As in the FCN score of Isola et al. 2017 (section 4.1), a network that
was trained on real images judges generated ones: by Isola et al. and Zhu et al. 2017 its segmentation, here the domain itself.
"""

import math
from dataclasses import dataclass

import numpy as np

from ganserve.errors import DataError
from ganserve_trainers.metrics.blur import blur
from ganserve_trainers.metrics.classifier import Classifier, train_classifier

LEAST_ACCURACY = 0.95
"""A classifier that is right less often about the real held-out images of either domain is no judge of translated ones."""

ROWS = 64
STEPS = 400
"""Rows and least number of updates: a small data set is walked through more often."""

MOST_BLUR = 1 / 32
"""Standard deviation of the strongest blur that the judge must see through, as a share of the images' height."""


@dataclass(frozen=True)
class DomainJudge:
    """A classifier of domains a (0) and b (1), and its accuracy on real held-out images of each."""

    classifier: Classifier
    accuracy: tuple[float, float]

    @property
    def trusted(self) -> bool:
        """Whether the accuracy on both domains is at least :data:`LEAST_ACCURACY`."""
        return min(self.accuracy) >= LEAST_ACCURACY

    def taken_for(self, domain: int, images: np.ndarray) -> np.ndarray:
        """Which of ``images`` uint8 ``[n, H, W, C]`` look like ``domain`` (0 or 1): bool ``[n]``."""
        return np.asarray(self.classifier.judge(images).classes == domain)


def train_domain_judge(
    train: tuple[np.ndarray, np.ndarray], held_out: tuple[np.ndarray, np.ndarray], *, seed: int = 0
) -> DomainJudge:
    """Train on the images uint8 ``[n, H, W, C]`` of a and b in ``train``, test on those in ``held_out``.

    The larger domain is cut to the size of the smaller, so that neither is likelier beforehand. Every image is learned twice,
    once blurred at random by up to :data:`MOST_BLUR`: else sharpness alone could tell a domain with outlines from one without,
    and a translator that blurs would pass. :class:`DataError` where there are too few images to learn from.
    """
    if any(not len(images) for images in held_out):
        raise DataError(f"{len(held_out[0])} and {len(held_out[1])} held-out images: expected some of each domain")
    count = min(len(images) for images in train)
    random = np.random.default_rng(seed)
    images = np.concatenate([one[np.sort(random.permutation(len(one))[:count])] for one in train])
    images = np.concatenate([images, blur(images, random.uniform(0.0, MOST_BLUR * images.shape[1], len(images)))])
    updates = max(1, len(images) // ROWS)
    classifier = train_classifier(
        images,
        np.tile(np.repeat(np.arange(2), count), 2),
        epochs=max(4, math.ceil(STEPS / updates)),
        rows=ROWS,
        seed=seed,
    )
    a, b = (classifier.accuracy(images, np.full(len(images), domain)) for domain, images in enumerate(held_out))
    return DomainJudge(classifier, (a, b))
