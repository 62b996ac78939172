"""Keras callbacks: for several processes, for TensorBoard, and that check steps."""

from distloss.callbacks.broadcast import BroadcastState, broadcast_state
from distloss.callbacks.drift import DriftGuard, checksums, first_difference
from distloss.callbacks.global_metrics import GlobalMetrics
from distloss.callbacks.state import elastic_state, state_of
from distloss.callbacks.step_check import StepCheck
from distloss.callbacks.step_summary import StepSummary

__all__ = [
    "BroadcastState",
    "DriftGuard",
    "GlobalMetrics",
    "StepCheck",
    "StepSummary",
    "broadcast_state",
    "checksums",
    "elastic_state",
    "first_difference",
    "state_of",
]

# Shown under the public address, whichever file they are written in.
for _class in (BroadcastState, DriftGuard, GlobalMetrics, StepCheck, StepSummary):
    _class.__module__ = __name__
