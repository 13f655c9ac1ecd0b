"""How commands begin: without torch and Ray, `--version`, `-h`."""

import json
import subprocess
import sys

import pytest

from nasforge import __version__
from nasforge.cli import app as cli

HEAVY = ("torch", "ray", "mlflow", "optuna", "sklearn", "scipy", "timm", "pandas")
MISTAKES = (
    ("serch",),
    ("search", "--stratgy", "random"),
    ("search", "digits_small", "--strategy", "evolutoin"),
    ("search", "tiny", "--data", "digits", "--strategy", "evolutoin"),
    ("search", "tiny", "--data", "digits", "--set", "strategy.populaton=3"),
    ("search", "tiny", "--data", "digits", "--set", "evaluator.devise=cpu"),
    ("search", "tiny", "--data", "digits", "--strategy", "ppo", "--set", "strategy.clip_at=1"),
    ("search", "tiny", "--data", "digits", "--runner", "lokal"),
    ("search", "tiny", "--data", "digits", "--set", "runner.adress=auto"),
    ("search", "tiny", "--data", "digits", "--pruner", "ahsa"),
    ("search", "tiny", "--data", "digits", "--evaluator", "trainig"),
    ("search", "tiny", "--data", "digits", "--tune", "optun"),
    ("search", "tiny", "--data", "digits", "--objective", "cost/flops", "--constraint", "flop<=3"),
    ("search", "tiny", "--data", "digts"),
    ("calibrate", "tinny", "--data", "digits"),
    ("describe", "tinny"),
    ("fit", "digts"),
    ("inspect", "digts"),
    ("describe", "tiny", "--data", "digts"),
    ("export", "nothing", "--to", "onxx"),
    ("compare", "nothing"),
    ("compare", "--space", "tiny", "--data", "digits", "--strategies", "evolutoin"),
    *((verb, "nothing") for verb in ("show", "track", "retrain", "tune", "export", "report")),
)
ANSWERS = (("--help",), ("search", "-h"), ("--version",), ("strategies",), ("spaces",), ("list",))


def test_mistakes_and_lists_import_no_framework(tmp_path):
    code = (
        "import json, sys; from nasforge.cli import main\n"
        f"for words in {[*ANSWERS, *MISTAKES]!r}:\n"
        "    code = main([*words])\n"
        f"    print(json.dumps([words, code, sorted({{*{HEAVY!r}}} & {{*sys.modules}})]), file=sys.__stdout__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]
    assert [(tuple(words), code) for words, code, _ in answers] == [
        *((words, 0) for words in ANSWERS),
        *((words, 2) for words in MISTAKES),
    ], done.stderr
    assert [(words, heavy) for words, _, heavy in answers if heavy] == []


def test_version(capfd):
    assert cli.main(["--version"]) == 0
    out = capfd.readouterr().out
    assert out.startswith(f"nasforge {__version__}, Python {sys.version_info[0]}.") and ", torch " in out


@pytest.mark.parametrize("words", [(), ("search",), ("track",)])
def test_h_is_short_for_help(capfd, words):
    assert cli.main([*words, "-h"]) == 0
    short = capfd.readouterr().out
    assert cli.main([*words, "--help"]) == 0
    assert capfd.readouterr().out == short and "Usage: nasforge" in short


@pytest.mark.parametrize(
    ("words", "kind", "key"),
    [
        (("searh",), "unknown", "command"),
        (("search", "--nope", "3"), "unknown", "nope"),
        (("--bad",), "unknown", "bad"),
        (("search", "tiny", "two", "words"), "unknown", "arguments"),
        (("show",), "missing", "name"),
        (("predict", "--no-csv"), "unknown", "no_csv"),
        (("search", "tiny", "--max-trials", "x"), "type", "max_trials"),
        (("search", "tiny", "--yes=3"), "unknown", "yes"),
        (("describe", "tiny", "--classes", "1"), "range", "classes"),
    ],
)
def test_a_mistake_in_the_words_of_a_command_has_a_kind_and_a_key(words, kind, key, capfd):
    assert cli.main([*words, "--json"]) == 2
    answer = json.loads(capfd.readouterr().out)
    assert (answer["kind"], answer["key"]) == (kind, key) and answer["error"]


@pytest.mark.parametrize(("words", "kind"), [(("--max-trials",), "missing"), (("--json=3",), "type")])
def test_an_option_that_lacks_its_value_or_takes_none(words, kind, capfd):
    assert cli.main(["search", "tiny", "--json", *words]) == 2
    answer = json.loads(capfd.readouterr().out)
    assert (answer["kind"], answer["key"]) == (kind, words[0].partition("=")[0].lstrip("-").replace("-", "_"))
