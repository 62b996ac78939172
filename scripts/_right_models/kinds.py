"""All kinds, by name: importing a module of kinds puts them into the table."""

import keras

from _right_models import loops, on_horovod, prepared, prepared_layers, steps_of_models
from _right_models.draws import Draw
from _right_models.table import KINDS

MODULES = (prepared, prepared_layers, loops, steps_of_models, on_horovod)


def kind_of(seed):
    """The kind of this seed: each in turn, whichever module was imported first."""
    return KINDS[sorted(KINDS)[seed % len(KINDS)]]


def step_of(seed):
    """What `build` returns for this seed."""
    # Kinds set what is global; in one process they must not see each other's.
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(seed)
    return kind_of(seed).step(Draw(seed))
