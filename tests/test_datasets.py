"Loaders refuse what is broken, name it, and delete only what is theirs."
import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from eqbook.datasets import core
from eqbook.datasets.core import PUBLIC, PublicFile, fetch, have, read_extxyz, sha256, split
from eqbook.datasets.water import PBE0_KEYS, WATER_SPLIT, load_water

FRAME = """3
Properties=species:S:1:pos:R:3:f:R:3:q:R:1 E=-138.0 mu="0.0 0.0 0.39"
O  0.00  0.00  0.00   0.0  0.0  0.1  -0.56
H  0.76  0.00  0.59   0.1  0.0 -0.05  0.28
H -0.76  0.00  0.59  -0.1  0.0 -0.05  0.28
"""
KEYS = dict(energy="E", forces="f", dipole="mu", charges="q")


def spoil(old, new):
    assert old in FRAME
    return FRAME + FRAME.replace(old, new, 1)


BROKEN = {
    "empty": ("", r"bad\.xyz: empty"),
    "blank": ("\n\n", r"bad\.xyz: empty"),
    "no count": ("hello\n", r"bad\.xyz, frame 0: 'hello'"),
    "no atoms": ("0\n\n", r"bad\.xyz, frame 0: '0'"),
    "truncated": (FRAME + FRAME[:120], r"bad\.xyz, frame 1: truncated, 3 atoms announced and [012] found"),
    "only a count": (FRAME + "3\n", r"bad\.xyz, frame 1: truncated, 3 atoms announced and 0 found"),
    "lost line": (FRAME.replace("H  0.76  0.00  0.59   0.1  0.0 -0.05  0.28\n", "") + FRAME, r"bad\.xyz, frame 0: not readable"),
    "cut line": (spoil("-0.1  0.0 -0.05  0.28", "-0.1"), r"bad\.xyz, frame 1: not readable"),
    "unknown element": (spoil("O  0.00", "Qq  0.00"), r"bad\.xyz, frame 1: not readable"),
    "no energy": (spoil("E=-138.0 ", ""), r"bad\.xyz, frame 1, energy: no 'E'"),
    "no charges": (spoil(":q:R:1", ":other:R:1"), r"bad\.xyz, frame 1, charges: no 'q'"),
    "energy without value": (spoil("E=-138.0", "E"), r"bad\.xyz, frame 1, energy: not a number"),
    "energy is text": (spoil("-138.0", "low"), r"bad\.xyz, frame 1, energy: not a number"),
    "NaN energy": (spoil("-138.0", "nan"), r"bad\.xyz, frame 1, energy: NaN or infinite"),
    "infinite energy": (spoil("-138.0", "-inf"), r"bad\.xyz, frame 1, energy: NaN or infinite"),
    "NaN dipole": (spoil("0.0 0.39", "nan 0.39"), r"bad\.xyz, frame 1, dipole: NaN or infinite"),
    "NaN force": (spoil("0.1  -0.56", "nan  -0.56"), r"bad\.xyz, frame 1, forces: NaN or infinite"),
    "infinite charge": (spoil("-0.56", "inf"), r"bad\.xyz, frame 1, charges: NaN or infinite"),
    "NaN position": (spoil("H  0.76", "H  nan"), r"bad\.xyz, frame 1, positions: NaN or infinite"),
    "infinite position": (spoil("H  0.76", "H  inf"), r"bad\.xyz, frame 1, positions: NaN or infinite"),
    "dipole of two": (spoil('"0.0 0.0 0.39"', '"0.0 0.39"'), r"bad\.xyz, frame 1, dipole: shape \(2,\), expected \(3,\)"),
    "forces of one": (spoil("f:R:3:q:R:1", "f:R:1:g:R:2:q:R:1"), r"bad\.xyz, frame 1, forces: shape \(3,\), expected \(3, 3\)"),
    "same place": (spoil("H  0.76", "H -0.76"), r"bad\.xyz, frame 1, positions: atoms 1 and 2 are at the same place"),
    "same place by an image": (spoil("E=", 'pbc="T F F" Lattice="1.52 0 0 0 5 0 0 0 5" E='), r"frame 1, positions: atoms 1 and 2"),
    "zero volume": (spoil("E=", 'pbc="T T T" Lattice="5 0 0 0 5 0 5 5 0" E='), r"bad\.xyz, frame 1, cell: periodic"),
    "periodic without a cell": (spoil("E=", 'pbc="T F F" E='), r"bad\.xyz, frame 1, cell: periodic"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_file(what, tmp_path):
    content, message = BROKEN[what]
    (path := tmp_path/"bad.xyz").write_text(content)
    with pytest.raises(ValueError, match=message): read_extxyz(path, KEYS)
    with pytest.raises(ValueError, match=message): load_water(path, keys=KEYS)
    assert path.exists()


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.xyz: no such file"): read_extxyz(tmp_path/"none.xyz")
    with pytest.raises(FileNotFoundError, match=r"none\.xyz: no such file"): load_water(tmp_path/"none.xyz")


def test_keys_and_required(tmp_path):
    (path := tmp_path/"good.xyz").write_text(FRAME*3)
    assert len(read_extxyz(path, KEYS)) == 3 and len(read_extxyz(path, KEYS, index=slice(1, None))) == 2
    assert "energy" not in read_extxyz(path, dict(charges="q"))[0].info          # only what is asked for
    with pytest.raises(ValueError, match="unknown label .'charge'"): read_extxyz(path, dict(charge="q"))
    with pytest.raises(ValueError, match=r"good\.xyz, frame 0, charges: no 'Q' in it, only \['E', 'f', 'mu', 'q'\]"):
        read_extxyz(path, dict(charges="Q"))
    (mixed := tmp_path/"mixed.xyz").write_text(FRAME + FRAME.replace("E=-138.0 ", ""))
    assert ["energy" in f.info for f in read_extxyz(mixed, KEYS, required=("forces",))] == [True, False]


def test_slab_and_single_atom(tmp_path):
    (path := tmp_path/"fine.xyz").write_text(
        FRAME.replace("E=", 'pbc="T T F" Lattice="5 0 0 0 5 0 0 0 0" E=') + "1\nE=0.0\nH 0 0 0\n")
    slab, atom = read_extxyz(path, dict(energy="E"))
    assert slab.pbc.tolist() == [True, True, False] and len(atom) == 1


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A public home on this machine that serves water.txt, and an empty cache."
    (folder := tmp_path/"home").mkdir()
    (folder/"water.txt").write_text("H2O")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass

    monkeypatch.delenv("EQBOOK_DATA_DIR", raising=False)
    monkeypatch.setattr(core, "cache_folder", lambda: tmp_path/"cache")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setitem(PUBLIC, "water.txt", PublicFile(f"http://127.0.0.1:{server.server_port}/water.txt", sha256(folder/"water.txt")))
        yield folder/"water.txt"
        server.shutdown()


def test_fetch_once(home, tmp_path):
    assert not have("water.txt")
    path = fetch("water.txt")
    assert path == tmp_path/"cache/water.txt" and path.read_text() == "H2O" and have("water.txt")
    home.unlink()
    assert fetch("water.txt") == path                                            # from the cache


def test_wrong_hash_leaves_the_cache(home, tmp_path):
    home.write_text("D2O")
    with pytest.raises(ValueError, match=r"water\.txt: what .* does not have the SHA-256"): fetch("water.txt")
    assert not list((tmp_path/"cache").glob("*"))


def test_damaged_cache_is_removed(home, tmp_path):
    path = fetch("water.txt")
    path.write_text("H2")
    assert fetch("water.txt").read_text() == "H2O"                               # fetched again
    path.write_text("H2"); home.unlink()
    with pytest.raises(FileNotFoundError, match=r"water\.txt: could not be fetched .* EQBOOK_DATA_DIR"): fetch("water.txt")
    assert not path.exists()


def test_users_file_is_never_deleted(home, tmp_path, monkeypatch):
    (mine := tmp_path/"mine").mkdir()
    (mine/"water.txt").write_text("my own")
    monkeypatch.setenv("EQBOOK_DATA_DIR", str(mine))
    with pytest.raises(ValueError, match=r"mine/water\.txt: its SHA-256 is not"): fetch("water.txt")
    assert (mine/"water.txt").read_text() == "my own" and not (tmp_path/"cache").exists()
    (mine/"water.txt").write_text("H2O")
    assert fetch("water.txt") == mine/"water.txt"


def test_data_folder(tmp_path, monkeypatch):
    (tmp_path/"data").mkdir(); (tmp_path/"book/nbs").mkdir(parents=True)
    (tmp_path/"data/waterAims.xyz").write_text("")
    monkeypatch.setenv("EQBOOK_DATA_DIR", "../data")
    for folder in ("book", "book/nbs"):                                          # from the root and from a notebook's folder
        monkeypatch.chdir(tmp_path/folder)
        assert have("waterAims.xyz")
    monkeypatch.setenv("EQBOOK_DATA_DIR", "nowhere")
    with pytest.raises(FileNotFoundError, match="EQBOOK_DATA_DIR=nowhere"): fetch("waterAims.xyz")


def test_unknown_name():
    with pytest.raises(ValueError, match="fire.txt: not a public file"): fetch("fire.txt")


def test_embedded_water():
    frames = load_water()
    assert len(frames) == 800 and len(load_water(subset="octamers")) == 600 and len(load_water(subset="sizes")) == 200
    for f in frames:
        assert f.arrays["forces"].shape == (len(f), 3) and f.arrays["charges"].shape == (len(f),)
        assert f.info["dipole"].shape == (3,) and f.info["quadrupole"].shape == (6,) and isinstance(f.info["energy"], float)
    assert len({f.info["start"] for f in frames}) > 50


@pytest.mark.parametrize("call, message", [
    (dict(subset="big"), "octamers"), (dict(source="pbe0", subset="sizes"), "gfn2"), (dict(keys=dict(energy="E")), "keys")])
def test_load_water_arguments(call, message):
    with pytest.raises(ValueError, match=message): load_water(**call)


def test_split():
    frames = load_water(subset="octamers")
    parts = split(frames, **WATER_SPLIT, group="start")
    assert [len(p) for p in parts] == [450, 50, 77]
    starts = [{f.info["start"] for f in p} for p in parts]
    assert not (starts[0] & starts[1] or starts[0] & starts[2] or starts[1] & starts[2])
    again = split(frames, **WATER_SPLIT, group="start")
    assert all(a is b for p, q in zip(parts, again) for a, b in zip(p, q))
    for sizes in ((600, 1, 0), (-1, 1, 1)):
        with pytest.raises(ValueError, match="ask for fewer"): split(frames, *sizes)


@pytest.mark.skipif(not have("waterAims.xyz"), reason="waterAims.xyz is not here; set EQBOOK_DATA_DIR to its folder")
def test_public_water(tmp_path):
    frames = load_water("pbe0")
    assert len(frames) == 577 and {len(f) for f in frames} == {24}
    assert max(np.abs(f.arrays["forces"].sum(0)).max() for f in frames) < 1e-6
    assert [len(p) for p in split(frames, **WATER_SPLIT)] == [450, 50, 77]
    text = fetch("waterAims.xyz").read_text()
    (path := tmp_path/"cut.xyz").write_text(text[:len(text)//2])
    with pytest.raises(ValueError, match=r"cut\.xyz, frame 288"): read_extxyz(path, PBE0_KEYS)
