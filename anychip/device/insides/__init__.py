"""torch's own insides that a virtual chip needs: its C++ hooks, tensors without memory, a few functions of machine code."""
