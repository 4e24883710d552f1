"""Code moved from CUDA to portable PyTorch, or to one chip's plug-in.

    anychip.port("src/", out="ported/")                       # the same as `anychip port src/ --out ported/`
    anychip.port("src/", on="ascend-910b", diff=True).diffs   # for one chip's plug-in, as a patch per file

Data flow: text -> Module (tree and names) -> rules -> changes by byte span -> text. `rules/` has one file per rule, each with
the code that it edits and the code that it must not touch; `portable.csv` says what each torch.cuda symbol becomes.
"""
