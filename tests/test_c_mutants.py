"""Mutants of the C sources: each is built, run, and must fail as `test_ops.py` would see.

A mutation replaces one line. All files are compiled once, as for the programs of other tests;
then, for each mutant, the mutated file again, kernels for the portable instruction set.
A mutation whose line is gone is an error: write it anew.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from csrc.sources import binding_sources
from tests.conftest import ModelMaker
from tests.support.c_build import (
    ENGINE,
    ROOT,
    Source,
    compile_object,
    compile_objects,
    link_objects,
)
from tests.support.engines import (
    TOLERANCE,
    Tokens,
    embed,
    open_engine,
    random_texts,
    reference_rows,
    relative_errors,
    rms,
)
from tests.support.reference import Floats


@dataclass(frozen=True)
class Mutation:
    """In csrc/`file`, the line that holds `old` gets `new` instead."""

    name: str
    file: str
    old: str
    new: str
    prefix: bool = False  # seen only where texts share a prefix


MUTATIONS = [
    Mutation(
        "queries_rotated_one_too_far",
        "cpu/backend_cpu.c",
        "ws->cos_sin + (size_t)ws->row_position[row] * c->head_dim;",
        "ws->cos_sin + (size_t)(ws->row_position[row] + 1) * c->head_dim;",
    ),
    Mutation(
        "no_qk_norm", "cpu/ops.c", "inverse_rms(x, head_dim, head_dim, eps)", "1.0f + 0 * eps"
    ),
    Mutation(
        "q_norm_takes_k_norms_weight", "cpu/backend_cpu.c", "p->layer->q_norm,", "p->layer->k_norm,"
    ),
    Mutation("rope_backwards", "cpu/workspace.c", "(float)sin(angle)", "(float)-sin(angle)"),
    Mutation(
        "rope_frequencies_reversed",
        "cpu/workspace.c",
        "rope_inv_freq[i]",
        "rope_inv_freq[half - 1 - i]",
    ),
    Mutation("rope_sign", "cpu/ops.c", "b * cosine + a * sine", "b * cosine - a * sine"),
    Mutation(
        "wrong_head_map",
        "cpu/backend_cpu.c",
        "qe_bf16 *q = ws->q + block->row * ws->ldq + (size_t)kv_head * group * c->head_dim;",
        "qe_bf16 *q = ws->q + block->row * ws->ldq + (size_t)(group - 1) * c->head_dim;",
    ),
    Mutation(
        "mask_shows_the_block",
        "cpu/attention.c",
        "int n_valid = a->position + i + 1 - t->start;",
        "int n_valid = a->position + a->n_rows - t->start;",
    ),
    Mutation(
        "mask_shows_one_token_more",
        "cpu/attention.c",
        "int n_valid = a->position + i + 1 - t->start;",
        "int n_valid = a->position + i + (a->position + i + 1 < a->n_keys) + 1 - t->start;",
    ),
    Mutation("softmax_base_two", "cpu/attention.c", "1.44269504088896f / sqrtf", "1.0f / sqrtf"),
    Mutation(
        "denominator_not_rescaled",
        "cpu/softmax.c",
        "row->denominator * rescale",
        "row->denominator",
    ),
    Mutation(
        "accumulator_not_rescaled", "cpu/attention.c", "head_dim, rescale);", "head_dim, 1.0f);"
    ),
    Mutation("eps", "cpu/ops.c", "(float)n + eps", "(float)n + 1e-3f + 0 * eps"),
    Mutation(
        "no_residual_around_attention",
        "cpu/backend_cpu.c",
        "q, QE_ADD, ws->h, ws->ldh,",
        "q, QE_STORE, ws->h, ws->ldh,",
    ),
    Mutation(
        "no_residual_around_mlp",
        "cpu/backend_cpu.c",
        "I, QE_ADD, ws->h, ws->ldh,",
        "I, QE_STORE, ws->h, ws->ldh,",
    ),
    Mutation(
        "one_norm_for_both_blocks",
        "cpu/backend_cpu.c",
        "rms_norm(p, p->layer->post_attention_layernorm);",
        "rms_norm(p, p->layer->input_layernorm);",
    ),
    Mutation(
        "gate_and_up_swapped",
        "cpu/epilogue.c",
        "silu(vec_load(gate + at)) * vec_load(up + at)",
        "silu(vec_load(up + at)) * vec_load(gate + at)",
    ),
    Mutation(
        "last_but_one_pooled",
        "cpu/layout.c",
        "if (ws->row_position[row] != ws->spans[s].n_keys - 1 ||",
        "if (ws->row_position[row] != ws->spans[s].n_keys - 2 ||",
    ),
    Mutation(
        "no_final_norm_weight", "cpu/ops.c", "h[i] * scale * w[i]", "h[i] * scale * (w[i] > 0)"
    ),
    Mutation(
        "positions_restart_after_a_prefix",
        "cpu/backend_cpu.c",
        "ws->cos_sin + (size_t)position * c->head_dim,",
        "ws->cos_sin + (size_t)(position - span->first) * c->head_dim,",
        prefix=True,
    ),
    Mutation(
        "wrong_tile_copied_from_the_prefix",
        "cpu/kv.c",
        "int stored = position - prefix->first;",
        "int stored = position - span->first;",
        prefix=True,
    ),
    Mutation(
        "values_of_another_tile",
        "cpu/kv.c",
        "int start = stored - stored % QE_KEY_TILE;",
        "int start = stored - stored % (QE_KEY_TILE / 2);",
    ),
]


BINDING: tuple[Source, ...] = tuple(
    (source, (f"-I{sysconfig.get_path('include')}", f"-I{np.get_include()}"))
    for source in binding_sources()
)


class Builder:
    """Extension modules of the true sources, or with one of them replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources = [*ENGINE, *BINDING]
        self.objects = compile_objects(self.sources)

    def core(self, mutation: Mutation | None) -> ModuleType:
        """The extension module; a mutated kernel is mutated in the portable set."""
        objects = list(self.objects)
        if mutation:
            path = f"csrc/{mutation.file}"
            places = [i for i, source in enumerate(self.sources) if source[0] == path]
            if len(places) > 1:  # once per set
                places = [i for i in places if "-DQE_ISA=portable" in self.sources[i][1]]
            (place,) = places
            objects[place] = self.compile_mutant(mutation, self.sources[place])
        name = mutation.name if mutation else "true"
        library = link_objects(f"{name}.so", objects, ("-shared", "-Wl,-Bsymbolic"), "gcc")
        spec = importlib.util.spec_from_file_location("qwen3_embed._core", library)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def compile_mutant(self, mutation: Mutation, source: Source) -> str:
        path, flags = source
        text = (ROOT / path).read_text()
        assert text.count(mutation.old) == 1, f"{path}: not one {mutation.old!r}"
        mutant = self.folder / f"{mutation.name}.c"
        mutant.write_text(text.replace(mutation.old, mutation.new))
        # Its headers are found as from its place among the true sources.
        return compile_object((str(mutant), (*flags, f"-I{Path(path).parent}")))


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("mutants"))


