"""What a report says must hold for this model, and nothing in it contradicts."""

import dataclasses

import builds
import keras
import pytest
import test_diagnosis as measured
from builds import dense_model

from distloss._audit.checks.cause import Model
from distloss._audit.checks.compare import NotRun
from distloss._audit.checks.diagnosis import reviewed
from distloss._audit.checks.probes import empty
from distloss._audit.checks.table import CAUSES, remedy_for
from distloss._audit.child import described
from distloss._audit.child.built import Built
from distloss._audit.child.compiled import compiled
from distloss._audit.child.traced import in_a_line
from distloss._audit.report import wording
from distloss._audit.report.findings import Measured, Report
from distloss._errors import AuditError

CAN = Model()
LOOP = Model(is_keras=False)
REFUSED = Model(refusal="It has its own train_step.")
PREPARED = Model(prepared=True)
HOROVOD = Model(horovod=True)

NAME_PREPARE = [c for c in CAUSES if "distloss.prepare" in str(CAUSES[c].remedy)]


def finding(cause, replicas=2):
    return CAUSES[cause].finding(replicas, 1.0)


def report(findings, agrees):
    rows = ((11, 11),)
    probes = (Measured("even split", 2, rows, 1.0, 0.0, 0.0, agrees),)
    return Report("it", "strategy", (1, 2), tuple(findings), (), probes)


@pytest.mark.parametrize("cause", NAME_PREPARE)
def test_advice_is_what_this_model_can_take(cause):
    remedy = str(CAUSES[cause].remedy)
    assert "distloss.prepare(model" in remedy_for(remedy, CAN)
    assert "distloss.prepare" not in remedy_for(remedy, LOOP)
    refused = remedy_for(remedy, REFUSED)
    assert "distloss.prepare(model" not in refused
    assert "It has its own train_step." in refused
    prepared = remedy_for(remedy, PREPARED)
    assert "With distloss:" not in prepared
    assert "is prepared already" in prepared
    call = "distloss.prepare(model, replicas=distloss.HorovodReplicas()"
    assert call in remedy_for(remedy, HOROVOD)


def test_most_causes_name_prepare():
    assert len(NAME_PREPARE) > 8
    assert "mean-of-means" in NAME_PREPARE


class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


class OneReplica:
    rank = None

    def scope(self):
        return keras.name_scope("here")


def advice(model):
    """What a child of the audit says that has built `model`, on one replica."""
    return described.advice(Built(model, None, compiled(model)), OneReplica())


def test_the_child_says_whether_a_model_is_prepared_or_can_be(monkeypatch):
    model = dense_model()
    model.compile("sgd", "mse")
    assert Model(**advice(model)) == CAN
    assert Model(**advice(model)) == PREPARED  # it was tried
    assert Model(**advice(builds.Averaging())) == LOOP

    def refuses(_model, replicas=None):
        raise AuditError(f"It is refused on {replicas}.")

    monkeypatch.setattr(described, "prepare", refuses)
    other = dense_model()
    other.compile("sgd", "mse")
    assert advice(other)["refusal"] == "It is refused on None."


def test_a_mean_of_means_on_uneven_splits_only_says_so():
    found = measured.diagnosed(measured.world(measured.mean_of_means)).findings[0]
    assert found.cause == "mean-of-means"
    assert "only when a batch splits unevenly" in found.explanation
    assert "this batch of 23 rows does not split evenly over 4" in found.evidence[0]
    even = dataclasses.replace(measured.FACTS, rows=20)
    found = measured.diagnosed(measured.world(measured.mean_of_means), facts=even)
    evidence = found.findings[0].evidence[0]
    assert "this batch of 20 rows does split evenly over 4" in evidence


def test_a_mean_of_means_on_an_even_split_does_not_say_that_it_is_rare():
    found = measured.diagnosed(measured.world(measured.weighted_means)).findings[0]
    assert found.cause == "mean-of-means"
    assert "only" not in found.explanation


def test_no_finding_calls_the_gradient_right_that_another_calls_wrong():
    alone = reviewed([finding("report-only")])
    assert "gradient is right" in alone[0].explanation
    both = reviewed([finding("report-only"), finding("mean-of-means", 4)])
    assert "right" not in both[0].explanation
    assert [f.cause for f in both] == ["report-only", "mean-of-means"]


def test_the_headline_is_what_the_table_below_it_says():
    differ = report([finding("sum-of-means")], agrees=False)
    assert wording.headline(differ) == "Gradients differ: sum-of-means."
    same = report([finding("report-only")], agrees=True)
    assert "differ" not in wording.headline(same)
    assert "report-only" in wording.headline(same)
    drifting = report([finding("not-reduced")], agrees=True)
    assert "differ" in wording.headline(drifting)


def look_that_raises(name, *, raised=True):
    def look(count, probe):
        if count > 1 and probe.name in name:
            raise NotRun("ReluGrad [0,7,7,4] != [0,9,9,1].", raised=raised)
        return measured.world(measured.global_mean)(count, probe)

    return look


def test_a_step_that_raises_on_no_rows_is_found():
    found = measured.diagnosed(look_that_raises(["empty shard"]))
    assert [f.cause for f in found.findings] == ["empty-replica"]
    assert "ReluGrad [0,7,7,4]" in found.findings[0].evidence[0]
    assert "raises" in found.findings[0].explanation
    assert wording.number(found.findings[0].scale, 4) == "-"
    assert not found.skipped


@pytest.mark.parametrize(
    "look",
    [
        look_that_raises(["empty shard"], raised=False),
        look_that_raises(["empty shard", "one row"]),
    ],
)
def test_what_raises_for_another_reason_is_not_blamed_on_no_rows(look):
    found = measured.diagnosed(look)
    assert not found.findings
    assert [s.check for s in found.skipped] == ["empty on 4 replicas"]


@pytest.mark.parametrize("calls", [1, 3])
def test_a_row_moves_to_the_replica_without(calls):
    probe = empty(40, 4, calls)
    filled = probe.with_a_row_on_each()
    assert [sum(rows) for rows in filled.rows()] == [sum(r) for r in probe.rows()]
    assert all(rows[-1] == 1 and min(rows) > 0 for rows in filled.rows())
    assert empty(4, 4).with_a_row_on_each() is None


def test_rows_that_do_not_reach_each_replica_in_each_call_are_too_few():
    facts = dataclasses.replace(measured.FACTS, rows=8, calls=3)
    found = measured.diagnosed(measured.world(measured.global_mean), facts=facts)
    assert "each of 4 replicas in each of 3 calls" in found.failure
    assert not found.measured


def test_why_a_step_is_no_graph_is_its_cause():
    told = "\x1b[1mIt has no numpy().\x1b[0m\n\nArguments received by Dense:\n  • a=1"
    assert in_a_line(ValueError(told)) == "ValueError: It has no numpy()."
    assert in_a_line(KeyError()) == "KeyError: "
    autograph = 'in user code:\n\n    File "x.py"\n\n    TypeError: it was this'
    assert in_a_line(TypeError(autograph)) == "TypeError: it was this"
