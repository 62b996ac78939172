"""`tf.distribute`: strategies, replica functions, collectives, data sets."""

from __future__ import annotations

from dataclasses import replace

from distloss._lint.facts import Gradient, Where
from distloss._lint.interpreter.collections import item_of, rows_in
from distloss._lint.libraries.call import Call, Handler, word
from distloss._lint.quantities import (
    ALL,
    GLOBAL,
    LOCAL,
    REPLICAS,
    SUM,
    WEIGHT,
    Rows,
    Scalar,
    Step,
    Terms,
)
from distloss._lint.values import (
    UNKNOWN,
    Arguments,
    Every,
    Function,
    Items,
    Made,
    Mapping,
    Opaque,
    Place,
    Value,
)

PER_REPLICA = "tf.distribute.DistributedValues"  # what `strategy.run` returns
_START = "tensorflow.distribute."
_SEVERAL = (
    "MirroredStrategy",
    "MultiWorkerMirroredStrategy",
    "TPUStrategy",
    "CentralStorageStrategy",
    "CollectiveAllReduceStrategy",
)


def is_strategy(value: Value) -> bool:
    """Whether it is one, or is called one."""
    if isinstance(value, Made):
        return value.name.startswith(_START) and (
            value.name.endswith("Strategy") or value.name.endswith("get_strategy")
        )
    return isinstance(value, Opaque) and "strategy" in value.last.lower()


def where_of(strategy: Value, now: Where, *, replica: bool) -> Where:
    """The scope of a strategy, or a function that it runs.

    Args:
      strategy: whose.
      now: where the program is.
      replica: whether it is a function that runs on each replica.
    """
    if not isinstance(strategy, Made):
        return Where("strategy", replica)
    kind = strategy.name.rpartition(".")[2]
    if kind in ("OneDeviceStrategy", "ParameterServerStrategy") or _is_one(strategy):
        return Where()  # one replica, or updates that are not added up
    if kind == "get_strategy" and not now.engine and not now.unseen:
        return Where()  # the default of TensorFlow, outside of any scope
    return Where("strategy", replica, sure=kind in _SEVERAL)


def _is_one(strategy: Made) -> bool:
    devices = strategy.arguments.get("devices", 0)
    return isinstance(devices, Items) and len(devices.items) == 1


def _scope(call: Call) -> Value:
    where = where_of(call.receiver, call.machine.where, replica=False)
    return Made("scope", call.arguments, call.place, {"where": where})


def _run(call: Call) -> Value:
    """`strategy.run(function, args, kwargs)`."""
    function = call.get("fn", 0)
    args, kwargs = rows_in(call.get("args", 1)), rows_in(call.get("kwargs", 2))
    known = isinstance(args, Items)
    positional = args.items if isinstance(args, Items) else ()
    if not known and call.gives("args", 1) and isinstance(function, Function):
        positional = _rows_for(function)
    keywords = kwargs.items if isinstance(kwargs, Mapping) else {}
    arguments = Arguments(positional, keywords, call.place)
    with call.machine.at(where_of(call.receiver, call.machine.where, replica=True)):
        value = call.machine.call(function, arguments, call.place)
    return Made(PER_REPLICA, call.arguments, call.place, {"value": value})


def _rows_for(function: Function) -> tuple[Value, ...]:
    parameters = function.node.params
    count = len(parameters.posonly_params) + len(parameters.params)
    return (Rows(),) * (count - (function.owner is not None))


def _distributed(_call: Call) -> Value:
    return Every(Rows())


def _from_function(call: Call) -> Value:
    context = Made(f"{_START}InputContext", Arguments(), call.place)
    with call.machine.holding(in_dataset_function=True):
        arguments = Arguments((context,), place=call.place)
        call.machine.call(call.get("dataset_fn", 0), arguments, call.place)
    return Every(Rows())


STRATEGY: dict[str, Handler] = {
    "scope": _scope,
    "run": _run,
    "experimental_run_v2": _run,
    "experimental_distribute_dataset": _distributed,
    "distribute_datasets_from_function": _from_function,
    "experimental_distribute_datasets_from_function": _from_function,
    "reduce": lambda _call: UNKNOWN,
}


# -- in a replica function


def reduced(value: Value, how: str, place: Place) -> Value:
    """What an all-reduce makes of a value."""
    if isinstance(value, Items):
        return Items(tuple(reduced(item, how, place) for item in value.items))
    if isinstance(value, Every):
        return Every(reduced(value.item, how, place))
    if isinstance(value, Gradient):
        return replace(value, reduced=how)
    if isinstance(value, Terms):
        items = [_reduced_scalar(item, how, place) for item in value.items]
        return Terms(tuple(items), value.whole)
    return _reduced_scalar(value, how, place) if isinstance(value, Scalar) else UNKNOWN


_TOTAL = {LOCAL: GLOBAL, WEIGHT: GLOBAL, SUM: ALL}


def _reduced_scalar(value: Scalar, how: str, place: Place) -> Scalar:
    step = Step("all-reduced", place)
    if value.numerator is None:
        powers = tuple((_TOTAL.get(base, base), n) for base, n in value.powers)
    else:  # what divides the sum was there before it
        powers = tuple((ALL if base == SUM else base, n) for base, n in value.powers)
    whole = replace(value, powers=powers, steps=(*value.steps, step))
    return whole.times(REPLICAS, -1) if how == "mean" else whole  # type: ignore[return-value]


def _all_reduce(call: Call) -> Value:
    how = word(call.get("reduce_op", 0))
    if how not in ("sum", "mean"):
        return UNKNOWN
    return reduced(call.get("value", 1), how, call.place)


def gathered(value: Value) -> Value:
    """Rows of all replicas."""
    return replace(value, gathered=True) if isinstance(value, Rows) else UNKNOWN


CONTEXT: dict[str, Handler] = {
    "all_reduce": _all_reduce,
    "all_gather": lambda call: gathered(call.first),
}


def _input_context(call: Call) -> Value:
    return Opaque("per_replica_batch_size")


def replica_context(call: Call) -> Value:
    """The context of the replica that runs this."""
    return Made(f"{_START}ReplicaContext", call.arguments, call.place)


# -- data sets


def iterated(call: Call) -> Value:
    """`next(iter(dataset))`."""
    item = item_of(call.first)
    return Rows() if item is UNKNOWN and call.machine.where.replica else item


INPUT: dict[str, Handler] = {"get_per_replica_batch_size": _input_context}
EXTERNAL: dict[str, Handler] = {
    f"{_START}get_replica_context": replica_context,
}
