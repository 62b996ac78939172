"""What makes tests quick changes nothing that they look at."""

import pytest
import quick
import tensorflow as tf

pytestmark = pytest.mark.as_users_run


def dealt(strategy):
    """Whose iterator it was, and what each replica gets of batches of 8, 8 and 5."""
    data = tf.data.Dataset.range(21).batch(8)
    iterator = iter(strategy.experimental_distribute_dataset(data))

    @tf.function
    def step(iterator):
        return strategy.run(tf.identity, (next(iterator),))

    batches = [strategy.experimental_local_results(step(iterator)) for _ in range(3)]
    with pytest.raises(tf.errors.OutOfRangeError):
        step(iterator)
    [of_worker] = iterator._iterators
    rows = [[part.numpy().tolist() for part in batch] for batch in batches]
    return type(of_worker._iterator), rows


def test_replicas_get_what_tensorflow_deals(four):
    kind, wanted = dealt(four)
    assert wanted[2] == [[16, 17], [18, 19], [20], []]
    with quick.one_iterator():
        ours, got = dealt(four)
    assert got == wanted
    assert (kind is quick.InTurn, ours is quick.InTurn) == (False, True)


def grappler_is_off():
    options = tf.config.optimizer.get_experimental_options()
    return options.get("disable_meta_optimizer", False)


def test_grappler_comes_back():
    assert not grappler_is_off()
    with quick.graphs_as_traced():
        assert grappler_is_off()
    assert not grappler_is_off()


def lines_of_an_operation():
    function = tf.function(lambda: tf.constant(1.0))
    return function.get_concrete_function().graph.outputs[0].op.traceback


def test_operations_note_their_lines_again():
    name = lines_of_an_operation.__name__
    with quick.without_stacks():
        assert name not in str(lines_of_an_operation())
    assert name in str(lines_of_an_operation())
