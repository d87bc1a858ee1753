"""`python -m receiver` is the same as the command `spantoll`."""

from receiver.cli import main

if __name__ == "__main__":
    main(prog_name="spantoll")
