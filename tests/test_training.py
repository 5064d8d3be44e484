"A training that is killed, starved of disk, interrupted, resumed or shared ends as the undisturbed one, or says why not."
import json
import math
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from eqbook import checkpoints, runs
from eqbook.datasets.water import load_water
from eqbook.graphs import TorchAtoms
from eqbook.runs import go_on, new_run
from eqbook.schnet import InvNet, SimpleRBF
from eqbook.training import fit, label_loss

SCRIPT = '''
import os, resource, signal, sys, traceback
import ase.build, torch, torch._dynamo # that Adam will import: once, for all children
from torch import nn
from eqbook.graphs import TorchAtoms
from eqbook.schnet import InvNet, SimpleRBF
from eqbook.training import fit, label_loss

def labelled(name, seed):
    atoms = ase.build.molecule(name)
    atoms.rattle(0.1, seed=seed)
    atoms.arrays["charges"] = 0.1 * (atoms.numbers - 6) + 0.1 * atoms.positions[:, 0]
    return TorchAtoms(atoms, 3.0, species=(1, 6, 8))

class Disturbed:
    "The loss of charges; something happens in one of its training steps."
    def __init__(self, event): self.loss, self.event, self.calls = label_loss("charges"), event, 0
    def weight(self, batch): return len(batch.positions)
    def __call__(self, model, batch):
        self.calls += model.training
        what = self.event.get("what") if model.training and self.calls == self.event.get("step") else None
        if what == "kill": os.kill(os.getpid(), signal.SIGKILL)
        if what == "interrupt": os.kill(os.getpid(), signal.SIGINT)
        bad = what == "nan" and int(os.environ.get("LOCAL_RANK", 0)) == self.event["rank"]
        return self.loss(model, batch) * (float("nan") if bad else 1)

def train(out, options, event):
    graphs = [labelled(name, seed) for seed in range(10) for name in ("H2O", "CH4", "CH3CH2OH")]
    torch.manual_seed(5 if options.get("resume") else 0) # a resumed run must not depend on the weights that it is given
    model = InvNet(32, 32, 2, SimpleRBF(8, 3.0), 3)
    if "devices" not in options: model.readout.insert(0, nn.Dropout(0.1))
    loss = Disturbed(event)
    if "bytes" in event: resource.setrlimit(resource.RLIMIT_FSIZE, (event["bytes"], event["bytes"]))
    if "nobody" in event and os.geteuid() == 0: os.setuid(65534)
    fit(model, graphs[:21], graphs[21:], loss, **{**dict(epochs=4, batch_size=5, lr=0.01, out=out, progress=False), **options})

def in_child(arguments, errors):
    "A fork that does the job, so that torch is imported once; its exit status."
    if child := os.fork(): return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.argv[1:] = arguments # what a second process is started with
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(2, 1)
    try: train(arguments[0], *map(eval, arguments[1:]))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

if sys.argv[1:]: train(sys.argv[1], *map(eval, sys.argv[2:]))
else:
    for line in sys.stdin: print(in_child(*eval(line)), flush=True)
'''


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    "Train in a process of its own: script(folder, options, event) -> exit status, what it wrote to stderr."
    folder = tmp_path_factory.mktemp("script")
    (folder / "train.py").write_text(SCRIPT)
    server = subprocess.Popen([sys.executable, str(folder / "train.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})
    def train(out, options=None, event=None):
        print(([str(out), repr(options or {}), repr(event or {})], str(folder / "errors")), file=server.stdin, flush=True)
        return int(server.stdout.readline()), (folder / "errors").read_text()
    yield train
    server.kill()


def last_line(text): return text.strip().splitlines()[-1]
def state(folder): return json.loads((Path(folder) / "state.json").read_text())
def losses(folder): return torch.tensor([[row["train"], row["valid"]] for row in state(folder)["history"]], dtype=torch.float64)


def same_end(a, b):
    "Do two folders hold the same weights, optimizer, best model, losses and random states, bit for bit?"
    (parts_a, state_a), (parts_b, state_b) = checkpoints.read_run(a), checkpoints.read_run(b)
    tensors_a, tensors_b = [{**p["last"], **{f"o.{k}": x for k, x in p["optimizer"].items()}, **{f"b.{k}": x for k, x in checkpoints.read_best(f)[0].items()}}
                            for p, f in ((parts_a, a), (parts_b, b))]
    assert tensors_a.keys() == tensors_b.keys()
    rest = [(s["step"], s["lr"], s["schedule"], s["random"]["batches"], s["random"]["torch"]) for s in (state_a, state_b)]
    return all(torch.equal(x, tensors_b[k]) for k, x in tensors_a.items()) and torch.equal(losses(a), losses(b)) and rest[0] == rest[1]


# ---------------------------------------------------------------- killed

@pytest.mark.parametrize("options", [{}, dict(schedule="plateau", ema=0.9)], ids=["cosine", "plateau and mean"])
def test_kill_9_in_the_middle_of_an_epoch(script, tmp_path, options):
    whole, killed, other = (tmp_path / name for name in ("whole", "killed", "other"))
    assert script(whole, options)[0] == 0
    assert script(killed, options, dict(what="kill", step=13))[0] == -9   # 5 steps an epoch: in the middle of the third
    assert state(killed)["epoch"] == 2 and state(killed)["step"] == 10
    assert script(killed, {**options, "resume": True})[0] == 0
    assert same_end(whole, killed)
    if not options:
        assert script(other, {"seed": 1})[0] == 0
        assert not same_end(whole, other)


class Killed(BaseException): pass


class Power:
    "Counts what changes the disk; after the n-th change nothing does, and Killed is raised."
    def __init__(self, n=math.inf): self.n, self.done, self.off = n, 0, False

    def __enter__(self):
        def guard(real):
            def call(*args, **kw):
                if self.off: raise Killed
                self.done += 1
                if self.done > self.n:
                    self.off = True
                    raise Killed
                return real(*args, **kw)
            return call
        self.patches = [patch("os.replace", guard(os.replace)), patch("os.fsync", guard(os.fsync)), patch.object(Path, "unlink", guard(Path.unlink))]
        for p in self.patches: p.start()
        return self

    def __exit__(self, kind, *_):
        for p in self.patches: p.stop()
        return kind is Killed


@pytest.fixture(scope="module")
def graphs(): return [TorchAtoms(atoms, 3.0) for atoms in load_water("gfn2", subset="octamers")[:12]]


def network(features=4, cutoff=3.0): return InvNet(features, features, 1, SimpleRBF(4, cutoff), 2)


LOSS = label_loss("charges", unit=0.03)


def train(graphs, out, epochs=2, loss=LOSS, seed=0, schedule="plateau", model=network, **kw):
    torch.manual_seed(seed)
    return fit(model(), graphs[:8], graphs[8:], loss, epochs=epochs, batch_size=4, out=out, schedule=schedule, progress=False, **kw)


def test_killed_at_every_single_change_of_the_disk(graphs, tmp_path):
    train(graphs, tmp_path / "whole", ema=0.9)
    with Power() as count: train(graphs, tmp_path / "counted", ema=0.9)
    assert count.done > 20
    for n in range(count.done):
        out = tmp_path / f"at-{n}"
        with Power(n): train(graphs, out, ema=0.9)
        if (out / "model.json").exists(): train(graphs, out, ema=0.9, seed=9, resume=True)
        else: train(graphs, out, ema=0.9)  # killed before there was a run: begin again
        assert same_end(tmp_path / "whole", out), n
        assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in (tmp_path / "whole").iterdir()), n


# ---------------------------------------------------------------- one clear error, nothing lost

def test_full_disk(script, tmp_path):
    whole, starved = tmp_path / "whole", tmp_path / "starved"
    assert script(whole)[0] == 0
    sizes = [path.stat().st_size for name in ("state.json", "last-*", "optimizer-*") for path in whole.glob(name)]
    assert max(sizes[:2]) + 2000 < sizes[2]
    code, errors = script(starved, {}, dict(bytes=max(sizes[:2]) + 1000)) # the weights fit, Adam's memory does not
    assert code == 1 and "optimizer-00000005.safetensors: cannot be written (File too large)" in last_line(errors)
    assert "starved keeps epoch 0, from which resume=True continues" in last_line(errors) and "During handling" not in errors
    assert state(starved)["epoch"] == 0 and not list(starved.glob("*.tmp")) and not list(starved.glob("last-00000005*"))
    assert script(starved, {"resume": True})[0] == 0
    assert same_end(whole, starved)


def test_every_write_may_fail(graphs, tmp_path):
    "A disk that is full at the n-th write, for each n: the folder continues to the same end."
    train(graphs, tmp_path / "whole")
    real, n = os.fsync, 0
    while True:
        n, count, out = n + 1, 0, tmp_path / f"at-{n}"
        def full(fd):
            nonlocal count
            count += 1
            if count == n: raise OSError(28, "No space left on device")
            real(fd)
        with patch("os.fsync", full):
            try: train(graphs, out)
            except OSError as e:
                assert "cannot be written (No space left on device)" in str(e)
            else: break
        assert not list(out.glob("*.tmp")) and len(list(out.glob("last-*"))) <= 1
        train(graphs, out, resume=(out / "model.json").exists())
        assert same_end(tmp_path / "whole", out), n
    assert n > 10


def test_no_permission(script, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    for folder in (tmp_path, *tmp_path.parents[:2]): folder.chmod(0o755)
    code, errors = script(closed / "run", {}, dict(nobody=True))
    assert code == 1 and last_line(errors).startswith("PermissionError") and "cannot be written (Permission denied)" in last_line(errors)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/x: cannot be written"): checkpoints.write_file(tmp_path / "file/x", b"")


def test_interrupted(script, tmp_path):
    code, errors = script(tmp_path / "run", {}, dict(what="interrupt", step=8))
    assert code != 0 and last_line(errors).startswith("KeyboardInterrupt: interrupted; ") and "keeps epoch 1, from which" in last_line(errors)
    assert script(tmp_path / "run", {"resume": True})[0] == 0 and script(tmp_path / "whole")[0] == 0
    assert same_end(tmp_path / "run", tmp_path / "whole")


def test_interrupted_while_the_mean_is_in_place(graphs):
    "Ctrl-C during validation leaves the weights in the model, not their mean."
    def loss(model, batch):
        if not model.training: signal.raise_signal(signal.SIGINT)
        return label_loss("charges", unit=0.03)(model, batch)
    torch.manual_seed(0)
    model, twin = network(), network()
    twin.load_state_dict(model.state_dict())
    with pytest.raises(KeyboardInterrupt): fit(model, graphs[:8], graphs[8:], loss, epochs=3, ema=0.9, progress=False)
    with pytest.raises(KeyboardInterrupt): fit(twin, graphs[:8], graphs[8:], loss, epochs=3, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters()))


def test_nan_keeps_the_last_good_epoch(graphs, tmp_path):
    calls = 0
    def loss(model, batch):
        nonlocal calls
        calls += model.training
        return label_loss("charges", unit=0.03)(model, batch) * (math.nan if calls == 6 else 1)
    with pytest.raises(FloatingPointError, match=r"loss is nan at epoch 3, batch 1 \(step 6, training graphs \[(\d, ){3}\d\]\).*keeps epoch 2$"):
        train(graphs, tmp_path / "run", 5, loss)
    assert state(tmp_path / "run")["epoch"] == 2
    assert all(x.isfinite().all() for part in checkpoints.read_run(tmp_path / "run")[0].values() for x in part.values())
    model = checkpoints.load_weights(network(), tmp_path / "run/weights.safetensors")
    assert all(p.isfinite().all() for p in model.parameters())


# ---------------------------------------------------------------- another run

@pytest.mark.parametrize("change, words", [
    (dict(lr=0.1), "settings.lr: 0.005 there, 0.1 here"),
    (dict(epochs=3, schedule="cosine"), "settings.epochs: 2 there, 3 here; settings.schedule"),
    (dict(loss=label_loss("charges", unit=0.1)), "loss.settings.unit: 0.03 there, 0.1 here"),
    (dict(about={"config": {"cutoff": 4}}), "about.config: nothing there"),
    (dict(dtype=torch.float64), "torch.float32\" there, "),
    (dict(ema=0.5), "settings.ema: null there, 0.5 here"),
])
def test_foreign_run_is_refused(graphs, tmp_path, change, words):
    train(graphs, tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(ValueError, match="holds another run") as e: train(graphs, tmp_path / "run", resume=True, **change)
    assert words in str(e.value)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def test_other_model_or_data_is_refused(graphs, tmp_path):
    train(graphs, tmp_path / "run")
    def refused(words, graphs=graphs, model=network):
        with pytest.raises(ValueError, match="holds another run") as e: train(graphs, tmp_path / "run", model=model, resume=True)
        assert words in str(e.value)
    refused('model.weights.readout.2.weight: "1 x 4 torch.float32" there, "1 x 5 torch.float32" here', model=lambda: network(5))
    refused("model.constants.radial_basis.centres", model=lambda: network(cutoff=2.5))
    refused("train.sha256", [*graphs[1:8], graphs[0], *graphs[8:]])
    with pytest.raises(ValueError, match="cannot be written as JSON"): train(graphs, tmp_path / "new", about={"x": object()})
    assert not (tmp_path / "new").exists()


def test_damaged_checkpoints_are_refused(graphs, tmp_path):
    train(graphs, tmp_path / "run", ema=0.9)
    parts, found = checkpoints.read_run(tmp_path / "run")
    def run(): return new_run(network(), 4, schedule="plateau", ema=0.9)
    del parts["optimizer"]["mean.embedding.weight"], parts["optimizer"]["exp_avg.embedding.weight"]
    with pytest.raises(ValueError, match="the checkpoint lacks exp_avg.embedding.weight, mean.embedding.weight, lr"):
        runs.restore(run(), parts, {k: v for k, v in found.items() if k != "lr"})
    (tmp_path / "run/weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weights.safetensors"): go_on(tmp_path / "run", run())
    (tmp_path / "run" / found["files"]["last"]).write_bytes(b"short")
    with pytest.raises(ValueError, match="not a safetensors file"): go_on(tmp_path / "run", run())


def test_patience_and_epochs_may_change(graphs, tmp_path):
    long = train(graphs, tmp_path / "long", 5)
    train(graphs, tmp_path / "short", 2)
    assert [r["valid"] for r in train(graphs, tmp_path / "short", 5, resume=True, patience=9)] == [r["valid"] for r in long]
    assert same_end(tmp_path / "long", tmp_path / "short")
    assert json.loads((tmp_path / "short/model.json").read_text())["settings"]["epochs"] == 5
    assert len((tmp_path / "short/log.csv").read_text().splitlines()) == 6


# ---------------------------------------------------------------- several processes

needs_fabric = pytest.mark.skipif(find_spec("lightning_fabric") is None, reason="lightning-fabric is not installed")


@needs_fabric
def test_two_processes_give_the_curve_of_one(script, tmp_path):
    "21 systems of three sizes, five at a time: unequal shares, and a last batch of one. Two processes begin, one goes on."
    options = dict(dtype=torch.float64, ema=0.9, schedule="constant")
    assert script(tmp_path / "one", {**options, "devices": 1})[0] == 0
    assert script(tmp_path / "two", {**options, "devices": 2, "epochs": 2})[0] == 0
    torch.testing.assert_close(losses(tmp_path / "two"), losses(tmp_path / "one")[:2], rtol=1e-9, atol=0)
    assert script(tmp_path / "two", {**options, "devices": 1, "resume": True})[0] == 0
    torch.testing.assert_close(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-9, atol=0)
    weights = [checkpoints.read_best(tmp_path / name)[0] for name in ("one", "two")]
    torch.testing.assert_close(*weights, rtol=1e-7, atol=1e-9)


@needs_fabric
@pytest.mark.parametrize("event, words", [
    (dict(what="nan", step=7, rank=1), (  # a last batch of one leaves it without a share: its seventh call is in step 8
        "FloatingPointError: the loss is nan at epoch 2, batch 2 (step 8", "keeps epoch 1")),
    (dict(bytes=50000), ("cannot be written (File too large)", "keeps epoch 0")),
], ids=["nan in the second process", "full disk"])
def test_two_processes_stop_together(script, tmp_path, event, words):
    code, errors = script(tmp_path / "two", dict(devices=2), event)
    assert code != 0
    lines = [line for line in errors.splitlines() if words[0] in line]
    assert lines and all(word in line for word in words for line in lines), errors
    assert state(tmp_path / "two")["epoch"] == int(words[1][-1])


@needs_fabric
def test_fabric_on_one_device_changes_nothing(graphs, tmp_path):
    train(graphs, tmp_path / "plain")
    train(graphs, tmp_path / "fabric", fabric=True)
    assert same_end(tmp_path / "plain", tmp_path / "fabric")


def test_what_is_not_installed_is_named(graphs, tmp_path):
    with patch.dict(sys.modules, {"lightning_fabric": None}), pytest.raises(ImportError, match=r'needs Lightning Fabric: pip install "eqbook\[train\]"'):
        train(graphs, None, devices=3)
    with patch.dict(sys.modules, {"torch.utils.tensorboard": None}), pytest.raises(ImportError, match="needs TensorBoard"):
        train(graphs, tmp_path / "run", tensorboard=True)


def test_tensorboard_gets_every_epoch(graphs, tmp_path):
    rows = []
    class SummaryWriter:
        def __init__(self, folder, purge_step): rows.append((Path(folder).name, purge_step))
        def add_scalar(self, *row): rows.append(row)
        def __enter__(self): return self
        def __exit__(self, *_): pass
    with patch.dict(sys.modules, {"torch.utils.tensorboard": type(sys)("fake")}):
        sys.modules["torch.utils.tensorboard"].SummaryWriter = SummaryWriter
        history = train(graphs, tmp_path / "run", tensorboard=True)
        train(graphs, tmp_path / "run", 3, tensorboard=True, resume=True)
    assert rows[0] == ("tensorboard", 1) and rows[7] == ("tensorboard", 3) and len(rows) == 11
    assert rows[1:4] == [(name, history[0][name], 1) for name in ("train", "valid", "lr")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_continues_a_run_of_the_cpu(graphs, tmp_path):
    whole = train(graphs, tmp_path / "whole", 4, dtype=torch.float64, ema=0.9)
    train(graphs, tmp_path / "run", 2, dtype=torch.float64, ema=0.9)
    moved = train(graphs, tmp_path / "run", 4, dtype=torch.float64, ema=0.9, device="cuda", resume=True)
    torch.testing.assert_close([row["valid"] for row in moved], [row["valid"] for row in whole], rtol=1e-6, atol=0)
