"A trained network as a thing to use: what it predicts, what it refuses, and the three that are shipped."
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

import eqbook
from eqbook.checkpoints import read_json, write_best, write_card, write_json
from eqbook.datasets.water import load_water
from eqbook.experiments.weights import KINDS, RECIPES, groups, water_sets
from eqbook.graphs import BatchedTorchAtoms
from eqbook.models import MODELS, WEIGHTS, Config, build, configure, load, pretrained
from eqbook.symmetry import symmetry_report
from eqbook.training import fit

ROOT = Path(__file__).parent.parent
PAIRS = [(model, target) for model, targets in MODELS.items() for target in targets]
FRAMES = load_water("gfn2", subset="sizes")[:40]
SHAPES = {"charges": lambda n: (n,), "dipole": lambda n: (3,), "forces": lambda n: (n, 3)}


def small(model, target, **changes):
    torch.manual_seed(0)
    return build(replace(configure(model, target, FRAMES, cutoff=4.0, features=8, interactions=2, n_rbf=8), **changes))


@pytest.mark.parametrize("model, target", PAIRS)
def test_trained_kept_loaded(model, target, tmp_path):
    predictor = small(model, target)
    graphs = predictor.graphs(FRAMES)
    fit(predictor, graphs[:30], graphs[30:], predictor.loss(), epochs=1, progress=False, out=tmp_path / "run", about=predictor.about(data="gfn2"))
    again = load(tmp_path / "run")
    assert again.config == predictor.config and not again.training
    for frame, a, b in zip(FRAMES, predictor.eval().predict(FRAMES[:5]), again.predict(FRAMES[:5])):
        assert a.keys() == b.keys() and (target == "energy" or list(a) == [target])
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
            assert isinstance(a[name], float) if name == "energy" else a[name].shape == SHAPES[name](len(frame))


@pytest.mark.parametrize("model, target", PAIRS)
def test_symmetry_in_double_precision(model, target):
    predictor = small(model, target).double().eval()
    batch = BatchedTorchAtoms(predictor.graphs(FRAMES[10:14]))
    kind = dict(charges=dict(irreps_out="scalar"), dipole=dict(irreps_out="vector", per="system"), energy=dict(irreps_out="scalar", per="system"))[target]
    def call(batch): return predictor(batch).unsqueeze(-1) if target == "energy" else predictor(batch)
    assert symmetry_report(call, batch, **kind).worst.largest < 1e-9
    def broken(batch): return call(batch) * (1 + batch.positions[0, 0])
    assert symmetry_report(broken, batch, **kind).worst.largest > 1e-3


def test_errors_are_those_of_the_predictions():
    predictor = small("eqnet", "energy")
    answers, errors = predictor.predict(FRAMES), predictor.errors(FRAMES)
    energy = np.array([(a["energy"] - f.info["energy"]) / len(f) for a, f in zip(answers, FRAMES)])
    forces = np.concatenate([(a["forces"] - f.arrays["forces"]).ravel() for a, f in zip(answers, FRAMES)])
    for name, d in (("energy", energy), ("forces", forces)):
        assert errors[name] == pytest.approx(dict(mae=np.abs(d).mean(), rmse=np.sqrt((d**2).mean())), rel=1e-5)
    without = [f.copy() for f in FRAMES]
    del without[3].arrays["forces"]
    assert list(predictor.errors(without)) == ["energy"]


