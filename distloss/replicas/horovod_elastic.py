"""What an elastic job of Horovod keeps when processes come and go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distloss.replicas.horovod_calls import horovod

if TYPE_CHECKING:
    from distloss.replicas.horovod import HorovodReplicas


def state_of(
    replicas: HorovodReplicas, variables: Sequence[Any], values: dict[str, Any]
) -> Any:
    """A `horovod.common.elastic.State` of `variables` and `values`."""
    horovod()
    from horovod.common.elastic import ObjectState
    from horovod.tensorflow.functions import broadcast_object

    class State(ObjectState):
        def save(self) -> None:
            self._kept = [variable.numpy() for variable in variables]
            super().save()

        def restore(self) -> None:
            for variable, value in zip(variables, self._kept, strict=True):
                variable.assign(value)
            super().restore()

        def sync(self) -> None:
            replicas.broadcast(variables, name="elastic_state")
            super().sync()
            self.save()

    state = State(broadcast_object, replicas.rank, **values)
    state.save()
    return state
