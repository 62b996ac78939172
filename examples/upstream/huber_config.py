"""The configuration of a Huber loss does not hold its delta, which saved models lose.

`Huber.get_config` of keras/src/losses/losses.py is that of `Loss`, which knows no
delta. `CategoricalCrossentropy.get_config` adds its own arguments. tf-keras holds delta
(argument tf_keras).
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/losses/losses.py
"""

import importlib
import sys

import numpy as np

keras = importlib.import_module((*sys.argv, "keras")[1])
loss = keras.losses.Huber(delta=2.0)
again = keras.losses.Huber.from_config(loss.get_config())
batch = np.array([[0.0]]), np.array([[9.0]])
expected, got = float(loss(*batch)), float(again(*batch))
print(f"expected a loss of {expected:g} for an error of 9, with delta=2")
print(f"got      a loss of {got:g} from a loss that was made from its configuration")
sys.exit(got != expected)
