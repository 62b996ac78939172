"""A session keeps all notes, also those of what is looked at last."""

import dataclasses

import numpy as np
import test_diagnosis as measured

from distloss._audit.checks import diagnosis
from distloss._audit.checks.baseline import calibrated
from distloss._audit.checks.compare import NotRun
from distloss._audit.conversation import Children
from distloss._audit.session import Session
from distloss._audit.target import Target


def nobody(_words):
    """Is told what is being done."""


def notes(look, **facts):
    """What a session notes of a step on 1 and 2 replicas."""
    children = Children({1: None, 2: None}, nobody)
    session = Session(children, Target("it", {}, ""), 0.0, float64=False)
    known = dataclasses.replace(measured.FACTS, **facts)
    session._judge(calibrated(look, known, patient=lambda: True))
    return {note.check for note in session._skipped}


def sum_by_a_constant(parts, _n):
    return measured.GRADIENTS[np.concatenate(parts)].sum(0) / 100


def test_a_constant_that_may_be_a_number_of_rows_is_a_note():
    """It is one of what is looked at once N replicas are compared."""
    look = measured.world(sum_by_a_constant)
    assert notes(look, constants=(100,)) == {"short batches"}
    assert notes(look) == set()


def test_a_last_look_that_cannot_be_run_is_a_note():
    def look(count, probe):
        if probe.name == "short batch":
            raise NotRun("there was no time")
        return measured.world(sum_by_a_constant)(count, probe)

    assert notes(look, constants=(100,)) == {"short batch"}


def test_slices_that_cannot_be_told_apart_are_a_note_of_their_own():
    def look(count, probe):
        if probe.slices_added:
            raise NotRun("there was no time")
        seen = measured.world(measured.global_mean)(count, probe)
        return dataclasses.replace(seen, repeats=2)

    baseline = calibrated(look, measured.FACTS, patient=lambda: True)
    diagnosis.look_at_one_device(baseline)
    assert [note.check for note in baseline.skipped] == ["slices"]
