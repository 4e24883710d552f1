"""Calls operators of a library that was built for the CPU alone, as a user's program would."""

import json
import sys

import torch

library = torch.library.Library("mailroom", "DEF")
library.define("pooled(Tensor rows, int groups) -> Tensor")
library.define("both(Tensor rows) -> (Tensor, Tensor)")
library.define("opaque(Tensor rows) -> Tensor")
library.impl("pooled", lambda rows, groups: rows[:groups], "CPU")
library.impl("pooled", lambda rows, groups: rows.new_empty(groups, rows.shape[1]), "Meta")
library.impl("both", lambda rows: (rows.new_empty(2), rows.new_empty(3, dtype=torch.int64)), "Meta")
library.impl("opaque", lambda rows: rows, "CPU")

said = {}
rows = torch.ones(8, 4, device="cuda")
pooled = torch.ops.mailroom.pooled(rows, 2)
said["pooled"] = list(pooled.shape), pooled.device.type
said["both"] = [list(one.shape) for one in torch.ops.mailroom.both(rows)]
said["on the host"] = torch.ops.mailroom.pooled(torch.ones(3, 4), 1).tolist()
try:
    torch.ops.mailroom.opaque(rows)
except RuntimeError as error:
    said["opaque"] = str(error)
try:
    torch.ops.quantized.linear(rows, None, 1.0, 0)
except Exception as error:
    said["torch's own"] = type(error).__name__
with open(sys.argv[1], "w") as file:
    json.dump(said, file)
