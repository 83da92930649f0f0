"""What captioning and translation are trained for, other than the likelihood of the right text.

An objective is called with the task and a batch, and gives the sum of the losses and their count.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from models.decoding import DecodingOptions, Hypotheses
from models.decoding.hypotheses import repeat
from models.encoder_decoder import EncoderDecoder
from models.encoders.memory import Memory
from tasks.rewards import SCORERS, Rewards

if TYPE_CHECKING:
    from tasks.generation import Generation

Objective = Callable[["Generation", Any], tuple[Tensor, Tensor]]
GREEDY = DecodingOptions(beam_size=1)
BASELINES = ("greedy", "others")


class SelfCritical:
    """−E[r(w)] of texts w that the model writes: −(r(w) − b) ∇ log p(w) of samples w, of each text
    (Rennie et al. 2017, arXiv 1612.00563; REINFORCE of texts: Ranzato et al. 2016, arXiv
    1511.06732).

    r is the sentence's `metric` against all its references, `cider` or `bleu` (`tasks.rewards`).
    The baseline b is the reward of the greedy text, or with `others` the mean of the example's
    other samples (Kool et al. 2019; for captions Luo 2020, arXiv 2003.09971). Dropout is off, so
    that the samples and their gradient are of one distribution, which is the one that is used.

    It refines a trained model: start from one (`init=RUN`), or from the cross-entropy of the epochs
    before `start_epoch`. `cross_entropy` is the weight of the nats of the right text beside it
    (Paulus et al. 2018, arXiv 1705.04304).
    """

    tasks: ClassVar = ("captioning", "translation")

    def __init__(
        self,
        *,
        metric: str = "cider",
        samples: int = 1,
        baseline: str = "greedy",
        start_epoch: int = 0,
        cross_entropy: float = 0.0,
        count_end: bool = True,
    ) -> None:
        if metric not in SCORERS:
            raise ValueError(f"metric is one of {', '.join(SCORERS)}, got {metric!r}")
        if baseline not in BASELINES:
            raise ValueError(f"baseline is one of {', '.join(BASELINES)}, got {baseline!r}")
        fewest = 2 if baseline == "others" else 1
        if samples < fewest:
            raise ValueError(f"baseline={baseline} needs samples={fewest} or more, got {samples}")
        if start_epoch < 0 or cross_entropy < 0.0:
            raise ValueError(
                "start_epoch and cross_entropy are 0 or more, got "
                f"{start_epoch} and {cross_entropy}"
            )
        self.metric, self.samples, self.baseline = metric, samples, baseline
        self.start_epoch, self.cross_entropy = start_epoch, cross_entropy
        self.count_end = count_end
        self.rewards: Rewards | None = None  # of the training references, when first asked for

    def __call__(self, task: "Generation", batch: Any) -> tuple[Tensor, Tensor]:
        if task.current_epoch < self.start_epoch:
            return task.cross_entropy(batch)
        with evaluating(task.model):
            memory = task.encode(batch)
            sampled = self.sample(task, memory)
            likelihoods = log_likelihood(task.model, memory, sampled, bos_id=task.bos_id)
            rewards = self.judge(task, batch, sampled)
            if self.baseline == "greedy":
                baseline = self.judge(task, batch, task.decode([memory], GREEDY))
            else:
                baseline = (rewards.sum(1, keepdim=True) - rewards) / (self.samples - 1)
        task.notes = {"reward": rewards.mean(), "baseline": baseline.mean()}
        loss = -((rewards - baseline) * likelihoods).sum() / self.samples
        if self.cross_entropy:
            loss = loss + self.cross_entropy * task.cross_entropy(batch)[0]
        return loss, torch.full((), float(len(rewards)), device=loss.device)

    def sample(self, task: "Generation", memory: Memory) -> Hypotheses:
        """Texts (B, samples, L) drawn from the model as it is."""
        seeds = torch.randint(2**31, (len(memory.summary),)).tolist()
        options = DecodingOptions(method="sample", n_best=self.samples)
        return task.decode([memory], options, seeds=seeds)

    def judge(self, task: "Generation", batch: Any, written: Hypotheses) -> Tensor:
        """The rewards (B, K) of texts."""
        if self.rewards is None:
            self.rewards = training_rewards(task, self.metric, count_end=self.count_end)
        tokens = written.tokens.cpu()
        texts = [[task.text(row) for row in several] for several in tokens]
        ended = (tokens == task.eos_id).any(2)
        return self.rewards(batch.index.tolist(), texts, ended).to(written.tokens.device)


def log_likelihood(
    model: EncoderDecoder, memory: Memory, written: Hypotheses, *, bos_id: int
) -> Tensor:
    """log p of texts (B, K, L), in one pass that is given their symbols, with gradients → (B, K).

    What a text never holds, as it was drawn, has no share of the probability.
    """
    count = written.tokens.size(1)
    tokens = written.tokens.flatten(0, 1)
    before = torch.cat([torch.full_like(tokens[:, :1], bos_id), tokens[:, :-1]], dim=1)
    memory = repeat(memory, count)
    output = model(memory, before)
    log_probs = model.log_probs(output, memory)
    never = log_probs[..., list(model.never_said)].exp().sum(-1).clamp(max=1 - 1e-6)  # on pads
    each = log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - torch.log1p(-never)
    steps = torch.arange(tokens.size(1), device=tokens.device)
    there = steps < written.lengths.flatten()[:, None]
    return each.masked_fill(~there, 0.0).sum(1).view(-1, count)


class TrainingReferences(Sequence[list[str]]):
    """The references of each training example, in the form in which they are compared."""

    def __init__(self, task: "Generation") -> None:
        self.task, self.split = task, task.data.splits.get("train")
        if self.split is None:
            raise ValueError(
                "a reward needs the references of every training example, which a stream does not "
                "keep: set data.streaming=false"
            )

    def __len__(self) -> int:
        return len(self.split.rows)

    def __getitem__(self, example: Any) -> Any:
        return self.task.comparable(self.task.data.example("train", example).references)


def training_rewards(task: "Generation", metric: str, *, count_end: bool) -> Rewards:
    """Rewards against the references of the training examples."""
    references = TrainingReferences(task)
    some = [references[example] for example in range(min(200, len(references)))]
    return Rewards(metric, references, task.words(some), count_end=count_end)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout or anything else that training alone does."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)
