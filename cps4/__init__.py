"""CPS4 as an installed package: the command `cps4`, and the bundle that it carries as data."""
