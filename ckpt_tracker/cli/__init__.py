"""The command line: one module a command, each a thin face on the store.

`app` collects the commands and turns errors into exit codes; `command` gives each the same options and help;
`output`, `human`, `tables` and `documents` say what a value looks like to a person, and to a program.
A module imports rich, the store and frameworks inside its functions, so that `ckpt --help` answers at once.
"""


def main() -> None:
    """Runs `ckpt` with the arguments of this process, and exits."""
    import gc
    import os

    # of 10,000 records hardly anything is garbage: looking for it took a sixth of the time of listing them
    gc.set_threshold(100_000)
    from ckpt_tracker.cli.app import ckpt

    if "_CKPT_COMPLETE" in os.environ:
        import ckpt_tracker.cli.completion  # noqa: F401 - registers bash's
    try:
        ckpt(prog_name="ckpt")
    finally:
        gc.freeze()  # nor does anybody need to look for it in what ends with the process
