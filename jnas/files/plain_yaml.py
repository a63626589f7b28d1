"""YAML as plain text, lists and tables, for those who know better than YAML what a value is."""

from typing import Any

import yaml


class _Text(yaml.BaseLoader):
    """Scalars as the text that they are; no aliases, of which a few lines can make more than any memory holds."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="an alias", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)


def plain_yaml(text: str) -> Any:
    """Read YAML without its guesses: every scalar is text, also `null`, `no` and `010`.

    >>> plain_yaml("{seed: 010, data: no, costs: [1, 2.5]}")
    {'seed': '010', 'data': 'no', 'costs': ['1', '2.5']}

    Args:
      text: a document.

    Returns:
      Text, lists and dictionaries; "" for nothing.

    Raises:
      yaml.YAMLError: if it is no YAML, or has an alias.
      RecursionError, ValueError: if it is nested too deeply.
    """
    found = yaml.load(text, _Text)
    return "" if found is None else found
