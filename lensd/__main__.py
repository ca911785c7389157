"""`python -m lensd`."""

from lensd.cli import main

if __name__ == "__main__":
    main(prog_name="lensd")
