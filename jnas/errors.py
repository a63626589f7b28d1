"""Errors that are answers to a user rather than faults of the program."""


class UserError(ValueError):
    """Bad input: one sentence that names the value and the remedy. The command line prints it and exits with 2."""


class Diverged(RuntimeError):
    """A metric stopped being finite: one sentence with the step, the metric and the remedy. Exit status 1."""


class Interrupted(RuntimeError):
    """A signal asked the run to stop; its state is saved and the same command resumes it. Exit status 143."""
