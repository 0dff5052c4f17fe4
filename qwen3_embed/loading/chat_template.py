"""A reranker's chat template, turned into literal texts with places for query and document.

The template is rendered for probe texts, and what stands around these in the result is the
prompt; each call then concatenates strings. Templates come from strangers. Jinja's sandbox alone
doesn't bound time and memory, so a template may use only the few constructs in `_ALLOWED`: no
calls, no loops over anything but a few messages, no texts that grow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelFileError
from ..templates import QWEN_PROMPT, RERANKER_CHAT_TEMPLATE, PairPrompt, Slot
from .config import read_object
from .transformer import TransformerSettings

if TYPE_CHECKING:
    import jinja2

__all__ = ["carries_pairs", "read_chat_template", "read_pair_prompt"]

_FILE = "chat_template.jinja"
_MAX_FILE_BYTES = 1 << 20
_MAX_LENGTH = 1 << 14  # characters of a template that is rendered
_MAX_NODES = 2000
_MAX_TEXT = 1 << 13  # characters of one text, and messages of one loop
_MAX_MESSAGES = 8
_MAX_LOOPS = 3

_FILTERS = frozenset([
    "count", "d", "default", "first", "last", "length", "list", "map", "rejectattr",
    "selectattr", "string", "trim",
])  # fmt: skip
_TESTS = frozenset([
    "defined", "eq", "equalto", "false", "mapping", "ne", "none", "sequence", "string",
    "true", "undefined",
])  # fmt: skip
_METHODS = frozenset(["endswith", "get", "lstrip", "rstrip", "startswith", "strip"])
_FUNCTIONS = frozenset(["namespace", "raise_exception"])
_ALLOWED = frozenset([
    "Add", "And", "Assign", "Break", "Call", "Compare", "Concat", "CondExpr", "Const",
    "Continue", "Filter", "For", "Getattr", "Getitem", "If", "Keyword", "List", "NSRef",
    "Name", "Neg", "Not", "Operand", "Or", "Output", "Slice", "Sub", "Template",
    "TemplateData", "Test", "Tuple",
])  # fmt: skip

# Qwen's control tokens: where one stands, text is always split into tokens apart.
_CONTROL = re.compile(r"<\|[a-z_]+\|>|</?(?:think|tool_call|tool_response)>")
_MARKS: dict[Slot, str] = {
    "instruction": "zqInstructionqz",
    "query": "zqQueryqz",
    "document": "zqDocumentqz",
}
# Texts that a template might treat in a way of its own: each must come out unchanged.
_PROBES = (
    ("alpha", "bravo", "charlie"),
    ("", "x" * 400, "y\n" * 40 + "z"),
    ("Find {{ it }}", "{% if %}", "a: b\n\n\tc {{ d }}"),
    (" i ", " q\n", "\n d "),
    ("重力", "été 🦊", "<b>&amp;</b> it's"),
)


def read_chat_template(folder: Path) -> str | None:
    """The folder's chat template; the file comes before the one in tokenizer_config.json.

    Raises
    ------
    ModelFileError
        It isn't text.
    """
    path = folder / _FILE
    if path.exists():
        with open(path, "rb") as file:
            content = file.read(_MAX_FILE_BYTES)
        try:
            template: Any = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ModelFileError(f"{path} is not UTF-8: {error}") from error
    else:
        path = folder / "tokenizer_config.json"
        template = read_object(path).get("chat_template")
        if isinstance(template, list):  # several of them by name
            named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
            template = named.get("default")
        if template is None:
            return None
    if not isinstance(template, str):
        raise ModelFileError(f"{path}: chat_template is a {type(template).__name__}, expected text")
    return template.replace("\r\n", "\n")


def carries_pairs(template: str | None) -> bool:
    """True if a template names the roles "query" and "document", as only a reranker's does."""
    return template is not None and all(
        re.search(rf"""["']{role}["']""", template) for role in ("query", "document")
    )


