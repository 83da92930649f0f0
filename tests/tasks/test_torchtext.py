"""People who come from torchtext get the same BLEU (its tokens and vocabularies: test_codec.py)."""

import json
import math
import os
from pathlib import Path

import pytest
import sacrebleu


def golden() -> list[dict]:
    folder = os.environ.get("UNROLL_DATA")
    path = Path(folder or ".") / "golden" / "torchtext_0.18.json"
    if folder is None or not path.exists():
        pytest.skip("torchtext's recorded answers: set UNROLL_DATA to the folder of real data")
    return json.loads(path.read_text(encoding="utf-8"))["bleu_score"]


def first_nearest(candidate: list[str], references: list[list[str]]) -> int:
    """Of two references equally far from the candidate's length torchtext takes the first one's."""
    return min(map(len, references), key=lambda length: abs(length - len(candidate)))


@pytest.mark.parametrize("order", [4, 2])
def test_sacrebleu_agrees_with_torchtext_but_for_ties_of_length(order: int) -> None:
    same = 0
    for case in golden():
        candidates = [" ".join(tokens) for tokens in case["candidates"]]
        references = [[" ".join(tokens) for tokens in several] for several in case["references"]]
        columns = [list(column) for column in zip(*references, strict=True)]
        metric = sacrebleu.BLEU(
            tokenize="none", smooth_method="none", force=True, max_ngram_order=order
        )
        ours = metric.corpus_score(candidates, columns)
        # sacreBLEU, as the script of the WMT before it, takes the shorter of the two
        theirs = sum(map(first_nearest, case["candidates"], case["references"]))
        brevity = math.exp(min(0.0, 1 - theirs / ours.sys_len))
        expected = ours.score / 100 / ours.bp * brevity
        assert expected == pytest.approx(case[f"bleu{order}"], abs=1e-6)
        same += theirs == ours.ref_len
    assert same >= 5
