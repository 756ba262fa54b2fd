"""`python -m uflow_cli` is `uflow`."""

from uflow_cli.cli import main

main()
