"""Variables are dealt to two optimizers by name, and some names match neither.

Keras 2 called a weight "dense/kernel:0", Keras 3 calls it "kernel". What looks for
"kernel:0" finds none; biases train, kernels do not.

Related: https://discuss.pytorch.org/t/84911 (a filter by name that froze most layers),
https://github.com/huggingface/accelerate/issues/2665 (an optimizer with the wrong
parameters); both looked into by TrainCheck, https://github.com/OrderLab/TrainCheck

Symptom: the loss falls a little, then stays.
"""

from _common import Loop, regression_rows, row_losses, sgd
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="F9",
    title="variables whose names match no optimizer",
    reported=("huggingface/accelerate#2665",),
    cause="no-update",
    engine="strategy",
    mended_by="names as Keras 3 has them",
)


class TwoOptimizers(Loop):
    """Kernels decay, biases do not."""

    def __init__(self, is_kernel):
        super().__init__(loss_of)
        self.is_kernel = is_kernel
        self.decaying = sgd(weight_decay=0.01)
        self.decaying.build(self.trainable_variables)

    def train_step(self, batch):
        """One update."""
        loss, gradients = self.gradients(batch)
        pairs = list(zip(gradients, self.trainable_variables, strict=True))
        kernels = [pair for pair in pairs if self.is_kernel(pair[1].name)]
        biases = [pair for pair in pairs if pair[1].name.startswith("bias")]
        if kernels:
            self.decaying.apply_gradients(kernels)
        self.optimizer.apply_gradients(biases)
        return loss


def loss_of(model, x, y):
    return distloss.mean_share(row_losses(model, x, y))


def wrong():
    return TwoOptimizers(lambda name: "kernel:0" in name), regression_rows()


def mended():
    return TwoOptimizers(lambda name: name == "kernel"), regression_rows()
