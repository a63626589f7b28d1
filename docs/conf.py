"""The site: `sphinx-build -W -c docs . build/docs`. Its source is the whole repository, so that links and pictures lead
to what is there and nothing is copied; which pages of it are meant stands in `include_patterns`.
"""

import os
import re
from typing import Any

import jnas
from jnas.recipes import commands, config, describe
from jnas.recipes.zoo.settings import Selection

project = "jnas"
version = release = jnas.__version__
project_copyright = "the authors of jnas, Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "docs/index"
exclude_patterns = [".*", "build", "runs", "tests"]
include_patterns = ["docs/**.md", "experiments/**README.md", "third_party/**README.md", "jnas/CHANGELOG.md"]
include_patterns += ["experiments/tutorials/*.ipynb"]
myst_heading_anchors = 4
# Tutorials are kept without outputs and executed here, in a folder that is thrown away; one that raises ends the build.
nb_execution_mode = "force"
nb_execution_in_temp = nb_execution_raise_on_error = nb_merge_streams = True
nb_execution_timeout = 900  # seconds a cell
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # they are compiled for longer than they run
html_theme = "furo"
html_title = f"jnas {release}"
html_extra_path = ["front"]  # index.html, which leads to docs/index.html
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["wide.css"]

# Docstrings: sections as Google's, formulas as indented blocks, code in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # what an argument is, its shape and its unit stand in its description
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_custom_sections = ["Returns", "Yields"]  # whole sentences, in which a colon names no type
python_maximum_signature_line_length = 100
SETTINGS = r"<!-- settings of (\w+) ?([\w-]*) -->"
HEADINGS = {"Args:", "Attributes:", "Example:", "Raises:", "References:", "Returns:", "Yields:"}


def as_blocks(lines: list[str]) -> list[str]:
    """A docstring whose formulas, indented by four, and whose fences are literal blocks of reStructuredText."""
    found: list[str] = []
    fenced = inside = False
    for line in lines:
        if line.startswith("```"):
            fenced = not fenced
            found += ["", "::", ""] if fenced else [""]
            continue
        indented = line.startswith("    ")
        above = next((one for one in reversed(found) if one.strip()), "")
        begins = indented and not inside and found and not found[-1].strip() and not above.startswith((" ", ">>>"))
        if begins and above not in HEADINGS and not fenced:
            found += ["::", ""]
            inside = True
        inside = inside and (indented or not line.strip())
        found.append("    " + line if fenced else line)
    return found


def rewrite(app, what, name, obj, options, lines) -> None:
    """Before Napoleon reads it: formulas, and of a tuple or a dataclass the comments beside its fields."""
    lines[:] = as_blocks(lines)
    if what in ("attribute", "data", "property"):
        lines.insert(0, "\\ ")  # nothing, lest a colon in the first line name a type
    if isinstance(obj, type) and not any(line == "Attributes:" for line in lines):
        fields = getattr(obj, "_fields", None) or getattr(obj, "__dataclass_fields__", ())
        said = describe.descriptions(obj) if fields else {}
        words = {}
        for field in fields:
            if said.get(field) not in (None, describe.COMMON.get(field)):  # what is common is of settings alone
                words[field] = re.sub(r"^noqa: \w+ - never mutated(; )?", "", said[field]).replace("|", "\\|")
        if any(words.values()):
            lines += ["", "Attributes:", *(f"  {field}: {text}" for field, text in words.items() if text), ""]


def without_fields(app, what, name, obj, skip, options) -> bool | None:
    """Fields of tuples are told of in their class, and so is a default that is a type."""
    return True if type(obj).__name__ == "_tuplegetter" or (what == "class" and isinstance(obj, type)) else None


def settings_of(command: str, word: str) -> Any:
    """The settings of a command with a preset, or of a training for a task."""
    if command == "search":
        return commands.asked_search(*[word] if word else []).settings
    if command == "train":
        return commands.asked_training("DARTS_V2", task=word).settings
    return config.build(Selection, {"data": "DATA"})


def fill_in(app, docname, source) -> None:
    """The tables of settings, from the dataclasses, in the place of lines as `<!-- settings of search grouped -->`."""
    table = lambda found: describe.as_markdown(settings_of(found[1], found[2]))
    source[0] = re.sub(SETTINGS, table, source[0])


def setup(app) -> None:
    """Connect what stands above."""
    app.connect("autodoc-process-docstring", rewrite, priority=400)  # Napoleon has 500
    app.connect("autodoc-skip-member", without_fields)
    app.connect("source-read", fill_in)
