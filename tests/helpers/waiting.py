"""What operations of a graph wait for."""


def waits_for(graph, kinds, among):
    """Of each operation of `kinds`, the kinds `among` those before it, sorted."""
    return [
        sorted({before.type for before in _all_before(operation)} & set(among))
        for operation in graph.get_operations()
        if operation.type in kinds
    ]


def _all_before(operation):
    found, ahead = set(), [operation]
    while ahead:
        one = ahead.pop()
        before = {tensor.op for tensor in one.inputs} | set(one.control_inputs)
        ahead += before - found
        found |= before
    return found