def read_pair_prompt(
    folder: Path, settings: TransformerSettings, instruction: str | None
) -> PairPrompt:
    """The prompt of the reranker in a folder.

    Parameters
    ----------
    folder : Path
        That of the tokenizer.
    settings : TransformerSettings
    instruction : str or None
        The folder's default prompt, which sentence-transformers renders as a system message.

    Returns
    -------
    PairPrompt
        Of the model cards, unless the folder has a chat template for pairs.

    Raises
    ------
    ModelFileError
        A template that can't be used, or none where the folder needs one.
    """
    template = read_chat_template(folder)
    if settings.is_text_only:
        raise ModelFileError(
            f'{folder}: modality_config in sentence_bert_config.json has no "message", so this '
            f"reranker reads query and document without a prompt, which is not supported"
        )
    if settings.message_format is None and not carries_pairs(template):
        return QWEN_PROMPT if instruction is None else PairPrompt.of_qwen(instruction)
    if template is None:
        raise ModelFileError(
            f'{folder}: modality_config in sentence_bert_config.json has "message", but there is '
            f"no {_FILE}: fetch it too"
        )
    if template == RERANKER_CHAT_TEMPLATE:
        return QWEN_PROMPT if instruction is None else PairPrompt.of_qwen(instruction)
    render = _Renderer(folder, template, settings)
    prompt = _take_apart(render, instruction)
    official = PairPrompt.of_qwen() if instruction is None else PairPrompt.of_qwen(instruction)
    return official if _is_same(prompt, official) else prompt


class _Renderer:
    """The template as a function of instruction, query and document."""

    def __init__(self, folder: Path, template: str, settings: TransformerSettings) -> None:
        self.where = f"{folder}: the chat template"
        if len(template) > _MAX_LENGTH:
            raise ModelFileError(
                f"{self.where} has {len(template)} characters, expected at most {_MAX_LENGTH}"
            )
        special = _special_tokens(read_object(folder / "tokenizer_config.json"))
        defaults = {"add_generation_prompt": False, "tools": None, "documents": None}
        self._variables: Mapping[str, Any] = {**defaults, **special, **settings.variables}
        self._is_structured = settings.message_format == "structured" or (
            settings.message_format != "flat" and _reads_structured_content(template)
        )
        self._template = _compile(template, self.where)

    def __call__(self, instruction: str | None, query: str, document: str) -> str:
        texts = {"system": instruction, "query": query, "document": document}
        messages = [
            {"role": role, "content": self._content(text)}
            for role, text in texts.items()
            if text is not None
        ]
        rendered = []
        n_characters = 0
        try:
            for part in self._template.generate(messages=messages, **self._variables):
                rendered.append(part)
                n_characters += len(part)
                if n_characters > _MAX_LENGTH + 2 * _MAX_TEXT:
                    raise ModelFileError(
                        f"{self.where} renders more than {n_characters} characters"
                    )
        except ModelFileError:
            raise
        except Exception as error:  # whatever a template does wrong
            raise ModelFileError(
                f"{self.where} can't be rendered for a query and a document: "
                f"{type(error).__name__}: {error}"
            ) from error
        return "".join(rendered)

    def _content(self, text: str) -> Any:
        return [{"type": "text", "text": text}] if self._is_structured else text


def _special_tokens(content: Mapping[str, Any]) -> dict[str, str]:
    """bos_token and so on, which templates may name."""
    tokens = {}
    for key, value in content.items():
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str):
            tokens[key] = text
    return tokens


def _reads_structured_content(template: str) -> bool:
    patterns = ("content[0]", ".type", "'type'", '"type"', "message.content[")
    return any(pattern in template for pattern in patterns)


