"""uflow: find defects in images after seeing only good ones, and say how sure it is."""


def __getattr__(name: str) -> str:
    """`__version__`, looked up when it is asked for: the look-up takes longer than the rest of the import."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("uflow-cli")
