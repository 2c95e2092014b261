# ruff: noqa: E501  # templates read better in one piece
"""A zoo of tokenizers and chat templates, each with a habit that published ones have, made for these tests."""

from functools import cache

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from shared.text.tokenizer import Tokenizer

NAMES = {"bos_token": "<s>", "eos_token": "<|end|>"}
WORDS = "the theatre in the thin inn is late def f(x):\n    return x\n\nCafé ÉTÉ user assistant system think"


def special(text: str, **flags: bool) -> AddedToken:
    return AddedToken(text, special=True, **{"normalized": False, **flags})


def plain(text: str, **flags: bool) -> AddedToken:
    return AddedToken(text, special=False, **{"normalized": False, **flags})


TURNS = ("<s>", "<|turn|>", "<|end|>")
THINK = [plain("<think>"), plain("</think>")]
SPACES = [plain(" " * size) for size in range(2, 7)] + [plain("\n\n"), plain("\n\n\n")]
KINDS: dict[str, list[AddedToken]] = {
    "bytes": [special(text) for text in TURNS],
    "think": [*(special(text) for text in TURNS), *THINK],
    "spaces": [*(special(text) for text in TURNS), *SPACES, *THINK],
    "rstrip": [special(text, rstrip=True) for text in TURNS] + THINK,
    "lstrip": [special(text, lstrip=True) for text in TURNS] + [plain("the", rstrip=True)],
    "strips": [special(text, lstrip=True, rstrip=True) for text in TURNS]
    + [plain("inn", lstrip=True)],
    "words": [*(special(text) for text in TURNS), plain("the", single_word=True), plain("in")],
    "lowered": [*(special(text) for text in TURNS), plain("Café", normalized=True), *THINK],
    "composed": [special(text, normalized=True) for text in TURNS]
    + [plain("thin", normalized=True)],
    "longest": [*(special(text) for text in (*TURNS, "<|turn", "<|end|>\n<|turn|>")), *THINK],
    "first": [*(special(text) for text in TURNS), *THINK, plain("▁the")],
    "always": [*(special(text) for text in TURNS), *THINK],
    "prepend": [*(special(text) for text in TURNS), *THINK, plain("inn", normalized=True)],
    "split": [*(special(text) for text in TURNS), *THINK],
}


