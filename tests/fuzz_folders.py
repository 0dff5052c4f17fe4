"""Random keys and types in the small files of model folders: only QwenEmbedError may come out.

python -m tests.fuzz_folders --cases 100000 --seed 1
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from qwen3_embed import QwenEmbedError
from qwen3_embed.adapters.adapter import Adapter
from qwen3_embed.loading.config import Kind
from qwen3_embed.loading.files import find_model
from qwen3_embed.loading.hub_options import HubOptions
from qwen3_embed.templates import RERANKER_CHAT_TEMPLATE
from tests.support.make_adapter import make_adapter
from tests.support.make_model import make_model

KINDS: tuple[Kind, ...] = ("embedder", "reranker")
TEMPLATE = "chat_template.jinja"
SENTENCE_BERT = {
    "transformer_task": "text-generation",
    "max_seq_length": 512,
    "do_lower_case": False,
    "modality_config": {
        "text": {"method": "forward", "method_output_name": "logits"},
        "message": {"method": "forward", "method_output_name": "logits", "format": "flat"},
    },
    "module_output_name": "causal_logits",
    "processing_kwargs": {"chat_template": {"add_generation_prompt": True}, "text": {}},
    "model_kwargs": {"dtype": "float32"},
    "unpad_inputs": None,
    "query_length": None,
}
TEMPLATES = (
    RERANKER_CHAT_TEMPLATE,
    "{%- for m in messages %}{% if m.role == 'query' %}Q: {{ m.content | trim }}\n{% elif m['role']"
    ' == "document" %}D: {{ m.content }}{% endif %}{% endfor %}<|im_end|>',
)
WORDS = """forward logits last_hidden_state flat structured auto text message lasttoken mean yarn
default LORA none qwen3 Qwen3ForCausalLM Qwen3ForSequenceClassification Qwen3Model embedder
CrossEncoder SentenceTransformer SparseEncoder ../x 1_Pooling 0_Transformer model_kwargs a/b \0
q_proj v_proj all-linear (a+)+ layers.0 base_model.model mini query document system""".split()  # noqa: SIM905
PIECES = """{{ }} {% %} {%- -%} {# #} messages message in for endfor if endif else set = == | first
map(attribute="content") selectattr("role","eq","query") selectattr("role","eq","document")
default("x") content .content [0] ["role"] ~ + * ** - / ( ) [ ] namespace( loop.index trim tojson
"query" "document" 'system' <|im_end|> <think> \n range(9) __class__ is defined not and or macro
raise_exception("x") include import call filter raw endraw 10**9 { } " ' x y 1""".split(" ")  # noqa: SIM905


def contents() -> dict[str, Any]:
    """The files of two valid folders, an embedder's and a reranker's, by name; None: absent."""
    modules = [("", "Transformer"), ("1_LogitScore", "LogitScore")]
    return {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.x.{noun}"}
            for i, (path, noun) in enumerate(modules)
        ],
        "sentence_bert_config.json": SENTENCE_BERT,
        "1_LogitScore/config.json": {"true_token_id": 1, "false_token_id": 2},
        "config_sentence_transformers.json": {
            "model_type": "CrossEncoder",
            "prompts": {"query": "Q: "},
            "default_prompt_name": "query",
            "activation_fn": "torch.nn.modules.linear.Identity",
        },
        TEMPLATE: RERANKER_CHAT_TEMPLATE,
    }


class Fuzzer:
    """Writes one changed folder after another, and opens it up to the engine.

    Parameters
    ----------
    root : Path
        An empty folder.
    seed : int
    """

    def __init__(self, root: Path, seed: int) -> None:
        self._random = random.Random(seed)
        self._folders: list[tuple[Path, Kind, dict[str, Any]]] = []
        for kind in KINDS:
            folder = make_model(root / kind, "tiny64", num_hidden_layers=1)
            make_adapter(folder, folder)
            files = {
                str(path.relative_to(folder)): json.loads(path.read_text())
                for path in folder.rglob("*.json")
                if path.name not in ("tokenizer.json",)
            }
            if kind == "reranker":
                files |= contents()
                del files["1_Pooling/config.json"]
                (folder / "1_LogitScore").mkdir()
            for name, content in files.items():
                self._write(folder / name, self._text(content))
            self._folders.append((folder, kind, files))
        self.outcomes: Counter[str] = Counter()

    def run_one(self) -> None:
        """One case; anything but a QwenEmbedError passes through."""
        folder, kind, files = self._random.choice(self._folders)
        names = list(files)
        changed = self._random.sample(names, self._random.choice((1, 1, 1, 2, 3)))
        if self._random.random() < 0.7 and "adapter_config.json" not in changed:
            changed.append("adapter_config.json")  # most often without the adapter
            texts = {name: self._change(name, files[name]) for name in changed[:-1]}
            texts["adapter_config.json"] = None
        else:
            texts = {name: self._change(name, files[name]) for name in changed}
        for name, text in texts.items():
            self._write(folder / name, text)
        self._open(folder, kind)
        for name in texts:
            self._write(folder / name, self._text(files[name]))

    @staticmethod
    def _write(path: Path, text: str | None) -> None:
        if text is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(text, "utf-8", "surrogatepass")

    def _open(self, folder: Path, kind: Kind) -> None:
        try:
            found = find_model(folder, HubOptions(local_files_only=True), kind)
            if found.adapter is not None:
                Adapter(found.adapter, "adapter", found)
            found.settings.pair_prompt.body_of("query", "document")
        except QwenEmbedError as error:
            self.outcomes[type(error).__name__] += 1
        else:
            self.outcomes["opened"] += 1

    @staticmethod
    def _text(content: Any) -> str:
        return content if isinstance(content, str) else json.dumps(content)

    def _change(self, name: str, content: Any) -> str | None:
        pick = self._random.random()
        if pick < 0.03:
            return None
        if pick < 0.06:
            return self._random.choice(
                ("", "{", "null", "[]", "3", '{"a": NaN}', "\ud800", "[" * 5000)
            )
        if name == TEMPLATE:
            return self._change_template(self._random.choice(TEMPLATES))
        changed = copy.deepcopy(content)
        for _ in range(self._random.choice((1, 1, 2, 4))):
            changed = self._change_value(changed)
        return json.dumps(changed)

    def _change_value(self, value: Any) -> Any:
        """The value with one change somewhere in it."""
        choice = self._random.random()
        if choice < 0.15 or not isinstance(value, (dict, list)) or not value:
            return self._value()
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = self._random.choice(keys)
        if choice < 0.3:
            del value[key]
        elif choice < 0.6:
            value[key] = self._value()
        elif choice < 0.75 and isinstance(value, dict):
            value[self._random.choice([*WORDS, *SENTENCE_BERT])] = self._value()
        else:
            value[key] = self._change_value(value[key])
        return value

    def _value(self, depth: int = 0) -> Any:
        kind = self._random.randrange(9 if depth < 3 else 6)
        if kind == 0:
            return self._random.choice((None, True, False))
        if kind == 1:
            return self._random.choice((0, 1, -1, 7, 128, 2**31, 10**30, -(2**63)))
        if kind == 2:
            return self._random.choice((0.0, -1.5, 1e-320, 1e308, 0.5))
        if kind <= 5:
            return self._random.choice(WORDS)
        n = self._random.randrange(4)
        if kind == 6:
            return [self._value(depth + 1) for _ in range(n)]
        return {self._random.choice(WORDS): self._value(depth + 1) for _ in range(n)}

    def _change_template(self, template: str) -> str:
        if self._random.random() < 0.3:
            return " ".join(self._random.choices(PIECES, k=self._random.randrange(1, 40)))
        for _ in range(self._random.randrange(1, 4)):
            start = self._random.randrange(len(template) + 1)
            stop = start + self._random.choice((0, 0, 1, 5, 40))
            piece = "".join(self._random.choices(PIECES, k=self._random.randrange(3)))
            template = template[:start] + piece + template[stop:]
        return template


def main() -> int:
    """Prints what came out; 1 if anything but a QwenEmbedError did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    n_tracebacks = 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as root, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fuzzer = Fuzzer(Path(root), arguments.seed)
        for _ in range(arguments.cases):
            try:
                fuzzer.run_one()
            except Exception:
                n_tracebacks += 1
                if n_tracebacks <= 5:
                    traceback.print_exc()
    elapsed_s = time.monotonic() - started
    print(
        f"{arguments.cases} cases in {elapsed_s:.0f} s: {dict(fuzzer.outcomes)}, "
        f"{n_tracebacks} tracebacks"
    )
    return 1 if n_tracebacks else 0


if __name__ == "__main__":
    raise SystemExit(main())
