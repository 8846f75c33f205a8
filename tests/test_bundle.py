"""Bundles: a damaged or hostile one gets one clear error, whatever is wrong with it."""

import io
import json
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ganserve.bundle import MANIFEST, Bundle, Limits, digest, read, write_manifest
from ganserve.errors import BundleError


@pytest.fixture
def bundle(echo: Path, tmp_path: Path) -> Path:
    """A copy of the echo bundle, to be damaged."""
    return Path(shutil.copytree(echo, tmp_path / "echo"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest, as JSON."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def redigest(folder: Path, *names: str) -> None:
    """Make the manifest agree with files that have been changed: whoever forges a file forges its digest too."""

    def change(manifest: dict[str, Any]) -> None:
        for name in names:
            found = digest(folder / name)
            manifest["files"][name] = {"sha256": found.sha256, "size": found.size}

    rewrite(folder, change)


def forge(folder: Path, change: Callable[[onnx.ModelProto], Any], graph: str = "synthesis") -> None:
    """Change a graph's ONNX file, with its digest."""
    path = folder / f"{graph}.onnx"
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    redigest(folder, path.name)


def forge_golden(folder: Path, **changed: np.ndarray | None) -> None:
    """Change some golden arrays, named ``graph__tensor``; None removes one."""
    with np.load(folder / "golden.npz") as found:
        arrays = {name: found[name] for name in found.files}
    for name, array in changed.items():
        arrays.pop(name.replace("__", "."), None)
        if array is not None:
            arrays[name.replace("__", ".")] = array
    np.savez(folder / "golden.npz", **arrays)
    redigest(folder, "golden.npz")


def refusal(folder: Path, **limits: int) -> str:
    """The one error of a bundle that must not be read; it names the folder, so that the operator finds it."""
    with pytest.raises(BundleError) as error:
        read(folder, Limits(**limits))
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value).strip()
    return str(error.value)


def test_a_whole_bundle_is_read(echo: Path) -> None:
    found = read(echo)
    assert (found.manifest.name, found.manifest.version) == ("echo", 1)
    assert set(found.golden()) >= {"mapping.z", "synthesis.image", "settle.done"}


def test_a_manifest_is_written_and_read_again_unchanged(bundle: Path) -> None:
    manifest = read(bundle).manifest
    write_manifest(bundle, manifest)
    assert read(bundle).manifest == manifest
    assert [path.name for path in bundle.iterdir() if path.name.startswith(".")] == []


MANIFESTS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda m: m.update(format=2), "format 2 is not 1, the one read here; export it again"),
    (lambda m: m.pop("format"), "Object missing required field `format`"),
    (lambda m: m.update(format="1"), "Expected `int`, got `str`"),
    (lambda m: m.update(name="../evil"), r"Expected `str` matching regex .* at `\$.name`"),
    (lambda m: m.update(name="echo\n"), "bundle name 'echo\\\\n' is not allowed"),
    (lambda m: m.update(version=0), r"`int` >= 1 - at `\$.version`"),
    (lambda m: m.update(surprise=1), "unknown field `surprise`"),
    (lambda m: m.pop("licence"), "missing required field `licence`"),
    (lambda m: m["graphs"].clear(), "expected one or more graphs"),
    (lambda m: m["graphs"].append(m["graphs"][0]), "expected one or more graphs with different names"),
    (lambda m: m["tasks"][0]["steps"][0].update(graph="nope"), "runs graph 'nope'; there are alone, blend"),
    (lambda m: m["tasks"][0]["output"].update(tensor="nope"), "nothing makes its output 'nope'"),
    (lambda m: m["graphs"][0].update(file="../../etc/passwd"), "Expected `str` matching regex"),
    (lambda m: m["graphs"][0].update(file="/etc/passwd"), "Expected `str` matching regex"),
    (lambda m: m["graphs"][0].update(file="other.onnx"), "needs 'other.onnx', which is not among the bundle's files"),
    (lambda m: m["golden"].update(file="other.npz"), "golden needs 'other.npz', which is not among"),
    (lambda m: m["files"].update({"../x": m["files"]["golden.npz"]}), "Expected `str` matching regex"),
    (lambda m: m["files"].update({"..": m["files"]["golden.npz"]}), "Expected `str` matching regex"),
    (lambda m: m["files"]["golden.npz"].update(sha256="0" * 63), "Expected `str` matching regex"),
    (lambda m: m["files"]["golden.npz"].update(sha256="0" * 64), "sha256 .*, the manifest says 000.* was changed"),
    (lambda m: m["files"]["golden.npz"].update(size=1), "bytes, the manifest says 1; copy the whole folder"),
    (lambda m: m["files"]["golden.npz"].update(size=-1), "`int` >= 0"),
    (lambda m: m["files"].update(absent=m["files"]["golden.npz"]), "absent is missing or no plain file"),
    (lambda m: m["golden"].update(rows=0), "`int` >= 1"),
    (lambda m: m["golden"].update(rows=4), "expected 4 rows of"),
    (lambda m: m["golden"].update(noise={"nope": {}}), "golden noise is for graph 'nope'"),
    (lambda m: m["golden"].update(noise={"mapping": {"nope": {}}}), "graph 'mapping' has no input 'nope'"),
    (lambda m: m["golden"].update(noise={"mapping": {"label": {}}}), "'label' of 'mapping' must be float32"),
    (lambda m: m["graphs"][0].update(opset=21), "`int` <= 20"),
    (lambda m: m["graphs"][0].update(opset=19), "uses operators ai.onnx 20; the manifest says ai.onnx 19"),
    (lambda m: m["graphs"][0]["inputs"][0].update(name="zz"), "is read by no step|nothing makes"),
    (lambda m: m["graphs"][1]["outputs"][0].update(shape=[4, 4, 1]), r"has row shape \[4, 4, 3\], the manifest says"),
    (lambda m: m["graphs"][1]["outputs"][0].update(shape=[4, 4]), "has row shape"),
    (
        lambda m: m["graphs"][1]["outputs"][0].update(shape=["height", 4, 3]),
        r"has row shape \[4, 4, 3\], the manifest says \['height'",
    ),
    (lambda m: m["graphs"][4]["outputs"][1].update(dtype="uint8"), "must give 'done' as one bool a row"),
]


