"""Measure a starter bundle and write what it is worth into its folder: README.md, samples.png and neighbours.png.

    python bench/starter.py fashion --bundle BUNDLE --data FASHION_MNIST_FOLDER
    python bench/starter.py emoji --bundle BUNDLE --data IMAGE_FOLDER --features NSFWJS_PACKAGE

Images come from a real server of the bundle. Nothing is picked by hand: samples are those of
index 0, 1, 2, … of one seed. The exit status is 1 where a bundle misses a bar.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from page import training, write_text
from sampling import of_classes, sampled

from ganserve import bundle
from ganserve.bundle import Bundle
from ganserve.errors import DataError, GanserveError
from ganserve_trainers.data import DataOptions, load
from ganserve_trainers.metrics import frechet
from ganserve_trainers.metrics.blur import blur
from ganserve_trainers.metrics.classifier import train_classifier
from ganserve_trainers.metrics.diversity import diversity_ratio
from ganserve_trainers.metrics.inception import FEATURE_NAME, PACKAGE, VERSION, FeatureExtractor
from ganserve_trainers.metrics.neighbours import nearest
from ganserve_trainers.metrics.pictures import beside_neighbours, grid, named_rows, save_png, save_webp

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
FASHION_TEST_IMAGES = "t10k-images-idx3-ubyte.gz"

SMALLEST_SHARE = 0.04
"""Each class must be at least this share of the samples, or the generator counts as collapsed."""

SMALLEST_ACCURACY = 0.85
"""A classifier below this test accuracy is no judge of samples."""

EMOJI = "Google's Noto emoji as the npm package emoji-datasource-google 16.0.0 carries them (images Apache-2.0)"
"""What emoji are, where their folder does not say."""

CLASSES = """
Where no class is asked for, one is drawn as often as it comes in the data. Each class by its name, seed {seed}, indices 0 to {last}:

![samples of each class](classes.webp)
"""

GRID = 64
OF_CLASS = 8
SPREAD_OF = 16
"""Samples of a class that are compared with each other."""
PAIRS = 16
QUERIES = 500
"""Images whose nearest training image is searched for the median distance."""


@dataclass(frozen=True)
class Report:
    """What is said of a bundle: paragraphs on the data, a table of figures, further text, and whether every bar was cleared (None without one)."""

    data: str
    figures: Sequence[tuple[str, str]]
    notes: str
    passed: bool | None


@dataclass(frozen=True)
class Labelled:
    """Images uint8 ``[n, H, W, C]`` and labels int64 ``[n]``, or None where the data has none."""

    images: np.ndarray
    labels: np.ndarray | None


def read_images(path: Path, like: np.ndarray) -> Labelled:
    """The images at ``path`` in the size of ``like`` ``[m, H, W, C]``, prepared as in training."""
    import torch

    data = load(str(path), DataOptions(size=(like.shape[1], like.shape[2]), channels=like.shape[3]))
    whole = next(data.feed([torch.arange(len(data))]))
    labels = whole["label"].numpy() if "label" in whole else None
    return Labelled(whole["image"].permute(0, 2, 3, 1).contiguous().numpy(), labels)


def measure_fashion(samples: np.ndarray, train: Labelled, test: Labelled, seed: int) -> Report:
    """Class shares, confidence and distance to the training images of ``samples``, against Fashion-MNIST's two parts."""
    if train.labels is None or test.labels is None:
        raise DataError("the data lacks labels; expected the four idx files of Fashion-MNIST in one folder")
    images, test_images = train.images, test.images
    click.echo("training the classifier (about a minute) …")
    classifier = train_classifier(images, train.labels, seed=seed)
    accuracy = classifier.accuracy(test_images, test.labels)
    real, made = classifier.judge(test_images), classifier.judge(samples)
    shares = made.shares(len(FASHION_CLASSES))
    to_train = nearest(samples[:QUERIES], images).distance
    test_to_train = nearest(test_images[:QUERIES], images).distance
    rows = "\n".join(
        f"| {name} | {share:.1%} | {known:.1%} |"
        for name, share, known in zip(FASHION_CLASSES, shares, real.shares(len(FASHION_CLASSES)), strict=True)
    )
    return Report(
        data="Fashion-MNIST (Xiao, Rasul, Vollgraf 2017; MIT licence): 60,000 grey 28×28 training images, 10,000 test images.",
        figures=[
            (
                "Smallest class share among the samples (bar: 4 %)",
                f"{shares.min():.1%} ({FASHION_CLASSES[shares.argmin()]})",
            ),
            ("Classifier's accuracy on the real test images (bar: 85 %)", f"{accuracy:.1%}"),
            ("Classifier's mean confidence on samples", f"{made.confidence.mean():.3f}"),
            ("Classifier's mean confidence on real test images", f"{real.confidence.mean():.3f}"),
            (
                "Mean pixel distance between two samples / two real images",
                f"{diversity_ratio(samples, test_images):.3f}",
            ),
            ("Median distance of a sample to its nearest training image", grey_levels(to_train, samples)),
            ("Median distance of a real test image to its nearest training image", grey_levels(test_to_train, samples)),
        ],
        notes=f"Classes that a small CNN, trained on the real training images, sees in {len(samples):,} samples "
        f"and in the real test images:\n\n| class | samples | real |\n|---|---|---|\n{rows}\n",
        passed=bool(shares.min() >= SMALLEST_SHARE and accuracy >= SMALLEST_ACCURACY),
    )


