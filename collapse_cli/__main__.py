"""`python -m collapse_cli`."""

from collapse_cli.cli import main

if __name__ == "__main__":
    main()
