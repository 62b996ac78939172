"""A test of one's own training step, by the pytest plugin of distloss.

pytest examples/test_one_update.py
"""

from audit_example import mended

from distloss.pytest_plugin import assert_same_gradient


def test_one_batch_gives_one_update():
    assert_same_gradient(mended, replicas=(1, 2))