def _take_apart(render: _Renderer, instruction: str | None) -> PairPrompt:
    """The prompt that a template renders, checked on probe texts."""
    where = render.where
    marked = _split(render(instruction, _MARKS["query"], _MARKS["document"]))
    for role in ("query", "document"):
        if role not in [slot for _, slot in marked]:
            raise ModelFileError(
                f"{where} leaves the {role} out, so it can't be that of a reranker: expected one "
                f'that renders the messages of the roles "query" and "document"'
            )
    before, first = _cut_before(marked[0][0])
    rest, after = _cut_after(marked[-1][0], where)
    pieces = [(first, marked[0][1]), *marked[1:-1], (rest, marked[-1][1])]
    prompt = PairPrompt(before, after, tuple(pieces), None)
    prompt = _check(prompt, lambda _, q, d: render(instruction, q, d), where)
    with_slot = _split(render(*_MARKS.values()))
    head, tail = with_slot[0][0], with_slot[-1][0]
    slots = [slot for _, slot in with_slot]
    if "instruction" in slots and head.startswith(before) and tail.endswith(rest + after):
        pieces = [(head.removeprefix(before), with_slot[0][1]), *with_slot[1:-1]]
        pieces.append((tail.removesuffix(after), ""))
        prompt = PairPrompt(before, after, prompt.default_body, tuple(pieces), prompt.strips)
        prompt = _check(prompt, render, where, has_instruction=True)
    return prompt


def _split(rendered: str) -> list[tuple[str, Slot]]:
    """Literal texts and the slot after each; the last has none."""
    slots: dict[str, Slot] = {mark: slot for slot, mark in _MARKS.items()}
    parts = re.split(f"({'|'.join(slots)})", rendered)
    literals, marks = parts[::2], parts[1::2]
    return [
        (literal, slots[marks[i]] if i < len(marks) else "") for i, literal in enumerate(literals)
    ]


def _cut_before(literal: str) -> tuple[str, str]:
    """The part that may be tokenised apart from the first text, and the rest."""
    found = list(_CONTROL.finditer(literal))
    end = found[-1].end() if found else 0
    return literal[:end], literal[end:]


def _cut_after(literal: str, where: str) -> tuple[str, str]:
    """The literal after the last text: its first part, and the end that is kept when texts are cut.

    A control token begins it, or a line: after a line feed the tokenizer never joins what follows.
    """
    found = _CONTROL.search(literal)
    start = found.start() if found else literal.find("\n") + 1
    if found is None and (start == 0 or literal[start:].strip() == "" or literal[start].isspace()):
        start = len(literal)
    if literal[:start].strip():
        raise ModelFileError(
            f"{where} has {literal[:start]!r} right after the last text, which can't be kept when "
            f"a text is cut: expected a control token or a new line there"
        )
    return literal[:start], literal[start:]


def _check(
    prompt: PairPrompt,
    render: Callable[[str, str, str], str],
    where: str,
    *,
    has_instruction: bool = False,
) -> PairPrompt:
    """The prompt, or the one that strips, if it is what the template renders for every probe."""
    stripping = PairPrompt(
        prompt.before, prompt.after, prompt.default_body, prompt.body, strips=True
    )
    for candidate in (prompt, stripping):
        for texts in _PROBES:
            instruction = texts[0] if has_instruction else None
            body = candidate.body_of(texts[1], texts[2], instruction)
            expected = render(*texts)
            if candidate.before + body + candidate.after != expected:
                break
        else:
            return candidate
    raise ModelFileError(
        f"{where} changes the texts, or its own words with them: expected one that renders query "
        f"and document as they are"
    )


def _is_same(prompt: PairPrompt, other: PairPrompt) -> bool:
    """True if two prompts put the same text around every pair."""

    def flat(p: PairPrompt) -> tuple[Any, ...]:
        texts = []
        for body in (p.default_body, p.body):
            marks = [literal + _MARKS.get(slot, "") for literal, slot in body or ()]
            texts.append(p.before + "".join(marks) + p.after)
        return (*texts, p.strips)

    return flat(prompt) == flat(other)


