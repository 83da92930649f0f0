"""Metrics are right over batches and ranks, and the same numbers as the reference tools'."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from data.batches import IGNORE
from tasks import captioning_metrics, cider, meteor, metrics


def captions(case: dict) -> tuple[list[str], list[list[str]]]:
    texts = case["hypotheses"].items()
    hypotheses = [text if isinstance(text, str) else text[0] for _, text in texts]
    return hypotheses, [case["references"][key] for key, _ in texts]


def golden_cases() -> list[dict]:
    folder = os.environ.get("UNROLL_DATA")
    path = Path(folder or ".") / "golden" / "coco_caption.json"
    if folder is None or not path.exists():
        pytest.skip("recorded scores of the coco-caption tool: set UNROLL_DATA to the folder")
    return json.loads(path.read_text(encoding="utf-8"))["cases"]


def test_batches_of_unequal_size_weigh_by_their_counts():
    sums = metrics.SumCount()
    sums.add("loss", torch.tensor(10.0, requires_grad=True), 1)
    sums.add("loss", 2.0, torch.tensor(3))
    assert sums.totals() == {"loss": (12.0, 4.0)}
    assert sums.results() == {"loss": 3.0}


def test_sums_keep_double_precision():
    sums = metrics.SumCount()
    sums.add("loss", 2.0**30, 1)
    sums.add("loss", torch.tensor(1.0), 0)
    assert sums.totals()["loss"][0] == 2.0**30 + 1


def test_sums_survive_a_checkpoint():
    sums, again = metrics.SumCount(), metrics.SumCount()
    sums.add("a", 1.5, 2)
    again.load_plain(json.loads(json.dumps(sums.to_plain())))
    again.add("a", 1.5, 1)
    assert again.results() == {"a": 1.0}


def test_nothing_counted_is_nan_and_not_a_crash():
    sums = metrics.SumCount()
    assert sums.results() == {}
    sums.add("a", 0.0, 0)
    assert math.isnan(sums.results()["a"])


def _rank(rank: int, world_size: int, port: int, results: list) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world_size)

    class Strategy:
        root_device = torch.device("cpu")

        def reduce(self, tensor, reduce_op):
            assert reduce_op == "sum"
            torch.distributed.all_reduce(tensor)
            return tensor

    class Trainer:
        strategy = Strategy()

    Trainer.world_size = world_size
    sums = metrics.SumCount()
    if rank == 0:  # rank 1 saw no batch
        sums.add("loss", 3.0, 2)
    gathered = metrics.gather([(rank, f"text {rank}"), (2, "both")])
    results.append((rank, sums.results(Trainer()), gathered))
    torch.distributed.destroy_process_group()


def test_ranks_sum_and_gather_alike_even_without_a_batch():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with torch.multiprocessing.Manager() as manager:
        results = manager.list()
        torch.multiprocessing.spawn(_rank, args=(2, port, results), nprocs=2)
        assert sorted(results) == [
            (rank, {"loss": 1.5}, ["text 0", "text 1", "both"]) for rank in (0, 1)
        ]


def test_accuracy_and_f1_agree_with_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    predictions = torch.randint(4, (200,), generator=generator)
    targets = torch.randint(4, (200,), generator=generator)
    confusion = metrics.Confusion(num_classes=5)  # the fifth class never occurs
    confusion.add(predictions[:30].view(3, 10), targets[:30].view(3, 10))
    confusion.add(predictions[30:], targets[30:])
    matrix = confusion.result()
    assert metrics.accuracy(matrix) == pytest.approx(
        multiclass_accuracy(predictions, targets, num_classes=5, average="micro").item()
    )
    assert metrics.macro_f1(matrix) == pytest.approx(
        multiclass_f1_score(predictions, targets, num_classes=5, average="macro").item()
    )


def test_pads_are_not_counted():
    confusion = metrics.Confusion(num_classes=2)
    confusion.add(torch.tensor([0, 1, 1]), torch.tensor([0, 0, IGNORE]))
    assert confusion.result().tolist() == [[1, 1], [0, 0]]
    assert metrics.accuracy(confusion.result()) == 0.5


def test_perplexity_and_bits_come_from_totals():
    assert metrics.perplexity(math.log(8) * 5, 5) == pytest.approx(8)
    assert metrics.bits_per_character(math.log(8) * 5, 10) == pytest.approx(1.5)
    assert metrics.perplexity(1e6, 1) == math.inf


def test_exact_match_takes_any_reference():
    assert metrics.exact_match(["a b ", "c"], [["x", "a b"], ["d"]]) == 0.5


def test_bleu_of_identical_text_is_100_with_a_signature():
    score = metrics.bleu(["the cat sat on the mat ."], [["the cat sat on the mat ."]])
    assert score.score == pytest.approx(100)
    assert score.signature.startswith("BLEU|nrefs:1|case:mixed|eff:no|tok:13a|")


def test_bleu_takes_options_and_a_different_number_of_references():
    hypotheses = ["我喜欢音乐。", "今天天气很好。"]
    references = [["我喜欢音乐。", "我爱音乐。"], ["今天天气真好。"]]
    score = metrics.bleu(hypotheses, references, tokenize="zh", lowercase=True)
    assert 0 < score.score < 100
    assert "tok:zh" in score.signature and "case:lc" in score.signature
    assert 0 < metrics.chrf(hypotheses, references).score < 100
    assert metrics.chrf(hypotheses, references).signature.startswith("chrF2|")


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        (["a"], [], "1 hypotheses"),
        ([], [], "at least one hypothesis"),
        (["a"], [[]], "at least one reference"),
    ],
)
def test_a_corpus_that_cannot_be_scored_is_named(hypotheses, references, message):
    for metric in (metrics.bleu, captioning_metrics.bleu, cider.cider, meteor.meteor):
        with pytest.raises(ValueError, match=message):
            metric(hypotheses, references)


@pytest.mark.parametrize(
    ("sentence", "tokens"),
    [
        ('A man, in a "red" shirt -- smiling ...', "a man in a red shirt smiling"),
        ("The dog's ball isn't snow-covered; it's 3.5 feet.",
         "the dog 's ball is n't snow-covered it 's 3.5 feet"),
        ("Someone's (old) hat: 1,000 at 10:30!", "someone 's -lrb- old -rrb- hat 1,000 at 10:30"),
        ("I'll, you've, we're, I'd, I'm", "i 'll you 've we 're i 'd i 'm"),
        ("They cannot fly a U.S. flag", "they can not fly a u.s. flag"),
        ("a ' devil ' o'clock", "a devil o'clock"),
        ("他在跑。", "他在跑 。"),
        ("", ""),
    ],
)  # fmt: skip
def test_captions_are_tokenised_in_the_manner_of_the_penn_treebank(sentence, tokens):
    assert " ".join(captioning_metrics.tokenize(sentence)) == tokens


def test_caption_bleu_by_hand():
    # 3 of 4 words, 1 of 3 pairs; as long as the closest reference
    scores = captioning_metrics.bleu(["a b x d"], [["a b c d", "a b c d e f"]])
    assert scores[:2] == pytest.approx([3 / 4, math.sqrt(3 / 4 * 1 / 3)], abs=1e-6)
    # brevity: two words for a reference of four
    assert captioning_metrics.bleu(["a b"], [["a b c d"]])[0] == pytest.approx(math.exp(-1))


def test_cider_by_hand():
    # each caption of one word: only unigrams match, the other three orders are empty
    assert cider.cider(["cat", "cow"], [["cat"], ["dog"]]) == pytest.approx(1.25)
    # a word in every picture weighs nothing
    assert cider.cider(["cat"], [["cat"]]) == 0


def test_cider_d_clips_and_punishes_length_and_plain_cider_does_neither():
    # two pictures share no word, so every n-gram weighs log 2; of the second nothing is right.
    # "cat cat" and "cat": the cosine of unigrams is 1, and clipped 1·1 / (2·1); no pair is common
    hypotheses, references = ["cat cat", "x"], [["cat"], ["dog"]]
    assert cider.cider_plain(hypotheses, references) == pytest.approx(10 / 2 / 4)
    clipped = 10 / 2 / 4 * 0.5 * math.exp(-1 / 72)  # a pair more than the reference has
    assert cider.cider(hypotheses, references) == pytest.approx(clipped)


def test_plain_cider_takes_stems():
    assert cider.cider_plain(["playing", "x"], [["plays"], ["dog"]]) == pytest.approx(1.25)
    assert cider.cider(["playing", "x"], [["plays"], ["dog"]]) == 0


def test_tokens_are_those_of_the_coco_caption_tool():
    for case in golden_cases():
        for kind in ("references", "hypotheses"):
            for key, raw in case[kind].items():
                raw, known = ([x] if isinstance(x, str) else x
                              for x in (raw, case[f"tokenized_{kind}"][key]))  # fmt: skip
                assert [" ".join(captioning_metrics.tokenize(text)) for text in raw] == known


def test_bleu_and_cider_are_those_of_the_coco_caption_tool():
    for case in golden_cases():
        hypotheses, references = captions(case)
        scores = captioning_metrics.bleu(hypotheses, references)
        assert scores == pytest.approx(case["bleu"], abs=1e-4)
        assert cider.cider(hypotheses, references) == pytest.approx(case["cider"], abs=1e-4)


def test_rouge_and_each_picture_s_cider_are_those_of_the_coco_caption_tool():
    for case in golden_cases():
        hypotheses, references = captions(case)
        rouge = captioning_metrics.rouge_l(hypotheses, references)
        assert rouge == pytest.approx(case["rouge_l"], abs=1e-4)
        each = cider.cider_by_picture(hypotheses, references)
        assert each[:20] == pytest.approx(case["cider_per_image"], abs=1e-4)


def test_plain_cider_is_not_the_recorded_one():
    for case in golden_cases():
        assert cider.cider_plain(*captions(case)) > case["cider"] + 0.01


def test_meteor_is_near_the_recorded_one_which_has_synonyms_and_paraphrases():
    for case in golden_cases():
        assert meteor.meteor(*captions(case)) == pytest.approx(case["meteor"], abs=0.018)


def test_rouge_by_hand():
    # "a c d" is common: precision 3/4, recall 3/5
    score = captioning_metrics.rouge_l(["a x c d"], [["a b c d e"]])
    assert score == pytest.approx(2.44 * 0.75 * 0.6 / (0.6 + 1.44 * 0.75))
    assert captioning_metrics.rouge_l(["", "a"], [["b"], ["a"]]) == pytest.approx(0.5)


def test_ter_counts_edits_and_a_shift_as_one():
    moved = metrics.ter(["c d a b"], [["a b c d"]])
    assert moved.score == pytest.approx(25) and moved.signature.startswith("TER|")
    assert metrics.ter(["我爱你"], [["我想你"]], asian=True).score == pytest.approx(100 / 3)


def test_chrf_with_words_says_so():
    assert metrics.chrf(["a b"], [["a b"]], word_order=2).signature.startswith("chrF2++|")


def test_the_length_ratio_takes_the_closest_reference():
    assert metrics.length_ratio(["abcd", "ab"], [["abcde", "a"], ["abc"]]) == pytest.approx(6 / 8)
