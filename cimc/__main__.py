"""`python -m cimc` is the `cimc` command."""

from cimc.cli.app import main

main()