def _compile(template: str, where: str) -> jinja2.Template:
    """The template, if it uses nothing that could run long or reach Python's objects."""
    try:
        import jinja2
        from jinja2 import nodes
        from jinja2.sandbox import ImmutableSandboxedEnvironment
        from jinja2.visitor import NodeTransformer
    except ImportError as error:
        raise ModelFileError(
            f"{where} is not the official one, and to read it takes jinja2: "
            f"pip install 'qwen3-embed-native[templates]'"
        ) from error

    class Environment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["+"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if isinstance(left, int) and isinstance(right, int):
                return left + right
            total = _text(left) + _text(right)
            if len(total) > _MAX_TEXT:
                raise ValueError(f"a text has more than {_MAX_TEXT} characters")
            return total

    class Bounded(NodeTransformer):
        """Sums of texts go through `call_binop`, loops through `_few`."""

        def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
            self.generic_visit(node)
            parts = [nodes.Filter(part, "as text", [], [], None, None) for part in node.nodes]
            total: nodes.Expr = parts[0]
            for part in parts[1:]:
                total = nodes.Add(total, part)
            return total

        def visit_For(self, node: nodes.For) -> nodes.Node:
            self.generic_visit(node)
            node.iter = nodes.Filter(node.iter, "few items", [], [], None, None)
            return node

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_text,
        extensions=["jinja2.ext.loopcontrols"],
    )
    environment.globals = {"namespace": jinja2.utils.Namespace, "raise_exception": raise_exception}
    known = {name: environment.filters[name] for name in _FILTERS}
    environment.filters = known | {"few items": _few, "as text": _text, "string": _text}
    environment.filters["trim"] = lambda value: _text(value).strip()
    environment.tests = {name: environment.tests[name] for name in _TESTS}
    try:
        tree = environment.parse(template)
        _refuse_nodes(tree.find_all(nodes.Node), where)
        tree = Bounded().visit(tree)
        code = environment.compile(tree)
        return environment.template_class.from_code(environment, code, environment.globals)
    except ModelFileError:
        raise
    except Exception as error:  # of syntax, or past the depth that Python compiles
        raise ModelFileError(
            f"{where} is not a template that can be read: {type(error).__name__}: {error}"
        ) from error


def _text(value: Any) -> str:
    """A text or number as text: the texts of nested lists could grow without bound."""
    import jinja2

    if not isinstance(value, (str, int, float, jinja2.Undefined)):
        raise TypeError(f"a {type(value).__name__} is put out, expected a text")
    return str(value)


def _few(items: Any) -> list[Any]:
    """At most a few messages, or items of one."""
    if not isinstance(items, Iterable) or isinstance(items, str):
        raise TypeError(f"a loop over {type(items).__name__}, expected one over messages")
    listed = []
    for item in items:
        listed.append(item)
        if len(listed) > _MAX_MESSAGES:
            raise ValueError(f"a loop over more than {_MAX_MESSAGES} messages")
    return listed


def _refuse_nodes(found: Iterable[Any], where: str) -> None:
    """Refuses a syntax tree with anything that isn't known to be bounded."""
    n_nodes = n_loops = 0
    for node in found:
        kind = type(node).__name__
        n_nodes += 1
        n_loops += kind == "For"
        name = str(getattr(node, "name", "") or getattr(node, "attr", ""))
        known = {"Filter": _FILTERS, "Test": _TESTS}.get(kind)
        if kind == "Call":
            called = node.node
            name = str(getattr(called, "name", "") or getattr(called, "attr", ""))
            known = _FUNCTIONS if type(called).__name__ == "Name" else _METHODS
            if type(called).__name__ not in ("Name", "Getattr") or node.dyn_args or node.dyn_kwargs:
                known = frozenset()
        bad = kind not in _ALLOWED or (known is not None and name not in known)
        if kind in ("List", "Tuple"):
            bad = any(type(item).__name__ != "Const" for item in node.items)
        if bad or name.startswith("_") or (kind == "For" and node.recursive):
            what = f"{kind.lower()} {name}".strip()
            raise ModelFileError(
                f"{where} uses {what!r} (line {node.lineno}), which is not supported in a "
                f"reranker's template: put the messages' texts out as they are"
            )
    if n_nodes > _MAX_NODES or n_loops > _MAX_LOOPS:
        raise ModelFileError(
            f"{where} has {n_nodes} parts and {n_loops} loops, expected at most {_MAX_NODES} and "
            f"{_MAX_LOOPS}"
        )
