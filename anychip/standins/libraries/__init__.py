"""One file, or a few, for each library that is stood in for."""
