"""Prompts in chat templates against transformers' own, and `bitrl model generate` and `eval` on small models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner, Result
from hugging_face_models import add_tokenizer, calm_llama
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from bitrl.cli.model import model as command
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.tools.chat import Chat
from bitrl.plugins.backbones.tools.convert import convert

TEMPLATE = """{{ bos_token }}{% for message in messages %}
    {% if message['role'] == 'user' %}<s>user
{{ message['content'] | trim }}</s>
    {% endif %}
{% endfor %}{% if add_generation_prompt %}<s>th{% endif %}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose byte-level vocabulary has two control tokens, and a template."""
    path = tmp_path_factory.mktemp("chat")
    model = calm_llama(eos_token_id=258)
    model.save_pretrained(path)
    tokenizer = add_tokenizer(path)
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(path / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "chat_template": TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)))


@pytest.mark.parametrize("prompt", ["the moth", "  thin ", "a\nb"])
def test_a_prompt_is_templated_as_transformers_does(folder: Path, prompt: str) -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )
    said: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True
    )
    assert Chat(Engine(folder, threads=1)).prompt_ids(prompt) == said["input_ids"]


def stripping(folder: Path) -> None:
    """As Phi-3's: control tokens take away the spaces around them."""
    tokenizer = add_tokenizer(folder)
    tokenizer.add_special_tokens([AddedToken("</s>", lstrip=True, rstrip=True)])
    tokenizer.save(str(folder / "tokenizer.json"))


def spaced_first(folder: Path) -> None:
    """As Mistral's: a space goes before a text that nothing stands before, and not after a control token."""
    signs = ["▁", *map(chr, range(33, 127)), "\n", "é", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate(signs)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))


SHORT = "{{ messages[0]['content'] }}"
TEMPLATES = {
    "a clock": "{{ strftime_now('%Y-%m') }} " + SHORT,
    "what the model says": "{% generation %}<s>{{ messages[0]['content'] | trim }}{% endgeneration %} </s>",
    "json": "{{ {'b': messages[0]['content'], 'a': [1, '<é>']} | tojson(indent=2, sort_keys=true) }}",
    "named tokens": "{{ bos_token }}" + SHORT + "{{ eos_token }}|{{ pad_token }}|",
    "no tools": "{% if tools is none and not documents %}</s> {% endif %}" + SHORT + "\n",
    "loop controls": "{% for m in messages %}{% if loop.last %}<s>{{ m.content }}{% break %}{% endif %}{% endfor %}",
    "about the prompt": "{% if 'moth' in messages[0]['content'] %}<s>{% endif %}" + SHORT,
}


@pytest.mark.parametrize("prompt", ["the moth", "  thin ", "a\nb"])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
@pytest.mark.parametrize("kind", [stripping, spaced_first])
def test_templates_and_control_tokens_are_as_in_transformers(
    tmp_path: Path, template: str, kind: Callable[[Path], None], prompt: str
) -> None:
    # What an answer ends at first is another token than eos_token, and no token is put before a text.
    calm_llama(eos_token_id=[7, 258]).save_pretrained(tmp_path)
    named: dict[str, Any] = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": "<s>"}
    kind(tmp_path)
    said = {"add_bos_token": False, "chat_template": template, **named}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), chat_template=template, **named | {"bos_token": "<s>"}
    )
    found: Any = theirs.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True
    )
    assert Chat(Engine(tmp_path, threads=1)).prompt_ids(prompt) == found["input_ids"]
    if kind is stripping:
        convert(tmp_path, tmp_path / "m.gguf")
        assert Chat(Engine(tmp_path / "m.gguf", threads=1)).prompt_ids(prompt) == found["input_ids"]


def test_a_prompt_that_spells_a_control_token_is_text(folder: Path) -> None:
    chat = Chat(Engine(folder, threads=1))
    ids = chat.prompt_ids("x</s>y")
    assert ids.count(258) == 1  # the template's own
    assert chat.prompt_ids("x</s>y", plain=True)[0] == 257


def test_generating_is_greedy_and_the_same_from_gguf(folder: Path, tmp_path: Path) -> None:
    """The template travels in the GGUF file; the tokens are those of the engine."""
    convert(folder, tmp_path / "m.gguf")
    chat = Chat(Engine(folder, threads=1))
    ids = chat.prompt_ids("the moth")
    assert Chat(Engine(tmp_path / "m.gguf", threads=1)).prompt_ids("the moth") == ids
    (made,) = chat.engine.generate([ids], 8, temperature=0.0, stop=[258])
    for path in (folder, tmp_path / "m.gguf"):
        done = run("generate", path, "the moth", "--max-tokens", 8, "--json")
        assert done.exit_code == 0, done.output
        said = json.loads(done.output)
        assert said["chat_template"] is True
        assert (said["tokens"], said["prompt_tokens"]) == (len(made.tokens), len(ids))
        assert said["text"] == chat.tokenizer.decode(
            [t for t in made.tokens.tolist() if t != 258], skip_special_tokens=False
        )
    shown = run("generate", folder, "the moth", "--max-tokens", 8)
    assert shown.output == said["text"] + "\n" or "\\x" in shown.output


