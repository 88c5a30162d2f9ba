"""The program `pnst`, also as `python -m parallel_nst`."""

from __future__ import annotations

from parallel_nst.cli.interrupt import hear


def main() -> None:
    """Run the command."""
    hear()
    from parallel_nst.cli.main import main as command  # after that: it takes a while

    command()


if __name__ == "__main__":
    main()
