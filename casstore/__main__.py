"""``python -m casstore``."""

from casstore.cli import main

if __name__ == "__main__":
    main()
