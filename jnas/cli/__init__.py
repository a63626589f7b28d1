"""The program `jnas`."""

import sys

try:
    import jax as jax  # which reads its variables of the environment
except ValueError as error:
    print(f"jnas: {error}: correct that variable of the environment", file=sys.stderr)
    sys.exit(2)
