"""Runs one benchmark by name, or says which there are."""

import importlib
import pkgutil
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main(names: list[str]) -> int:
    known = sorted(
        module.name for module in pkgutil.iter_modules([str(HERE)]) if module.name != "__main__"
    )
    # What begins with a dash is for the benchmark itself.
    names = [name for name in names if not name.startswith("-")]
    if not names:
        print("benchmarks:", ", ".join(known) or "none yet")
        return 0
    for name in names:
        if name not in known:
            print(
                f"bench: there is no {name}; there is {', '.join(known) or 'none yet'}",
                file=sys.stderr,
            )
            return 2
        importlib.import_module(name).main()
    return 0


sys.exit(main(sys.argv[1:]))
