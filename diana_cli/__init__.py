"""The program: every verb from the shell, joined by pipes."""
