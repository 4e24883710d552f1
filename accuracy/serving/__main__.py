"""`python -m accuracy.serving --rows FILE.csv [--where 'chip=...'] --page OUT.md`: published runs that generate text against forecasts.

Columns: id, source_url, source_location, chip, chips, framework, model, params_b, dtype, tp, batch, concurrency, input_len, output_len,
metric (ttft_ms, tpot_ms, output_tokens_per_s), value, notes. Each run's two phases are recorded and priced: reading the prompt, and one token
more with half of the others written. What cannot be forecast is listed with the reason.
"""

import argparse
import json
import sys
from pathlib import Path

from accuracy.recorder import Recorder, cache_folder
from accuracy.rows import BadRows, read, where
from accuracy.runner import write
from accuracy.serving.page import missing, page, summaries, validated
from accuracy.serving.result import lines, once, result_of


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m accuracy.serving", description=__doc__)
    parser.add_argument("--rows", action="append", required=True, metavar="FILE.csv")
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="as of python -m accuracy")
    parser.add_argument("--json", metavar="OUT")
    parser.add_argument("--page", metavar="OUT.md")
    parser.add_argument("--validated", metavar="OUT.csv", help="errors by chip and source, for forecasts' error bars")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args(argv)
    try:
        runs = once(where(read(args.rows), args.where))
        if not runs:
            raise BadRows(f"no run of {', '.join(args.rows)} meets {' and '.join(args.where) or 'any condition'}")
    except (BadRows, OSError) as error:
        print(f"accuracy.serving: {error}", file=sys.stderr)
        return 2
    with Recorder(cache_folder(), args.jobs) as recorder:
        results = []
        for number, run in enumerate(runs, 1):
            results.append(result_of(run, recorder))
            print(f"\raccuracy.serving: {number}/{len(runs)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if args.json:
        write(
            Path(args.json),
            json.dumps({"schema": 1, "rows": [line for result in results for line in lines(result)]}, indent=1) + "\n",
        )
    if args.page:
        write(Path(args.page), page(results))
    if args.validated:
        write(Path(args.validated), validated(results))
    print("\n".join([*summaries(results, lambda r: r.chip), *missing(results)]))
    return 0 if any(result.forecast for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
