"""The cases by one command: `python -m benchmarks.cases [--only P01,N04] [--out benchmarks/cases_MACHINE_DATE.md]`.

Prints id, what is expected, what was got, and whether that is right; status 1 where one is not. Two CPU cores need some
ten minutes.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.cases import commands, damage, faces, images, libraries, machine, meant, names, requests, tables
from benchmarks.cases.desk import Desk, Got, short
from benchmarks.measure import hardware, markdown

Case = Callable[[Desk], Got]
CASES: Sequence[Case] = [
    *(*names.CASES, *images.CASES, *damage.CASES, *faces.CASES, *tables.CASES, *libraries.CASES, *meant.CASES),
    *(*commands.CASES, *requests.CASES, *machine.CASES),
]
_SIGNS = {True: "ok", False: "**no**", None: "not tried"}


def tried(case: Case, desk: Desk) -> Got:
    """What a case found; what it stumbles over is no success."""
    try:
        return case(desk)
    except Exception as error:  # noqa: BLE001 (whatever it is, the other cases are tried too)
        return Got(False, short(f"{type(error).__name__}: {error}"))


def row(case: Case, got: Got) -> list[str]:
    """A line of the table."""
    expected = short(case.__doc__ or "", 200)
    return [case.__name__.upper(), expected, got.text, _SIGNS[got.ok]]


def main() -> None:
    """Tries the cases, prints the table, and writes it where asked."""
    arguments = _arguments()
    wanted = {name.strip().lower() for name in arguments.only.split(",") if name.strip()}
    if unknown := wanted - {case.__name__ for case in CASES}:
        raise SystemExit(f"no case {', '.join(sorted(unknown))}; there are {', '.join(c.__name__ for c in CASES)}")
    logging.disable(logging.WARNING)
    desk, rows, started = Desk(arguments.folder), [], time.monotonic()
    for case in CASES:
        if not wanted or case.__name__ in wanted:
            begin = time.monotonic()
            rows.append(row(case, tried(case, desk)))
            name, _, text, sign = rows[-1]
            print(f"{name} {sign} ({time.monotonic() - begin:.0f} s): {text}", flush=True)
    desk.close()
    failing = [name for name, _, _, sign in rows if sign == _SIGNS[False]]
    untried = [name for name, _, _, sign in rows if sign == _SIGNS[None]]
    minutes = (time.monotonic() - started) / 60
    head = f"# Cases\n\n{hardware('cpu')}, {os.cpu_count()} CPUs. {len(rows)} cases in {minutes:.0f} min, "
    head += f"{len(untried)} not tried: {', '.join(untried)}; " if untried else ""
    head += f"{len(failing)} not as expected: {', '.join(failing)}.\n\n" if failing else "none not as expected.\n\n"
    escaped = [[cell.replace("|", "\\|").replace("<", "\\<") for cell in line] for line in rows]
    text = head + markdown(["id", "expected", "got", ""], escaped)
    print(f"\n{text}")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)
    raise SystemExit(1 if failing else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="P01,N04", help="[default: all]")
    parser.add_argument("--folder", type=Path, default=Path("out/cases"), help="is emptied; holds what was made")
    parser.add_argument("--out", type=Path, metavar="FILE.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
