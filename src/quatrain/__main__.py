"""`python -m quatrain` is the `quatrain` command."""

from quatrain.cli.main import main

if __name__ == "__main__":
    main()
