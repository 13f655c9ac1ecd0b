"""The repository as a newcomer meets it: README and docs, Makefile, CI, layers, the weight of an import."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer

import nasforge
import nasforge.core.errors
from nasforge import registry
from nasforge.cli import app as cli
from nasforge.cli.output import Outcome
from nasforge.core.about import About
from nasforge.core.goals import Budget
from nasforge.experiment.experiment import VOLATILE
from nasforge.experiment.state import differing
from nasforge.models.blocks.catalogue import BlockOptions
from nasforge.settings.experiment import _SETTINGS as SETTINGS
from nasforge.settings.experiment import DataConfig, load_settings, load_space, resolve
from nasforge.settings.spec import SearchSpec

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMED_BY_CONTENT = (
    "api",
    "cli",
    "core",
    "dashboards",
    "data",
    "evaluators",
    "experiment",
    "exporters",
    "models",
    "pruners",
    "registry.py",
    "runners",
    "settings",
    "strategies",
    "supernet",
    "tasks",
    "testing",
    "training",
    "views",
)
"""Rooms of the package in which no name says only how its content came about."""
EMPTY_WORDS = {"found", "given", "lacking", "own", "said", "wanted"}
QUESTIONS = ("What", "Whether", "How", "Where", "Why", "When", "Whose", "With")
INTERFACES = {("PBT", "wanted"), ("Promotion", "wanted"), ("ToOptimum", "found")}
"""Strategies outside the package implement this method too, and the file of a comparison has this key."""
HEAVY = ("torch", "ray", "mlflow", "optuna", "numpy", "sklearn", "timm", "yaml", "typer")


def blocks(page, language):
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(text):
    """`nasforge ...` lines of a shell block, continued lines joined, comments left out."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line.lstrip("\t@"), comments=True) for line in lines]
    words = [line[1:] if line and line[0].startswith("OMP_") else line for line in words]
    return [line[1:] for line in words if line and Path(line[0]).name == "nasforge"]


def parse(words):
    """The options of a command that are given or have defaults."""
    group = typer.main.get_command(cli.app)
    with group.make_context("nasforge", list(words)) as context:
        name, command, rest = group.resolve_command(context, list(words))
        return command.make_context(name, list(rest), parent=context).params


@pytest.fixture
def every_file(tmp_path, monkeypatch):
    """The files that the docs write, in the working folder; a name stands for one file."""
    for page in PAGES:
        for block in (*blocks(page, "python"), *blocks(page, "yaml")):
            if name := re.match(r"# (\w+\.(?:py|yaml))\n", block):
                path = tmp_path / name[1]
                assert not path.exists() or path.read_text() == block, f"{page.name}: {name[1]} is written twice"
                path.write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_the_searches_of_the_docs_do_not_meet_under_one_name(every_file, monkeypatch):
    """Whoever types every command, page after page, is never told that a name holds another search."""
    asked = []
    monkeypatch.setattr("nasforge.cli.search.run_search", lambda config: asked.append(config) or Outcome())
    monkeypatch.setattr("nasforge.cli.search.print_forecast", lambda config: Outcome())
    tuned = {}
    for page in PAGES:
        for words in (words for block in blocks(page, "bash") for words in commands(block)):
            if words[0] == "search":
                assert cli.main(words) == 0, words
            if words[0] in ("tune", "calibrate"):
                options = parse(words)
                name, _ = options.pop("name"), options.pop("max_trials", None)
                made = words[0], options.get("experiment"), options.get("space"), options.get("data")
                assert tuned.setdefault(name or made, options) == options, words
    held = {}
    for config in asked:
        first = held.setdefault(config.folder, config)
        assert not differing(first.to_json(), config.to_json(), VOLATILE), config.name


def cases(language):
    return [
        pytest.param(block, id=f"{page.name}-{index}")
        for page in PAGES
        for index, block in enumerate(blocks(page, language))
    ]


@pytest.mark.parametrize("block", cases("bash"))
def test_every_command_in_the_docs_parses(block):
    for words in commands(block):
        parse(words)


