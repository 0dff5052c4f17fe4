"""Mutants of the C sources: each is built, run, and must fail as `test_ops.py` would see.

A mutation replaces one line. The engine is a C program: all its files are compiled once, with
little optimisation; then, for each mutant, the mutated file again, kernels for one instruction
set. A mutation whose line is gone is an error: write it anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ModelMaker
from tests.support.c_build import ARM, ROOT
from tests.support.engine_in_c import CoreInC, build_engine
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


# On an emulated processor one of its own, but not that of the slowest instruction.
ISA = "neon_i8" if ARM else "portable"


def core_of(mutation: Mutation, folder: Path) -> CoreInC:
    source = f"csrc/{mutation.file}"
    text = (ROOT / source).read_text()
    assert text.count(mutation.old) == 1, f"{source}: not one {mutation.old!r}"
    changed = folder / f"{mutation.name}.c"
    changed.write_text(text.replace(mutation.old, mutation.new))
    return CoreInC(build_engine(ISA, source, str(changed)))


def texts_of(prefix: bool) -> Tokens:
    """Texts up to three key tiles long; or some that share a prefix."""
    if not prefix:
        return random_texts([2, 9, 17, 33, 65, 100] + ([] if ARM else [150, 190]))
    start, *ends = random_texts([120, 5, 17, 33, 65])
    return [np.concatenate([start, end]) for end in ends]


@cache
def expected_rows(folder: Path, prefix: bool) -> tuple[list[Floats], float]:
    return reference_rows(folder, texts_of(prefix))


def error_over_tolerance(core: CoreInC, folder: Path, prefix: bool) -> float:
    expected, noise = expected_rows(folder, prefix)
    engine = open_engine(folder, ISA, core)
    rows = embed(engine, texts_of(prefix), expected[0].size, normalize=False)
    engine.close()
    return rms(relative_errors(rows, expected)) / (TOLERANCE * noise)


@pytest.mark.parametrize("prefix", [False, True])
def test_true_sources_pass(models: ModelMaker, prefix: bool) -> None:
    assert error_over_tolerance(CoreInC(build_engine()), models("tiny128"), prefix) < 1.0


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutated_source_fails_tenfold(
    models: ModelMaker, tmp_path: Path, mutation: Mutation
) -> None:
    core = core_of(mutation, tmp_path)
    error = error_over_tolerance(core, models("tiny128"), mutation.prefix)
    assert error > 10.0  # never NaN: a NaN says nothing of the tolerance
