"""The layers: who may import whom, read off the syntax trees."""

import ast
import pathlib

import pytest

import jnas

ROOT = pathlib.Path(jnas.__file__).parent

# What each room may import of the package. `types` and `errors` are open to all.
DOORS = {
    "types": set(),
    "errors": set(),
    "spaces": set(),
    "bilevel": set(),
    "data": set(),
    "engine": set(),
    "nets": {"spaces"},
    "searchers": {"spaces"},
    "report": {"spaces"},
    "methods": {"spaces", "bilevel", "data", "nets", "searchers", "engine", "report", "config", "exported"},
    "config": set(),
    "roofline": set(),
    "chips": set(),
    "hlo": set(),
    "traffic": {"hlo"},
    "topology": {"bench", "chips"},
    "topology_worker": {
        "bench_worker",
        "chips",
        "config",
        "engine",
        "hlo",
        "methods",
        "nets",
        "roofline",
        "topology",
        "traffic",
    },
    "cli_hosts": {"engine"},
    "commands": {"cli_hosts", "config", "engine", "methods"},
    "exported": set(),
    "cli": {"commands", "cli_hosts", "topology", "methods", "config", "engine", "report", "spaces", "bench"},
    "bench": {"methods", "config", "engine", "spaces", "roofline"},
    "bench_worker": {"bench", "methods", "config", "engine", "spaces", "bilevel", "nets", "data", "roofline"},
    "__main__": {"cli"},
    "__init__": {"bilevel", "data", "engine", "nets", "searchers", "spaces"},
}
# Third parties with a home. Everything else of the heavy ones is imported inside functions.
HOMES = {"flax": {"nets", "methods"}, "orbax": {"engine"}, "tensorflow_datasets": {"data"}, "matplotlib": {"report"}}
ALLOWED = {"bilevel": {"jax", "optax"}, "spaces": {"jax", "numpy"}}
SLOW_TO_IMPORT = {"orbax", "tensorflow_datasets", "matplotlib", "tensorboardX", "PIL", "pydantic", "rich"}


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    """`(module, at the top of the file?)` of every import."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in tree.body) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "jnas":
                yield from ((f"jnas.{alias.name}", node in tree.body) for alias in node.names)
            else:
                yield node.module, node in tree.body


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    room = room_of(path)
    for module, at_top in imports(path):
        first, *rest = module.split(".")
        if first == "jnas":
            target = rest[0] if rest else ""
            allowed = DOORS[room] | {room, "types", "errors", "__version__"}
            assert target in allowed, f"{room} imports jnas.{target}"
        assert room in HOMES.get(first, {room}), f"{room} imports {first}"
        assert not (at_top and first in SLOW_TO_IMPORT), f"{first} is imported at the top: import it inside a function"
        if room in ALLOWED and first in {"jax", "numpy", "optax", "flax", "chex", "orbax", "scipy"}:
            assert first in ALLOWED[room], f"{room} imports {first}"


def test_methods_define_no_module_and_no_estimator():
    for path in (ROOT / "methods").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base) for base in node.bases}
                assert bases <= {"NamedTuple"}, f"{path}: class {node.name} inherits from {bases}"
            assert not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Estimator")), path


def test_only_the_engine_speaks_of_devices():
    words = {"devices", "device_put", "default_backend", "local_devices", "NamedSharding", "distributed"}
    for path in FILES:
        if room_of(path) not in ("engine", "bench", "bench_worker", "cli_hosts", "topology", "topology_worker"):
            nodes = list(ast.walk(ast.parse(path.read_text())))
            names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
            names |= {node.id for node in nodes if isinstance(node, ast.Name)}
            if path.name == "primitives.py":  # a primitive must say how its abstract result is laid out
                names -= {"NamedSharding"}
            assert not names & words, path
