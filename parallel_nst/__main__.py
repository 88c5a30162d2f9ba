"""`python -m parallel_nst`."""

from parallel_nst.cli import main

main()
