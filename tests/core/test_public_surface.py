"""What people outside rely on is there, is little, and costs little to import."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ckpt_tracker
from ckpt_tracker import errors

PACKAGE = Path(ckpt_tracker.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
CORE = sorted(
    path
    for path in MODULES
    if not {"integrations", "cli"} & set(path.parts) and path.stem not in ("torch_devices", "torch_tensors", "__main__")
)

FRAMEWORKS = ("torch", "keras", "tensorflow", "jax", "lightning", "pytorch_lightning", "transformers")
HEAVY = ("numpy", "sqlite_utils", *FRAMEWORKS)


def test_the_package_exports_what_it_says() -> None:
    """`__all__` is the public list; every name of it is there, and none of our own besides it."""
    assert sorted(ckpt_tracker.__all__) == ["Checkpoint", "Run", "Store"]
    assert [getattr(ckpt_tracker, name).__name__ for name in ckpt_tracker.__all__] == ckpt_tracker.__all__
    ours = {name for name, value in vars(ckpt_tracker).items() if getattr(value, "__module__", "").startswith("ckpt_t")}
    assert {name for name in ours if not name.startswith("_")} <= set(ckpt_tracker.__all__)


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    """So that `hasattr` and `from ... import` behave."""
    assert not hasattr(ckpt_tracker, "Storr")
    with pytest.raises(AttributeError, match="Storr"):
        ckpt_tracker.Storr  # noqa: B018


def test_retention_has_the_policies_that_the_design_names() -> None:
    """They are imported from there by name."""
    names = ["Last", "Best", "Every", "Within", "Tagged"]
    retention = importlib.import_module("ckpt_tracker.retention")
    assert [getattr(retention, name).__name__ for name in names] == names


def test_the_version_is_the_distributions() -> None:
    """One number, in two places."""
    from importlib.metadata import version

    assert ckpt_tracker.__version__ == version("ckpt-tracker")


IMPORTS = {
    "the package": "import ckpt_tracker",
    "a store": "from ckpt_tracker import Store",
    "all of it": "from ckpt_tracker import Checkpoint, Run, Store; Store",
    "the tracker": "import ckpt_tracker.tracker",
    "retention": "import ckpt_tracker.retention",
    "the command line": "import ckpt_tracker.cli",
}


@pytest.mark.parametrize("statement", IMPORTS.values(), ids=IMPORTS.keys())
def test_importing_loads_no_framework_nor_numpy_nor_sqlite_utils(python: Callable[..., str], statement: str) -> None:
    """They are loaded when they are needed."""
    output = python(f"import sys\n{statement}\nprint([name for name in {HEAVY!r} if name in sys.modules])")
    assert output == "[]"


def test_opening_and_saving_loads_no_framework(python: Callable[..., str], path: Path) -> None:
    """Nor does loading a state that holds none of its tensors."""
    output = python(
        f"""
        import sys
        from ckpt_tracker import Store
        with Store(sys.argv[1]) as store:
            store.run("r").save({{"loop": {{"epoch": 1}}}}).load()
        print([name for name in {FRAMEWORKS!r} if name in sys.modules])
        """,
        path,
    )
    assert output == "[]"


def test_reading_a_store_loads_neither_numpy_nor_sqlite_utils(python: Callable[..., str], path: Path) -> None:
    """Which checkpoint was best is a quick question."""
    with ckpt_tracker.Store(path) as store:
        store.run("r").save({"loop": {}}, metrics={"loss": 1.0}).wait()
    output = python(
        f"""
        import sys
        from ckpt_tracker import Store
        with Store(sys.argv[1]) as store:
            print(store["r@best:loss:min"].ref)
        print([name for name in {HEAVY!r} if name in sys.modules])
        """,
        path,
    )
    assert output.split("\n") == ["r@v1", "[]"]


def _error_classes() -> Iterator[type[errors.CkptTrackerError]]:
    for name in dir(errors):
        found = getattr(errors, name)
        if isinstance(found, type) and issubclass(found, errors.CkptTrackerError):
            yield found


def test_every_error_is_also_the_builtin_that_people_catch() -> None:
    """All but the root of the tree."""
    usual = (ValueError, TypeError, LookupError, OSError, RuntimeError, ImportError)
    builtins = [each.__name__ for each in _error_classes() if not issubclass(each, usual)]
    assert builtins == ["CkptTrackerError"]


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    """Names, builtins and exit codes of the module's first screen."""
    drawn = {
        match[1]: (match[2], int(match[3]))
        for match in re.finditer(r"(?:├──|└──|^ {4})\s*(\w+)(?:\((\w+)\))?\s+(\d+)\b", errors.__doc__ or "", re.M)
    }
    actual = {each.__name__: each for each in _error_classes()}
    assert set(drawn) == set(actual)
    for name, (builtin, code) in drawn.items():
        assert actual[name].exit_code == code
        if builtin:
            assert builtin in [base.__name__ for base in actual[name].__bases__]


def test_no_two_kinds_of_error_share_an_exit_code_by_chance() -> None:
    """What the caller of a command can tell apart is told apart: 3 is not found, 4 not ours to touch, 6 not saved."""
    codes: dict[int, set[str]] = {}
    for each in _error_classes():
        codes.setdefault(each.exit_code, set()).add(each.__name__)
    assert {code: names for code, names in codes.items() if len(names) > 1} == {
        3: {"StoreNotFound", "CheckpointNotFound", "CheckpointGone"},
        4: {"NotAStore", "FormatTooNew", "StoreReadOnly"},
        6: {"StoreFull", "SaveFailed"},
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_says_what_it_is_for_and_stays_small(path: Path) -> None:
    """On its first screen; and it is read in one go: 400 lines at most."""
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert text.count("\n") <= 400


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_core_module_imports_without_a_framework(path: Path) -> None:
    """Each by itself."""
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    assert importlib.import_module(name).__doc__


def test_the_integrations_refuse_to_be_imported_beside_the_package(python: Callable[..., str]) -> None:
    """`import integrations` would make every class a second time."""
    output = python(
        f"""
        import sys
        sys.path.insert(0, {str(PACKAGE.parent)!r})
        try:
            import integrations
        except ImportError as error:
            print("ckpt_tracker.integrations" in str(error))
        """
    )
    assert output == "True"


def test_the_python_that_runs_this_is_supported() -> None:
    """3.10 and later."""
    assert sys.version_info >= (3, 10)
