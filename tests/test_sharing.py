"""Rows of shared stages: what is equal and under way is made once, and nobody suffers from another's end."""

import math

import numpy as np
import pytest

from ganserve.errors import DeadlineExceeded, EngineError, QueueFull
from ganserve.serving.jobs import Batch, Slice
from ganserve.serving.sharing import Sharing, Wish
from ganserve.serving.stage import Stage


class Queue:
    """A queue that runs what the test tells it to."""

    def __init__(self, room=math.inf):
        self.jobs, self.room = [], room

    def submit(self, job, *, admitted=False):
        assert admitted
        self.jobs.append(job)

    def cancel(self, job):
        self.jobs.remove(job)

    def check_room(self, rows):
        if len(self.jobs) + rows > self.room:
            raise QueueFull("full", 1.0)

    def clock(self):
        return 10.0

    def run(self):
        """Make twice the input of every job that waits."""
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            batch = Batch(None, (Slice(job, 0, 1),), 1, 12.0, seconds=0.5)
            job.deliver(0, {"y": 2 * job.feeds["x"]}, batch)

    def fail(self, error):
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job.fail(error)


class Asker:
    """One request: its rows as they come."""

    def __init__(self, sharing, values, stage, **options):
        self.made, self.failed, self.parts = {}, [], []
        feeds = {"x": np.array(values, np.float32)[:, None]}
        self.wish = Wish(stage, feeds, len(values), self, self.deliver, self.failed.append, **options)
        sharing.submit(self.wish, admitted=False)

    def deliver(self, start, outputs, batch):
        rows = outputs["y"][:, 0].tolist()
        self.made |= {start + number: value for number, value in enumerate(rows)}
        self.parts.append((start, len(rows), batch.taken - self.wish.submitted, batch.seconds))


@pytest.fixture
def queue():
    return Queue()


@pytest.fixture
def sharing(queue):
    return Sharing(queue)


def stage():
    return Stage("model", "engine", 8, (), ("x",), ("y",), shared=True)


def test_equal_rows_of_a_request_and_of_others_run_once(queue, sharing):
    one = stage()
    first, second = Asker(sharing, [1, 1, 2, 1], one), Asker(sharing, [2, 3], one)
    assert sorted(job.feeds["x"].item() for job in queue.jobs) == [1, 2, 3]
    queue.run()
    assert first.made == {0: 2.0, 1: 2.0, 2: 4.0, 3: 2.0}
    assert second.made == {0: 4.0, 1: 6.0}
    assert (0, 2, 2.0, 0.5) in first.parts, "neighbours come together"
    later = Asker(sharing, [1], one)
    assert len(queue.jobs) == 1, "what has been delivered is made anew"
    queue.run()
    assert later.made == {0: 2.0}


def test_rows_of_other_stages_never_meet(queue, sharing):
    Asker(sharing, [1], stage())
    Asker(sharing, [1], stage())
    assert len(queue.jobs) == 2


def test_who_leads_may_go_while_others_wait(queue, sharing):
    one = stage()
    first, second = Asker(sharing, [1, 5], one), Asker(sharing, [1], one)
    sharing.cancel(first.wish)
    assert [job.feeds["x"].item() for job in queue.jobs] == [1]
    queue.run()
    assert (first.made, second.made) == ({}, {0: 2.0})


def test_what_nobody_waits_for_is_not_made(queue, sharing):
    one = stage()
    asked = [Asker(sharing, [1], one) for _ in range(3)]
    for asker in asked:
        sharing.cancel(asker.wish)
    assert not queue.jobs


def test_a_deadline_that_is_missed_is_missed_by_its_own_request_alone(queue, sharing):
    one = stage()
    first = Asker(sharing, [1], one, deadline=11.0)
    second, third = Asker(sharing, [1], one, deadline=20.0), Asker(sharing, [1], one)
    assert len(queue.jobs) == 1
    queue.fail(DeadlineExceeded("late"))
    assert (len(first.failed), second.failed, third.failed) == (1, [], [])
    queue.run()
    assert (first.made, second.made, third.made) == ({}, {0: 2.0}, {0: 2.0})


def test_who_is_in_more_of_a_hurry_leads_anew(queue, sharing):
    one = stage()
    Asker(sharing, [1], one)
    hurried = Asker(sharing, [1], one, deadline=11.0)
    assert [job.deadline for job in queue.jobs] == [math.inf, 11.0]
    queue.run()
    assert hurried.made == {0: 2.0}


def test_an_engine_that_fails_is_told_to_all_once(queue, sharing):
    one = stage()
    first, second = Asker(sharing, [1, 2, 1], one), Asker(sharing, [1], one)
    queue.fail(EngineError("broken"))
    assert [len(asker.failed) for asker in (first, second)] == [1, 1]


def test_room_is_asked_for_new_rows_only():
    queue = Queue(room=2)
    sharing, one = Sharing(queue), stage()
    Asker(sharing, [1, 2], one)
    Asker(sharing, [2, 1, 1], one)
    with pytest.raises(QueueFull):
        Asker(sharing, [3], one)
    queue.run()
    assert not queue.jobs
