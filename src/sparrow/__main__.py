"""``python -m sparrow``: the command line."""

from sparrow.cli.main import main

if __name__ == "__main__":
    main()