@cache
def backend(kind: str) -> Backend:
    made = Backend(models.BPE(byte_fallback=kind in {"first", "always", "prepend"}))
    if kind in {"first", "always", "prepend"}:
        vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
        for piece in ("▁", *sorted({*WORDS} - {" "}), "th", "in", "▁th", "▁in", "the", "▁the"):
            vocabulary.setdefault(piece, len(vocabulary))
        merges = [("t", "h"), ("i", "n"), ("▁", "th"), ("▁", "in"), ("th", "e"), ("▁th", "e")]
        made = Backend(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True))
        if kind == "prepend":
            made.normalizer = normalizers.Sequence(
                [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            )
        else:
            made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    else:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {piece: at for at, piece in enumerate(alphabet)}
        merges = [("t", "h"), ("i", "n"), ("Ġ", "th"), ("Ġ", "in"), ("th", "e"), ("Ġ", "Ġ")]
        merges += [("Ċ", "Ċ"), ("Ġth", "e"), ("<", "|"), ("|", ">"), ("|>", "Ċ")]
        for pair in merges:
            vocabulary["".join(pair)] = len(vocabulary)
        made = Backend(models.BPE(vocab=vocabulary, merges=merges))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        if kind == "lowered":
            made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        if kind == "composed":
            made.normalizer = normalizers.NFC()
        if kind == "split":
            made.normalizer = normalizers.NFC()
            made.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(
                        Regex(r"\p{N}{1,3}|\s?\p{L}+|\s*[\r\n]+|\s+(?!\S)|\S"), "isolated"
                    ),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
    for token in KINDS[kind]:
        (made.add_special_tokens if token.special else made.add_tokens)([token])
    return made


TURN = "<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n"
ASK = "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
EACH = "{% for m in messages %}" + TURN + "{% endfor %}" + ASK
PLAIN_TEMPLATES = {
    "turns": EACH,
    "expressions": "{{ bos_token }}{% for m in messages %}{{ '<|turn|>' + m['role'] + '\n' + m['content'] + '<|end|>' }}"
    "{{ '\n' }}{% endfor %}" + ASK,
    "tilde": "{%- for m in messages -%}{{ '<|' ~ 'turn' ~ '|>' ~ m.role ~ loop.index0 ~ m.content ~ eos_token }}{%- endfor -%}",
    "trim": "{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}\n\n{{ m.content | trim }}<|end|>{% endfor %}"
    + ASK,
    "strip": "{% for m in messages %}<|turn|>{{ m.content.strip() + ' ' }}{{ eos_token }}{% endfor %}",
    "tojson": "{% for m in messages %}<|turn|>{{ {'role': m.role, 'text': m.content} | tojson }}<|end|>{% endfor %}",
    "ascii": "{% for m in messages %}<|turn|>{{ m.content | tojson(ensure_ascii=true, indent=2) }}<|end|>{% endfor %}",
    "brackets": "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}[ASK] {{ m.content }} [/ASK]{% endif %}{% endfor %}",
    "macro": "{% macro turn(m, more='') %}<|turn|>{{ m.role | capitalize }}: {{ m.content }}{{ more }}<|end|>{% endmacro %}"
    "{% for m in messages %}{{ turn(m) }}{{ turn(m, more='\n\n') if loop.last }}{% endfor %}",
    "called": "{% macro around() %}<|turn|>{{ caller() }}<|end|>{% endmacro %}"
    "{% for m in messages %}{% call around() %}{{ m.content }}{% endcall %}{% endfor %}",
    "joined": "{% set parts = [] %}{% set ns = namespace(all=[bos_token]) %}{% for m in messages %}"
    "{% set ns.all = ns.all + ['<|turn|>' ~ m.role, m.content, '<|end|>'] %}{% endfor %}{{ ns.all | join('\n') }}",
    "method": "{% set ns = namespace(all=()) %}{% for m in messages %}{% set ns.all = ns.all + ('<|turn|>', m.content) %}"
    "{% endfor %}{{ '\n'.join(ns.all) }}" + ASK,
    "block": "{% for m in messages %}{% set text %}<|turn|>{{ m.content }}{% endset %}{{ text | trim }}<|end|>{% endfor %}",
    "filtered": "{% for m in messages %}{% filter trim %} <|turn|>{{ m.content }}<|end|> {% endfilter %}{% endfor %}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
    + TURN
    + "{% endgeneration %}"
    "{% else %}" + TURN + "{% endif %}{% endfor %}" + ASK,
    "reversed": "{% for m in messages[::-1] %}" + TURN + "{% endfor %}",
    "repeated": "{% for m in messages %}"
    + TURN
    + "{% endfor %}{{ messages[0].content }}{{ '<|end|>' * 2 }}",
    "literal": "{% for m in messages %}{{ m.content.replace('\n', '<|end|>') if false else m.content }}<|turn|>{% endfor %}",
    "marked": "{% set mark = '<|turn|>' %}{% set marks = {'user': mark, 'system': mark ~ mark} %}{% for m in messages %}"
    "{{ marks.get(m.role, mark) }}{{ m.content }}{{ marks['user'][:8] }}{% endfor %}",
}
"""Templates that write the same control tokens whatever the contents are."""
LOOKING_TEMPLATES = {
    "reasoning": "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and '</think>' in c %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}<|turn|>{{ m.role }}\n{{ c }}<|end|>\n{% endfor %}"
    + ASK,
    "last reasoning": "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}{% set c = m.content %}"
    "{% if loop.index0 < ns.last and '</think>' in c %}{% set c = (c | string).rpartition('</think>')[2] %}{% endif %}"
    "<|turn|>{{ c }}<|end|>{% endfor %}" + ASK,
    "no empty system": "{% for m in messages %}{% if m.role != 'system' or m.content | trim | length %}"
    + TURN
    + "{% endif %}{% endfor %}"
    + ASK,
    "own system": "{% if messages[0].role != 'system' %}<|turn|>system\nthe inn<|end|>\n{% endif %}"
    + EACH,
    "moved system": "{% if messages[0].role == 'system' %}{% set first = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}{{ bos_token }}{% for m in rest %}{% if m.role == 'user' and loop.last "
    "and first is defined %}[ASK]{{ first + '\n\n' + m.content }}[/ASK]{% else %}{{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}",
    "strict": "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}" + TURN + "{% endfor %}" + ASK,
    "break": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
    + TURN
    + "{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}"
    + ASK,
    "parts": "{% for m in messages %}{% if m.content is string %}"
    + TURN
    + "{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}",
    "lines": "{% for m in messages %}{% for line in m.content.splitlines() %}> {{ line }}\n{% endfor %}<|end|>{% endfor %}",
    "words": "{% for m in messages %}<|turn|>{{ m.content.split() | join(' ') }}{{ m.content.rsplit('the', 1)[0] }}"
    "<|end|>{% endfor %}",
    "replace": "{% for m in messages %}<|turn|>{{ m.content | replace('\n', ' ') }}<|end|>{{ m.content.replace('', '-') }}{% endfor %}",
    "upper": "{% for m in messages %}<|turn|>{{ m.role | upper }} {{ m.content.title() }}{{ m.content | upper }}<|end|>{% endfor %}",
    "prefix": "{% for m in messages %}{% if m.content.startswith('the') %}<|turn|>{% endif %}"
    "{{ m.content.removeprefix('the').removesuffix('\n') }}{{ m.content[:3] }}{{ m.content[-1:] }}<|end|>{% endfor %}",
    "selected": "{% for m in messages | selectattr('role', 'equalto', 'user') | list %}"
    + TURN
    + "{% endfor %}"
    "{{ messages | map(attribute='content') | join('<|end|>') }}{{ (messages | last).content | first }}",
    "indented": "{% for m in messages %}<|turn|>{{ m.content | indent(2) }}{{ m.content | truncate(9) }}<|end|>{% endfor %}",
    "looped": "{% for m in messages %}{{ loop.cycle('<s>', '<|end|>') }}{{ loop.previtem.content if loop.previtem is defined }}"
    "{{ m.content | default('x') }}{% endfor %}",
    "printed": "<|turn|>{{ messages }}{{ [1, 2.5, none, true] }}{{ messages | length }}<|end|>",
    "safe": "{% for m in messages %}<|turn|>{{ m.content | safe }}{{ m.content | e }}<|end|>{% endfor %}",
    "tools": "{% if tools %}<|turn|>{{ tools }}{% endif %}{% if documents is not none %}x{% endif %}{{ nobody }}"
    + EACH,
}
"""Templates that inspect contents, and omit, move or change them."""
TEMPLATES = {**PLAIN_TEMPLATES, **LOOKING_TEMPLATES}


@cache
def ours(kind: str, template: str) -> Tokenizer:
    return Tokenizer(backend(kind), TEMPLATES[template], (), NAMES)


@cache
def theirs(kind: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend(kind), clean_up_tokenization_spaces=False, **NAMES
    )
