"""Edit segments: where a plan has them, what they cut, and which rows meet all the same."""

import numpy as np
import pytest

from ganserve.bundle import read
from ganserve.plugins import installed
from ganserve.serving.edits import EditSegment, strengths_name
from ganserve.serving.model import Settings, load_model
from ganserve.serving.plan import LoopSegment
from ganserve.serving.stage import Stage
from ganserve.testing.echo_style import DIRECTIONS, write_style_bundle


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    found = load_model(
        read(write_style_bundle(tmp_path_factory.mktemp("b") / "style")), installed(), Settings(threads=1)
    )
    yield found
    found.close()


def plan(model, *, task="sample", given=(), values=("seed", "label"), wanted=("image",), edited=()):
    return model.plan(model.task(task, "sample").task, frozenset(given), values, frozenset(wanted), frozenset(edited))


def shape(found):
    """The segments of a plan in short."""
    return [
        "+".join(run.loaded.graph.name for run in segment.runs)
        if isinstance(segment, Stage)
        else f"edit {segment.tensor}"
        if isinstance(segment, EditSegment)
        else f"loop {segment.graph.name}"
        for segment in found.segments
    ]


def test_without_edits_neighbours_share_a_stage(model):
    assert shape(plan(model)) == ["mapping+synthesis"]
    assert plan(model).edits == frozenset()


def test_an_edit_stands_between_what_makes_the_latent_and_what_reads_it(model):
    found = plan(model, edited=["w"])
    assert shape(found) == ["mapping", "edit w", "synthesis"]
    assert found.segments[0].gives == ("w",)
    assert found.engines == ("onnxruntime", "onnxruntime")
    assert found.edits == {"w"}


def test_what_is_drawn_or_given_is_edited_first(model):
    assert shape(plan(model, edited=["z", "w"])) == ["edit z", "mapping", "edit w", "synthesis"]
    assert shape(plan(model, given=["w"], values=(), edited=["w"])) == ["edit w", "synthesis"]
    assert shape(plan(model, task="refine", edited=["z"])) == ["edit z", "loop refine", "mapping+synthesis"]
    assert isinstance(plan(model, task="refine").segments[0], LoopSegment)


def test_a_latent_alone_needs_no_image(model):
    assert shape(plan(model, wanted=["w"], edited=["w"])) == ["mapping", "edit w"]
    assert shape(plan(model, given=["w"], values=(), wanted=["w"], edited=["w"])) == ["edit w"]
    assert shape(plan(model, given=["w"], values=(), wanted=["w"])) == []


def test_a_latent_that_is_not_on_the_way_is_not_edited(model):
    found = plan(model, given=["w"], values=(), edited=["z"])
    assert shape(found) == ["synthesis"]
    assert found.edits == frozenset()


def test_rows_meet_in_one_stage_whatever_brought_them_there(model):
    """An edited sample, one of a given latent that asks for it back, and an image of a walk."""
    edited = plan(model, edited=["w"]).segments[2]
    assert plan(model, given=["w"], values=()).segments[0] is edited
    assert plan(model, given=["w"], values=("noise_seed",), wanted=["image", "w"]).segments[0] is edited
    mapping = plan(model, wanted=["w"]).segments[0]
    assert plan(model, wanted=["w"], edited=["w", "z"]).segments[1] is mapping
    assert plan(model, edited=["w"]).segments[0] is mapping
    assert plan(model).segments[0] is not edited


def test_rows_are_moved_by_their_own_strengths_and_others_keep_every_bit(model):
    (segment,) = plan(model, given=["w"], values=(), wanted=["w"], edited=["w"]).segments
    assert segment.strengths == strengths_name("w")
    w = np.random.default_rng(1).standard_normal((4, 3, 4)).astype(np.float32)
    w[0, 0, 0] = -0.0
    before = w.copy()
    strengths = np.array([[0, 0], [1.5, 0], [0, -2], [1, 1]], np.float32)
    moved = segment.moved({"w": w, strengths_name("w"): strengths})["w"]
    one, two = (DIRECTIONS[name][1] for name in ("brighter", "warmer"))
    expected = [w[0], w[1] + np.float32(1.5) * one, w[2] + np.float32(-2) * two, w[3] + one + two]
    for row in range(4):
        assert moved[row].tobytes() == expected[row].tobytes()
        alone = segment.moved({"w": w[row : row + 1], strengths_name("w"): strengths[row : row + 1]})["w"]
        assert alone[0].tobytes() == moved[row].tobytes()
    assert w.tobytes() == before.tobytes(), "what was given is not written to"
