import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from expecting import raises
from PIL import Image
from test_network_folder import full_disk, toy_space
from torch import nn

from nasforge.api.export import _beside, best_of, export, validation_images
from nasforge.api.predict import predict
from nasforge.core.errors import DataError, ExportError, JournalError
from nasforge.data import load_data
from nasforge.exporters import torch_export
from nasforge.exporters.model_card import model_card
from nasforge.exporters.network_folder import TRAIN_AND_VALIDATION, Description, Network, load, save_network
from nasforge.exporters.torch_export import TorchExport
from nasforge.exporters.verify import Agreement
from nasforge.models.network import build
from nasforge.runners.local import run
from nasforge.settings.experiment import DataConfig
from nasforge.testing.toys import Planted, toy_config, toy_experiment
from nasforge.training.artifacts import sha256_of


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """An experiment's folder with `best/`: a small network really trained on the embedded digits."""
    config = DataConfig("digits")
    data = load_data(config)
    space = toy_space()
    torch.manual_seed(0)
    architecture = space.point({"model.width": 8, "model.activation": "silu"})
    body = build(space, architecture, in_channels=1, classes=10)
    description = Description(
        space,
        architecture,
        data.shape,
        data.class_names,
        data.mean,
        data.std,
        metrics={"cost/params": 440, "cost/flops": 4928},
        trained={"data": asdict(config), "epochs": 4, "seed": 0, "recipe": {"learning_rate": 0.01}},
    )
    network = Network(description, body)
    optimizer = torch.optim.Adam(body.parameters(), lr=0.02)
    images, labels = data.train.images.float() / 255, data.train.labels
    for _ in range(4):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    folder = tmp_path_factory.mktemp("runs") / "toy"
    save_network(folder / "best", network.eval(), description)
    return folder


@pytest.fixture(scope="module")
def shipped(experiment):
    out = experiment / "shipped" / "deep"
    return export(experiment, ["onnx", "torch_export", "safetensors"], out), out


def test_all_formats_are_written_and_verified(experiment, shipped):
    result, out = shipped
    assert sorted(path.name for path in out.iterdir()) == [
        *("README.md", "SHA256SUMS", "labels.txt", "model.onnx", "model.pt2", "network.json", "predict.py"),
        "weights.safetensors",
    ]
    assert result.files == {
        "onnx": out / "model.onnx",
        "torch_export": out / "model.pt2",
        "safetensors": out / "weights.safetensors",
    }
    network = load(experiment / "best")
    data = load_data(DataConfig("digits"))
    right = (network(data.validation.images.float() / 255).argmax(1) == data.validation.labels).float().mean()
    assert result.accuracy == pytest.approx(float(right))
    assert result.accuracy > 0.6
    assert result.images == len(data.validation)
    assert all(v.accuracy_exported == result.accuracy for v in result.verified.values())
    assert json.loads(json.dumps(result.to_json()))["card"] == str(out / "README.md")


def test_the_shipped_folder_loads_as_a_network(experiment, shipped):
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(load(shipped[1])(images), load(experiment / "best")(images))


def test_the_code_on_the_model_card_runs(shipped, monkeypatch, capsys):
    result, out = shipped
    card = result.card.read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.chdir(out)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_the_model_card_tells_what_matters(shipped):
    card = shipped[0].card.read_text()
    for text in ("digits", "4,928 multiply-adds", "`model.activation` | silu", "learning_rate", "1 x 8 x 8", "`torch`"):
        assert text in card, text
    assert f"compared on {shipped[0].images} validation images" in card
    assert "the test split was not opened" in card
    assert "guided the search" in card
    assert not shipped[0].trained_on_these


