"""Replicas of which one sends or receives something wrong, when it is told to."""

import numpy as np
import tensorflow as tf

import distloss

SENT = ("dropped", "doubled", "stale")
RECEIVED = ("flipped", "swapped", "nan")
KINDS = SENT + RECEIVED


class Fault:
    """What goes wrong, on which replica: nothing, as long as `kind` is None."""

    def __init__(self):
        self.kind, self.at = None, 0
        self.before = {}  # what each replica has sent before, of the same shapes

    def sent(self, index, *arrays):
        key = (int(index), *(array.shape for array in arrays))
        before = self.before.get(key, arrays)
        self.before[key] = [np.array(array) for array in arrays]
        if self.kind not in SENT or index != self.at:
            return arrays
        if self.kind == "stale":
            return before
        return [
            array * array.dtype.type(2 * (self.kind == "doubled")) for array in arrays
        ]

    def received(self, index, *arrays):
        if self.kind not in RECEIVED or index != self.at:
            return arrays
        arrays = [np.array(array) for array in arrays]
        # of several, the first is what the sums are checked by
        one = arrays[min(1, len(arrays) - 1)].reshape(-1)
        assert one.size > 3, "nothing to hurt"
        if self.kind == "swapped":
            half = one.size // 2
            one[:] = np.concatenate([one[half:], one[:half]])
        elif self.kind == "nan":
            one[3] = np.nan
        else:  # the highest bit of the exponent
            at = int(np.argmax(np.abs(one)))
            unsigned = {2: np.uint16, 4: np.uint32, 8: np.uint64}[one.dtype.itemsize]
            one[at : at + 1].view(unsigned)[:] ^= unsigned(1 << (8 * one.itemsize - 2))
        return arrays


def faulty(replicas):
    """`replicas` that may be hurt, and the `Fault` that says how."""
    fault = Fault()

    class Faulty(type(replicas)):
        def sum_gradients(self, local, name="gradients"):
            index = self.index()
            sent = _changed(fault.sent, index, local)
            return _changed(fault.received, index, super().sum_gradients(sent, name))

    return Faulty(**vars(replicas)), fault


def _changed(change, index, tensors):
    flat = tf.nest.flatten(list(tensors), expand_composites=True)
    types = [tensor.dtype for tensor in flat]
    changed = tf.numpy_function(change, [index, *flat], types)
    for tensor, new in zip(flat, changed, strict=True):
        new.set_shape(tensor.shape)
    return tf.nest.pack_sequence_as(list(tensors), changed, expand_composites=True)


def outcome(run, values):
    """What `run` raised, and whether it changed what `values` gives."""
    before = values()
    try:
        run()
    except (distloss.CorruptedSumError, distloss.NonfiniteGradientError) as error:
        found = {
            "raised": type(error).__name__,
            "step": error.step,
            "replicas": error.replicas,
            "variables": error.variables,
            "text": str(error),
            "pairs": getattr(error, "pairs", ()),
        }
    else:
        found = {"raised": None}
    return {**found, "moved": before != values()}


def assert_traced_to_the_second(results, first_says):
    """What two processes say of a value that only the second has not finite."""
    for result in results:
        found = result["not_finite"]
        assert found["raised"] == "NonfiniteGradientError"
        assert (found["step"], found["replicas"]) == (2, [1])
        assert found["variables"] == ["w"]
        assert not found["moved"]
    assert "first in `w` (1 of 300 values)" in results[1]["not_finite"]["text"]
    assert first_says in results[0]["not_finite"]["text"]