def measure_emoji(
    samples: np.ndarray,
    real: np.ndarray,
    trained: int,
    features: Callable[[np.ndarray], np.ndarray],
    seed: int,
    about: str = EMOJI,
) -> Report:
    """Fréchet distances of ``samples`` and of blurred real images to real ones, beside the distance between two real sets.

    Of the real ones, which are ``about`` something, ``trained`` were the model's training data.
    """
    held_out = f" {trained:,} of them are the training data." if trained < len(real) else ""
    shuffled = real[np.random.default_rng(seed).permutation(len(real))]
    half = min(len(samples), len(real) // 2)
    one, two = shuffled[:half], shuffled[half : 2 * half]
    known, other = features(one), features(two)
    made, blurred = features(samples[:half]), features(blur(two, 1.0))
    reference = frechet.fit(known)

    def distance(rows: np.ndarray) -> str:
        return f"{frechet.distance(frechet.fit(rows), reference):.2f}"

    to_train = nearest(samples[:QUERIES], real).distance
    real_to_rest = nearest(shuffled[:QUERIES], shuffled, skip_self=True).distance
    return Report(
        data=f"{about.rstrip('.')}: {len(real):,} images of 64×64 pixels, flattened on white.{held_out}",
        figures=[
            (f"Fréchet distance of {half:,} samples to {half:,} real images", distance(made)),
            (f"Fréchet distance of {half:,} other real images to them", distance(other)),
            ("Fréchet distance of the other real images, blurred (Gaussian, σ = 1 pixel), to them", distance(blurred)),
            ("Mean feature distance between two samples / two real images", f"{diversity_ratio(made, known):.3f}"),
            ("Mean pixel distance between two samples / two real images", f"{diversity_ratio(samples, one):.3f}"),
            ("Median distance of a sample to its nearest real image", grey_levels(to_train, samples)),
            ("Median distance of a real image to its nearest other one", grey_levels(real_to_rest, samples)),
        ],
        notes=f'"Fréchet distance" is that in {FEATURE_NAME} ({PACKAGE} {VERSION}). It is not FID and '
        "compares with nothing but other figures made the same way, from as many images.\n",
        passed=None,
    )


def measure_classes(samples: Mapping[str, np.ndarray], real: Labelled) -> tuple[str, str]:
    """How much ``samples`` of each class differ, beside ``real`` images of it: a class whose samples are all the same has 0, one like the real 1."""
    if real.labels is None:
        raise DataError("the labelled images lack labels; expected a dataset.json beside them")
    ratios = {
        name: diversity_ratio(made, real.images[real.labels == index])
        for index, (name, made) in enumerate(samples.items())
    }
    least = min(ratios, key=lambda name: ratios[name])
    return (
        "Mean pixel distance between two samples of a class / two real images of it, median of classes (and lowest)",
        f"{np.median(list(ratios.values())):.3f} ({ratios[least]:.3f}, {least})",
    )


def training_images(folder: Path) -> int:
    """How many images the model of the bundle in ``folder`` was trained on."""
    return int(bundle.read(folder).manifest.provenance["data"]["images"])


def grey_levels(distances: np.ndarray, images: np.ndarray) -> str:
    """The median of L2 ``distances`` between such ``images``, as root mean square grey levels a pixel and channel."""
    return f"{np.median(distances) / np.sqrt(images[0].size):.1f} grey levels"


def remembered(extractor: FeatureExtractor, cache: Path | None) -> Callable[[np.ndarray], np.ndarray]:
    """``extractor`` with a progress bar, and with its answers kept in the folder ``cache`` by the images' digest."""

    def features(images: np.ndarray) -> np.ndarray:
        name = hashlib.sha256(f"{VERSION} {images.shape}".encode() + images.tobytes()).hexdigest()
        path = cache / f"{name}.npy" if cache else None
        if path and path.is_file():
            return np.asarray(np.load(path, allow_pickle=False))
        with click.progressbar(range(0, len(images), 16), label=f"features of {len(images):,} images") as starts:
            rows = np.concatenate([extractor(images[start : start + 16]) for start in starts])
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".part")
            with temporary.open("wb") as stream:
                np.save(stream, rows, allow_pickle=False)
            temporary.replace(path)
        return rows

    return features


