"""The same results again, whatever the loader's workers; and near ones, whatever the threads."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import build
from launch import describe

ROOT = Path(__file__).parents[2]
OTHERS = ["classification", "captioning", "translation", "language_model"]
OPTIONS = ["deterministic=true", "trainer.max_epochs=2"]


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def results(run: Any) -> tuple[dict[str, float], list[torch.Tensor], Any]:
    measured = run.fit().test()
    return measured, [p.detach().clone() for p in run.task.parameters()], run.task.shown


def assert_identical(one: Any, other: Any) -> None:
    assert one[0] == other[0] and one[2] == other[2]
    assert all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))


def test_a_run_is_bit_for_bit_the_same_with_any_workers(start: Any) -> None:
    options = [*OPTIONS, "data.train_size=32", "model.dropout=0.3", "data.batch_size=8"]
    runs = [results(start("classification", *options, f"data.num_workers={n}")) for n in (0, 0, 2)]
    assert torch.are_deterministic_algorithms_enabled()
    assert_identical(runs[0], runs[1])
    assert_identical(runs[0], runs[2])


def test_threads_change_no_more_than_the_last_digits(start: Any) -> None:
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        options = ["trainer.max_epochs=1", "model.hidden_size=96", "data.batch_size=64"]
        found.append(results(start("classification", *options)))
    (measured, weights, _), (others, more, _) = found
    assert measured == pytest.approx(others, rel=1e-4)
    for a, b in zip(weights, more, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_an_operation_that_forbids_it_is_named_with_the_mend(start: Any) -> None:
    def scattered(run: Any) -> Any:
        loss = run.task.loss

        def losing(batch: Any) -> Any:
            total, count = loss(batch)
            places = torch.zeros(2, dtype=torch.long)
            return total + torch.zeros(4).put_(places, torch.zeros(2)).sum(), count

        run.task.loss = losing
        return run

    options = ["trainer.max_steps=1", "data.limit=16"]
    with pytest.raises(RuntimeError) as caught:
        scattered(start("tagging", *options, "deterministic=true")).fit()
    said = describe(caught.value) or ""
    assert said.startswith("deterministic=true: the operation put_ has no deterministic")
    assert "set deterministic=warn" in said and "deterministic=false" in said
    with pytest.warns(UserWarning, match="put_ does not have a deterministic implementation"):
        scattered(start("tagging", *options, "deterministic=warn")).fit()
    with pytest.raises(ValueError, match="deterministic=maybe: choose true, false or warn"):
        build.trainer(start("tagging", "deterministic=maybe").config)


@pytest.mark.parametrize(
    "kind", ["tagging", *(pytest.param(k, marks=pytest.mark.slow) for k in OTHERS)]
)
def test_an_evaluation_draws_nothing_from_the_global_generator(kind: str, start: Any) -> None:
    run = start(kind, "data.limit=16")
    before = torch.get_rng_state()
    run.test()
    assert torch.equal(before, torch.get_rng_state())


SOURCES = [
    *ROOT.glob("*.py"),
    *(
        f
        for n in ("building", "data", "ledger", "models", "sweeping", "tasks")
        for f in (ROOT / n).rglob("*.py")
    ),
]


def test_no_choice_comes_from_the_generators_of_python_or_numpy() -> None:
    """They are nobody's: a library may draw from them in between."""
    found = []
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            bad = False
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "np.random":
                bad = node.attr not in ("default_rng", "Generator")
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "np.random.default_rng":
                bad = not node.args  # seeded by the clock
            elif isinstance(node, ast.Import):
                bad = any(alias.name in ("random", "numpy.random") for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                bad = node.module in ("random", "numpy.random")
            if bad:
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert not found
