"""Training steps drawn from a seed: right ones of many kinds, and right ones made wrong.

draws     what chance decides
nets      networks with their batches, and losses that fit them
kinds     the table of kinds: prepared, by_hand, own_steps_drawn, on_horovod
mutants   one mistake planted in a right step, with the name of its cause
audited   one case audited, and what came of it
tables    what many cases came to
"""
