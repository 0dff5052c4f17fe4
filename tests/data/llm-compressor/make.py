"""Makes the files beside this one, with llm-compressor 0.14.0.1 and compressed-tensors 0.19.0.

They need older Transformers than the tests, so run it in an environment of its own:

    python -m venv lc && lc/bin/pip install llmcompressor==0.14.0.1 torch
    python -c "from tests.support import make_model as m; m.SHAPES['llm-compressor'] = \
(64, 96, 1, 2, 1, 32, 320, 512); m.make_model('model', 'llm-compressor')"
    HF_HUB_OFFLINE=1 lc/bin/python tests/data/llm-compressor/make.py model out
"""

import sys

from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import AutoModelForCausalLM

source, output = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(source, dtype="bfloat16")
recipe = QuantizationModifier(targets="Linear", scheme="W8A8", ignore=["lm_head"])
oneshot(model=model, recipe=recipe)
model.save_pretrained(output, save_compressed=True)
