"""Training steps drawn from a seed: right ones of many kinds, and mutants of them.

draws     what chance decides
nets      networks with their batches, and losses that fit them
by_hand   a loop in pieces
kinds     right steps, from prepared (and _layers), loops, steps_of_models, on_horovod
mutants   one mistake planted in a right step, from mistakes (and _compiled, _updates)
cases     the right step, or mutant, of a seed
audited   one case audited, and what came of it
tables    what many cases came to
"""