def test_the_docs_show_every_command():
    shown = {words[0] for page in PAGES for block in blocks(page, "bash") for words in commands(block)}
    known = set(cli.COMMANDS)
    assert shown == known


def test_the_page_on_plug_ins_names_every_field_that_an_evaluator_states_or_gets():
    named = set(re.findall(r"`(\w+)`", (ROOT / "docs/howto/plugins.md").read_text()))
    assert {field.name for kind in (About, SearchSpec) for field in fields(kind)} <= named


def test_every_argument_and_option_has_a_help_and_a_plain_name():
    group = typer.main.get_command(cli.app)
    for name, command in group.commands.items():
        with command.make_context(name, [], resilient_parsing=True) as context:
            usage = command.get_usage(context)
        assert not [param.name for param in command.params if not getattr(param, "help", None)], name
        words = usage.split()[3:]
        assert all(re.fullmatch(r"\[[A-Z]+\](\.\.\.)?|\{[A-Z]+\}(\.\.\.)?", word) for word in words), usage


@pytest.mark.parametrize("block", cases("python"))
def test_python_in_the_docs_compiles_and_its_imports_are_there(block):
    tree = ast.parse(block)
    written = {line.removeprefix("# ").removesuffix(".py") for page in PAGES for line in _files(page, "python")}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module not in written:
            module = importlib.import_module(node.module)
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")


def _files(page, language):
    first = [block.splitlines()[0] for block in blocks(page, language)]
    return [line for line in first if re.fullmatch(r"# \w+\.(py|yaml)", line)]


@pytest.mark.parametrize("block", cases("yaml"))
def test_yaml_in_the_docs_is_what_it_says(block, tmp_path):
    for other in (other for page in PAGES for other in blocks(page, "yaml")):  # an experiment names its space's file
        if name := re.match(r"# (\w+\.yaml)\n", other):
            (tmp_path / name[1]).write_text(other)
    path = tmp_path / "written.yaml"
    path.write_text(block)
    if "\ndecisions:" in block:
        space = load_space(path)
        assert space.decide(lambda key, domain: domain.sample(__import__("random").Random(0)))
    else:
        assert resolve(*load_settings(path)).budget.limits


def rows(page, heading):
    """Cells of the table below a heading, without code marks; rows that only divide are left out."""
    text = (ROOT / "docs" / page).read_text().partition(f"\n{heading}\n")[2]
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)[0].splitlines()[2:]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in table if not row[0].startswith("**")]


def test_the_tables_that_are_made_from_code_are_current():
    generate = runpy.run_path(str(ROOT / "docs/generate.py"))
    outdated = [page.name for page in generate["outdated"]()]
    assert not outdated, "run: python docs/generate.py"


def test_the_table_of_an_experiments_settings_has_all_of_them():
    row_of = {
        key: row
        for row in rows("reference/cli.md", "## Settings of an experiment")
        for key in re.findall(r"`(\w+)`", row[0])
    }
    assert row_of.keys() == set(SETTINGS)
    assert {item.name for item in fields(DataConfig)} <= set(re.findall(r"`(\w+)`", row_of["data"][2]))
    assert {item.name for item in fields(Budget)} <= set(re.findall(r"`(\w+)`", row_of["budget"][2]))
    for kind in ("evaluator", "runner"):
        assert set(registry.names(kind)) <= set(re.findall(r"`(\w+)`", row_of[kind][2]))


def test_the_blocks_of_the_docs_are_the_catalogues():
    text = (ROOT / "docs/reference/search_spaces.md").read_text()
    listed = re.search(r"Options of a block decision: (.*?); `_se` after any but the last two", text, re.DOTALL)[1]
    names = []
    for name in re.findall(r"`([\w|]+)`", listed):
        stem, _, kernels = name.rpartition("_")
        names += [f"{stem}_{kernel}" for kernel in kernels.split("|")] if "|" in name else [name]
    assert {*names, *(f"{name}_se" for name in names[:-2])} == set(BlockOptions())


