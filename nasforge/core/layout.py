"""Names of the files and folders in a runs folder.

runs/NAME/
    journal.jsonl, lock         a search: all that happened, and who writes it
    artifacts/TRIAL/attempt-N/  weights, answers and checkpoints of its trials
    best/                       the network to use: network.json, weights.safetensors
    finalists/                  retrained networks, a folder each
    report.html                 the page
runs/NAME/
    fit.jsonl                   a fit: all that happened
    search/                     its search, a folder as above
    answers/                    what its networks say of images
    finalists/, best/           as above
    exported/                   the best network in other formats
    report.html                 the page
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