@pytest.mark.parametrize(("change", "message"), MANIFESTS)
def test_a_manifest_that_is_wrong_is_refused(
    bundle: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    rewrite(bundle, change)
    assert re.search(message, refusal(bundle))


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[]", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"format": 1, "config": ' + b'{"a":' * 100_000],
)
def test_a_manifest_that_is_no_manifest_is_refused(bundle: Path, text: bytes) -> None:
    (bundle / MANIFEST).write_bytes(text)
    assert "manifest.json is not a manifest" in refusal(bundle)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    assert "there is no manifest.json; a bundle is a folder that `ganserve export` wrote" in refusal(tmp_path)
    assert "there is no manifest.json" in refusal(tmp_path / "absent")


def test_limits_are_checked_before_anything_is_parsed(bundle: Path) -> None:
    assert "manifest.json has" in refusal(bundle, manifest_bytes=100)
    assert "bytes, at most 100 are read" in refusal(bundle, total_bytes=100)
    assert f"{len(read(bundle).manifest.files)} files, at most 3 are read" in refusal(bundle, files=3)
    assert "at most 10 are parsed; keep weights in an external file" in refusal(bundle, graph_bytes=10)
    assert "golden.npz has" in refusal(bundle, golden_bytes=100)
    assert read(bundle, Limits()).manifest.name == "echo"


@pytest.mark.parametrize("file", ["synthesis.onnx", "golden.npz"])
def test_a_file_that_is_damaged_missing_or_no_plain_file_is_refused(bundle: Path, tmp_path: Path, file: str) -> None:
    path = bundle / file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert f"{file} has sha256" in refusal(bundle)
    path.write_bytes(whole[:-1])
    assert f"{file} has {len(whole) - 1} bytes, the manifest says {len(whole)}" in refusal(bundle)
    path.unlink()
    assert f"{file} is missing or no plain file" in refusal(bundle)
    (tmp_path / "elsewhere").write_bytes(whole)
    path.symlink_to(tmp_path / "elsewhere")
    assert f"{file} is missing or no plain file" in refusal(bundle)
    path.unlink()
    path.mkdir()
    assert f"{file} is missing or no plain file" in refusal(bundle)


