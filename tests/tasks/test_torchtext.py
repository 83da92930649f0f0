"""People who come from torchtext get the same BLEU (its tokens and vocabularies: test_codec.py)."""

import json
import os
from pathlib import Path

import pytest
import sacrebleu

from tasks.metrics import bleu


def golden() -> list[dict]:
    folder = os.environ.get("UNROLL_DATA")
    path = Path(folder or ".") / "golden" / "torchtext_0.18.json"
    if folder is None or not path.exists():
        pytest.skip("torchtext's recorded answers: set UNROLL_DATA to the folder of real data")
    return json.loads(path.read_text(encoding="utf-8"))["bleu_score"]


def test_bleu_agrees_with_torchtext() -> None:
    for case in golden():
        candidates = [" ".join(tokens) for tokens in case["candidates"]]
        references = [[" ".join(tokens) for tokens in several] for several in case["references"]]
        columns = [list(column) for column in zip(*references, strict=True)]
        metric = sacrebleu.BLEU(tokenize="none", smooth_method="none", force=True)
        ours = metric.corpus_score(candidates, columns).score / 100
        assert ours == pytest.approx(case["score"], abs=1e-6)


def test_bleu_agrees_on_words_that_need_no_cutting() -> None:
    for case in golden():
        if case["score"] == 0:  # sacreBLEU smooths what torchtext leaves at nothing
            continue
        clean = [[[t for t in r if t.isalpha()] for r in rs] for rs in case["references"]]
        spoken = [[t for t in tokens if t.isalpha()] for tokens in case["candidates"]]
        score = bleu([" ".join(c) for c in spoken], [[" ".join(r) for r in rs] for rs in clean])
        assert 0 < score.score <= 100
