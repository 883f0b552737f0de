"""Chat templates and tokenizers as people have them: where a turn ends, start marks once, padding inside."""

from __future__ import annotations

import families
import pytest

from pipeline.engine.tokens import encode_prompt, pad_of
from pipeline.errors import RecipeError, UnsafeFile
from pipeline.models.chat import chat_of, faults_of, render

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}<|stop|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|stop|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}{% else %}{{ raise_exception('only user and "
    "assistant') }}{% endif %}{% endfor %}"
)
GLM = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TEXT = "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}### a:\n{% endif %}"
KINDS = {  # template, special tokens, what the post-processor puts in front, eos, bos, the end mark
    "chatml": (CHATML, ["<eos>", "<|im_start|>", "<|im_end|>"], "", "<eos>", None, "<|im_end|>"),
    "chatml_bos": (CHATML, ["<eos>", "<s>", "<|im_start|>", "<|im_end|>"], "<s>", "<eos>", "<s>", "<|im_end|>"),
    "llama3": (LLAMA3, ["<eos>", "<s>", "<|start|>", "<|stop|>", "<|eot|>"], "<s>", "<eos>", "<s>", "<|eot|>"),
    "mistral": (MISTRAL, ["<s>", "</s>"], "<s>", "</s>", "<s>", "</s>"),
    "glm": (GLM, ["<eos>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>"], "[gMASK] <sop>", "<eos>", None, "<|user|>"),
    "glm_plain": (GLM, ["<eos>", "[gMASK]", "<sop>"], "[gMASK] <sop>", "<eos>", None, None),
    "text": (TEXT, ["<eos>", "<s>"], "<s>", "<eos>", "<s>", None),
}  # fmt: skip


def make(kind: str):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    template, special, front, eos, bos, _ = KINDS[kind]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*special, *letters])}, merges=[]))
    inner.pre_tokenizer, inner.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    inner.add_special_tokens(special)
    if front:
        marks = [(mark, inner.token_to_id(mark)) for mark in front.split()]
        inner.post_processor = processors.TemplateProcessing(
            single=f"{front} $A", pair=f"{front} $A $B", special_tokens=marks
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=eos, pad_token=eos, **({"bos_token": bos} if bos else {})
    )
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_a_rendered_chat_has_the_ids_of_its_template(kind):
    tokenizer = make(kind)
    turns = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "3?"},
    ]
    for messages in (turns[:1], turns):
        text = render(tokenizer, messages)
        expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert encode_prompt(tokenizer, text) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_plain_text_begins_with_the_start_marks_once(kind):
    tokenizer, front = make(kind), KINDS[kind][2]
    marks = tokenizer.convert_tokens_to_ids(front.split())
    plain = tokenizer("Q: 2+2?\nA:", add_special_tokens=False).input_ids
    assert encode_prompt(tokenizer, "Q: 2+2?\nA:") == [*marks, *plain]
    for place in range(len(marks)):  # the text wrote all of them, or the last ones
        assert encode_prompt(tokenizer, "".join(front.split()[place:]) + "Q: 2+2?\nA:") == [*marks, *plain]


@pytest.mark.parametrize("kind", KINDS)
def test_a_turn_ends_at_the_templates_mark(kind):
    tokenizer, mark = make(kind), KINDS[kind][5]
    assert chat_of(tokenizer).end == (None if mark is None else tokenizer.convert_tokens_to_ids(mark))


def test_the_engine_and_the_trainer_end_there(tmp_path):
    from pipeline.engine.start import start_engine
    from pipeline.rows import Example
    from pipeline.train import TrainJob, sft

    tokenizer = make("chatml")
    folder = families.make(tmp_path / "base", "llama", eos_token_id=0, bos_token_id=None, pad_token_id=0)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    tokenizer.save_pretrained(folder)
    engine = start_engine(folder, dtype="float32", device="cpu")
    assert set(tokenizer.convert_ids_to_tokens(engine.eos_ids)) >= {"<eos>", "<|im_end|>"}
    job = TrainJob(iter, folder, None, tmp_path, tmp_path, 0, 1, {})
    ends = sft.end_tokens(job, tokenizer)
    mark = tokenizer.convert_tokens_to_ids("<|im_end|>")
    chat = Example(
        problem_id="1",
        trace_id="1",
        prompt=render(tokenizer, [{"role": "user", "content": "?"}]),
        completion="4",
    )
    assert sft.token_ids(chat, sft.Settings(), tokenizer, ends)[1][-1] == mark
    plain = Example(problem_id="1", trace_id="1", prompt="Q: ?\nA:", completion="4")
    assert sft.token_ids(plain, sft.Settings(), tokenizer, ends)[1][-1] == tokenizer.eos_token_id
    ended = Example(
        problem_id="1", trace_id="1", prompt="", completion="4", prompt_ids=[5], completion_ids=[6, mark]
    )
    assert sft.token_ids(ended, sft.Settings(), tokenizer, ends)[1] == [6, mark]


