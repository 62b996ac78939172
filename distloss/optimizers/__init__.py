"""The Keras optimizer that reduces first: sum, then clip, then update."""

from distloss.optimizers.keras3 import DistributedOptimizer, undistributed

__all__ = ["DistributedOptimizer", "undistributed"]

DistributedOptimizer.__module__ = __name__  # saved under the public address