def test_bits_are_those_of_transformers(folder: Path, tmp_path: Path) -> None:
    """In windows of 11 tokens, each after the first token."""
    text = "the thin moth, the other moths"
    (tmp_path / "t.txt").write_text(text)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    ids, total = tokenizer(text, add_special_tokens=False)["input_ids"], 0.0
    for at in range(0, len(ids), 11):
        part = ids[at : at + 11]
        with torch.no_grad():
            logits = model(torch.tensor([[257, *part]])).logits[0, :-1].log_softmax(-1)
        total -= float(logits[range(len(part)), part].sum()) / np.log(2)
    done = run("eval", folder, tmp_path / "t.txt", "--window", 12, "--format", "fp32", "--format", "int8", "--json")
    assert done.exit_code == 0, done.output
    exact, rounded = json.loads(done.output)["formats"]
    assert exact["bits_per_byte"] == pytest.approx(total / len(text), rel=1e-5)
    assert (exact["tokens"], rounded["format"]) == (len(ids), "int8")
    assert rounded["bits_per_byte"] == pytest.approx(exact["bits_per_byte"], rel=0.05)
    assert "bits per byte" in run("eval", folder, tmp_path / "t.txt").output
    (tmp_path / "cut.txt").write_text(text + "éé")
    whole = json.loads(run("eval", folder, tmp_path / "cut.txt", "--most", len(text) + 3, "--json").output)
    assert whole["bytes"] == len(text) + 2  # without the half of a character


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('no user') }}", r"fails \(no user\): use --plain"),
        ("{{ messages[0]['content'] }}{{ messages[0]['content'] }}", "does not give the prompt once"),
        ("{{ ''.__class__.__mro__ }}", "chat template that fails"),
        ("{% for", "chat template that fails"),
    ],
)
def test_templates_that_cannot_be_used(folder: Path, tmp_path: Path, template: str, words: str) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text(template)
    done = run("generate", tmp_path, "x")
    assert done.exit_code != 0
    assert done.exception is not None
    import re

    assert re.search(words, str(done.exception) + done.output)
    assert run("generate", tmp_path, "x", "--plain", "--max-tokens", "2").exit_code == 0


def test_what_cannot_be_answered_or_judged_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "long.txt").write_bytes(b"the \xffmoth" * 9)
    for arguments, words in (
        (("generate", folder, "x" * 200), "expected 1 to 127"),
        (("generate", "no-such-model", "x"), "no-such-model"),
        (("generate", folder, "x", "--format", "int3"), "unknown format 'int3'"),
        (("eval", folder, tmp_path / "bytes.txt"), "expected text in UTF-8, got byte 0 = 0xff"),
        (("eval", folder, tmp_path / "long.txt", "--most", 20), "expected text in UTF-8, got byte 4 = 0xff"),
    ):
        done = run(*arguments)
        assert done.exit_code != 0
        assert words in str(done.exception) + done.output


def test_a_prompt_that_is_not_unicode_is_refused(folder: Path) -> None:
    """Bytes that are not UTF-8 reach a program's arguments as halves of surrogate pairs."""
    with pytest.raises(UsageError, match="half of a surrogate pair"):
        Chat(Engine(folder, threads=1)).prompt_ids("caf\udce9", plain=True)


def test_an_answer_ends_where_transformers_ends_it_and_in_gguf_too(tmp_path: Path) -> None:
    """Chat models name the end of an answer, beside that of a text, in generation_config.json alone."""
    model = calm_llama(eos_token_id=258)
    ids = [5, 17, 120]
    free = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=None)[0, 3:].tolist()
    model.generation_config.eos_token_id = [258, free[4], free[2], free[1]]
    model.save_pretrained(tmp_path / "hf")
    add_tokenizer(tmp_path / "hf")
    told = convert(tmp_path / "hf", tmp_path / "m.gguf")
    assert [words for words in told if f"tokens {free[1]}:" in words]  # of four ends, a GGUF file names three
    for path, ends in ((tmp_path / "hf", free[:2]), (tmp_path / "m.gguf", free[:3])):
        chat = Chat(Engine(path, "fp32", threads=1))
        (made,) = chat.engine.generate([ids], 12, temperature=0.0, stop=chat.ends)
        assert made.tokens.tolist() == ends
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    found = again.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)
    assert found[0, 3:].tolist() == free[:2]


def test_ends_and_padding_are_under_the_keys_that_llama_cpp_reads(tmp_path: Path) -> None:
    model = calm_llama(eos_token_id=[9, 8], pad_token_id=4)
    model.save_pretrained(tmp_path / "hf")
    add_tokenizer(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "m.gguf")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    names = gguf.Keys.Tokenizer
    found = [int(fields[key].parts[-1][0]) for key in (names.EOS_ID, names.EOT_ID, names.PAD_ID)]
    assert found == [9, 8, 4]


def test_a_prompt_is_read_from_the_standard_input(folder: Path) -> None:
    def answer(prompt: str, given: bytes = b"") -> Result:
        return CliRunner().invoke(command, ["generate", str(folder), prompt, "--max-tokens", "8"], input=given)

    plain = answer("the moth\nthin")
    piped = answer("-", b"the moth\nthin\n")
    assert (piped.exception, piped.output) == (None, plain.output)
    assert plain.output != answer(".").output
    wrong = answer("-", b"\xff\xfe")
    assert isinstance(wrong.exception, UsageError)
    assert "expected text in UTF-8" in str(wrong.exception)