def _external(model: onnx.ModelProto, **entries: str) -> None:
    """Say that the weights "contrast" lie in another file."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "contrast")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "/etc/passwd"}, "lie in '/etc/passwd', which is not one of the bundle's files"),
        ({"location": "../weights.bin"}, "lie in '../weights.bin', which is not one"),
        ({"location": "undeclared.bin"}, "lie in 'undeclared.bin', which is not one"),
        ({}, "lie in '', which is not one"),
        ({"location": "golden.npz", "offset": "1000000", "length": "4"}, "lie outside 'golden.npz'"),
        ({"location": "golden.npz", "offset": "0", "length": "1000000"}, "lie outside 'golden.npz'"),
        ({"location": "golden.npz", "offset": "-4", "length": "4"}, "have no readable place"),
        ({"location": "golden.npz", "offset": "1_0", "length": "4"}, "have no readable place"),
        ({"location": "golden.npz", "offset": "x"}, "have no readable place"),
        ({"location": "golden.npz", "length": "9" * 5000}, "have no readable place"),
    ],
)
def test_weights_outside_the_bundle_are_refused(bundle: Path, entries: dict[str, str], message: str) -> None:
    forge(bundle, lambda model: _external(model, **entries))
    assert f"weights 'contrast' {message}" in refusal(bundle)


def test_weights_in_a_file_of_the_bundle_are_read(bundle: Path) -> None:
    (bundle / "weights.bin").write_bytes(np.array([0, 20], "<f4").tobytes())
    redigest(bundle, "weights.bin")
    forge(bundle, lambda model: _external(model, location="weights.bin", offset="4", length="4"))
    assert "weights.bin" in read(bundle).manifest.files


def test_weights_hidden_in_a_node_or_a_subgraph_are_found(bundle: Path) -> None:
    def hide(model: onnx.ModelProto) -> None:
        secret = numpy_helper.from_array(np.zeros(1, np.float32), "secret")
        secret.ClearField("raw_data")
        secret.data_location = TensorProto.EXTERNAL
        secret.external_data.add(key="location", value="/etc/passwd")
        inner = helper.make_graph([helper.make_node("Constant", [], ["o"], value=secret)], "inner", [], [])
        yes = numpy_helper.from_array(np.array(True), "yes")
        model.graph.initializer.append(yes)
        model.graph.node.append(helper.make_node("If", ["yes"], ["o"], then_branch=inner, else_branch=inner))

    forge(bundle, hide)
    assert "weights 'secret' lie in '/etc/passwd'" in refusal(bundle)


def _random_inside(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([helper.make_node("RandomNormal", [], ["o"], shape=[1])], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["byte"], ["o"], then_branch=inner, else_branch=inner))


def _retype(model: onnx.ModelProto, elem_type: int) -> None:
    model.graph.input[0].type.tensor_type.elem_type = elem_type


def _fix_rows(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


GRAPHS: list[tuple[Callable[[onnx.ModelProto], Any], str]] = [
    (lambda m: m.graph.node.append(helper.make_node("RandomNormal", [], ["r"], shape=[1])), r"\(RandomNormal\): noise"),
    (lambda m: m.graph.node.append(helper.make_node("RandomUniformLike", ["w"], ["r"])), r"\(RandomUniformLike\)"),
    (lambda m: m.graph.node.append(helper.make_node("Bernoulli", ["w"], ["r"])), r"\(Bernoulli\)"),
    (_random_inside, r"\(RandomNormal\): noise must be an input"),
    (lambda m: m.opset_import.append(helper.make_opsetid("com.evil", 1)), "uses operators ai.onnx 20, com.evil 1"),
    (lambda m: m.opset_import.pop(), "uses operators no opset; the manifest says"),
    (lambda m: m.graph.node.append(helper.make_node("Add", ["w", "w"], ["r"], domain="com.x")), "uses Add of 'com.x'"),
    (
        lambda m: m.functions.append(helper.make_function("f", "F", ["a"], ["b"], [], m.opset_import)),
        "defines functions or training of its own",
    ),
    (lambda m: m.training_info.add(), "defines functions or training of its own"),
    (lambda m: m.opset_import[0].MergeFrom(helper.make_opsetid("", 19)), "uses operators ai.onnx 19"),
    (lambda m: _retype(m, TensorProto.DOUBLE), "input 'w' is DOUBLE, the manifest says float32"),
    (lambda m: _retype(m, 77), "input 'w' is of the unknown type 77"),
    (lambda m: m.graph.input[0].type.ClearField("tensor_type"), "input 'w' is UNDEFINED"),
    (_fix_rows, "the first axis of input 'w' must be free, for it counts rows"),
    (lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"), "the first axis of input 'w' must be free"),
    (lambda m: setattr(m.graph.input[0], "name", "v"), r"has inputs \['v'\], the manifest says \['w'\]"),
    (lambda m: m.graph.output.append(m.graph.input[0]), r"has outputs \['image', 'w'\]"),
]


@pytest.mark.parametrize(("change", "message"), GRAPHS)
def test_a_graph_that_breaks_the_rules_is_refused(
    bundle: Path, change: Callable[[onnx.ModelProto], Any], message: str
) -> None:
    forge(bundle, change)
    assert re.search(message, refusal(bundle))


def test_a_file_that_is_no_graph_is_refused(bundle: Path) -> None:
    (bundle / "synthesis.onnx").write_bytes(b"\x80\x04cposix\nsystem\n")
    redigest(bundle, "synthesis.onnx")
    assert "synthesis.onnx is not an ONNX file" in refusal(bundle)


def test_golden_rows_that_are_missing_or_wrong_are_refused(bundle: Path) -> None:
    good = read(bundle).golden()["mapping.z"]
    for wrong, message in (
        (None, "has nothing for mapping.z: expected 3 rows of float32[4]"),
        (good[:2], "has float32[2, 4] for mapping.z"),
        (good[:, :3], "has float32[3, 3] for mapping.z"),
        (good.astype(np.float64), "has float64[3, 4] for mapping.z"),
        (good.astype(">f4"), "has >f4[3, 4] for mapping.z"),
        (np.float32(1), "has float32[] for mapping.z"),
        (np.full_like(good, np.nan), "has NaN or infinity in mapping.z: export the bundle again"),
    ):
        forge_golden(bundle, mapping__z=wrong)  # type: ignore[arg-type]
        assert message.replace("'", "") in refusal(bundle).replace("'", "")
    forge_golden(bundle, mapping__z=good)
    assert read(bundle)


class Trap:
    """Whatever unpickles one opens the trap."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("it was unpickled",))


