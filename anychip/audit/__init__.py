"""How bound to CUDA is this code, and to which of its parts? Static: nothing is run, nothing is imported."""
