"""What the interpreter saw a program do, for the rules to judge."""

from __future__ import annotations

from dataclasses import dataclass, field

from distloss._lint.values import Arguments, Class, Place, Value


@dataclass(frozen=True)
class Where:
    """Where the program is.

    Attributes:
      engine: who adds up gradients: `"strategy"`, `"horovod"`, or "" for nobody.
      replica: whether this code runs on each replica.
      sure: whether there may be several replicas, or it cannot be seen.
      unseen: whether nobody in the program calls what is executed.
      model: of which this is the step of its own, or None.
    """

    engine: str = ""
    replica: bool = False
    sure: bool = False
    unseen: bool = False
    model: Value | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Gradient(Value):
    """The gradients of a loss.

    Attributes:
      loss: what they are the gradients of, times what they were multiplied by.
      place: where they were computed.
      reduced: how they went over replicas already: `"sum"`, `"mean"`, or "".
      clipped: where they were clipped before that, or None.
      accumulated: whether those of several micro-batches were added up.
    """

    loss: Value
    place: Place
    reduced: str = ""
    clipped: Place | None = None
    accumulated: bool = False


@dataclass(frozen=True)
class Applied:
    """An optimizer got gradients.

    Attributes:
      gradient: these.
      optimizer: that.
      place: of the call.
      where: in the program.
      sums: whether the optimizer adds them up over replicas.
    """

    gradient: Gradient
    optimizer: Value
    place: Place
    where: Where
    sums: bool = True


@dataclass(frozen=True)
class Compiled:
    """A model was compiled.

    Attributes:
      model: that.
      arguments: of `compile`.
      losses: what its losses make of labels and predictions.
      place: of the call.
      where: in the program.
    """

    model: Value
    arguments: Arguments
    losses: tuple[Value, ...]
    place: Place
    where: Where


@dataclass(frozen=True)
class Returned:
    """What `compute_loss` or `train_step` of a model returned.

    Attributes:
      method: its name.
      value: what it returned.
      model: of which.
      where: in the program.
    """

    method: str
    value: Value
    model: Value
    where: Where


@dataclass(frozen=True)
class Added:
    """A layer called `add_loss`."""

    value: Value
    place: Place
    where: Where


@dataclass(frozen=True)
class Called:
    """Something of another package was called.

    Attributes:
      name: its canonical address; methods as `address.method`.
      arguments: what it got.
      result: what it returned.
      place: of the call.
      where: in the program.
      of: where the object was made that is called.
    """

    name: str
    arguments: Arguments
    result: Value
    place: Place
    where: Where
    of: Place | None = None


@dataclass(frozen=True)
class Batched:
    """A data set was cut into batches, for one replica or for all.

    Attributes:
      size: of a batch.
      place: of the call.
      per_replica: whether it is in a function that makes each replica's batches.
      drops: whether short batches are dropped.
    """

    size: Value
    place: Place
    per_replica: bool
    drops: bool


@dataclass
class Facts:
    """All that was seen.

    Attributes:
      applied: updates.
      compiled: models.
      returned: losses and logs that steps returned.
      added: losses that layers added.
      called: calls of other packages.
      batched: data sets.
      made: classes of the program of which there are objects.
      horovod: whether the program uses Horovod.
    """

    applied: list[Applied] = field(default_factory=list)
    compiled: list[Compiled] = field(default_factory=list)
    returned: list[Returned] = field(default_factory=list)
    added: list[Added] = field(default_factory=list)
    called: list[Called] = field(default_factory=list)
    batched: list[Batched] = field(default_factory=list)
    made: list[Class] = field(default_factory=list)
    horovod: bool = False
