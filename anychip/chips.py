"""The `chips` command: which chips, clusters and links there are, what is known of each, and checks of their files."""

import argparse
import json
import sys

from anychip.whole import write

CHIPS = """\
Which chips are there, and what is known of each? Every figure has its kind, source and date; unknown is said.

examples:
  anychip chips                       all chips: id, aliases, vendor, platform, grade
  anychip chips show h100             one chip, every figure with its source
  anychip chips check my-chip.toml    all problems of a file at once, with their place
  anychip chips new --like h100 acme-one > acme-one.toml
  anychip chips clusters              all clusters, for --on CHIP:COUNT@CLUSTER; with an id, one of them
  anychip chips links nvlink4         one link, every figure with its source; without an id, all of them
"""


def add_parser(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", metavar="FILE", nargs="?", const="-", help="the list as JSON (schema 1); - for stdout")
    sub.add_argument("--markdown", action="store_true", help="the table of the README: peaks, memory, links, gaps")
    sub.set_defaults(run=chips)
    actions = sub.add_subparsers(dest="action", metavar="[show | check | schema | new | clusters | links]")

    def action(name: str, help_: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=help_, description=help_, allow_abbrev=False)
        made.set_defaults(command=made)
        return made

    show = action("show", "every figure of a chip, with kind, source and date")
    show.add_argument("chip", metavar="ID", help="id, alias or file of a chip")
    show.add_argument("--platform", action="store_true", help="also its platform: dtypes, collectives, attention")
    show.add_argument("--json", metavar="FILE", nargs="?", const="-", default=argparse.SUPPRESS, help="as JSON")
    show.add_argument("--markdown", action="store_true", default=argparse.SUPPRESS, help="as a Markdown page")
    show.set_defaults(run=chips_show)

    check = action("check", "all problems of chip files at once, with their place and what to write instead")
    check.add_argument("paths", nargs="*", metavar="PATH", help="files or folders (default: the whole standard)")
    check.add_argument("--fix", action="store_true", help="repair what can be repaired without knowing the chip")
    check.add_argument("--json", metavar="FILE", nargs="?", const="-", default=argparse.SUPPRESS, help="as JSON")
    check.set_defaults(run=chips_check)

    schema = action("schema", "the JSON Schema of chip files, for editors")
    schema.add_argument("kind", nargs="?", default="chips", choices=("chips", "platforms", "links", "clusters"),
                        help="of which files (default chips)")  # fmt: skip
    schema.set_defaults(run=chips_schema)

    new = action("new", "a chip file to start from, on stdout, with another chip's figures to be replaced")
    new.add_argument("id", metavar="NEW-ID", nargs="?", default="vendor-product", help="its id: vendor-product")
    new.add_argument("--like", metavar="ID", required=True, help="the chip whose platform and fields it takes")
    new.set_defaults(run=chips_new)

    for kind, run in (("clusters", chips_clusters), ("links", chips_links)):
        sheets = action(kind, f"the {kind} of the standard, or one of them with every figure")
        sheets.add_argument("id", nargs="?", metavar="ID", help="id, alias or file; all of them without")
        sheets.add_argument("--json", metavar="FILE", nargs="?", const="-", default=argparse.SUPPRESS, help="as JSON")
        sheets.set_defaults(run=run)


def chips(args: argparse.Namespace) -> int:
    from anychip import spec
    from anychip.report import chips as page

    found = spec.list_chips()
    if args.json:
        write(args.json, json.dumps(page.list_json([spec.load_chip(entry.file) for entry in found]), indent=2))
    elif args.markdown:
        from anychip.spec.pages import all_chips, chip_table

        print("\n".join(chip_table(all_chips())))
    else:
        print(page.list_text(found))
    return 0


def chips_show(args: argparse.Namespace) -> int:
    from anychip import spec
    from anychip.report import chips as page

    chip = spec.load_chip(args.chip)
    if args.json:
        write(args.json, json.dumps(page.chip_json(chip), indent=2))
    elif args.markdown:
        from anychip.spec.pages import chip_page

        print(chip_page(chip))
    else:
        print(page.chip_text(chip, asked=args.chip, platform=args.platform))
    return 0


def chips_check(args: argparse.Namespace) -> int:
    from anychip.report import chips as page
    from anychip.spec.checking import check, fix, lacking

    if args.fix:
        for path in fix(args.paths or None):
            print(f"fixed: {path}", file=sys.stderr)
    problems, without = check(args.paths or None), lacking(args.paths)
    if args.json:
        write(args.json, json.dumps(page.problems_json(problems, without), indent=2))
    else:
        print(page.problems_text(problems, without))
    return 1 if problems else 0


def chips_schema(args: argparse.Namespace) -> int:
    from anychip import spec

    print(json.dumps(spec.json_schema(args.kind), indent=2))
    return 0


def chips_new(args: argparse.Namespace) -> int:
    from datetime import date

    from anychip.spec.new import new_chip

    print(new_chip(args.id, like=args.like, date=date.today().isoformat()), end="")
    return 0


def chips_clusters(args: argparse.Namespace) -> int:
    from anychip import spec
    from anychip.report import networks as page

    found = [spec.load_cluster(args.id)] if args.id else spec.list_clusters()
    if args.json:
        write(args.json, json.dumps(page.sheets_json("clusters", found), indent=2))
    else:
        print(page.sheet_text(found[0], args.id) if args.id else page.clusters_text(found))
    return 0


def chips_links(args: argparse.Namespace) -> int:
    from anychip import spec
    from anychip.report import networks as page

    found = [spec.load_wire(args.id)] if args.id else spec.list_wires()
    if args.json:
        write(args.json, json.dumps(page.sheets_json("links", found), indent=2))
    else:
        print(page.sheet_text(found[0], args.id) if args.id else page.links_text(found))
    return 0
