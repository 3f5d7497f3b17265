"""What transformers computes with the weights of one golden model under other configurations.

Each case is the folder's config.json with some keys changed (null: left out): rotary scalings in every spelling, and
the activations of transformers' table. One file has the logits of the last tokens of one row for all cases, and the
gradient of its loss by the prefix.

    python scripts/golden/variants.py --model test/fixtures/golden/sequential --out test/fixtures/variants
"""
import argparse
import json
import pathlib
import shutil
import tempfile

import torch
from transformers.activations import ACT2FN

from common import load_model, make_deterministic, prefix_cache, quiet, write_json, write_tensors

LENGTH = 40  # beyond the original positions of all scalings below, with and without the prefix
SPLIT = 12
KEPT = 3  # logits of the last tokens
PREFIX_LENGTH = 5
NEW_TOKENS = 12


def new(kind, **more):
    """As transformers 5 writes it."""
    return {'rope_parameters': {'rope_type': kind, 'rope_theta': 10000.0, 'partial_rotary_factor': 1.0, **more}}


def old(kind, pct=1.0, **more):
    """As transformers 4 wrote it."""
    return {'rope_parameters': None, 'rotary_pct': pct, 'rotary_emb_base': 5000, 'rope_scaling': {'type': kind, **more}}


SHORT, LONG = [1.0, 1.1, 1.3, 1.7], [1.5, 2.5, 4.0, 9.0]
FACTORS = {'short_factor': SHORT, 'long_factor': LONG}
ORIGINAL = 'original_max_position_embeddings'


def case(positions, rope, **beside):
    return {'max_position_embeddings': positions} | beside | rope


ROTARY = {
    'linear': case(16, new('linear', factor=4.0)),
    'linear-old': case(16, old('linear', factor=4)),
    'linear-rope-type': case(32, {'rope_parameters': None, 'rope_scaling': {'rope_type': 'linear', 'factor': 2.5}}),
    'yarn': case(64, new('yarn', factor=4.0, **{ORIGINAL: 16})),
    'yarn-old': case(16, old('yarn', factor=8.0)),
    'yarn-mscale': case(64, new('yarn', factor=4.0, mscale=1.0, mscale_all_dim=0.7, **{ORIGINAL: 16})),
    'yarn-every-key': case(64, new('yarn', factor=4.0, attention_factor=1.3, beta_fast=4.0, beta_slow=0.5,
                                   truncate=False, **{ORIGINAL: 32})),
    'yarn-null-factor': case(64, new('yarn', factor=None, **{ORIGINAL: 16})),
    'yarn-beside': case(64, new('yarn', factor=8.0), **{ORIGINAL: 8}),
    'llama3': case(64, new('llama3', factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **{ORIGINAL: 32})),
    'llama3-old': case(128, old('llama3', factor=3.0, low_freq_factor=1.5, high_freq_factor=20.0)),
    'longrope': case(64, new('longrope', **FACTORS, **{ORIGINAL: 16})),
    'longrope-within': case(128, new('longrope', **FACTORS, **{ORIGINAL: 64})),
    'longrope-beside': case(64, new('longrope', attention_factor=1.2, **FACTORS), **{ORIGINAL: 24}),
    'longrope-old': case(16, old('longrope', 0.75, short_factor=SHORT[:3], long_factor=LONG[:3], factor=5.0)),
}
# prelu and xielu have weights of their own.
ACTIVATIONS = sorted(set(ACT2FN) - {'prelu', 'xielu'})
CASES = ROTARY | {f'act-{name}': {'hidden_act': name} for name in ACTIVATIONS}


def changed(source, folder, changes):
    """The model of `source` with another config.json."""
    config = json.loads((source / 'config.json').read_text()) | changes
    config = {key: value for key, value in config.items() if value is not None}
    (folder / 'config.json').write_text(json.dumps(config))
    return load_model(folder, torch.float32)


@torch.no_grad()
def results(model_of, row, prefix):
    """Every result is of a fresh model: transformers keeps frequencies from call to call."""
    tensors, greedy = {}, {}
    for kind, past in (('base', None), ('prefix', prefix)):
        model = model_of()
        output = model(torch.tensor([row]), past_key_values=prefix_cache(model, past), use_cache=True)
        tensors[f'{kind}'] = output.logits[0, -KEPT:]
        model = model_of()
        first = model(torch.tensor([row[:SPLIT]]), past_key_values=prefix_cache(model, past), use_cache=True)
        rest = model(torch.tensor([row[SPLIT:]]), past_key_values=first.past_key_values)
        tensors[f'{kind}.split'] = rest.logits[0, -KEPT:]
        greedy[kind] = greedy_tokens(model_of(), row[:SPLIT], past)
    return tensors, greedy


def prefix_gradient(model, row, prefix):
    """Of the mean loss over the row's own next tokens, [P, L, 2, N, D]."""
    prefix = prefix.clone().requires_grad_(True)
    logits = model(torch.tensor([row]), past_key_values=prefix_cache(model, prefix)).logits[0]
    torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(row[1:])).backward()
    return prefix.grad


@torch.no_grad()
def greedy_tokens(model, row, prefix):
    cache, ids, tokens = prefix_cache(model, prefix), torch.tensor([row]), []
    for _ in range(NEW_TOKENS):
        output = model(ids, past_key_values=cache, use_cache=True)
        cache, ids = output.past_key_values, output.logits[:, -1].argmax(-1, keepdim=True)
        tokens.append(int(ids))
    return tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', type=pathlib.Path, required=True)
    parser.add_argument('--out', type=pathlib.Path, required=True)
    options = parser.parse_args()
    make_deterministic()
    quiet()
    generator = torch.Generator().manual_seed(77)
    config = json.loads((options.model / 'config.json').read_text())
    row = torch.randint(4, config['vocab_size'], (LENGTH,), generator=generator).tolist()
    heads = config['num_attention_heads']
    shape = (PREFIX_LENGTH, config['num_hidden_layers'], 2, heads, config['hidden_size'] // heads)
    prefix = torch.randn(shape, generator=generator)
    tensors, cases = {'prefix': prefix}, {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        shutil.copy(options.model / 'model.safetensors', folder)
        for name, changes in CASES.items():
            found, greedy = results(lambda: changed(options.model, folder, changes), row, prefix)
            found['gradient'] = prefix_gradient(changed(options.model, folder, changes), row, prefix)
            tensors |= {f'{name}.{kind}': logits for kind, logits in found.items()}
            cases[name] = {'config': changes, 'greedy': greedy}
            print(f"{name}: logits up to {found['base'].abs().max().item():.1f}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_tensors(options.out / 'reference.safetensors', tensors)
    about = {'row': row, 'split': SPLIT, 'prefixLength': PREFIX_LENGTH, 'cases': cases}
    write_json(options.out / 'reference.json', about)


if __name__ == '__main__':
    main()
