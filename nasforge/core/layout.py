"""Names of the files and folders in a runs folder.

runs/NAME/
    journal.jsonl, lock         a search: all that happened, and who writes it
    artifacts/TRIAL/attempt-N/  weights, answers and checkpoints of its trials
    best/                       the network to use: network.json, weights.safetensors
    finalists/                  retrained networks, a folder each
    answers/                    what these say of the test images
    exported/                   the best network in other formats
    report.html                 the page
runs/NAME/
    fit.jsonl                   a fit: all that happened
    search/                     its search: its journal and artifacts, as above
    best/, finalists/, answers/, exported/, report.html
"""

from __future__ import annotations

JOURNAL = "journal.jsonl"
LOCK = "lock"
ARTIFACTS = "artifacts"
BEST = "best"
DESCRIPTION = "network.json"
WEIGHTS = "weights.safetensors"
FINALISTS = "finalists"
REPORT = "report.html"
FIT = "fit.jsonl"
SEARCH = "search"
ANSWERS = "answers"
EXPORTED = "exported"
