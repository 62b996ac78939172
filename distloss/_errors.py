"""The errors that distloss raises: what was wanted, what came, what to do."""


class DistlossError(Exception):
    """The root of all errors raised by distloss.

    Each child also inherits the built-in that a Keras user would catch.
    """

    # AutoGraph raises an error from a traced function again as its own type only if
    # that type's constructor is this one; else the caller gets a StagingError.
    __init__ = Exception.__init__


class ArgumentError(DistlossError, ValueError):
    """An argument has a value that is not allowed."""


class ArgumentTypeError(DistlossError, TypeError):
    """An argument has a type that is not allowed."""


class ShapeError(DistlossError, ValueError):
    """Shapes do not fit each other."""


class ScalarLossError(DistlossError, ValueError):
    """A loss was reduced already, so its sum cannot be recovered."""


class NotDecomposableError(DistlossError, ValueError):
    """A loss is no sum over rows, so no scale makes its shares add up."""


class ContextError(DistlossError, RuntimeError):
    """A sum over replicas was asked for where replicas cannot be summed."""


class BackendError(DistlossError, ImportError):
    """Keras runs on a backend other than TensorFlow, or is too old.

    Or it, tf-keras or Horovod lacks a private name that is used.
    """


class UntestedVersionWarning(UserWarning):
    """A package is newer than the releases with which distloss was tested."""


class HorovodMissingError(DistlossError, ImportError):
    """Horovod is not installed."""


class DriftError(DistlossError, RuntimeError):
    """Replicas hold different weights."""


class CorruptedSumError(DistlossError, RuntimeError):
    """A sum over replicas is not the sum of what they sent.

    Attributes:
      step: the number of the update that was not made, from 1.
      replicas: the replicas whose part is wrong, or else those that received it wrong.
      variables: the names of those whose gradients are, or may be, affected.
      pairs: pairs of replicas whose sums were still wrong when they were tried after
        the step; empty where there was none, or where it could not be tried.
    """

    step: int = 0
    replicas: tuple[int, ...] = ()
    variables: tuple[str, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()


class NonfiniteGradientError(DistlossError, FloatingPointError):
    """A gradient that was summed over replicas is not finite.

    Attributes:
      step: the number of the update that was not made, from 1.
      replicas: those on which it was not finite before the sum.
      variables: the names of those whose gradients are not finite.
    """

    step: int = 0
    replicas: tuple[int, ...] = ()
    variables: tuple[str, ...] = ()


class GradientError(DistlossError, RuntimeError):
    """A step's gradient is not that of one device."""


class LintError(DistlossError, RuntimeError):
    """Source code could not be linted."""


class AuditError(DistlossError, RuntimeError):
    """A training step could not be checked."""
