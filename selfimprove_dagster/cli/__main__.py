"""`python -m selfimprove_dagster.cli`."""

from selfimprove_dagster.cli.main import main

main()
