"""Self-critical training: the gradient of the expected reward, and the metrics' own rewards."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import torch
from torch import Tensor

from building.trained import of_checkpoint
from models.decoding import Hypotheses, score
from models.decoding.hypotheses import repeat
from tasks.cider import cider_by_picture
from tasks.objectives import SelfCritical, evaluating, log_likelihood, training_rewards
from tasks.rewards import END, Rewards

CAPTIONS = [
    ["a red circle above a square", "a circle over a square"],
    ["two green triangles", "green triangles side by side"],
    ["a blue square"],
]
WRITTEN = ["a red circle over a square", "green triangles", "a red square"]


def begun(start: Any, shape: str, *overrides: str) -> Any:
    """A run, and a batch as training sees it."""
    run = start(shape, "objective=self_critical", *overrides)
    batch = next(iter(run.data.loader("train")))
    run.task._trainer, run.trainer.datamodule = run.trainer, run.data
    return run, run.task.train(), batch


def gradients(task: Any, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(task.parameters()), allow_unused=True)
    return [torch.zeros(()) if g is None else g for g in found]


class Given(SelfCritical):
    """Texts (B, K, L) that are given, with rewards (B, K), and (B, 1) for the greedy text."""

    def __init__(self, written: Hypotheses, rewards: Tensor, greedy: Tensor, baseline: str) -> None:
        super().__init__(samples=written.tokens.size(1), baseline=baseline)
        self.written, self.given, self.greedy = written, rewards, greedy

    def sample(self, task: Any, memory: Any) -> Hypotheses:
        return self.written

    def judge(self, task: Any, batch: Any, written: Hypotheses) -> Tensor:
        return self.given if written is self.written else self.greedy


def all_texts(eos_id: int, symbols: list[int], longest: int) -> list[list[int]]:
    ended = [[*some, eos_id] for n in range(longest) for some in product(symbols, repeat=n)]
    return ended + [list(some) for some in product(symbols, repeat=longest)]


@pytest.mark.parametrize("baseline", ["greedy", "others"])
@pytest.mark.parametrize("input_feeding", ["true", "false"])
def test_on_average_the_gradient_is_that_of_the_expected_reward(
    baseline: str, input_feeding: str, start: Any, tmp_path: Path
) -> None:
    """Over all pairs of samples, weighed by how often they are drawn together."""
    (tmp_path / "mine.csv").write_text("source,target\n" + "a b,x y\nb a,y x\n" * 20)
    _, task, batch = begun(
        start, "", "task=translation", "data=text_pairs", "tokenizer=whitespace",
        f"data.path={tmp_path}/mine.csv", f"model.decoder.input_feeding={input_feeding}",
        "model.decoder.hidden_size=6", "model.decoder.attention=additive",
        "model.decoder.dropout=0.5", "model.encoder.hidden_size=5",
    )  # fmt: skip
    task, never = task.double(), (*task.model.never_said, task.eos_id)
    symbols = [i for i in range(task.model.head.num_outputs) if i not in never]
    texts = [torch.tensor(text) for text in all_texts(task.eos_id, symbols, longest=2)]
    tokens = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    lengths = torch.tensor(list(map(len, texts)))
    assert tokens.shape == (13, 2)
    one = type(batch)(*(part[:1] for part in batch))
    with evaluating(task.model):
        found = Hypotheses(tokens[None], lengths[None], torch.zeros(1, 13))
        likelihoods = log_likelihood(task.model, task.encode(one), found, bos_id=task.bos_id)[0]
    shares = likelihoods.exp()
    torch.testing.assert_close(shares.sum(), torch.ones((), dtype=torch.float64))
    rewards = torch.rand(13, generator=torch.Generator().manual_seed(3)).double()
    expected = gradients(task, -(shares * rewards).sum())
    assert max(g.abs().max() for g in expected) > 1e-3

    pairs = torch.cartesian_prod(torch.arange(13), torch.arange(13))
    weight = shares.detach()[pairs].prod(1, keepdim=True)
    drawn = Hypotheses(tokens[pairs], lengths[pairs], torch.zeros(169, 2))
    objective = Given(drawn, rewards[pairs] * weight, 0.3 * weight, baseline)
    many = type(batch)(*(part.repeat_interleave(169, 0) for part in one))
    loss, count = objective(task, many)
    assert count == 169
    for ours, theirs in zip(gradients(task, loss), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_likelihoods_are_those_of_decoding_step_by_step(start: Any) -> None:
    _, task, batch = begun(start, "captioning")
    objective = SelfCritical(samples=3)
    with evaluating(task.model):
        memory = task.encode(batch)
        drawn = objective.sample(task, memory)
        found = log_likelihood(task.model, memory, drawn, bos_id=task.bos_id)

        def step(tokens: Tensor, state: Any, context: Any) -> tuple[Tensor, Any]:
            log_probs, _, state = task.model.step(tokens, state, context)
            log_probs[:, list(task.model.never_said)] = -torch.inf
            return log_probs.log_softmax(-1), state

        several = repeat(memory, 3)
        told = score(
            step, task.model.initial_state(several), several, bos_id=task.bos_id,
            targets=drawn.tokens.flatten(0, 1), lengths=drawn.lengths.flatten(),
        )  # fmt: skip
    assert drawn.tokens.shape[:2] == (len(batch.index), 3)
    torch.testing.assert_close(found.flatten(), told.total, rtol=1e-4, atol=1e-4)
    assert task.model.training


def test_cider_rewards_are_those_of_the_metric() -> None:
    def spaced(text: str) -> list[str]:
        return text.split()

    ended = torch.ones(3, 1, dtype=torch.bool)
    rewards = Rewards("cider", CAPTIONS, spaced, count_end=False)
    found = rewards([0, 1, 2], [[text] for text in WRITTEN], ended)
    assert found.flatten().tolist() == pytest.approx(cider_by_picture(WRITTEN, CAPTIONS))
    # with ends they are the metric's of texts that say so
    rewards = Rewards("cider", CAPTIONS, spaced)
    marked = [[f"{text} {END.strip('<>')}" for text in several] for several in CAPTIONS]
    found = rewards([0, 1, 2], [[text] for text in WRITTEN], ended)
    told = cider_by_picture([f"{text} {END.strip('<>')}" for text in WRITTEN], marked)
    assert found.flatten().tolist() == pytest.approx(told)
    # a text that breaks off, however it is worded, lacks the end
    several = rewards([0], [["a circle over a square"] * 2], torch.tensor([[True, False]]))
    assert several[0, 0] > several[0, 1]


def test_bleu_rewards_are_sacrebleus_sentence_scores(start: Any) -> None:
    run, task, batch = begun(start, "translation")
    rewards = training_rewards(task, "bleu", count_end=False)
    for example in batch.index.tolist()[:4]:
        (reference,) = task.comparable(run.data.example("train", example).references)
        written = reference[:5] + "月" + reference[6:]
        found = rewards([example], [[written, reference]], torch.ones(1, 2, dtype=torch.bool))
        metric = sacrebleu.BLEU(effective_order=True, tokenize="zh")
        told = metric.sentence_score(written, [reference]).score / 100
        assert found[0].tolist() == pytest.approx([told, 1.0])
        assert told < 1


class Brevity(SelfCritical):
    """A reward that is easily raised: a point less for every symbol."""

    def judge(self, task: Any, batch: Any, written: Hypotheses) -> Tensor:
        return -written.lengths.float()


@pytest.mark.parametrize("baseline", ["greedy", "others"])
def test_training_raises_the_reward(baseline: str, start: Any) -> None:
    _, task, batch = begun(start, "captioning", "data.train_size=8", "data.batch_size=8")
    task.objective = Brevity(samples=4, baseline=baseline)
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-2)
    found = []
    for _ in range(25):
        loss, count = task.loss(batch)
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
        found.append(float(task.notes["reward"]))
    assert found[0] < -10 and found[-1] > -4


@pytest.mark.parametrize(
    "shape, metric, baseline",
    [("captioning", "cider", "others"), ("translation", "bleu", "greedy")],
)
def test_a_run_changes_its_objective_at_an_epoch(
    shape: str, metric: str, baseline: str, start: Any
) -> None:
    tiny = ["data.limit=16"] if shape == "translation" else ["data.train_size=16"]
    options = [*tiny, "trainer.log_every_n_steps=1", "trainer.limit_val_batches=1"]
    plain = start(shape, *options, "trainer.max_epochs=1").fit()
    told = [
        *options, "objective=self_critical", "task.objective.samples=2",
        f"task.objective.metric={metric}", f"task.objective.baseline={baseline}",
    ]  # fmt: skip
    later = [*told, "task.objective.start_epoch=1"]
    same = start(shape, *later, "trainer.max_epochs=1").fit()
    for one, other in zip(plain.task.parameters(), same.task.parameters(), strict=True):
        assert torch.equal(one, other)
    run = start(shape, *later, "trainer.max_epochs=2").fit()
    lines = (Path(run.trainer.default_root_dir) / "metrics.csv").read_text().splitlines()
    assert "train/reward" in lines[0] and "train/baseline" in lines[0]


def test_settings_that_cannot_be_met_are_refused(start: Any) -> None:
    for options, said in [
        ({"metric": "rouge"}, "metric is one of cider, bleu"),
        ({"baseline": "mean"}, "baseline is one of greedy, others"),
        ({"baseline": "others"}, "baseline=others needs samples=2"),
        ({"samples": 0}, "samples=1 or more"),
        ({"cross_entropy": -1.0}, "are 0 or more"),
    ]:
        with pytest.raises(ValueError, match=said):
            SelfCritical(**options)
    with pytest.raises(ValueError, match="is not for task=classification"):
        start("classification", "objective=self_critical")
    with pytest.raises(ValueError, match="is not for task=captioning, but for classification"):
        start("captioning", "objective=adversarial")
    run = start("captioning")
    with pytest.raises(ValueError, match="init=RUN"):
        of_checkpoint(
            run.config, run.task.record["config"], ["task=captioning", "objective=self_critical"]
        )
