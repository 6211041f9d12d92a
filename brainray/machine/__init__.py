"""The machine that a command runs on: its hardware and its Python; and how processors and memory are shared out."""