def test_unknown_formats_are_refused_with_a_hint(experiment, tmp_path):
    with raises(ExportError, "unknown", "to", "onx", "onnx"):
        export(experiment, ["onx"], tmp_path / "out")
    with raises(ExportError, "empty", "to"):
        export(experiment, [], tmp_path / "out")
    with raises(ExportError, "missing", "to", "no_such_module"):
        export(experiment, ["no_such_module:to_it"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_export_is_refused_and_the_old_file_stays(experiment, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export(experiment, ["torch_export"], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    class WithAWrongStatistic(TorchExport):
        def write(self, model, example, path):
            broken = load(experiment / "best")
            broken.body[1].running_mean += 0.5
            return super().write(broken, example, path)

    monkeypatch.setattr(torch_export, "TorchExport", WithAWrongStatistic)
    with raises(ExportError, "mismatch", None, "torch_export"):
        export(experiment, ["safetensors", "torch_export"], out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_files_of_an_earlier_export_are_replaced_and_others_stay(experiment, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    export(experiment, ["safetensors"], tmp_path)
    export(experiment, ["torch_export"], tmp_path)
    (tmp_path / "weights.safetensors").write_text("of another network")
    export(experiment, ["safetensors"], tmp_path)
    load(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert (
        "SHA256SUMS, labels.txt, model.pt2, network.json, weights.safetensors;" in (tmp_path / "README.md").read_text()
    )


@pytest.mark.parametrize("name", ["weights.safetensors", "network.json"])
def test_a_file_that_no_export_wrote_is_never_replaced(experiment, tmp_path, name):
    (tmp_path / name).write_text("mine")
    for _ in range(2):
        with raises(ExportError, "duplicate", "out", name):
            export(experiment, ["safetensors"], tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        assert (tmp_path / name).read_text() == "mine"
    export(experiment, ["torch_export"], tmp_path)
    with raises(ExportError, "duplicate", "out", name):
        export(experiment, ["safetensors"], tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_a_readme_of_somebody_else_stays(experiment, tmp_path):
    (tmp_path / "README.md").write_text("# Mine\n")
    first = export(experiment, ["safetensors"], tmp_path)
    again = export(experiment, ["safetensors"], tmp_path)
    assert first.card == again.card == tmp_path / "MODEL_CARD.md"
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    (tmp_path / "MODEL_CARD.md").write_text((tmp_path / "MODEL_CARD.md").read_text().replace("Limits", "My limits"))
    with raises(ExportError, "duplicate", "out", "README.md", "MODEL_CARD.md"):
        export(experiment, ["safetensors"], tmp_path)


def test_a_card_that_somebody_has_edited_stays_and_one_without_a_signature_is_replaced(experiment, tmp_path):
    card = export(experiment, ["safetensors"], tmp_path).card
    written = card.read_text()
    card.write_text("Reviewed by me.\n" + written)
    assert export(experiment, ["safetensors"], tmp_path).card == tmp_path / "MODEL_CARD.md"
    assert card.read_text().startswith("Reviewed by me.")
    (tmp_path / "MODEL_CARD.md").unlink()
    card.write_text(written.partition("\n<!--")[0])  # as earlier versions wrote it
    assert export(experiment, ["safetensors"], tmp_path).card == card
    assert card.read_text() == written


def test_the_umask_decides_the_mode_of_every_file(experiment, tmp_path):
    before = os.umask(0o002)
    try:
        export(experiment, ["onnx", "torch_export", "safetensors"], tmp_path / "out")
        save_network(tmp_path / "copy", load(experiment / "best"), load(experiment / "best").description)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert {*modes.values()} == {0o664}, modes
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o775


def test_a_network_that_is_not_the_one_that_was_measured_is_refused(experiment, tmp_path):
    network = load(experiment / "best")
    about = network.description
    save_network(tmp_path / "other", network, replace(about, metrics={"val/accuracy": 0.3}))
    with raises(ExportError, "changed", "val/accuracy", 144, 0.3000):
        export(tmp_path / "other", ["safetensors"], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    retrained = replace(about, metrics={"val/accuracy": 0.3}, trained={**about.trained, "parts": TRAIN_AND_VALIDATION})
    save_network(tmp_path / "other", network, retrained)
    export(tmp_path / "other", ["safetensors"], tmp_path / "out")


@pytest.mark.parametrize("attribute", ["Safetensors", "to_safetensors"], ids=["", "the name of earlier versions"])
def test_an_exporter_is_taken_by_module_and_name(experiment, tmp_path, attribute):
    name = f"nasforge.exporters.safetensors:{attribute}"
    result = export(experiment, [name], tmp_path)
    assert result.files[name].is_file()


@pytest.mark.parametrize(
    ("body", "lacks"),
    [("def it(model): ...", "write, reload, snippet"), ("class it:\n write = reload = id", "snippet")],
)
def test_an_exporter_without_the_methods_is_refused(experiment, tmp_path, monkeypatch, body, lacks):
    (tmp_path / "old_exporter.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "old_exporter", raising=False)
    with raises(ExportError, "type", "to", f"without {lacks}."):
        export(experiment, ["old_exporter:it"], tmp_path / "out")


@pytest.mark.parametrize(
    ("body", "got"),
    [
        ("class It:\n write = reload = snippet = id\nit = It()", "an object of type It"),
        ("class it:\n write = reload = snippet = id\n def __init__(self, a): ...", "argument: 'a'"),
    ],
    ids=["object", "arguments"],
)
def test_an_exporter_that_cannot_be_made_is_refused(experiment, tmp_path, monkeypatch, body, got):
    (tmp_path / "unmade_exporter.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "unmade_exporter", raising=False)
    with raises(ExportError, "type", "to", got):
        export(experiment, ["unmade_exporter:it"], tmp_path / "out")


def test_the_exporter_of_the_documentation_works(experiment, tmp_path, monkeypatch):
    documentation = Path(__file__).parents[2] / "docs/howto/export.md"
    *_, code = re.findall(r"```python\n(.*?)```", documentation.read_text(), re.DOTALL)
    (tmp_path / "documented_exporter.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    result = export(experiment, ["documented_exporter:Zipped"], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("README.md", "SHA256SUMS", "labels.txt", "model.pt2.gz")
    ]
    assert result.verified["documented_exporter:Zipped"].accuracy_exported == result.accuracy
    assert "Load the documented_exporter:Zipped file" in (tmp_path / "out" / "README.md").read_text()


def test_an_out_that_is_a_file_is_one_clear_error(experiment, tmp_path):
    (tmp_path / "out").write_text("")
    with raises(ExportError, "conflict", "out", tmp_path / "out"):
        export(experiment, ["safetensors"], tmp_path / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_out_without_permission_is_one_clear_error(experiment, tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with raises(ExportError, "failed", None, tmp_path / "out", "Permission denied"):
        export(experiment, ["safetensors"], tmp_path / "out")


@pytest.mark.parametrize("name", ["onnx", "torch_export", "safetensors"])
def test_a_full_disk_is_one_clear_error(experiment, tmp_path, name):
    with full_disk(), raises(ExportError, "failed", None, tmp_path / "out"):
        export(experiment, [name], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_with_nothing_to_ship_says_so(tmp_path):
    with raises(JournalError, "unknown", "name", tmp_path, "no file journal.jsonl"):
        export(tmp_path, ["safetensors"], tmp_path / "out")


def test_an_experiment_whose_trials_left_no_network_says_why(tmp_path):
    toy_experiment(toy_config(tmp_path)).close()
    with raises(ExportError, "empty", None, "no trials"):
        export(tmp_path / "toy", ["safetensors"], tmp_path / "out")
    with toy_experiment(toy_config(tmp_path, budget={"trials": 1})) as running:
        run(running, Planted(epochs=3))
    with raises(ExportError, "missing", None, "best trial (0)", "looked up"):
        export(tmp_path / "toy", ["safetensors"], tmp_path / "out")


def test_best_is_found_in_an_experiment_and_a_network_is_taken_as_it_is(experiment):
    assert best_of(experiment) == experiment / "best"


def test_data_that_changed_are_refused(experiment):
    network = load(experiment / "best")
    about = network.description
    network.description = replace(about, trained={**about.trained, "data_hash": "of other images"})
    with raises(ExportError, "changed", "data", "other images"):
        validation_images(network)
    network.description = replace(about, class_names=(*(*about.class_names[:9], "ten"),))
    with raises(ExportError, "changed", "data", "new classes: '9'", "missing classes: 'ten'"):
        validation_images(network)
    network.description = replace(about, class_names=about.class_names[::-1])
    with raises(ExportError, "changed", "data", "order"):
        validation_images(network)
    network.description = replace(network.description, trained={})
    with raises(ExportError, "missing"):
        validation_images(network)
    network.description = replace(network.description, trained={"data": {"source": "/gone/data.npz"}})
    with pytest.raises(DataError):
        validation_images(network)


def test_many_validation_images_are_a_mixed_sample(experiment):
    images, labels = validation_images(load(experiment / "best"), largest=50)
    assert len(images) == len(labels) == 50
    assert len(labels.unique()) > 5


ALONE = """
import runpy, sys

class Others:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in {*sys.stdlib_module_names, "onnxruntime", "numpy", "PIL"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Others())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_script_runs_with_onnxruntime_numpy_and_pillow_alone(experiment, shipped, tmp_path):
    data = load_data(DataConfig("digits"))
    files = []
    for number in range(5):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(data.validation.images[number, 0].numpy()).save(files[-1])
    (tmp_path / "bad.png").write_text("text")
    command = [sys.executable, "-I", "-c", ALONE, str(shipped[1] / "predict.py")]
    done = subprocess.run([*command, str(tmp_path), "--json"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    *answers, broken = json.loads(done.stdout)
    ours = predict(experiment / "best", files)
    assert [(a["file"], a["class"]) for a in answers] == [(a.file, a.label) for a in ours]
    assert [a["probability"] for a in answers] == pytest.approx([a.probability for a in ours], abs=1e-5)
    assert broken["file"].endswith("bad.png") and "damaged" in broken["error"]


def test_labels_and_checksums_are_shipped(shipped):
    _, out = shipped
    assert (out / "labels.txt").read_text().split() == [str(n) for n in range(10)]
    sums = dict(reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {path.name for path in out.iterdir()} - {"README.md", "SHA256SUMS"}
    assert all(sha256_of(out / name) == digest for name, digest in sums.items())
    card = (out / "README.md").read_text()
    assert "python predict.py" in card and "labels.txt" in card and "turned upright" in card


def test_the_script_prints_any_name_and_says_which_model_it_cannot_use(shipped, tmp_path):
    script = str(shipped[1] / "predict.py")
    place = tmp_path / os.fsdecode(b"\xff.png")
    Image.new("L", (8, 8)).save(place)
    done = subprocess.run([sys.executable, script, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f"{tmp_path}/\\udcff.png: "), done.stderr
    (tmp_path / "cut.onnx").write_bytes((shipped[1] / "model.onnx").read_bytes()[:500])
    for model in ("cut.onnx", "none.onnx"):
        command = [sys.executable, script, str(tmp_path), "--model", str(tmp_path / model)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2 and str(tmp_path / model) in done.stderr and "Traceback" not in done.stderr


def test_a_class_is_one_line_of_the_labels_and_the_card(experiment, tmp_path):
    names = ("ant", "line\nbreak", "bee")
    (labels,) = _beside(tmp_path, SimpleNamespace(class_names=names, shape=(2, 8, 8)), [])
    assert labels.read_text().splitlines() == ["ant", "line break", "bee"]
    network = load(experiment / "best")
    network.description = replace(network.description, class_names=names)
    card = model_card(network, {"safetensors": Agreement(1, 0.0, 1.0, 1.0, 1.0)}, {"safetensors": "w"}, [], {})
    assert "- classes, in this order: `ant`, `line break`, `bee`\n" in card
