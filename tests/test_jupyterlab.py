"JupyterLab in a headless Chromium: a student's wrong answer gets a red card, the right one a green card."
import pytest

from tools import lab_cards

pytest.importorskip("playwright", reason="playwright drives the browser: pip install playwright")


@pytest.mark.skipif(lab_cards.chromium() is None, reason="no Chromium is installed")
def test_red_then_green(tmp_path):
    seen = lab_cards.walk(tmp_path)
    wrong, right = seen["wrong"], seen["right"]
    assert "eqbook-failed" in wrong["classes"] and "not yet" in wrong["words"] and "rotate_vector" in wrong["words"]
    assert "eqbook-passed" in right["classes"] and "passed" in right["words"]
    assert "Traceback" not in wrong["cell"] and "is not solved yet" in wrong["cell"] and "not solved" not in right["cell"]
    assert seen["progress"]["passed"] and seen["progress"]["attempts"] == 2
    assert wrong["picture"][:4] == right["picture"][:4] == b"\x89PNG" and wrong["picture"] != right["picture"]