def texts_of(prefix: bool) -> Tokens:
    """Texts up to three key tiles long; or some that share a prefix."""
    if not prefix:
        return random_texts([2, 9, 17, 33, 65, 100, 150, 190])
    start, *ends = random_texts([120, 5, 17, 33, 65])
    return [np.concatenate([start, end]) for end in ends]


@cache
def expected_rows(folder: Path, prefix: bool) -> tuple[list[Floats], float]:
    return reference_rows(folder, texts_of(prefix))


def error_over_tolerance(core: ModuleType, folder: Path, prefix: bool) -> float:
    expected, noise = expected_rows(folder, prefix)
    engine = open_engine(folder, "portable", core)
    rows = embed(engine, texts_of(prefix), expected[0].size, normalize=False)
    engine.close()
    return rms(relative_errors(rows, expected)) / (TOLERANCE * noise)


@pytest.mark.parametrize("prefix", [False, True])
def test_true_sources_pass(models: ModelMaker, builder: Builder, prefix: bool) -> None:
    assert error_over_tolerance(builder.core(None), models("tiny128"), prefix) < 1.0


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutated_source_fails_tenfold(
    models: ModelMaker, builder: Builder, mutation: Mutation
) -> None:
    error = error_over_tolerance(builder.core(mutation), models("tiny128"), mutation.prefix)
    assert error > 10.0  # never NaN: a NaN says nothing of the tolerance