def test_golden_rows_are_never_unpickled(bundle: Path) -> None:
    forge_golden(bundle, mapping__z=np.array([Trap()], object))
    assert "golden.npz is not a plain npz archive: Object arrays cannot be loaded" in refusal(bundle)
    member = io.BytesIO()
    np.save(member, np.array([Trap()], object), allow_pickle=True)
    (bundle / "golden.npz").write_bytes(member.getvalue())
    redigest(bundle, "golden.npz")
    assert "golden.npz is not a plain npz archive" in refusal(bundle)


def test_golden_rows_that_unpack_to_more_than_the_limit_are_refused_unread(bundle: Path) -> None:
    with zipfile.ZipFile(bundle / "golden.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mapping.z.npy", bytes(50_000_000))
    redigest(bundle, "golden.npz")
    assert "unpacks to 50000000 bytes, at most 1000000 are read" in refusal(bundle, golden_bytes=1_000_000)
    with zipfile.ZipFile(bundle / "golden.npz", "w") as archive:
        archive.writestr("mapping.z", b"no array")
    redigest(bundle, "golden.npz")
    assert "for mapping.z: expected 3 rows" in refusal(bundle)


FUZZ = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
EDITS = st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=4)


def _flip(data: bytes, edits: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for position, value in edits:
        changed[position % len(data)] = value
    return bytes(changed)


def _read_or_refuse(folder: Path) -> Bundle | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of doubled names
        try:
            return read(folder)
        except BundleError:
            return None


@FUZZ
@given(edits=EDITS)
def test_flipped_bytes_in_the_manifest_are_an_error_or_do_no_harm(bundle: Path, echo: Path, edits: Any) -> None:
    (bundle / MANIFEST).write_bytes(_flip((echo / MANIFEST).read_bytes(), edits))
    found = _read_or_refuse(bundle)
    assert found is None or set(found.manifest.files) <= {path.name for path in bundle.iterdir()}


@FUZZ
@given(edits=EDITS)
def test_flipped_bytes_in_a_graph_are_an_error_or_do_no_harm(bundle: Path, echo: Path, edits: Any) -> None:
    (bundle / "fragile.onnx").write_bytes(_flip((echo / "fragile.onnx").read_bytes(), edits))
    shutil.copy(echo / MANIFEST, bundle / MANIFEST)
    redigest(bundle, "fragile.onnx")
    _read_or_refuse(bundle)


@settings(FUZZ, max_examples=30)
@given(edits=EDITS)
def test_flipped_bytes_in_the_golden_rows_are_an_error_or_do_no_harm(bundle: Path, echo: Path, edits: Any) -> None:
    (bundle / "golden.npz").write_bytes(_flip((echo / "golden.npz").read_bytes(), edits))
    shutil.copy(echo / MANIFEST, bundle / MANIFEST)
    redigest(bundle, "golden.npz")
    _read_or_refuse(bundle)
