"""Distilling: the teacher and the student against other programs, the losses against cases done by hand, the memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import attrs
import gguf
import numpy as np
import pytest
import torch
from hugging_face_models import TEXTS, add_tokenizer, calm_llama, qwen3, relative_error, states
from tiny_models import TinyModel

from bitrl.core.errors import RunFailed, UsageError
from bitrl.plugins.backbones.engine.engine import Engine, open_model
from bitrl.plugins.backbones.files.tokenizer import tokenizer_of
from bitrl.plugins.backbones.tools.convert import convert
from bitrl.plugins.backbones.training.decoder import Decoder, part_of
from bitrl.plugins.backbones.training.distillation import memory
from bitrl.plugins.backbones.training.distillation.batches import LENGTHS, Batches
from bitrl.plugins.backbones.training.distillation.command import DistillationRequest, distill
from bitrl.plugins.backbones.training.distillation.export import matrix_type, pack_q4_0, write_gguf
from bitrl.plugins.backbones.training.distillation.losses import hidden_loss, logit_loss, relation_loss
from bitrl.plugins.backbones.training.distillation.student import (
    fit_sub_norms,
    read_shape,
    read_teacher,
    states_after,
    student_of,
)
from bitrl.plugins.backbones.training.distillation.train import DistillationPlan, DistillationProgress, Distiller
from bitrl.plugins.backbones.training.pretraining.corpus import TextFile
from bitrl.plugins.backbones.training.pretraining.texts import known

PROSE = "the thin thing that this thistle thanks, and the other one that thought of it. " * 60
SMALL = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "max_position_embeddings": 512}


def saved(folder: Path, **changes: Any) -> Any:
    """A random Llama model in `folder`."""
    model = calm_llama(**{**SMALL, **changes})
    model.save_pretrained(folder)
    add_tokenizer(folder)
    return model


@pytest.fixture(scope="module")
def teacher_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    saved(folder)
    return folder


def decoders(path: Path, layers: int | None = None) -> tuple[Decoder, Decoder]:
    """A teacher and its student as it is at first."""
    file = open_model(path)
    teacher = read_teacher(file, read_shape(file, layers))
    return teacher, student_of(teacher)


@pytest.mark.parametrize("form", ["safetensors", "gguf"])
@pytest.mark.parametrize("layers", [1, None])
def test_the_teacher_is_transformers_model(tmp_path: Path, form: str, layers: int | None) -> None:
    theirs, path = saved(tmp_path), tmp_path
    if form == "gguf":  # whose q and k lie in another order
        convert(tmp_path, tmp_path / "m.gguf")
        path = tmp_path / "m.gguf"
    teacher, _ = decoders(path, layers)
    wanted = states(theirs, TEXTS[0])[: layers or 3]
    with torch.no_grad():
        got = states_after(teacher, torch.tensor(TEXTS[:1]))
        logits = teacher.logits(got[-1].residual)
        theirs_logits = theirs(torch.tensor(TEXTS[:1])).logits
    assert len(got) == len(wanted)
    # float32 both, and embeddings rounded to the float16 (11 bits) that a student's file holds
    for after, want in zip(got, wanted, strict=True):
        assert relative_error(after.residual[0].numpy(), want) < 2**-11
    if layers is None:
        assert relative_error(logits.numpy(), theirs_logits.numpy()) < 2**-9


@pytest.mark.parametrize(("width", "ffn"), [(64, 96), (256, 512), (48, 80)])
def test_the_engine_computes_what_the_student_does(tmp_path: Path, width: int, ffn: int) -> None:
    """Through Q4_0, TQ2_0 and F16. In float64: rounding float32 elsewhere may take an activation to the next int8."""
    saved(tmp_path, hidden_size=width, intermediate_size=ffn)
    _, student = decoders(tmp_path)
    with torch.no_grad():
        for name, weight in student.named_parameters():
            if "sub_norm" in name:
                weight.uniform_(0.5, 1.5)
    out = tmp_path / "s.gguf"
    write_gguf(out, student, open_model(tmp_path), {"name": "s"})
    student.double()
    for layers, after in enumerate(states_after(student, torch.tensor(TEXTS[:1])), 1):
        got = Engine(out, "ternary", layers=layers, threads=1).encode(TEXTS[:1], "none")
        assert relative_error(got, after.residual[0].detach().numpy()) < 1e-6
    assert (
        tokenizer_of(open_model(out)).encode("the thing").ids
        == tokenizer_of(open_model(tmp_path)).encode("the thing").ids
    )
    # Other programs read the same weights.
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(out).tensors}
    tensor = tensors["blk.1.ffn_down.weight"]
    assert tensor.tensor_type == matrix_type(ffn)
    values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
    assert len(np.unique(np.abs(values))) == 2
    weights = student.get_parameter("blk.1.ffn_down").detach().numpy()
    np.testing.assert_array_equal(np.sign(values), np.clip(np.rint(weights / np.float16(abs(weights).mean())), -1, 1))


def test_a_whole_student_generates_from_the_teachers_head(teacher_path: Path, tmp_path: Path) -> None:
    _, student = decoders(teacher_path)
    write_gguf(tmp_path / "s.gguf", student, open_model(teacher_path), {})
    with torch.no_grad():
        logits = student(torch.tensor(TEXTS[:1]))[0, -1]
    (made,) = Engine(tmp_path / "s.gguf", "ternary", threads=1).generate(TEXTS[:1], 1, temperature=0.0)
    assert made.tokens[0] == int(logits.argmax())


def test_sub_norms_take_back_the_scale_that_they_remove(teacher_path: Path) -> None:
    """No gain near the one found brings the normed states nearer to what the teacher has there."""
    teacher, student = decoders(teacher_path, 1)
    tokens = torch.tensor([TEXTS[0], TEXTS[0][::-1]])
    fit_sub_norms(student, teacher, tokens)
    x = teacher.token_embd[tokens.flatten()]
    first: Any = teacher.blk[0]
    mixed, _ = first.attended(x, [part_of(tokens, teacher.shape, x.dtype)])
    unit = mixed / mixed.square().mean(dim=-1, keepdim=True).sqrt()
    found = student.get_parameter("blk.0.attn_sub_norm").detach()
    assert found.unique().numel() == 1
    errors = [(factor * found * unit - mixed).square().sum().item() for factor in (0.99, 1.0, 1.01)]
    assert errors[1] < min(errors[0], errors[2])


# ---- losses ----


def test_hidden_loss_is_the_share_of_variance_missed() -> None:
    teacher = torch.tensor([[[0.0, 0.0], [2.0, 40.0], [9.0, 9.0]]])
    student = torch.tensor([[[1.0, 0.0], [2.0, 60.0], [0.0, 0.0]]])
    there = torch.tensor([[True, True, False]])  # the last token is padding
    # channel 0: errors 1, 0, mean of squares 0.5, variance 1; channel 1: 0, 20, mean of squares 200, variance 400
    assert hidden_loss(student, teacher, torch.tensor([1.0, 400.0]), there).item() == pytest.approx(0.5)
    assert hidden_loss(teacher, teacher, torch.tensor([1.0, 400.0]), there).item() == 0


def test_relation_loss_by_hand() -> None:
    """Two tokens, one head of width 1: A·Aᵀ is [[1, 0], [0, 0]] for the teacher and zeros for the student."""
    teacher, student = torch.tensor([[[1.0], [0.0], [5.0]]]), torch.tensor([[[0.0], [0.0], [-3.0]]])
    there = torch.tensor([[True, True, False]])
    p = math.e / (math.e + 1)
    first = p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)
    assert relation_loss(student, teacher, 1, there).item() == pytest.approx(first / 2, rel=1e-5)
    # of √d: the same relations from vectors of width 4, half as large in each of them
    wide = torch.cat([teacher, teacher, teacher, teacher], dim=-1) * 0.5**0.5
    assert relation_loss(wide, teacher, 1, there).item() == pytest.approx(0, abs=1e-6)


def test_logit_loss_by_hand() -> None:
    teacher, student = torch.tensor([[2.0 * math.log(3), 0.0]]), torch.tensor([[0.0, 0.0]])
    # at temperature 2 the teacher says 3/4 and 1/4, the student 1/2 and 1/2
    wanted = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert logit_loss(student, teacher, 2.0).item() == pytest.approx(wanted, rel=1e-5)


def test_q4_0_holds_ternary_rows_exactly() -> None:
    ternary = np.random.default_rng(0).integers(-1, 2, (7, 96)).astype(np.float32)
    values = gguf.dequantize(pack_q4_0(ternary, 0.125), gguf.GGMLQuantizationType.Q4_0)
    np.testing.assert_array_equal(values, ternary * np.float32(0.125))


# ---- training ----


def trainer(
    path: Path, layers: int | None, plan: DistillationPlan, envs: tuple[str, ...] = (), budget: int = 256
) -> Distiller:
    teacher, _ = decoders(path, layers)
    readers = [reader for env in envs for reader in known(env, ["json"], 0)]
    batches = Batches([TextFile("p", "", PROSE)], readers, tokenizer_of(open_model(path)), [], budget, plan.seed)
    return Distiller(teacher, batches, plan, "f", torch.device("cpu"))


def test_a_student_comes_nearer_to_its_teacher(teacher_path: Path, tmp_path: Path) -> None:
    """On a batch that it has never seen, too."""
    made = trainer(teacher_path, 2, DistillationPlan(steps=24, learning_rate=1e-2, warmup=4))
    unseen = made.batches.of_step(1000)
    with torch.no_grad():
        before = made.losses(unseen)
    assert set(before) == {"hidden", "relations"}
    made.run(tmp_path / "c", lambda progress: None)
    with torch.no_grad():
        after = made.losses(unseen)
    assert after["hidden"] < 0.4 * before["hidden"]
    assert after["relations"] < 0.7 * before["relations"]
    assert [step for step, _ in made.progress.history[:: len(made.progress.history) - 1]] == [1, 24]


def test_a_whole_model_is_pretrained_first_and_then_compared_by_logits(teacher_path: Path) -> None:
    made = trainer(teacher_path, None, DistillationPlan(steps=2, pretraining_steps=1), ("MountainCar-v0",))
    assert set(made.losses(made.batches.of_step(0))) == {"tokens"}
    made.progress.step = 1
    states_step = next(i for i in range(50) if made.batches.of_step(i).numbers is not None)
    found = made.losses(made.batches.of_step(states_step))
    assert set(found) == {"tokens", "hidden", "relations", "logits", "numbers"}
    assert all(torch.isfinite(loss) for loss in found.values())


def test_a_batch_depends_on_seed_and_step_alone_and_starts_with_the_models_first_token(teacher_path: Path) -> None:
    tokenizer, readers = tokenizer_of(open_model(teacher_path)), known("MountainCar-v0", ["json"], 0)
    batches = [Batches([TextFile("p", "", PROSE)], readers, tokenizer, [257], 256, 3) for _ in range(2)]
    batches[1].of_step(7)
    kinds = set()
    for step in range(8):
        one, two = (each.of_step(step) for each in batches)
        assert torch.equal(one.tokens, two.tokens)
        assert (one.tokens[:, 0] == 257).all()
        assert int(one.lengths.max()) == one.tokens.shape[1]
        kinds.add(one.numbers is None)
        if one.numbers is not None:
            assert one.numbers.shape[1] == one.tokens.shape[1]
    assert kinds == {True, False}


def test_the_estimate_of_activations_covers_what_autograd_keeps(teacher_path: Path) -> None:
    """And is not many times as much, or models that fit would be refused."""
    for layers, envs in ((1, ("MountainCar-v0",)), (2, ()), (None, ())):
        made = trainer(teacher_path, layers, DistillationPlan(steps=2), envs, budget=512)
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        parameters = {p.untyped_storage().data_ptr() for p in made.named.values()}
        largest = 0.0
        for step in range(3):
            kept.clear()
            batch = made.batches.of_step(step)
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                losses = made.losses(batch)
            held = sum(size for place, size in kept.items() if place not in parameters)
            largest = max(largest, held / batch.tokens.numel())
            del losses
        weights = 4 * sum(p.numel() for p in made.student.parameters())  # the ternary copies, counted with the weights
        estimate = memory.activations(made.shape, 512, max(LENGTHS), bool(envs))
        assert largest * 512 - weights < estimate < 4 * largest * 512


def test_too_large_a_teacher_is_refused_before_it_begins(
    teacher_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 10_000_000)
    with pytest.raises(UsageError, match=r"distilling 3 blocks takes about .* GB, but 0\.0 GB .*--layers"):
        distill(request(teacher_path, tmp_path / "s.gguf", tokens_per_batch=65536), print, lambda p, n: None)
    assert list(tmp_path.iterdir()) == []


# ---- the whole of it ----


def request(teacher: Path, out: Path, **changes: Any) -> DistillationRequest:
    return DistillationRequest(
        **{
            "teacher": str(teacher), "out": out, "layers": None, "text": (), "envs": ["MountainCar-v0"],
            "plan": DistillationPlan(steps=4, learning_rate=2e-3, checkpoint_minutes=0), "tokens_per_batch": 128,
            "device": "cpu",
            "resume": False, "command": "c", **changes,
        }
    )  # fmt: skip


def test_resuming_writes_the_same_file(teacher_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitrl.plugins.backbones.training.distillation.command.kept_numbers", lambda *given: [])

    def stop(progress: DistillationProgress, steps: int) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    whole, parts = tmp_path / "whole" / "s.gguf", tmp_path / "parts" / "s.gguf"
    for path in (whole, parts):
        path.parent.mkdir()
    distill(request(teacher_path, whole), print, lambda p, n: None)
    with pytest.raises(KeyboardInterrupt):
        distill(request(teacher_path, parts), print, stop)
    assert [path.name for path in parts.parent.iterdir()] == ["s.gguf.checkpoint"]
    other = attrs.evolve(request(teacher_path, parts, resume=True), layers=1)
    with pytest.raises(UsageError, match="comes from another command"):
        distill(other, print, lambda p, n: None)
    distill(request(teacher_path, parts, resume=True), print, lambda p, n: None)
    assert parts.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in parts.parent.iterdir()) == ["s.gguf", "s.md"]


def test_a_teacher_that_will_not_do_is_refused(teacher_path: Path, tmp_path: Path) -> None:
    qwen3().save_pretrained(tmp_path / "qwen3")
    ternary = TinyModel().write(tmp_path / "ternary.gguf")
    saved(tmp_path / "small", vocab_size=200)
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "qwen3", {}, "architecture qwen3: a teacher must be of llama"),
        (ternary, {}, "is ternary already"),
        (teacher_path, {"layers": 4}, "has 3 blocks, fewer than the 4 asked for"),
        (tmp_path / "small", {}, "has 258 tokens but embeds only 200"),
        (teacher_path, {"envs": []}, "nothing to train on"),
        (teacher_path, {"layers": 1, "plan": DistillationPlan(steps=4, pretraining_steps=2)}, "--pretraining-steps"),
        (teacher_path, {"resume": True}, "there is no checkpoint"),
    ]
    for path, changes, message in cases:
        with pytest.raises(UsageError, match=message):
            distill(request(path, tmp_path / "s.gguf", **changes), print, lambda p, n: None)
    assert not list(tmp_path.glob("*s.gguf*"))


def test_a_full_disk_leaves_nothing_half_written(
    teacher_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(writer: Any) -> None:
        raise OSError("64 requested and 12 written")  # as numpy says it

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(RunFailed, match="no space left on the disk"):
        write_gguf(tmp_path / "s.gguf", decoders(teacher_path, 1)[1], open_model(teacher_path), {})
    assert list(tmp_path.iterdir()) == []
