"""`python -m tastemaker` is the command line."""

from tastemaker.cli import main

if __name__ == "__main__":
    main()
