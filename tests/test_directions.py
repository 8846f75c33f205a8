"""Directions in bundles: verified when read, added without a moment in which the bundle is broken."""

import io
import shutil
import zipfile

import msgspec
import numpy as np
import pytest

from ganserve.bundle import Limits, digest, read, write_manifest
from ganserve.directions import add_direction, write_vectors
from ganserve.errors import BundleError, SpecError
from ganserve.testing.echo import SIZE
from ganserve.testing.echo_style import DIRECTIONS, LAYERS, write_style_bundle

ONES = np.ones((LAYERS, SIZE), np.float32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_style_bundle(tmp_path_factory.mktemp("bundles") / "echo-style")


@pytest.fixture
def bundle(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "echo-style")


def refusal(folder, **limits):
    with pytest.raises(BundleError) as error:
        read(folder, Limits(**limits))
    assert str(folder) in str(error.value)
    return str(error.value)


def test_directions_are_read_with_their_vectors(whole):
    found = read(whole)
    assert list(found.manifest.directions) == list(DIRECTIONS)
    for name, vector in found.directions().items():
        assert found.manifest.directions[name].tensor == DIRECTIONS[name][0]
        np.testing.assert_array_equal(vector, DIRECTIONS[name][1])


def test_a_direction_is_added_and_all_else_stays(bundle):
    before = read(bundle)
    added = add_direction(before, "smiling", "w", 2 * ONES, "by hand")
    assert added.manifest.directions["smiling"].source == "by hand"
    np.testing.assert_array_equal(added.directions()["smiling"], 2 * ONES)
    np.testing.assert_array_equal(added.directions()["warmer"], DIRECTIONS["warmer"][1])
    for field in set(before.manifest.__struct_fields__) - {"directions", "files"}:
        assert getattr(added.manifest, field) == getattr(before.manifest, field)
    assert set(added.manifest.files) == {path.name for path in bundle.iterdir()} - {"manifest.json"}


def test_a_direction_is_replaced_only_when_told(bundle):
    found = read(bundle)
    with pytest.raises(BundleError, match=r"has a direction 'warmer'; choose another name, or replace it with --force"):
        add_direction(found, "warmer", "w", ONES, "")
    replaced = add_direction(found, "warmer", "w", 3 * ONES, "again", force=True)
    np.testing.assert_array_equal(replaced.directions()["warmer"], 3 * ONES)
    assert len(replaced.manifest.files) == len(found.manifest.files)
    assert set(replaced.manifest.files) == {path.name for path in bundle.iterdir()} - {"manifest.json"}
    same = add_direction(replaced, "warmer", "w", 3 * ONES, "and again", force=True)
    assert same.manifest.directions["warmer"].source == "and again"


def test_one_file_may_hold_several_and_stays_while_one_is_needed(bundle):
    found = read(bundle)
    write_vectors(bundle / "directions.npz", {"a": ONES, "b": 2 * ONES})
    first = found.manifest.directions["warmer"]
    both = {name: msgspec.structs.replace(first, file="directions.npz") for name in ("a", "b")}
    files = {**found.manifest.files, "directions.npz": digest(bundle / "directions.npz")}
    changed = msgspec.structs.replace(found.manifest, directions={**found.manifest.directions, **both}, files=files)
    write_manifest(bundle, changed)
    replaced = add_direction(read(bundle), "a", "w", 5 * ONES, "", force=True)
    np.testing.assert_array_equal(replaced.directions()["b"], 2 * ONES)
    add_direction(replaced, "b", "w", 5 * ONES, "", force=True)
    assert not (bundle / "directions.npz").exists()


def test_the_bundle_is_whole_at_every_moment(bundle, monkeypatch):
    """Whatever is written or removed, the folder can be read before and after it."""
    from pathlib import Path

    replace, unlink, seen = Path.replace, Path.unlink, []

    def watched(act):
        def acted(self, *arguments, **options):
            seen.append(read(bundle).manifest.directions["warmer"].source)
            done = act(self, *arguments, **options)
            seen.append(read(bundle).manifest.directions["warmer"].source)
            return done

        return acted

    monkeypatch.setattr(Path, "replace", watched(replace))
    monkeypatch.setattr(Path, "unlink", watched(unlink))
    add_direction(read(bundle), "warmer", "w", 7 * ONES, "new", force=True)
    assert seen == ["written by hand"] * 3 + ["new"] * 3


def test_what_is_no_name_or_moves_no_latent_is_refused_and_leaves_nothing(bundle):
    before = sorted(bundle.iterdir())
    found = read(bundle)
    with pytest.raises(SpecError, match=r"direction name '\.\./up' is not allowed"):
        add_direction(found, "../up", "w", ONES, "")
    for tensor, vector in (("image", ONES), ("w", ONES[0]), ("z", ONES), ("w", ONES * np.float32(np.nan))):
        with pytest.raises(
            BundleError, match=r"expected finite numbers for one of its latents: z float32\[4\], w float32"
        ):
            add_direction(found, "x", tensor, vector, "")
    assert sorted(bundle.iterdir()) == before
    assert set(read(bundle).manifest.directions) == set(DIRECTIONS)


def forge(bundle, **arrays):
    """Put other arrays into the file of ``warmer``, with its digest."""
    found = read(bundle)
    file = found.manifest.directions["warmer"].file
    np.savez(bundle / file, **arrays)
    files = {**found.manifest.files, file: digest(bundle / file)}
    write_manifest(bundle, msgspec.structs.replace(found.manifest, files=files))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "has nothing for direction warmer: expected float32[3, 4]"),
        ({"cooler": ONES}, "has nothing for direction warmer"),
        ({"warmer": ONES[0]}, "has float32[4] for direction warmer: expected float32[3, 4]"),
        ({"warmer": ONES.astype(np.float64)}, "has float64[3, 4] for direction warmer"),
        ({"warmer": ONES.astype(">f4")}, "has >f4[3, 4] for direction warmer"),
        ({"warmer": ONES * np.float32(np.nan)}, "has NaN or infinity in direction warmer: find it again"),
        ({"warmer": ONES * np.float32(np.inf)}, "has NaN or infinity in direction warmer"),
    ],
)
def test_a_vector_that_is_missing_or_wrong_is_refused(bundle, arrays, message):
    forge(bundle, **arrays)
    assert message in refusal(bundle)