def test_what_a_template_refuses_is_a_sentence():
    tokenizer = make("mistral")
    with pytest.raises(RecipeError, match="refuses turns of system, user .*task.system"):
        render(tokenizer, [{"role": "system", "content": "Think."}, {"role": "user", "content": "?"}])
    tokenizer.chat_template = None
    with pytest.raises(RecipeError, match="set task.chat=false"):
        render(tokenizer, [{"role": "user", "content": "?"}])
    tokenizer.chat_template = "{{ messages[0]['content'] | no_such_filter }}"
    with pytest.raises(RecipeError, match="refuses turns of user"):
        render(tokenizer, [{"role": "user", "content": "?"}])


@pytest.mark.parametrize(("kind", "system", "said"), [
    ("mistral", "Think.", "empty task.system"), (None, "", "has no chat template"), ("mistral", "", ""),
    ("chatml", "Think.", ""),
])  # fmt: skip
def test_what_a_template_refuses_of_a_task_is_found_before_it_is_asked(kind, system, said):
    from pipeline.tasks.jsonl import Settings

    tokenizer = make(kind or "mistral")
    tokenizer.chat_template = tokenizer.chat_template if kind else None
    task = {"use": "jsonl", "path": "x.jsonl", "chat": True, "system": system, "few_shot": 0}
    found = faults_of(tokenizer, [Settings.model_validate(task)], "policy")
    assert [said in one for one in found] == ([True] if said else [])


def test_a_template_that_takes_no_turn_after_an_answer_is_found_where_turns_are_asked_for():
    from pipeline.tasks.jsonl import Settings

    tokenizer = make("chatml")
    tokenizer.chat_template = (
        "{% if messages[-1]['role'] == 'user' and messages|length > 1 %}{{ raise_exception('one turn') }}{% endif %}"
        "{{ messages[0]['content'] }}{% if add_generation_prompt %}\nA:{% endif %}"
    )
    task = Settings.model_validate({"use": "jsonl", "path": "x.jsonl", "chat": True})
    assert faults_of(tokenizer, [task], "policy") == []
    [fault] = faults_of(tokenizer, [task], "policy", talks=True)
    assert (
        "model policy: the chat template refuses turns of user, assistant (TemplateError: one turn)" in fault
    )


def test_a_template_that_never_ends_harms_only_who_chats():
    tokenizer = make("chatml")
    tokenizer.chat_template = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    assert chat_of(tokenizer).end is None
    assert encode_prompt(tokenizer, "2+2?") == tokenizer("2+2?").input_ids
    with pytest.raises(UnsafeFile, match="does not end"):
        render(tokenizer, [{"role": "user", "content": "?"}])


def test_padding_is_inside_the_embedding():
    tokenizer = make("chatml")
    size = len(tokenizer)
    assert pad_of(tokenizer, size) == tokenizer.pad_token_id
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == size
    assert pad_of(tokenizer, size) == tokenizer.eos_token_id
    assert pad_of(tokenizer, size, others=[7]) == 7


def test_tokens_past_the_embedding_are_refused_by_name(tmp_path):
    from family_matrix import _job

    from pipeline.engine.start import start_engine
    from pipeline.rows import Example
    from pipeline.train import sft

    folder = families.make(tmp_path / "base", "llama", vocab_size=250)
    engine = start_engine(folder, dtype="float32", device="cpu")
    with pytest.raises(RecipeError, match="is number 257 and the model has 250"):
        engine.encode("a\u00a0b")  # a byte whose token was added last
    rows = [Example(problem_id="1", trace_id="1", prompt="Q", completion="a\u00a0b")]
    with pytest.raises(RecipeError, match="is number 257 and the model has 250"):
        sft.train(_job(folder, rows, tmp_path, {"r": 2}), sft.Settings.model_validate({"steps": 1}))
