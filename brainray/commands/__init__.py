"""The commands as functions, which the command line and the Python API call. They print nothing."""
