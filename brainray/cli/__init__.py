"""The program `brainray`: options, console, log, exit codes."""