def write_report(
    source: Bundle, report: Report, samples: np.ndarray, real: np.ndarray, seed: int, command: str
) -> None:
    """Write the pictures and README.md into the bundle's folder. README.md and pictures are no part of the verified bundle."""
    manifest, folder = source.manifest, source.folder
    scale = max(1, 64 // samples.shape[1])
    save_png(folder / "samples.png", grid(samples[:GRID], 8), scale)
    closest = nearest(samples[:PAIRS], real).index
    save_png(folder / "neighbours.png", beside_neighbours(samples[:PAIRS], real[closest]), scale)
    height, width, channels = samples.shape[1:]
    classes = of_classes(folder, seed, OF_CLASS)
    if classes:
        save_webp(folder / "classes.webp", named_rows(classes))
    text = f"""# {manifest.name}

{height}×{width} {"grey" if channels == 1 else "RGB"} images by `{manifest.family}`, preset `{manifest.preset}`, version {manifest.version}.

![64 samples](samples.png)

Seed {seed}, indices 0 to {GRID - 1}, none left out.
{CLASSES.format(seed=seed, last=OF_CLASS - 1) if classes else ""}
## Data

{report.data}

Licence of this bundle: {manifest.licence}. {manifest.attribution}

## Training

{training(manifest)}

## Figures

| | |
|---|---|
{"".join(f"| {name} | {value} |{chr(10)}" for name, value in report.figures)}
{report.notes}
Samples are those of seed {seed}, index 0 to {len(samples) - 1}. Made by
`python bench/starter.py {command} --seed {seed} --samples {len(samples)}`.

## Nearest real images

The first {PAIRS} samples in the first and third row; below each, the real image nearest to it (L2 in pixels).

![{PAIRS} samples and their nearest real images](neighbours.png)
"""
    write_text(folder / "README.md", text)


def publish(
    folder: Path, seed: int, count: int, command: str, measure: Callable[[np.ndarray], tuple[Report, np.ndarray]]
) -> None:
    """Sample ``count`` images of the bundle in ``folder``, ``measure`` them, write the report, and say how it went."""
    try:
        source = bundle.read(folder)
        samples = sampled(folder, seed, 0, count)
        report, real = measure(samples)
        write_report(source, report, samples, real, seed, command)
    except GanserveError as error:
        raise click.ClickException(str(error)) from error
    for name, value in report.figures:
        click.echo(f"{name}: {value}")
    verdict = {True: "pass", False: "FAIL", None: "written"}[report.passed]
    click.echo(f"{verdict}: {folder / 'README.md'}")
    if report.passed is False:
        raise SystemExit(1)


existing_folder = click.Path(exists=True, file_okay=False, path_type=Path)
bundle_option = click.option("--bundle", "folder", required=True, type=existing_folder, help="The exported bundle.")
seed_option = click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the samples, splits and classifier.",
)


@click.group()
def main() -> None:
    """Measure a starter bundle and write its README and pictures."""


@main.command()
@bundle_option
@seed_option
@click.option("--data", required=True, type=existing_folder, help="Folder of Fashion-MNIST's four idx files.")
@click.option(
    "--samples", type=click.IntRange(min=GRID), default=2000, show_default=True, help="Number of samples to classify."
)
def fashion(folder: Path, seed: int, data: Path, samples: int) -> None:
    """Classify samples by a CNN trained on the real images; each class must be at least 4 % of them."""

    def measure(images: np.ndarray) -> tuple[Report, np.ndarray]:
        train, test = read_images(data, images), read_images(data / FASHION_TEST_IMAGES, images)
        return measure_fashion(images, train, test, seed), train.images

    publish(folder, seed, samples, "fashion --bundle BUNDLE --data FASHION_MNIST_FOLDER", measure)


@main.command()
@bundle_option
@seed_option
@click.option("--data", required=True, type=existing_folder, help="Folder of the emoji images (img/google/64).")
@click.option("--features", required=True, type=existing_folder, help=f"Unpacked npm package {PACKAGE} {VERSION}.")
@click.option("--labelled", type=existing_folder, help="Folder of images with the labels that the model learned.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="Folder that keeps computed features.")
@click.option(
    "--samples",
    type=click.IntRange(min=GRID),
    default=1893,
    show_default=True,
    help="Images in each set: at most half of the real ones.",
)
def emoji(
    folder: Path, seed: int, data: Path, features: Path, labelled: Path | None, cache: Path | None, samples: int
) -> None:
    """Compare features of samples with those of real images, beside the difference between two sets of real ones."""

    def measure(images: np.ndarray) -> tuple[Report, np.ndarray]:
        real = read_images(data, images).images
        extract = remembered(FeatureExtractor(features), cache)
        said = data / "ATTRIBUTION.txt"
        about = said.read_text().strip() if said.exists() else EMOJI
        report = measure_emoji(images, real, training_images(folder), extract, seed, about)
        if labelled is not None:
            figure = measure_classes(of_classes(folder, seed, SPREAD_OF), read_images(labelled, images))
            report = replace(report, figures=[*report.figures, figure])
        return report, real

    command = "emoji --bundle BUNDLE --data IMAGE_FOLDER --features NSFWJS_PACKAGE"
    publish(folder, seed, samples, f"{command} --labelled LABELLED_FOLDER" if labelled else command, measure)


if __name__ == "__main__":
    main()
