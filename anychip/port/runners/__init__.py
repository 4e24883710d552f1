"""Programs of their own that `anychip port --prove` starts: only these import torch, and nothing imports them."""
