"""Writes test/golden/chat/conversations.json: what transformers' apply_chat_template makes of conversations.

python3 tools/reference/chat_templates.py    (pip install transformers jinja2)
"""

import json
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

FOLDER = Path(__file__).parents[2] / "test/golden/chat"
TOKENS = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
USER = {"role": "user", "content": "Hello x"}
ANSWER = {"role": "assistant", "content": "  Hi!\nHow are you? "}
SYSTEM = {"role": "system", "content": " Be \"brief\" & kind <b>\n"}
CONVERSATIONS = [
    [USER],
    [SYSTEM, USER],
    [USER, ANSWER, {"role": "user", "content": "F\u00fcr dich: \u4f60\u597d \U0001f600\n\n"}],
    [SYSTEM, USER, ANSWER, {"role": "user", "content": "", "name": "ann"}],
    [{"role": "user", "content": "{{ eos_token }} {% raw %} {# no comment #}"}],
    [USER, SYSTEM],
    [USER, USER],
    [ANSWER],
]


def rendered(template, messages):
    try:
        (text,), _ = render_jinja_template(
            conversations=[messages], chat_template=template, add_generation_prompt=True, **TOKENS
        )
        return {"messages": messages, "text": text}
    except Exception as error:
        return {"messages": messages, "error": str(error)}


cases = {
    file.stem: [rendered(file.read_text(), messages) for messages in CONVERSATIONS]
    for file in sorted(FOLDER.glob("*.jinja"))
}
(FOLDER / "conversations.json").write_text(json.dumps({"tokens": TOKENS, "cases": cases}, indent=1) + "\n")
