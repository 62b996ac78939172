"""Mutations of what a step does with its gradients."""

from _right_models import loops
from _right_models.by_hand import Loop, recipe
from _right_models.mutants import plants


class _Forgets(Loop):
    def train_step(self, batch):
        loss, gradients = self.gradients(batch)
        self.recipe.treat(gradients)
        return self.recipe.show(loss)


@plants("no-update")
def never_applies(draw, planted):
    """Takes gradients, and gives them to nobody."""
    right = recipe(draw, draw.of(*loops.TOTALS))
    model, batch = right.step()
    return (_Forgets(right) if planted else model), batch
