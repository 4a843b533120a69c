"""``python -m casstore``."""

from casstore.cli.main import main

if __name__ == "__main__":
    main()
