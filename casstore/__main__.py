"""``python -m casstore``, and the command ``casstore``."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; an interrupt is one line, also while the command's modules are imported."""
    try:
        from casstore.cli.main import main as run

        run()
    except KeyboardInterrupt:
        print("casstore: interrupted", file=sys.stderr, flush=True)  # noqa: T201 (the command's own voice)
        sys.exit(130)


if __name__ == "__main__":
    main()
