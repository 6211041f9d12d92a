"""Checks of a machine, a cluster, inputs and outputs, before a long run fails on them."""
