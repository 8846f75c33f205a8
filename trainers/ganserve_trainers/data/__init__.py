"""Real images: readers of the layouts people have (:func:`open_images`) and data sets of one size (:func:`load`)."""

from ganserve_trainers.data.collection import ArrayImages, Collection
from ganserve_trainers.data.dataset import DataOptions, Dataset, Decoded, Description, Domains, Encode, Lazy, Walk, load
from ganserve_trainers.data.domains import Direction, Split
from ganserve_trainers.data.layouts import open_images

__all__ = [
    "ArrayImages",
    "Collection",
    "DataOptions",
    "Dataset",
    "Decoded",
    "Description",
    "Direction",
    "Domains",
    "Encode",
    "Lazy",
    "Split",
    "Walk",
    "load",
    "open_images",
]
