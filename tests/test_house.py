"""The layers: who may import whom, read off the syntax trees."""

import ast
import pathlib
import pkgutil
import subprocess
import sys

import pytest

import jnas

ROOT = pathlib.Path(jnas.__file__).parent

# What each room may import of the package beside itself. `types` and `errors` are open to all, and so are `files` and
# `distributed`, but to one another and to the two rooms that are nothing but functions of arrays.
OPEN = {"types", "errors", "files", "distributed"}
LIBRARY = {
    "bilevel": set(),
    "spaces": set(),
    "data": set(),
    "nets": {"spaces"},
    "searchers": {"spaces"},
    "train": set(),
    "study": {"searchers"},
    "distributed": set(),
    "files": set(),
    "exported": set(),
}
APPLICATION = {
    "recipes": {*LIBRARY, "report"},
    "bench": {*LIBRARY, "recipes", "report"},
    "report": {"spaces"},
    "cli": {*LIBRARY, "recipes", "bench", "report"},
}
DOORS = {
    **{room: doors | OPEN for room, doors in {**LIBRARY, **APPLICATION}.items()},
    "bilevel": {"types", "errors"},
    "exported": {"errors"},
    "types": set(),
    "errors": set(),
    "__main__": {"cli"},
    "__init__": {"bilevel", "data", "nets", "recipes", "searchers", "spaces", "study", "train"},
}
# Third parties with a home. Everything else of the heavy ones is imported inside functions.
HOMES = {"flax": {"nets", "recipes"}, "orbax": {"train"}, "tensorflow_datasets": {"data"}, "matplotlib": {"report"}}
ALLOWED = {"bilevel": {"jax", "optax", "chex"}, "spaces": {"jax", "numpy"}}
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
                yield from ((f"{node.module}.{alias.name}", node in tree.body) for alias in node.names)


FILES = sorted(ROOT.rglob("*.py"))
SCRIPTS = sorted((pathlib.Path(__file__).parents[1] / "experiments").rglob("*.py"))


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


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*/*.py")), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_no_recipe_imports_another(path):
    others = {folder.name for folder in (ROOT / "recipes").iterdir() if folder.is_dir()} - {path.parent.name}
    for module, _ in imports(path):
        parts = module.split(".")
        assert not (parts[:2] == ["jnas", "recipes"] and len(parts) > 2 and parts[2] in others), module


def test_little_stands_loose_and_no_folder_is_a_heap():
    assert {path.stem for path in ROOT.glob("*.py")} == {"__init__", "__main__", "types", "errors", "exported"}
    for folder in {path.parent for path in FILES}:
        assert len([path for path in folder.glob("*.py") if path.stem != "__init__"]) <= 24, folder


def loaded_by(*modules):
    """What an import loads, imports inside functions included."""
    names = {
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES
    }
    seen, todo = set(), list(modules)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            # `jnas/__init__` imports nothing before it is asked for a room.
            found = {part for module, _ in imports(names[name]) for part in parents(module)} & names.keys() - {"jnas"}
            todo += found
    return seen


def parents(module):
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def test_the_bilevel_room_loads_no_other():
    assert {name.split(".")[1] for name in loaded_by("jnas.bilevel")} == {"bilevel", "types"}
    code = "import sys, jnas.bilevel; print(*sorted(m.split('.')[1] for m in sys.modules if m.startswith('jnas.')))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(out.split()) == {"bilevel", "types"}


def test_recipes_define_no_module_and_no_estimator():
    for path in (ROOT / "recipes").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base) for base in node.bases}
                assert bases <= {"NamedTuple", "Protocol"}, f"{path}: class {node.name} inherits from {bases}"
            assert not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Estimator")), path


def test_every_file_of_text_is_opened_as_utf_8():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                name = called.rpartition(".")[2]
                said = {ast.unparse(part) for part in (*node.args, *(keyword.value for keyword in node.keywords))}
                bytes_ = called in ("os.open", "Image.open", "archive.open") or any("b'" in one for one in said)
                if name in {"open", "read_text", "write_text", "loadtxt", "genfromtxt", "savetxt"} and not bytes_:
                    keywords = {keyword.arg for keyword in node.keywords}
                    assert "encoding" in keywords, f"{path.name}:{node.lineno}: {ast.unparse(node)}: name the encoding"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_an_experiment_imports_of_the_package_is_there(path):
    def is_there(name):
        try:
            return pkgutil.resolve_name(name) is not None
        except (ImportError, AttributeError):
            return False

    assert [name for name, _ in imports(path) if name.split(".")[0] == "jnas" and not is_there(name)] == []


def test_few_rooms_speak_of_devices():
    words = {"devices", "device_put", "default_backend", "local_devices", "NamedSharding"}
    for path in FILES:
        if room_of(path) not in ("train", "distributed", "bench"):
            nodes = list(ast.walk(ast.parse(path.read_text())))
            assert "jax.distributed" not in {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}, (
                path
            )
            names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
            names |= {node.id for node in nodes if isinstance(node, ast.Name)}
            if path.name == "primitives.py":  # a primitive must say how its abstract result is laid out
                names -= {"NamedSharding"}
            assert not names & words, path
