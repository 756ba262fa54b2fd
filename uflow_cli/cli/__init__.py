"""Commands of the `uflow` program, one file each."""
