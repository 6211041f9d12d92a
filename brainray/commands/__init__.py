"""What each command does, callable from Python. Parses no arguments and prints nothing."""
