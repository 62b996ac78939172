"""The examination: what there is, whether it sums rightly, and how fast."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from distloss._doctor.known import Machine, known
from distloss._doctor.report import Names, Report
from distloss._package import versions


class Watchdog:
    """Ends this process where a sum does not end.

    A collective whose other side does not answer waits for ever, and no exception
    reaches the thread that waits.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._what = seconds, "starting"
        self._since = time.monotonic()
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()

    def say(self, what: str) -> None:
        """Notes what is done now."""
        self._what, self._since = what, time.monotonic()

    def _watch(self) -> None:
        while time.monotonic() - self._since < self._seconds:
            time.sleep(0.2)
        from distloss._audit import output

        output.say(
            f"distloss: {self._what}: no answer in {self._seconds:g} s. A device or a "
            "process does not take part, or is slower: see --timeout."
        )
        os._exit(2)


def examined(engine: str, replicas: int | None, timeout: float) -> Report:
    """Examines this machine, or this process's part of several.

    Raises:
      DistlossError: the replicas cannot be had.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    watchdog = Watchdog(timeout)
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # vectors of many lengths are meant to be
    from distloss._doctor import sums

    made = _engine(engine, replicas)
    found = [*sums.over_all(made, watchdog.say), *sums.over_pairs(made, watchdog.say)]
    found = sums.agreed(made, found)
    from distloss._doctor.speed import speeds

    timed = speeds(made, watchdog.say)
    watchdog.say("private names of Keras")
    found_versions = versions()
    machine = _machine(made, found_versions)
    return Report(
        engine,
        found_versions,
        _devices(made),
        tuple(found),
        tuple(timed),
        known(machine),
        _names() if machine.backend == "tensorflow" else (),
        # Each that saw something wrong tells it, too.
        made.here[0] == 0 or any(one.wrong for one in found),
    )


def _engine(engine: str, replicas: int | None) -> Any:
    from distloss._doctor.engines import HorovodEngine, StrategyEngine

    return HorovodEngine() if engine == "horovod" else StrategyEngine(replicas)


def _devices(engine: Any) -> tuple[str, ...]:
    names = dict(zip(engine.here, engine.names, strict=True))
    return tuple(names.get(n, "of another process") for n in range(engine.count))


def _machine(engine: Any, versions: dict[str, str]) -> Machine:
    import keras

    gpus = sum(name.startswith("GPU") for name in engine.names)
    return Machine(versions, gpus, engine.workers, keras.config.backend())


def _names() -> tuple[Names, ...]:
    """What is private of other packages, and whether they have it."""
    from distloss._keras.private_names.table import looked_for

    return tuple(
        Names(
            one.group.package.install,
            one.group.package.version(),
            one.group.package.range_of(None, None),
            one.group.package.is_tested,
            one.group.title,
            one.due,
            one.missing,
        )
        for one in looked_for()
    )