def _elsewhere(manifest):
    """Let the latent w of one task be another tensor: of 4 numbers, without layers."""
    task = next(task for task in manifest["tasks"] if task["name"] == "refine")
    task["steps"][0]["outputs"] = {"next": "w"}
    task["steps"][1]["inputs"] = {"z": "w"}
    task["steps"][1]["outputs"] = {"w": "style"}
    task["steps"][2]["inputs"] = {"w": "style"}
    task["latents"] = [{"tensor": "w"}]


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def test_vectors_are_never_unpickled_and_read_within_bounds(bundle):
    forge(bundle, warmer=np.array([Trap()], object))
    assert "is not a plain npz archive: Object arrays cannot be loaded" in refusal(bundle)
    found = msgspec.json.decode((bundle / "manifest.json").read_bytes())
    file = found["directions"]["warmer"]["file"]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("warmer.npy", bytes(10_000_000))
    (bundle / file).write_bytes(packed.getvalue())
    found["files"][file] = msgspec.to_builtins(digest(bundle / file))
    (bundle / "manifest.json").write_bytes(msgspec.json.encode(found))
    assert "unpacks to 10000000 bytes, at most 1000000 are read" in refusal(bundle, directions_bytes=1_000_000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m["directions"]["warmer"].update(tensor="image"),
            "'warmer' moves 'image', which is no latent; there are z, w",
        ),
        (
            lambda m: m["directions"]["warmer"].update(file="other.npz"),
            "direction 'warmer' needs 'other.npz', which is not among",
        ),
        (lambda m: m["directions"].update({"../x": m["directions"]["warmer"]}), "Expected `str` matching regex"),
        (_elsewhere, "direction 'brighter' moves 'w', which has another shape in another task"),
        (lambda m: [task.update(latents=[]) for task in m["tasks"]], "which is no latent; there are none"),
        (lambda m: m["directions"]["warmer"].update(surprise=1), "unknown field `surprise`"),
    ],
)
def test_a_manifest_whose_directions_are_wrong_is_refused(bundle, change, message):
    manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes())
    change(manifest)
    (bundle / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    assert message in refusal(bundle)
