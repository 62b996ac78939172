"""The pytest plugin: a test that one global batch gives one update.

Loaded by pytest from the entry point; imports TensorFlow only when it is used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from distloss._errors import DistlossError

LOGICAL_CPUS = 4


def assert_same_gradient(
    build: Callable[[], Any] | str,
    replicas: Sequence[int] | None = None,
    *,
    args: Sequence[str] = (),
    rows: int | None = None,
) -> None:
    """Fails unless the gradient is the same however the batch is split.

    What `[tool.distloss]` of the project's pyproject.toml accepts is no failure.

    Args:
      build: as for `distloss.audit`: a function, its address, or a script.
      replicas: on how many replicas, one of them above 1; None for those of the
        project, or (1, 2, 4).
      args: the arguments of a script.
      rows: of the batch of a script, at most.

    Example:
      >>> from distloss.pytest_plugin import assert_same_gradient
      >>> def test_one_update():  # run by pytest
      ...     assert_same_gradient("training.py:build", replicas=(1, 2))
      >>> def test_the_script():
      ...     assert_same_gradient("train.py", args=["--epochs", "1"])
    """
    __tracebackhide__ = True
    from distloss._audit.report.render import rendered
    from distloss._audit.run import audit

    try:
        counts = None if replicas is None else tuple(replicas)
        report = audit(build, replicas=counts, args=args, rows=rows)
    except DistlossError as error:
        pytest.fail(f"The gradient could not be checked. {error}", pytrace=False)
    if not report.passes:
        pytest.fail(rendered(report, "plain"), pytrace=False)


@pytest.fixture(name="assert_same_gradient")
def _assert_same_gradient() -> Callable[..., None]:
    """The function of this name, for tests that do not import it."""
    return assert_same_gradient


@pytest.fixture
def virtual_replicas() -> Callable[[int], Any]:
    """From a number of replicas to a strategy over as many logical CPUs.

    TensorFlow fixes its devices when it first uses one, so the fixture must be used
    before, or the test run must configure logical CPUs itself; there are 4.
    """
    _configure()
    return _strategy


def _configure() -> None:
    import tensorflow as tf

    from distloss import _virtual_cpus

    cpu = tf.config.list_physical_devices("CPU")[0]
    if tf.config.get_logical_device_configuration(cpu) is not None:
        return
    try:
        _virtual_cpus.configure(LOGICAL_CPUS)
    except RuntimeError:
        pytest.fail(
            "virtual_replicas: TensorFlow has used its one CPU already. Configure "
            "logical CPUs in pytest_configure of conftest.py, before that.",
            pytrace=False,
        )


@functools.cache
def _strategy(count: int) -> Any:
    """One strategy for each number of replicas: several over a device may collide."""
    import tensorflow as tf

    there = tf.config.list_logical_devices("CPU")
    if len(there) < count:
        pytest.fail(
            f"virtual_replicas({count}): there are {len(there)} logical CPUs.",
            pytrace=False,
        )
    return tf.distribute.MirroredStrategy(
        [device.name for device in there[:count]],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
