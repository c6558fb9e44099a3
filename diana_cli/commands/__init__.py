"""One module per command; ``diana_cli.cli`` imports each when it is asked for."""
