"""`python -m unlabel` and `torchrun -m unlabel`: the command line."""

from unlabel.cli import run

if __name__ == "__main__":
    run()
