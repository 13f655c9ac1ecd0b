import json
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import changing_builder
import pytest
import torch
from expecting import raises

from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError, ExportError, JournalError
from nasforge.core.layout import DESCRIPTION, WEIGHTS
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.data import load_data
from nasforge.data.augment import normalise
from nasforge.exporters.network_folder import Description, Network, Normalise, load, save_network
from nasforge.models.ensemble import Ensemble, ensemble_space
from nasforge.models.network import build
from nasforge.settings.experiment import DataConfig

HERE = str(Path(__file__).parent)


def toy_space(builder="toy_builder:build"):
    decisions = (Decision("model.width", Choice((4, 8))), Decision("model.activation", Choice(("relu", "silu"))))
    return SearchSpace("toy", decisions, builder=builder)


def trained(space=None, shape=(1, 8, 8), classes=10):
    """A network whose BN statistics are not the initial ones, and its description."""
    space = space or toy_space()
    torch.manual_seed(3)
    architecture = space.default_point()
    network = build(space, architecture, in_channels=shape[0], classes=classes)
    for _ in range(3):
        network(torch.randn(16, *shape) * 2 + 1)
    description = Description(
        space,
        architecture,
        shape,
        tuple(str(n) for n in range(classes)),
        (0.3,) * shape[0],
        (0.4,) * shape[0],
        metrics={"val/accuracy": 0.5, "val/loss": float("nan")},
        trained={"epochs": 3, "seed": 0, "data": {"source": "digits"}, "recipe": {"learning_rate": 0.1}},
    )
    return network.eval(), description


def test_saved_and_loaded_networks_agree_bit_for_bit(tmp_path):
    network, description = trained()
    images = torch.rand(32, 1, 8, 8)
    expected = network(Normalise((0.3,), (0.4,))(images))
    torch.testing.assert_close(expected, network((images - 0.3) / 0.4))
    loaded = load(save_network(tmp_path / "deep" / "best", network, description))
    assert not loaded.training
    assert not any(module.training for module in loaded.modules())
    assert torch.equal(loaded(images), expected)
    assert loaded.class_names == description.class_names
    assert loaded.shape == (1, 8, 8)
    assert loaded.architecture == description.architecture
    assert loaded.description.metrics["val/accuracy"] == 0.5
    assert loaded.description.metrics["val/loss"] != loaded.description.metrics["val/loss"]
    for (key, a), (_, b) in zip(network.state_dict().items(), loaded.body.state_dict().items(), strict=True):
        assert torch.equal(a, b), key


def test_bytes_are_normalised_to_the_same_bits_as_in_training():
    data = load_data(DataConfig("digits"))
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    assert torch.equal(Normalise(data.mean, data.std)(images.float() / 255), normalise(images, data.mean, data.std))


def test_a_wrapped_network_is_saved_without_a_second_normalisation(tmp_path):
    network, description = trained()
    once = load(save_network(tmp_path / "a", network, description))
    twice = load(save_network(tmp_path / "b", once, description))
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(once(images), twice(images))


def test_channels_last_weights_survive(tmp_path):
    network, description = trained()
    images = torch.rand(4, 1, 8, 8)
    expected = Network(description, network)(images)
    save_network(tmp_path / "n", network.to(memory_format=torch.channels_last), description)
    torch.testing.assert_close(load(tmp_path / "n")(images), expected)


def test_loads_in_a_process_that_never_saw_the_experiment(tmp_path):
    network, description = trained()
    images = torch.rand(5, 1, 8, 8)
    torch.save(images, tmp_path / "images.pt")
    save_network(tmp_path / "n", network, description)
    code = (
        "import sys, torch; from nasforge.exporters.network_folder import load;"
        "folder = sys.argv[1]; net = load(folder + '/n');"
        "torch.save(net(torch.load(folder + '/images.pt')), folder + '/logits.pt')"
    )
    environment = {**os.environ, "PYTHONPATH": HERE, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=tmp_path, env=environment)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), Network(description, network)(images))


def test_loading_leaves_the_random_stream_alone(tmp_path):
    save_network(tmp_path / "n", *trained())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load(tmp_path / "n")
    assert torch.equal(torch.rand(3), expected)


def test_an_existing_folder_is_replaced_whole(tmp_path):
    network, description = trained()
    save_network(tmp_path / "n", network, description)
    (tmp_path / "n" / "left_over").write_text("old")
    with torch.no_grad():
        network[-1].bias += 1
    save_network(tmp_path / "n", network, description)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["n"]
    assert sorted(entry.name for entry in (tmp_path / "n").iterdir()) == [DESCRIPTION, WEIGHTS]
    assert torch.equal(load(tmp_path / "n").body[-1].bias, network[-1].bias)


