"""The commands that wrote the experiments in `schema1/`, and what each command continues with.

`python commands.py FOLDER` writes them anew into FOLDER with the NASForge that is installed; `schema1/` itself was
written by version 0.1.0 (November 2026) and is never written again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
_HERE_AND_QUICK = "--runner local --tracking-uri none --runs-dir schema1"
_SMALL = f"small.yaml --data shapes.npz {_HERE_AND_QUICK} --set recipe.batch_size=16"

BEGUN: dict[str, str] = {
    "evolved": f"search {_SMALL} --strategy evolution --set strategy.population=3 --max-trials 5 --epochs 3 "
    "--constraint params<=2k --name evolved",
    "two_objectives": f"search {_SMALL} --strategy nsga2 --objective val/accuracy --objective cost/flops "
    "--max-trials 4 --epochs 1 --name two_objectives",
    "scored": f"search --config scored.yaml {_HERE_AND_QUICK} --set recipe.batch_size=16 --max-trials 4 --name scored",
    "shared": f"search {_SMALL} --strategy spos --set strategy.epochs=2 --set strategy.measures=3 --max-trials 6 "
    "--epochs 1 --name shared",
    "mixed": f"search {_SMALL} --strategy gdas --set strategy.epochs=2 --max-trials 2 --epochs 1 --name mixed",
    "promoted": f"search {_SMALL} --strategy promotion --set strategy.of=random --max-trials 5 --epochs 3 "
    "--name promoted",
    "population": "search tuned.yaml --data shapes.npz --strategy pbt --set strategy.population=4 --epochs 3 "
    f"--max-trials 6 {_HERE_AND_QUICK} --set recipe.batch_size=16 --name population",
    "joined": f"search tuned.yaml --data shapes.npz --strategy evolution --tune optuna --max-trials 4 --epochs 1 "
    f"{_HERE_AND_QUICK} --set recipe.batch_size=16 --name joined",
    "folds": f"search {_SMALL} --cv 3 --pruner median --max-trials 2 --epochs 1 --name folds",
    "untrained": f"search {_SMALL} --evaluator zero_cost --objective zc/synflow --max-trials 4 --name untrained",
    "own_builder": f"search own_space.yaml --data shapes.npz {_HERE_AND_QUICK} --max-trials 3 --epochs 1 "
    "--set recipe.batch_size=16 --name own_builder",
    "own_evaluator": "search own_space.yaml --evaluator own_parts:Judge --set evaluator.bonus=0.1 --strategy "
    f"local_search --max-trials 4 --epochs 3 {_HERE_AND_QUICK} --name own_evaluator",
    "looked_up": "search --config looked_up.yaml --strategy reinforce --max-trials 4 --name looked_up "
    f"{_HERE_AND_QUICK}",
    "calibrated": f"calibrate {_SMALL} --networks 4 --seeds 2 --epochs 3 --proxies synflow --name calibrated",
    "compared": "compare --config looked_up.yaml --strategies evolution --seeds 2 --max-trials 3 --runs-dir schema1 "
    "--tracking-uri none --name compared",
}
"""Experiment -> the command that began it; the same command with a larger limit continues it."""

RETRAINED: dict[str, str] = {
    "evolved": "retrain evolved --runs-dir schema1 --top 2 --random 1 --seeds 2 --epochs 2",
}
"""Experiment -> the command that retrained its finalists, with references and an ensemble."""


def continued(name: str) -> list[str]:
    """The arguments that continue experiment `name` with two more trials (a campaign: one more for each search)."""
    words = BEGUN[name].split()
    at = words.index("--max-trials") + 1
    words[at] = str(int(words[at]) + (1 if name == "compared" else 2))
    return words


def main(folder: Path) -> None:
    """Write all experiments into `folder`/schema1."""
    for path in (*HERE.glob("*.yaml"), HERE / "shapes.npz", HERE / "table.csv", HERE / "own_parts.py"):
        shutil.copy(path, folder)
    for command in (*BEGUN.values(), *RETRAINED.values()):
        print("nasforge", command, flush=True)
        subprocess.run([sys.executable, "-m", "nasforge", *command.split()], cwd=folder, check=True, env=os.environ)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
