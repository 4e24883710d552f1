"""Files that a program writes while it runs on a virtual chip: checkpoints are put back, others are told."""
