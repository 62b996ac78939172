"""Models of Keras: how many axes they return, what their layers add, what compiles."""

from __future__ import annotations

from dataclasses import replace

from distloss._lint.facts import Added, Compiled, Returned, Where
from distloss._lint.interpreter.members import bound
from distloss._lint.libraries import losses
from distloss._lint.libraries.call import Call, Handler, rows_among
from distloss._lint.quantities import LOCAL, REPLICAS, SUM, Rows, Scalar
from distloss._lint.values import (
    UNKNOWN,
    Arguments,
    Const,
    Function,
    Instance,
    Items,
    Made,
    Mapping,
    Opaque,
    Partial,
    Ref,
    Value,
)

_STARTS = ("keras.Model", "keras.Sequential", "keras.applications.")
_LAYERS = ("keras.layers.", "tf_keras.layers.")
_KEEP_RANK = ("Dense", "Dropout", "Activation", "LayerNormalization", "ReLU")


def is_model(value: Value) -> bool:
    """Whether it is known to be a model of Keras 3."""
    if isinstance(value, Instance):
        return value.kind.inherits(*_STARTS)
    return isinstance(value, Made) and value.name.startswith(_STARTS)


def output(call: Call) -> Value:
    """What a model or layer makes of its inputs."""
    rows = rows_among(call.arguments.all)
    if not rows and is_model(call.receiver) and call.machine.where.replica:
        rows = [Rows()]  # a replica may draw its inputs itself
    if not rows:
        return UNKNOWN
    rank = call.receiver.state.get("rank") if isinstance(call.receiver, Made) else None
    part, gathered = any(r.part for r in rows), any(r.gathered for r in rows)
    return Rows(of_model=True, rank=rank, part=part, gathered=gathered)


def sequential(call: Call) -> Value:
    """`keras.Sequential(layers)`."""
    made = Made(call.name, call.arguments, call.place)
    layers = call.get("layers", 0)
    if isinstance(layers, Items):
        made.state["layers"] = layers.items
        made.state["rank"] = _rank(layers.items)
        _run_layers(call, made, layers.items)
    return made


def _rank(layers: tuple[Value, ...]) -> int | None:
    """How many axes the output has, if all layers are simple."""
    rank: int | None = None
    for layer in layers:
        name = layer.name.rpartition(".")[2] if isinstance(layer, Made) else ""
        if name in ("Input", "InputLayer"):
            shape = layer.arguments.get("shape", 0) if isinstance(layer, Made) else None
            rank = len(shape.items) + 1 if isinstance(shape, Items) else None
        elif name == "Embedding" and rank is not None:
            rank += 1
        elif name not in _KEEP_RANK:
            rank = None
    return rank


def _run_layers(call: Call, made: Made, layers: tuple[Value, ...]) -> None:
    """Calls the layers of the program, to hear what they add to the loss."""
    facts = call.machine.facts
    before = len(facts.added)
    where = replace(call.machine.where, replica=True)
    with call.machine.at(where):
        for layer in layers:
            if isinstance(layer, Instance) and layer.kind.inherits(*_LAYERS):
                arguments = Arguments((Rows(of_model=True),))
                call.machine.call(layer, arguments, call.place)
    made.state["added"] = added = tuple(facts.added[before:])
    sums = [one.value for one in added if is_sum(one.value)]
    if sums and isinstance(sums[0], Scalar):
        alone = len(sums) == len(added) and not any(map(_is_penalized, layers))
        made.state["adds"] = replace(sums[0], sure=alone)


def _is_penalized(layer: Value) -> bool:
    """Whether it may have losses besides what it adds itself."""
    if not isinstance(layer, (Made, Instance)):
        return True
    arguments = layer.arguments if isinstance(layer, Made) else None
    names = arguments.keywords if arguments is not None else {}
    starred = arguments is not None and arguments.starred
    return starred or any("regularizer" in name for name in names)


def is_sum(value: Value) -> bool:
    """Whether it is a sum over rows that nothing divides."""
    if not isinstance(value, Scalar) or value.numerator != SUM:
        return False
    return not value.power(LOCAL) and value.power(REPLICAS) <= 0


def _added(call: Call) -> Value:
    fact = Added(call.first, call.place, call.machine.where)
    call.machine.facts.added.append(fact)
    return UNKNOWN


# -- compile


def _compiled(call: Call) -> Value:
    model = call.receiver
    if not (is_model(model) or (isinstance(model, Opaque) and call.gives("optimizer"))):
        return UNKNOWN
    where = replace(call.machine.where, replica=True)
    made: tuple[Value, ...] = ()
    if where.engine:
        given = call.arguments.get("loss", 1)
        made = tuple(_losses(call, given, where)) if given is not None else ()
    fact = Compiled(model, call.arguments, made, call.place, call.machine.where)
    call.machine.facts.compiled.append(fact)
    if isinstance(model, Instance):
        model.attributes["optimizer"] = call.get("optimizer", 0)
        if where.engine:
            run_steps(call, model, where)
    return UNKNOWN


def _losses(call: Call, given: Value, where: Where) -> list[Value]:
    """What each loss that is compiled makes of labels and predictions."""
    if isinstance(given, (Items, Mapping)):
        items = given.items if isinstance(given, Items) else given.items.values()
        return [value for item in items for value in _losses(call, item, where)]
    labels_and_predictions = Arguments((Rows(), Rows(of_model=True)), place=call.place)
    with call.machine.at(where):
        return [_loss(call, given, labels_and_predictions)]


def _loss(call: Call, given: Value, arguments: Arguments) -> Value:
    if isinstance(given, Const):
        return Rows(of_model=True) if isinstance(given.value, str) else UNKNOWN
    if isinstance(given, Ref):
        is_function = given.name.startswith(losses.CLASSES)
        return Rows(of_model=True) if is_function else UNKNOWN
    if isinstance(given, (Function, Partial)):
        return call.machine.call(given, arguments, call.place)
    if isinstance(given, Instance):
        return _of_class(call, given, arguments)
    if isinstance(given, Made) and given.name.startswith("distloss."):
        shared = replace(call, receiver=given, arguments=arguments)
        return losses.shared_loss(shared)
    if isinstance(given, Made) and losses.is_loss(given.name):
        reduced = replace(call, receiver=given, arguments=arguments)
        return losses.of_object(reduced)
    return UNKNOWN


def _of_class(call: Call, given: Instance, arguments: Arguments) -> Value:
    method = given.kind.member("call")
    if not isinstance(method, Function):
        return UNKNOWN
    return call.machine.call(
        bound(call.machine, method, given, call.place), arguments, call.place
    )


_STEPS: dict[str, Arguments] = {
    "train_step": Arguments((Rows(),)),
    "compute_loss": Arguments(
        keywords={
            "x": Rows(),
            "y": Rows(),
            "y_pred": Rows(of_model=True),
            "sample_weight": Const(None),
        }
    ),
}


def run_steps(call: Call, model: Instance, where: Where) -> None:
    """Runs the methods of a model of the program that `fit` will run."""
    where = replace(where, model=model)
    for name, arguments in _STEPS.items():
        method = model.kind.member(name)
        if isinstance(method, Function):
            with call.machine.at(where):
                step = bound(call.machine, method, model, call.place)
                value = call.machine.call(step, arguments, call.place)
            fact = Returned(name, value, model, where)
            call.machine.facts.returned.append(fact)


METHODS: dict[str, Handler] = {"compile": _compiled, "add_loss": _added}
