"""`--help [SETTING]` of the commands that take settings: what each of them means."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from jnas.errors import UserError


class Explain(argparse.Action):
    """Prints the help of a command with its settings, or what there is to say of one."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, of: Callable[[argparse.Namespace], Any]) -> None:
        """`of`: what was parsed so far, with its `words`, to the settings."""
        words = "show this and the settings of the preset that is named before, or what one of them means"
        super().__init__(option_strings, argparse.SUPPRESS, nargs="?", metavar="SETTING", help=words)
        self.of = of

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        """Print it and end the program."""
        from jnas.recipes import config, describe

        namespace.words = [*(namespace.words or [])]
        if values and ("=" in values or values in config.presets()):  # behind the option
            namespace.words.append(values)
            values = None
        try:
            settings = self.of(namespace)
            said = describe.about(settings, values) if values else None
        except UserError as error:
            parser.error(str(error))
        print(
            said
            or f"{parser.format_help()}\nsettings, each as key=value (train.epochs=3):\n\n{describe.as_yaml(settings)}"
        )
        parser.exit()
