"""What the shell offers after Tab."""

import pytest

from nasforge.cli import app as cli


@pytest.fixture
def tab(tmp_path, monkeypatch, capfd):
    """Complete a line as bash does."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in (
        "runs/first/journal.jsonl",
        "runs/fitted/fit.jsonl",
        "runs/many/one/journal.jsonl",
        "r2/other/fit.jsonl",
    ):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    for name in ("mine.yaml", "photos.npz", "notes.txt"):
        (tmp_path / name).touch()

    def complete(line: str) -> list[str]:
        monkeypatch.setenv("_NASFORGE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        with pytest.raises(SystemExit) as end:
            cli.main([])
        assert end.value.code == 0
        return capfd.readouterr().out.split()

    return complete


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("nasforge sp", ["spaces"]),
        ("nasforge search --strat", ["--strategy"]),
        ("nasforge show ", ["first", "fitted", "many"]),
        ("nasforge show --runs-dir r2 ", ["other"]),
        ("nasforge retrain fi", ["first", "fitted"]),
        ("nasforge track --runs-dir nowhere ", []),
        ("nasforge predict fit", ["fitted"]),
        ("nasforge search t", ["tiny"]),
        ("nasforge search mi", ["mine.yaml"]),
        ("nasforge describe mob", ["mobile", "mobilenet_v1", "mobilenet_v2"]),
        ("nasforge search tiny --data ph", ["photos.npz"]),
        ("nasforge search tiny --data r", ["r2/", "runs/"]),
        ("nasforge search tiny --data runs/fi", ["runs/first/", "runs/fitted/"]),
        ("nasforge search tiny --strategy re", ["reinforce"]),
        ("nasforge search tiny --tune opt", ["optuna"]),
        ("nasforge search tiny --pruner ", ["asha", "median", "none"]),
        ("nasforge search tiny --runner l", ["local"]),
        ("nasforge search tiny --evaluator z", ["zero_cost"]),
        ("nasforge search tiny --recipe s", ["sgd"]),
        ("nasforge export first --to onnx,sa", ["onnx,safetensors"]),
    ],
)
def test_values_are_offered(tab, line, values):
    offered = tab(line)
    if "data r" in line or line.endswith(("--recipe s", "search mi", "search t")):
        offered = [value for value in offered if value in values]
    assert offered == values


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(monkeypatch, capfd, shell):
    monkeypatch.setenv("_NASFORGE_COMPLETE", f"source_{shell}")
    with pytest.raises(SystemExit):
        cli.main([])
    assert "_NASFORGE_COMPLETE" in capfd.readouterr().out
