"""YAML as plain text, lists and tables, for those who know better than YAML what a value is; or with its own types."""

from typing import Any

import yaml


class _NoAliases:
    """Of which a few lines can make more than any memory holds."""

    def compose_node(self: Any, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="an alias", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)  # pyright: ignore[reportAttributeAccessIssue]


class _Text(_NoAliases, yaml.BaseLoader):
    """Scalars as the text that they are."""


class _Typed(_NoAliases, yaml.SafeLoader):
    """Scalars as YAML guesses them."""


def plain_yaml(text: str, *, typed: bool = False) -> Any:
    """Read YAML without its guesses: every scalar is text, also `null`, `no` and `010`.

    >>> plain_yaml("{seed: 010, data: no, costs: [1, 2.5]}")
    {'seed': '010', 'data': 'no', 'costs': ['1', '2.5']}

    Args:
      text: a document.
      typed: with YAML's guesses after all, for what `yaml.safe_dump` wrote.

    Returns:
      Text, lists and dictionaries; "" for nothing.

    Raises:
      yaml.YAMLError: if it is no YAML, or has an alias.
      RecursionError, ValueError: if it is nested too deeply.
    """
    found = yaml.load(text, _Typed if typed else _Text)
    return "" if found is None else found
