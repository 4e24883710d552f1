"""`anychip` and `python -m anychip`: the command line, and what is said where Ctrl-C comes before it is there."""

import sys


def main() -> int:
    try:
        from anychip.cli import main as run
    except KeyboardInterrupt:
        print("anychip: interrupted.", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
