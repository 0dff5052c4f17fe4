"""Texts for parity tests: made here from word lists, the same on every machine.

English, Chinese, code, emoji and mixtures of them, from the empty text to about 2,000
tokens. Nothing is downloaded and nothing is quoted.
"""

from __future__ import annotations

import random

ENGLISH_SUBJECTS = [
    "The lighthouse keeper",
    "A river in flood",
    "Our second prototype",
    "The committee",
    "An impatient violinist",
    "The index of the database",
    "Dr. Okonkwo's assistant",
    "Every commit since Tuesday",
    "The old tramway",
    "A kilogram of copper",
]
ENGLISH_VERBS = [
    "quietly replaced",
    "could not explain",
    "measured",
    "rejected",
    "has outlived",
    "didn't notice",
    "will probably need",
    "compared",
    "returned",
    "is famous for",
]
ENGLISH_OBJECTS = [
    "the missing invoice",
    "seventeen grey pigeons",
    "a proof by contradiction",
    "the price of bread in 1893",
    "its own shadow",
    "the capital's water supply",
    "two hundred and six unread messages",
    "the boundary between clay and sand",
    "an unusually cold spring",
    "the third law of thermodynamics",
]
ENGLISH_ENDINGS = [
    ".",
    ", as far as anyone knows.",
    "; nobody was surprised.",
    " before lunch!",
    " (see table 4.2).",
    ", which costs $12.50 a month.",
    " at 3:45 p.m.",
    "?",
]
CHINESE_SUBJECTS = [
    "图书馆的管理员",
    "上海的地铁",
    "这份合同的第七条",
    "一只橘色的猫",
    "量子计算机",
    "村口的老榕树",
    "昨天的会议",
    "他的博士论文",
    "冬天的第一场雪",
    "供应商的报价",
]
CHINESE_VERBS = ["不仅影响了", "从来没有解释", "终于取代了", "正在测量", "提醒我们注意", "避免了"]
CHINESE_OBJECTS = [
    "全年的降水量",
    "三千二百本旧书",
    "用户的隐私",
    "高铁的准点率",
    "祖母留下的菜谱",
    "数据库的索引",
    "明代的城墙",
    "人民币对美元的汇率",
    "两个函数之间的接口",
    "北方的口音",
]
CHINESE_ENDINGS = ["。", ",这一点毋庸置疑。", "!", "吗?", ";后来大家都忘记了。", "(见附录二)。"]
CODE_NAMES = ["buffer", "n_rows", "offset", "parser", "total", "queue", "node", "limit"]
CODE_LINES = [
    "for {a} in range(len({b})):\n    {c} += {b}[{a}] * {n}\n",
    'if {a} is None or {b} > 0x{n:x}:\n    raise ValueError(f"{a}: {{{b}!r}}")\n',
    "static int\n{a}_{b}(const float *{c}, size_t n)\n{{\n\treturn n > {n} ? -1 : 0;\n}}\n",
    "SELECT {a}, COUNT(*) FROM {b} WHERE {c} <> '{n}' GROUP BY {a};\n",
    "const {a} = await {b}.map(({c}) => {c} ** 2).filter(Boolean); // {n}\n",
    "def {a}({b}: int = {n}) -> list[str]:\n    return [{c} for {c} in {b} if {c}]\n\n",
]
EMOJI = [
    "😀",
    "🚀",
    "👩🏽\u200d🔬",
    "🇨🇦",
    "❤️",
    "🧬",
    "🎻",
    "🌧️",
    "🐙",
    "🧑\u200d🤝\u200d🧑",
    "✅",
    "🈶",
    "☕",
    "🗺️",
]


def english(source: random.Random) -> str:
    parts = (ENGLISH_SUBJECTS, ENGLISH_VERBS, ENGLISH_OBJECTS)
    return " ".join(source.choice(part) for part in parts) + source.choice(ENGLISH_ENDINGS) + " "


def chinese(source: random.Random) -> str:
    parts = (CHINESE_SUBJECTS, CHINESE_VERBS, CHINESE_OBJECTS, CHINESE_ENDINGS)
    return "".join(source.choice(part) for part in parts)


def code(source: random.Random) -> str:
    a, b, c = source.sample(CODE_NAMES, 3)
    return source.choice(CODE_LINES).format(a=a, b=b, c=c, n=source.randrange(1, 5000))


def emoji(source: random.Random) -> str:
    return "".join(source.choice(EMOJI) for _ in range(4)) + " "


def mixture(source: random.Random) -> str:
    return source.choice((english, chinese, code, emoji))(source)


KINDS = (english, chinese, code, mixture, emoji)
CHARACTERS_PER_TOKEN = {english: 4.6, chinese: 1.4, code: 3.0, mixture: 2.6, emoji: 0.62}
SHORT_TEXTS = ["", "a", "猫", "🚀", " ", "\n", "test", "import", "回家吃饭了吗", "I'm 42 years old"]


def text_of(kind_index: int, n_tokens: int, seed: int) -> str:
    """About n_tokens of one kind of text, cut in mid-sentence."""
    kind = KINDS[kind_index % len(KINDS)]
    source = random.Random(seed)
    n_characters = int(n_tokens * CHARACTERS_PER_TOKEN[kind])
    text = ""
    while len(text) < n_characters:
        text += kind(source)
    return text[:n_characters]


def parity_texts(n_texts: int = 64, longest: int = 2000) -> list[str]:
    """Short texts first, then lengths in equal ratios up to about `longest` tokens."""
    n_long = n_texts - len(SHORT_TEXTS)
    ratio = (longest / 4) ** (1 / (n_long - 1))
    lengths = [round(4 * ratio**i) for i in range(n_long)]
    return SHORT_TEXTS + [text_of(i, n, seed=i) for i, n in enumerate(lengths)]
