"""Lint uses no Keras, and its programs are not to be imported."""

import pytest

collect_ignore = ["programs"]


@pytest.fixture(autouse=True)
def clean_keras():
    """Clears nothing: a session of Keras takes longer to clear than a file to lint."""
