"""The optimizer was built with the variables of a copy of the model.

`optimizer.apply(gradients)` without variables updates those that it was built with:
here the model as it was before it was cloned. The gradients are of the clone.

Reported: https://github.com/huggingface/accelerate/issues/2665 (an optimizer that holds
the parameters from before the model was wrapped); found by TrainCheck,
https://github.com/OrderLab/TrainCheck

Symptom: the loss stays where it is.
"""

from _common import Loop, keras, regression_rows, row_losses, sgd, small_model
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="F7",
    title="an optimizer that holds the variables of a copy",
    reported=("huggingface/accelerate#2665",),
    cause="no-update",
    engine="strategy",
    mended_by="build it with the variables of the model that is trained",
)


class Applying(Loop):
    """Applies gradients to the variables that the optimizer knows."""

    def train_step(self, batch):
        """One update."""
        loss, gradients = self.gradients(batch)
        self.optimizer.apply(gradients)
        return loss


def loss_of(model, x, y):
    return distloss.mean_share(row_losses(model, x, y))


def trained(of_the_clone):
    first = small_model()
    clone = keras.models.clone_model(first)
    clone.set_weights(first.get_weights())
    optimizer = sgd()
    optimizer.build((clone if of_the_clone else first).trainable_variables)
    return Applying(loss_of, clone, optimizer)


def wrong():
    return trained(of_the_clone=False), regression_rows()


def mended():
    return trained(of_the_clone=True), regression_rows()