def anchors(page):
    """The anchors of a page's headings, as GitHub writes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_in_the_docs_lead_somewhere():
    for page in PAGES:
        for path, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text()):
            target = (page.parent / path) if path else page
            assert target.exists(), f"{page.name}: {path}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {path}#{anchor}"


def test_the_index_leads_to_every_page():
    index = ROOT / "docs/index.md"
    linked = {(index.parent / path).resolve() for path in re.findall(r"\]\(([^)#:]+)", index.read_text())}
    assert set((ROOT / "docs").rglob("*.md")) - linked == {index}


def test_pages_that_the_code_names_exist():
    for folder in ("nasforge", "tests", "benchmarks", "search_spaces", "dashboards"):
        for file in (*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.yaml")):
            for path in re.findall(r"\bdocs/[\w/]+\.md\b", file.read_text()):
                assert (ROOT / path).is_file(), f"{file}: {path}"


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The files that docs/howto/plugins.md and docs/howto/search_spaces.md write, in the working folder."""
    for page in (ROOT / "docs/howto/plugins.md", ROOT / "docs/howto/search_spaces.md"):
        for language in ("python", "yaml"):
            for block in blocks(page, language):
                name = re.match(r"# (\w+\.(?:py|yaml))\n", block)
                if name:
                    (tmp_path / name[1]).write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_builder_and_the_space_of_the_docs_make_networks(written, capfd):
    for space in ("my_space.yaml", "my_tiny.yaml", "my_stages.yaml"):
        for seed in ("1", "2", "3"):
            words = ["describe", space, "--shape", "1x8x8", "--point", "random", "--seed", seed, "--json"]
            assert cli.main(words) == 0
            printed = json.loads(capfd.readouterr().out)
            assert 0 < printed["costs"]["cost/params"] < 100_000 and printed["network"]


def test_the_strategy_of_the_docs_passes_the_suite(written):
    (block,) = [b for b in blocks(ROOT / "docs/howto/plugins.md", "python") if "testing.strategies" in b]
    exec(compile(block, "plugins.md", "exec"), {})


def test_the_block_of_the_docs_passes_the_suite(written):
    (block,) = [b for b in blocks(ROOT / "docs/howto/plugins.md", "python") if "testing.blocks" in b]
    exec(compile(block, "plugins.md", "exec"), {})


def test_the_evaluator_of_the_docs_searches(written):
    settings = {"evaluator": {"name": "my_evaluator:Judge", "bonus": 0.1}, "strategy": "random", "runner": "local"}
    state = nasforge.search(
        space="tiny", budget={"trials": 2}, tracking_uri="none", name="judged", say=lambda text: None, **settings
    )
    assert state.counts()["finished"] == 2 and state.best.metrics["val/accuracy"] > 0.1


@pytest.mark.slow
@pytest.mark.ray
def test_the_python_api_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(ROOT / "README.md", "python")
    (tmp_path / "readme.py").write_text(block)
    done = subprocess.run([sys.executable, "readme.py"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/first/best/network.json").is_file() and list((tmp_path / "exported").glob("*.onnx"))


def test_import_is_light():
    """No framework is loaded, and the import takes a blink of processor time."""
    code = (
        "import sys, time; began = time.process_time(); import nasforge; nasforge.__version__;"
        f"print([m for m in {HEAVY!r} if m in sys.modules], time.process_time() - began)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded, seconds = out.rsplit("]", 1)
    assert loaded == "["
    assert float(seconds) < 0.3


def test_strategies_and_journal_load_no_framework():
    rooms = ("experiment.experiment", "strategies.evolution", "pruners.asha", "settings.experiment", "views.tables")
    modules = ", ".join(f"nasforge.{module}" for module in rooms)
    code = (
        f"import sys, {modules}; print([m for m in {HEAVY[:3]!r} + ('optuna', 'sklearn', 'timm') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_imports_point_down():
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def _names(tree, within=""):
    """Yield every variable, argument, attribute, function and class that the code defines: where, and its name."""
    for node in ast.iter_child_nodes(tree):
        name = None
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                pass
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                pass
            case ast.ExceptHandler(name=name) | ast.MatchAs(name=name) | ast.MatchStar(name=name):
                pass
        if name is not None:
            yield node, within, name
        inner = name if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) else within
        yield from _names(node, inner)


@pytest.mark.parametrize("place", [*(f"nasforge/{room}" for room in NAMED_BY_CONTENT), "tests", "benchmarks"])
def test_names_say_what_they_hold(place):
    """`found` or `wanted` fits every variable; `costs` or `missing_keys` fits one. The name of a test is a sentence."""
    path = ROOT / place
    poor = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {name}"
        for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])
        for node, within, name in _names(ast.parse(file.read_text()))
        if EMPTY_WORDS & set(name.lower().split("_"))
        and not name.startswith("test_")
        and (within, name) not in INTERFACES
    ]
    assert not poor, "rename each after what it holds: " + ", ".join(poor)


