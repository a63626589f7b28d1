"""How much memory there is, asked before it is taken."""

from jnas.errors import UserError
from jnas.files.reading import memory


def check_memory(num_bytes: int, what: str) -> None:
    """Refuses what does not fit into the memory of this machine.

    Args:
        num_bytes: that will be taken.
        what: takes them, and the remedy, as "PARTS: REMEDY".

    Raises:
        UserError: It is more than the machine has.
    """
    there = memory()
    if num_bytes > there:
        what, _, remedy = what.partition(": ")
        raise UserError(
            f"{what} take {num_bytes / 2**30:,.1f} GiB of the {there / 2**30:,.1f} that are there: {remedy}"
        )
