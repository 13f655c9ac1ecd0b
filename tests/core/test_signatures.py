"""Signatures that are read from source files."""

import inspect

import pytest

from nasforge.core.signatures import read

MODULE = '''
from elsewhere import MOST as LARGEST, Base
LIMIT = 7
TWICE = 1
TWICE = 2

class Plain:
    """A class.

    More.
    """
    def __init__(self, space, /, data, *rest, size: int = 3, limit=LIMIT, most=LARGEST, names=("a", "b"), **options):
        pass

def make(space, depth=-1):
    "A function."

class Inherits(Base):
    pass

@decorated
def changed(space):
    pass

def computed(space, size=LIMIT * 2):
    pass

def rebound(space, size=TWICE):
    pass

def foreign(space, base=Base):
    pass

async def later(space):
    pass

def twice(space):
    pass

def twice(space, more):
    pass
'''


@pytest.fixture
def find(tmp_path):
    (tmp_path / "plug.py").write_text(MODULE)
    (tmp_path / "elsewhere.py").write_text("MOST = 9")
    return lambda module: tmp_path / f"{module}.py"


def test_a_class_and_a_function_are_read(find):
    signature = read("plug", "Plain", find)
    assert signature.about == "A class."
    text = "(space, /, data, *rest, size=3, limit=7, most=9, names=('a', 'b'), **options)"
    assert str(signature.signature) == text
    signature = read("plug", "make", find)
    assert signature.about == "A function." and signature.signature == inspect.signature(lambda space, depth=-1: 0)


@pytest.mark.parametrize(
    "name", ["Inherits", "changed", "computed", "rebound", "later", "twice", "nothing", "LIMIT", "foreign"]
)
def test_what_the_source_does_not_tell_is_left_to_an_import(find, name):
    assert read("plug", name, find) is None


def test_a_file_that_is_no_python_is_left_to_an_import(tmp_path):
    assert read("missing", "make", lambda module: None) is None
    (tmp_path / "broken.py").write_text("def make(:")
    assert read("broken", "make", lambda module: tmp_path / "broken.py") is None