@pytest.mark.parametrize("room", NAMED_BY_CONTENT)
def test_docstrings_begin_with_an_action_or_a_noun(room):
    """Functions are described by an imperative, classes, modules and properties by a noun phrase."""
    place = ROOT / "nasforge" / room
    poor = []
    for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
        tree = ast.parse(file.read_text())
        for node in (tree, *ast.walk(tree)):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                is_function = isinstance(node, ast.FunctionDef) and not node.decorator_list
                if text.split()[0] in (*QUESTIONS, *(("The", "A", "An", "All") if is_function else ())):
                    poor.append(f"{file.relative_to(ROOT)}: {text.splitlines()[0]}")
    assert not poor, poor


SETS_ITS_KIND = {"TrainingFailed"}
"""Errors that pass their kind to their parent."""


def trees_below(folder):
    return {path: ast.parse(path.read_text()) for path in sorted((ROOT / folder).rglob("*.py"))}


def errors_of(trees):
    """Return the names of the package's errors."""
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    errors = {"NasforgeError"}
    for _ in range(4):  # generations
        errors |= {node.name for node in classes if errors & {ast.unparse(base) for base in node.bases}}
    assert {"ConfigError", "TrustError", "EventError", "NoOptimum", *SETS_ITS_KIND} <= errors
    return errors


def test_every_error_says_of_which_kind_it_is():
    trees = trees_below("nasforge")
    errors = errors_of(trees)
    poor = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if _is_without_kind(node, errors - SETS_ITS_KIND)
    ]
    assert not poor, "give each a kind of nasforge.core.errors.KINDS: " + ", ".join(poor)