def test_a_failed_save_keeps_the_old_network_and_leaves_nothing_behind(tmp_path):
    network, description = trained()
    save_network(tmp_path / "n", network, description)
    before = (tmp_path / "n" / WEIGHTS).read_bytes()
    bad = Description(**{**vars(description), "trained": {"not JSON": object()}})
    with raises(JournalError, "type", None, "JSON"):
        save_network(tmp_path / "n", network, bad)
    assert (tmp_path / "n" / WEIGHTS).read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["n"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    network, description = trained()
    save_network(tmp_path / "n", network, description)
    (tmp_path / "n").rename(tmp_path / ".n.old")
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(load(tmp_path / "n")(images), Network(description, network)(images))
    save_network(tmp_path / "n", network, description)
    assert [entry.name for entry in tmp_path.iterdir()] == ["n"]


@contextmanager
def full_disk(limit=500):
    """No file may grow beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_clear_error(tmp_path):
    network, description = trained()
    with full_disk(), raises(ExportError, "failed", None, tmp_path / "n"):
        save_network(tmp_path / "n", network, description)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda folder: (folder / DESCRIPTION).unlink(),
            ("missing", None, "network.json", "found: weights.safetensors"),
        ),
        (lambda folder: (folder / WEIGHTS).unlink(), ("missing", None, WEIGHTS)),
        (lambda folder: (folder / DESCRIPTION).write_text("{"), ("unreadable", None, DESCRIPTION)),
        (lambda folder: (folder / DESCRIPTION).write_text("[]"), ("unreadable", "schema", DESCRIPTION)),
        (lambda folder: change(folder, schema=99), ("unsupported", "schema", 99, "reads 1")),
        (lambda folder: change(folder, shape=[1, 8]), ("unreadable", None, DESCRIPTION)),
        *(
            (lambda folder, entry=entry: change(folder, **entry), ("unreadable", None, DESCRIPTION))
            for entry in (
                *({"shape": [1, 8, size]} for size in (0, -8, None, {"$float": "inf"})),
                *({"std": [value]} for value in (0.0, {"$float": "nan"}, "x")),
                *({"class_names": names} for names in ("abc", {}, 3)),
                *({"metrics": {"x": {"$float": value}}} for value in ([], None, "x")),
            )
        ),
        (lambda folder: (folder / DESCRIPTION).write_text("[" * 100_000), ("unreadable", None, DESCRIPTION)),
        (lambda folder: (folder / DESCRIPTION).write_text("9" * 5000), ("unreadable", None, DESCRIPTION)),
        (lambda folder: change(folder, probe={"images": 10**9, "logits": [0.1]}), ("unreadable", None, DESCRIPTION)),
        (lambda folder: change(folder, probe={"logits": "abc"}), ("unreadable", None, DESCRIPTION)),
        (lambda folder: change(folder, mean=[0.1, 0.2]), ("unreadable", None, "1 channels", "2 means")),
        (lambda folder: change(folder, architecture={}), ("unreadable", None, DESCRIPTION)),
        (lambda folder: flip(folder / WEIGHTS), ("unreadable", None, WEIGHTS, "checksum")),
        (lambda folder: (folder / WEIGHTS).write_bytes(b""), ("unreadable", None, WEIGHTS)),
    ],
)
def test_damage_is_named(tmp_path, damage, expected):
    folder = save_network(tmp_path / "n", *trained())
    damage(folder)
    with raises(ExportError, *expected) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def change(folder, **entries):
    content = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps({**content, **entries}))


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))


def test_a_missing_folder_is_named(tmp_path):
    with raises(ExportError, "missing", None, tmp_path / "nowhere"):
        load(tmp_path / "nowhere")


def test_an_experiments_folder_points_to_its_best(tmp_path):
    save_network(tmp_path / "best", *trained())
    with raises(ExportError, "missing", None, tmp_path / "best"):
        load(tmp_path)


def test_an_unknown_builder_says_that_it_must_be_importable(tmp_path):
    folder = save_network(tmp_path / "n", *trained())
    change(folder, space=toy_space("no_such_package:build").to_json())
    with raises(ExportError, "missing", None, "no_such_package", "PYTHONPATH"):
        load(folder)


def test_a_builder_that_changed_is_named(tmp_path):
    folder = save_network(tmp_path / "n", *trained())
    change(folder, class_names=["a", "b"])
    with raises(ExportError, "mismatch", None, "toy_builder:build"):
        load(folder)
    change(folder, architecture={"values": {"model.width": 4}})
    with raises(BuildError, "unknown", "model.activation"):
        load(folder)


CHANGING = SearchSpace("changing", (Decision("model.width", Choice((4, 8))),), builder="changing_builder:build")


def test_a_builder_that_makes_another_network_of_the_same_weights_is_refused(tmp_path, monkeypatch):
    folder = save_network(tmp_path / "n", *trained(CHANGING))
    assert load(folder).shape == (1, 8, 8)
    monkeypatch.setattr(changing_builder, "PADDING_MODE", "circular")
    with raises(ExportError, "mismatch", "builder", folder, "changing_builder:build", "makes another network now"):
        load(folder)
    change(folder, probe=json.loads((folder / DESCRIPTION).read_text())["probe"] | {"images": 1})
    with raises(ExportError, "mismatch", "builder"):
        load(folder)


def test_a_builder_that_draws_is_refused_when_it_draws_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(changing_builder, "DILATIONS", (2,))
    folder = save_network(tmp_path / "n", *trained(CHANGING))  # the module at hand is the trained one
    assert load(folder)
    monkeypatch.setattr(changing_builder, "DILATIONS", (3,))
    with raises(ExportError, "mismatch", "builder"):
        load(folder)


def test_a_folder_of_before_probes_is_read(tmp_path, monkeypatch):
    folder = save_network(tmp_path / "n", *trained(CHANGING))
    content = json.loads((folder / DESCRIPTION).read_text())
    assert set(content.pop("probe")) == {"images", "logits"}
    (folder / DESCRIPTION).write_text(json.dumps(content))
    monkeypatch.setattr(changing_builder, "PADDING_MODE", "circular")
    assert load(folder).shape == (1, 8, 8)


def test_a_member_of_an_ensemble_that_changed_is_refused(tmp_path, monkeypatch):
    network, description = trained(CHANGING)
    other, _ = trained()
    space = ensemble_space([(CHANGING, description.architecture), (toy_space(), toy_space().default_point())])
    about = Description(**{**vars(description), "space": space, "architecture": Architecture({})})
    folder = save_network(tmp_path / "n", Ensemble([network, other]), about)
    images = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(load(folder)(images), Network(about, Ensemble([network, other]))(images))
    monkeypatch.setattr(changing_builder, "PADDING_MODE", "reflect")
    with raises(ExportError, "mismatch", "builder"):
        load(folder)
