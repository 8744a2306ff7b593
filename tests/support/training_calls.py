"""Functions of the package that training itself calls."""

TRAINING = {
    *("supervised.<locals>.loss", "Hook.__call__", "_heard", "_loss"),
    *("_Mode.__torch_function__", "_Mode.__torch_function__.<locals>.<lambda>"),
    *("_of_module.<locals>.__call__", "_of_module.<locals>.__call__.<locals>.<lambda>"),
    "_of_module.<locals>.__call__.<locals>.<lambda>.<locals>.<lambda>",
    *("_of_loader.<locals>.__next__", "_of_loader.<locals>.__next__.<locals>.<lambda>"),
    "_follow_compiler.<locals>.without_recording",
    *("Looking.is_elsewhere", "Looking.recorded", "Looking.outside", "Looking._attempt"),
}
"""Functions of ours that training calls itself: the loss, a hook that asks torch if it is compiled,
`backward` while somebody listens, which asks torch whether it is inside of another one, and what
stands in the place of a function of torch, of a module or of a loader, and calls it."""
