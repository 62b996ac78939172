"""Replicas that note what they sum."""

import distloss


def counted_replicas():
    """Those of the current strategy, and a list of the names of what they sum."""
    calls = []

    class Counted(distloss.StrategyReplicas):
        def sum(self, local, name="sum"):
            calls.append(name)
            return super().sum(local, name)

        def sum_gradients(self, local, name="gradients"):
            calls.append("gradients")
            return super().sum_gradients(local, name)

    return Counted(), calls
