"""A finished search whose files were cleaned up stays a finished search."""

import shutil

import nasforge


def test_a_search_without_its_weights_is_opened_and_says_so(tmp_path):
    messages = []
    settings = {"space": "tiny", "data": {"source": "digits", "images": 200}, "epochs": 1, "budget": {"trials": 1}}
    place = {"runs_dir": tmp_path, "tracking_uri": "none", "name": "first", "runner": "local"}
    first = nasforge.search(**settings, **place)
    shutil.rmtree(tmp_path / "first" / "artifacts")
    shutil.rmtree(tmp_path / "first" / "best")
    again = nasforge.search(**settings, **place, say=messages.append)
    assert again.best.metrics == first.best.metrics and not (tmp_path / "first" / "best").exists()
    assert "best/ is not written" in "\n".join(messages) and "nasforge retrain first" in "\n".join(messages)