def _is_without_kind(node, errors):
    """Return whether code makes an error or a problem without a kind; errors of several problems have theirs."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name):
        return node.exc.id in errors
    if not isinstance(node, ast.Call) or (name := ast.unparse(node.func).rpartition(".")[2]) not in {
        *errors,
        "Problem",
    }:
        return False
    kinds = [keyword.value for keyword in node.keywords if keyword.arg == "kind"]
    if kinds:
        return isinstance(kinds[0], ast.Constant) and kinds[0].value not in nasforge.core.errors.KINDS
    if name == "Problem":
        return len(node.args) < 5
    first = node.args[0] if node.args else ast.Constant("")
    return not (isinstance(first, ast.List) or ast.unparse(first).rstrip(")").endswith("problems"))


@pytest.mark.parametrize(
    ("line", "is_poor"),
    [
        ('raise ConfigError("no")', True),
        ("raise errors.ConfigError(message)", True),
        ("raise ConfigError", True),
        ('raise ConfigError("no", kind="nice")', True),
        ('problems.append(Problem("no", key="seed"))', True),
        ('raise ConfigError("no", kind="range")', False),
        ("raise ConfigError(problems)", False),
        ('raise ConfigError([Problem("no", kind="type")])', False),
        ('raise ValueError("no")', False),
    ],
)
def test_the_check_of_kinds_sees_what_has_none(line, is_poor):
    assert any(_is_without_kind(node, {"ConfigError"}) for node in ast.walk(ast.parse(line))) is is_poor


def test_tests_expect_the_kind_and_key_of_an_error_and_not_its_wording():
    errors = errors_of(trees_below("nasforge"))
    worded = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, tree in trees_below("tests").items()
        for node in ast.walk(tree)
        if _expects_words(node, errors)
    ]
    assert not worded, "write raises(Error, kind, key, *names) of tests/expecting.py: " + ", ".join(worded)


def _expects_words(node, errors):
    """Return whether code is `pytest.raises(Error, match=...)` of one of these errors, alone or among several."""
    if not isinstance(node, ast.Call) or ast.unparse(node.func).rpartition(".")[2] != "raises" or not node.args:
        return False
    expected = node.args[0].elts if isinstance(node.args[0], ast.Tuple) else [node.args[0]]
    ours = any(ast.unparse(each).rpartition(".")[2] in errors for each in expected)
    return ours and any(keyword.arg == "match" for keyword in node.keywords)


@pytest.mark.parametrize(
    ("line", "is_worded"),
    [
        ('pytest.raises(ConfigError, match="must be")', True),
        ('pytest.raises((ValueError, errors.ConfigError), match="must be")', True),
        ('pytest.raises(ValueError, match="must be")', False),
        ('raises(ConfigError, "range", "seed", 3)', False),
        ("pytest.raises(ConfigError)", False),
        ('re.compile(ConfigError, match="must be")', False),
    ],
)
def test_the_check_of_expected_words_sees_them(line, is_worded):
    assert any(_expects_words(node, {"ConfigError"}) for node in ast.walk(ast.parse(line))) is is_worded


def test_the_picture_in_the_readme_shows_the_stored_results(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = runpy.run_path(str(ROOT / "benchmarks/found_network.py"))
    script["main"](tmp_path / "drawn.svg")
    assert (tmp_path / "drawn.svg").read_text() == (ROOT / "docs/images/found_network.svg").read_text()


def test_the_readme_is_short_and_shows_the_two_commands_of_a_newcomer():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 90
    assert "\nmake search " in text and "\nmake test " in text


def test_every_public_name_is_there():
    import nasforge

    for name in nasforge.__all__:
        assert getattr(nasforge, name)
    with pytest.raises(AttributeError, match="nothing"):
        nasforge.nothing  # noqa: B018


def test_the_page_on_python_lists_every_public_name():
    listed = [re.match(r"`(\w+)", row[0])[1] for row in rows("reference/python.md", "## Names")]
    assert sorted(listed) == sorted(nasforge.__all__)


def _make(*arguments):
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_make_search_types_commands_that_exist():
    done = _make("-n", "search", "VENV=/nowhere/venv", "PYTHON=python3")
    assert done.returncode == 0, done.stderr
    typed = commands(done.stdout)
    assert [words[0] for words in typed] == ["search", "retrain", "show", "export", "track"]
    for words in typed:
        parse(words)
    assert "-m venv" in done.stdout and "pip install" in done.stdout


def test_make_says_what_is_missing(tmp_path):
    done = _make("setup", "PYTHON=", f"VENV={tmp_path / 'venv'}")
    assert done.returncode != 0 and "Python 3.11" in done.stderr


def test_pre_commit_runs_the_commands_of_ci():
    from nasforge.settings.yaml_file import read_yaml

    hooks = read_yaml(ROOT / ".pre-commit-config.yaml").content["repos"][0]["hooks"]
    assert [hook["entry"].split()[-1] for hook in hooks] == ["lint", "types", "layers", "test"]
    ci = (ROOT / ".ci/run").read_text()
    assert ci.splitlines()[-1] == "make --no-print-directory lint types layers package test test-slow"
    assert os.access(ROOT / ".ci/run", os.X_OK)
    for target in ("lint", "types", "layers", "package", "test", "test-slow"):
        assert _make("-n", target, "VENV=/nowhere/venv").returncode == 0


def test_the_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0" in text and "END OF TERMS AND CONDITIONS" in text
