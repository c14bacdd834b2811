"""`python -m darkfactory fleet.toml`."""

from darkfactory.cli import main

if __name__ == "__main__":
    main()
