"""Where steps begin and end: calls of modules, backward passes, optimizers; what repeats within them."""
