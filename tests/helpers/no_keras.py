"""For tests that use no Keras, in the place of the fixture of the same name."""

import pytest


@pytest.fixture(autouse=True)
def clean_keras():
    """Clears nothing: to clear a session of Keras takes longer than to lint a file."""