def test_references_keep_their_digits():
    far = small("eqnet", "energy", references=(-1e5, -2e6))
    near = replace(far.config, references=())
    frames, network = FRAMES[:3], build(near)
    network.load_state_dict(far.state_dict())
    for f, a, b in zip(frames, far.predict(frames), network.predict(frames)):
        assert a["energy"] + 2e5 * (len(f) // 3) + 2e6 * (len(f) // 3) == pytest.approx(b["energy"], abs=1e-6)
    labelled = [f.copy() for f in frames]
    for f in labelled: f.info["energy"] = -2.2e6 * (len(f) // 3) + 0.001
    torch.testing.assert_close(BatchedTorchAtoms(far.graphs(labelled)).energy, torch.full((3,), 0.001, dtype=torch.float64), rtol=0, atol=1e-8)


def test_energies_without_forces_are_learned():
    frames = [f.copy() for f in FRAMES]
    for f in frames: del f.arrays["forces"]
    predictor = build(configure("invnet", "energy", frames, cutoff=4.0, features=8, interactions=1, n_rbf=8))
    graphs = predictor.graphs(frames)
    history = fit(predictor, graphs[:30], graphs[30:], predictor.loss(), epochs=5, lr=1e-2, progress=False)
    assert history[-1]["train"] < history[0]["train"]


@pytest.mark.parametrize("target", ["charges", "dipole", "energy"])
def test_labels_that_are_all_the_same(target):
    "What rounding leaves of their spread is no unit: the loss is a number, and falls."
    frames = [Atoms("OHH", np.random.default_rng(k).normal(size=(3, 3))) for k in range(20)]
    for f in frames:
        f.arrays["charges"] = np.array([-0.1, 0.05, 0.05]) * 7
        f.info.update(dipole=np.full(3, 1e-17), energy=-138.1)
    config = configure("invnet" if target != "dipole" else "eqnet", target, frames, features=8, interactions=1)
    assert config.unit == 1.0
    predictor = build(config)
    graphs = predictor.graphs(frames)
    history = fit(predictor, graphs[:15], graphs[15:], predictor.loss(), epochs=3, progress=False)
    assert history[-1]["train"] < history[0]["train"]


def test_a_folder_comes_before_a_pretrained_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load("water-charges").config.model == pretrained()["water-charges"]["config"]["model"]
    predictor = small("eqnet", "dipole")
    write_card("water-charges", predictor.about())
    write_best("water-charges", predictor.state_dict(), 1, 1.0)
    assert load("water-charges").config == predictor.config


def test_precision_follows_the_model():
    predictor = small("eqnet", "energy").double()
    assert predictor.graphs(FRAMES[:1])[0].positions.dtype == torch.float64
    assert predictor.predict(FRAMES[:1])[0]["forces"].dtype == np.float64


def test_refusals(tmp_path):
    predictor = small("eqnet", "energy")
    salt = FRAMES[0].copy()
    salt.numbers[0] = 11
    for call, words in (
            (lambda: predictor.predict([FRAMES[1], salt]), "frame 1 has Na"), (lambda: predictor.predict(salt), r"write \[atoms\]"),
            (lambda: predictor.errors([Atoms("H2", [[0, 0, 0], [1, 0, 0]])]), "frame 0 has no label"),
            (lambda: predictor(BatchedTorchAtoms(small("eqnet", "energy", species=(1, 9)).graphs([Atoms("H")]))), "species table"),
            (lambda: configure("eqnet", "mass", FRAMES), "mass"), (lambda: configure("transformer", "energy", FRAMES), "transformer"),
            (lambda: build(replace(predictor.config, model="invnet", target="dipole")), "for target='dipole' there are"),
            (lambda: replace(predictor.config, references=(1.0,)), "1 reference energies for 2 elements")):
        with pytest.raises(ValueError, match=words): call()
    write_card(tmp_path, dict(config=asdict(predictor.config)))
    with pytest.raises(FileNotFoundError, match="weights.safetensors"): load(tmp_path)
    write_best(tmp_path, predictor.state_dict(), 1, 1.0)
    load(tmp_path)
    for change, words in ((dict(features=16), "8, 8.*8, 16|16"), (dict(cutoff=5.0), "a constant of another value"), (dict(model="invnet"), "missing")):
        card = read_json(tmp_path / "model.json")
        write_json(tmp_path / "model.json", {**card, "about": dict(config={**card["about"]["config"], **change})})
        with pytest.raises(ValueError, match=words): load(tmp_path)
        write_json(tmp_path / "model.json", card)


def test_load_is_lazy():
    code = ("import sys, eqbook; assert 'torch' not in sys.modules; m = eqbook.load('water-charges'); assert m.target == 'charges'\n"
            "try: eqbook.loud\nexcept AttributeError as e: print(e)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "no attribute 'loud'" in done.stdout, done.stderr
    assert eqbook.load is load


@pytest.mark.parametrize("name", RECIPES)
def test_pretrained(name):
    "Small, with a card, and the weights that the stored record was made with."
    record = json.loads((ROOT / "results" / "weights.json").read_text())
    folder, row = WEIGHTS / name, record["models"][name]
    assert record["split"] == dict(sizes=[1140, 100, 190], seed=0, group="start") and record["seeds"] == [0]
    assert {p.name for p in folder.iterdir()} == {"model.json", "weights.safetensors", "README.md"}
    assert sum(p.stat().st_size for p in folder.iterdir()) < 1e6
    card = (folder / "README.md").read_text()
    assert all(word in card for word in ("Licence: CC0", "Split by trajectory, seed 0", "## Limits", "## Errors", *KINDS, "eqbook reproduce weights"))
    assert str(folder.parent) not in card and pretrained()[name]["config"] == row["config"]
    model = load(name)
    assert model.config == Config.from_dict(row["config"]) and not model.training
    few = {part: frames[:40] for part, frames in groups(water_sets()[2]).items()}
    errors = {part: model.errors(frames) for part, frames in few.items()}
    for part in few: # a part of the test frames: about the error of all
        for label, e in errors[part].items(): assert 0.3 < e["mae"] / row["test"][part][label]["mae"] < 3


def test_sets_share_no_trajectory():
    train, valid, test = water_sets()
    starts = [{f.info["start"] for f in s} for s in (train, valid, test)]
    assert not (starts[0] & starts[1] or starts[0] & starts[2] or starts[1] & starts[2])
    positions = [{f.positions.tobytes() for f in s} for s in (train, valid, test)]
    assert not (positions[0] & positions[1] or positions[0] & positions[2])
    assert {f.info["kind"] for f in test} == set(KINDS.values())
