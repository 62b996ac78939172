"""Everything that watches or changes a step, put into TensorFlow and Keras once."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from distloss._audit.child import tf_keras_patches
from distloss._audit.child.ablation import Ablation
from distloss._audit.child.determinism import Determinism, seed
from distloss._audit.child.lint import Calls
from distloss._audit.child.places import Places
from distloss._audit.child.recorder import Recorder
from distloss._audit.child.slices import Slices
from distloss._audit.child.unbuilt import Unbuilt
from distloss._keras.private_names.of_audit import check_names


@dataclass(frozen=True)
class Instruments:
    """What watches a step, and what changes it."""

    slices: Slices
    ablation: Ablation
    determinism: Determinism
    recorder: Recorder
    lint: Calls = field(default_factory=Calls)
    unbuilt: Unbuilt = field(default_factory=Unbuilt)
    places: Places = field(default_factory=Places)

    def restart(self) -> None:
        """At the beginning of a step on one replica."""
        for one in (self.determinism, self.ablation, self.recorder):
            one.restart()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """In here a step is traced, or runs."""
        self.ablation.active = True
        try:
            yield
        finally:
            self.ablation.active = False

    def patch_tf_keras(self) -> None:
        """The same for tf-keras, if the user has loaded it."""
        if "tf_keras" in sys.modules:
            tf_keras_patches.patch(self.ablation, self.determinism)

    def own_variables(self) -> set[int]:
        """The ids of the variables that are ours."""
        return self.recorder.own_variables() | self.ablation.own_variables()


def installed() -> Instruments:
    """All of them, at work from now on."""
    check_names()
    slices = Slices()
    ablation, recorder = Ablation(slices), Recorder(slices)
    found = Instruments(slices, ablation, Determinism(ablation), recorder)
    ablation.on_gradients = recorder.record_tape
    for one in (ablation, found.determinism, found.lint, found.places):
        one.patch()
    seed()  # for what is drawn while files are imported
    return found
