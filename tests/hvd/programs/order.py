"""Two processes take two losses in different orders."""

import horovod.tensorflow as hvd
import problem

from distloss import DistributedLoss, HorovodReplicas

hvd.init()
losses = [DistributedLoss(name, replicas=HorovodReplicas()) for name in ("mse", "mae")]
if hvd.rank() == 1:
    losses.reverse()
for loss in losses:
    loss(problem.Y, problem.Y + 1.0)
print("not noticed", flush=True)
