"""Tiny random GPT-NeoX and GPT-2 models and what transformers computes with them.

Every model exists for a feature that a loader or a forward pass may get wrong; SPECS names it.
"""
import dataclasses
import json
import pathlib

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig

from common import (IGNORED, load_model, loss_sum, prefix_cache, reset_rotary, row_logits, token_keys_and_values, write_json,
                    write_tensors)

PREFIX_LENGTH = 5
ROW_LENGTHS = [1, 4, 7, 12]
SPLIT = 5
NEW_TOKENS = 24
# A greedy step is only worth comparing when no other token comes near the best one.
MINIMUM_MARGIN = 2e-3


@dataclasses.dataclass
class Spec:
    name: str
    seed: int
    config: dict
    about: str
    dtype: torch.dtype = torch.float32
    shard_size: str | None = None
    old_config: bool = False
    legacy_buffers: bool = False
    head_name: str = 'embed_out.weight'
    reference_dtypes: tuple = (torch.float32, torch.bfloat16)


def rope(theta=10000.0, part=0.25, **more):
    return {'rope_type': 'default', 'rope_theta': theta, 'partial_rotary_factor': part, **more}


def rinna(**changes):
    """The rinna family in small: sequential residual, rotary over the whole head."""
    return dict(vocab_size=128, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, use_parallel_residual=False,
                rope_parameters=rope(part=1.0), bos_token_id=2, eos_token_id=3, pad_token_id=0) | changes


def pythia(**changes):
    """The Pythia family in small: parallel residual, rotary over a quarter of the head. Sizes with no common factor."""
    return dict(vocab_size=101, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, use_parallel_residual=True,
                rope_parameters=rope(), bos_token_id=0, eos_token_id=0) | changes


def gpt2(**changes):
    """rinna's GPT-2 models in small."""
    return dict(model_type='gpt2', vocab_size=128, n_embd=32, n_layer=3, n_head=4, n_positions=64, bos_token_id=1,
                eos_token_id=2, pad_token_id=3) | changes


def activation(name, parallel):
    family = pythia if parallel else rinna
    return family(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, hidden_act=name)


SPECS = [
    Spec('sequential', 11, rinna(), 'sequential residual, rotary over the whole head'),
    Spec('parallel', 12, pythia(), 'parallel residual, rotary over a quarter of the head, odd vocabulary, in shards', shard_size='70KB'),
    Spec('tied', 13, rinna(vocab_size=97, num_hidden_layers=2, tie_word_embeddings=True, layer_norm_eps=1e-12),
         'the output head is the embedding, layer-norm epsilon 1e-12'),
    Spec('no-bias', 14, pythia(hidden_size=32, vocab_size=96, attention_bias=False, layer_norm_eps=1e-3, rope_parameters=rope(part=0.5)),
         'attention without biases, layer-norm epsilon 1e-3'),
    Spec('old-config', 100, rinna(num_hidden_layers=2, intermediate_size=96, rope_parameters=rope(5000, 0.5)),
         'rotary_pct and rotary_emb_base 5000, and the mask and frequency buffers of old checkpoints', old_config=True, legacy_buffers=True),
    Spec('head-name', 100, rinna(num_hidden_layers=2, vocab_size=112), 'the output head is called lm_head.weight', head_name='lm_head.weight'),
    Spec('odd-rotary', 17, pythia(hidden_size=36, num_attention_heads=3, vocab_size=96, intermediate_size=72),
         'a quarter of a head of 12 is 3 dimensions: two frequencies of base^(-k/3), four rotated dimensions'),
    Spec('rope-linear', 18, pythia(hidden_size=32, vocab_size=96, rope_parameters=rope(part=0.5, rope_type='linear', factor=2.5)),
         'linear rotary scaling'),
    Spec('rope-dynamic', 19,
         rinna(num_hidden_layers=2, max_position_embeddings=14, rope_parameters=rope(part=1.0, rope_type='dynamic', factor=3.0)),
         'dynamic rotary scaling from 14 positions on; keys in a cache keep the frequencies of their own call'),
    Spec('bfloat16', 100, pythia(hidden_size=32), 'saved in bfloat16', dtype=torch.bfloat16),
    Spec('gpt2', 23, gpt2(), 'GPT-2: learned positions, weights as [in, out], q, k and v one behind the other, tied head'),
    Spec('gpt2-untied', 24,
         gpt2(vocab_size=99, n_embd=48, n_layer=2, n_head=3, n_inner=80, tie_word_embeddings=False,
              activation_function='relu', layer_norm_epsilon=1e-3, reorder_and_upcast_attn=True),
         'GPT-2 with a head of its own, another width, activation and epsilon; in float16 and in shards',
         dtype=torch.float16, shard_size='40KB'),
    Spec('float16', 21, rinna(), 'saved in float16', dtype=torch.float16, reference_dtypes=(torch.float32, torch.bfloat16, torch.float16)),
] + [
    Spec('act-' + name.replace('_', '-'), 30 + k, activation(name, k % 2 == 1), f'activation {name}', dtype=torch.float16, reference_dtypes=(torch.float32,))
    for k, name in enumerate(['gelu_new', 'gelu_fast', 'gelu_pytorch_tanh', 'quick_gelu', 'relu', 'silu'])
]


def draw_weights(model, seed):
    """Weights that spread attention and give logits of order 1 to 6; no bias or scale is left at its neutral value."""
    generator = torch.Generator().manual_seed(seed)
    hidden = model.config.hidden_size

    def normal(parameter, std, mean=0.0):
        parameter.data = mean + std * torch.randn(parameter.shape, generator=generator)

    for name, parameter in sorted(model.named_parameters()):
        if 'layernorm' in name or 'layer_norm' in name or '.ln_' in name:
            normal(parameter, 0.2, 1.0 if name.endswith('weight') else 0.0)
        elif name.endswith('bias'):
            normal(parameter, 0.2)
        elif 'wpe' in name:
            normal(parameter, 0.5)
        elif 'embed_in' in name or 'wte' in name:
            normal(parameter, 2.2 * hidden**-0.5 if model.config.tie_word_embeddings else 1.0)
        elif 'lm_head' in name:
            normal(parameter, 2.2 * hidden**-0.5)
        else:
            normal(parameter, 1.2 * hidden**-0.5)


def save_model(spec: Spec, folder: pathlib.Path):
    settings = json.loads(json.dumps(spec.config))
    kind = GPT2Config if settings.pop('model_type', None) == 'gpt2' else GPTNeoXConfig
    config = kind(**settings)
    model = AutoModelForCausalLM.from_config(config)
    draw_weights(model, spec.seed)
    model = model.to(spec.dtype)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob('model*'):
        stale.unlink()
    model.save_pretrained(folder, **({'max_shard_size': spec.shard_size} if spec.shard_size else {}))
    (folder / 'generation_config.json').unlink(missing_ok=True)
    weights = folder / 'model.safetensors'
    if spec.head_name != 'embed_out.weight':
        tensors = load_file(weights)
        tensors[spec.head_name] = tensors.pop('embed_out.weight')
        save_file(tensors, weights, metadata={'format': 'pt'})
    if spec.legacy_buffers:
        save_file(load_file(weights) | legacy_buffers(config), weights, metadata={'format': 'pt'})
    if spec.old_config:
        write_old_config(config, folder / 'config.json')


def legacy_buffers(config):
    """What checkpoints of transformers 4.2x hold beside the weights; a loader must pass over all of it."""
    positions = 16
    rotary = config.rope_parameters
    dims = int(config.hidden_size // config.num_attention_heads * rotary['partial_rotary_factor'])
    buffers = {}
    for layer in range(config.num_hidden_layers):
        attention = f'gpt_neox.layers.{layer}.attention'
        buffers[f'{attention}.bias'] = torch.ones(positions, positions, dtype=torch.uint8).tril().view(1, 1, positions, positions)
        buffers[f'{attention}.masked_bias'] = torch.tensor(-1e9)
        buffers[f'{attention}.rotary_emb.inv_freq'] = 1.0 / (rotary['rope_theta'] ** (torch.arange(0, dims, 2).float() / dims))
    return buffers


def write_old_config(config, path):
    rotary = config.rope_parameters
    keys = ['bos_token_id', 'eos_token_id', 'hidden_act', 'hidden_size', 'initializer_range', 'intermediate_size', 'layer_norm_eps',
            'max_position_embeddings', 'model_type', 'num_attention_heads', 'num_hidden_layers', 'tie_word_embeddings', 'use_cache',
            'use_parallel_residual', 'vocab_size']
    old = {key: getattr(config, key) for key in keys}
    old |= {'architectures': ['GPTNeoXForCausalLM'], 'rotary_pct': rotary['partial_rotary_factor'], 'rotary_emb_base': int(rotary['rope_theta']),
            'torch_dtype': 'float32', 'transformers_version': '4.24.0'}
    path.write_text(json.dumps(old, indent=2, sort_keys=True) + '\n')


def draw_inputs(config, seed):
    """Rows of unequal length, one target a position (some ignored), and a prefix [P, L, 2, N, D].

    The pad id stands in the middle of a row and among the targets, where it is a token like any other.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(4, config.vocab_size, (length,), generator=generator).tolist() for length in ROW_LENGTHS]
    targets = [row[1:] + [int(torch.randint(4, config.vocab_size, (1,), generator=generator))] for row in rows]
    rows[2][3] = targets[2][2] = 0
    for row, ignored in ((1, 2), (2, 1), (3, 5)):
        targets[row][:ignored] = [IGNORED] * ignored
    targets[3][8] = IGNORED
    heads = config.num_attention_heads
    shape = (PREFIX_LENGTH, config.num_hidden_layers, 2, heads, config.hidden_size // heads)
    return rows, targets, torch.randn(shape, generator=generator)


@torch.no_grad()
def greedy(model, row, prefix):
    """`NEW_TOKENS` greedy tokens, the end token being a token like any other, and the smallest lead of a best token."""
    reset_rotary(model)
    cache, ids, tokens, margin = prefix_cache(model, prefix), torch.tensor([row]), [], float('inf')
    for _ in range(NEW_TOKENS):
        output = model(ids, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        best = output.logits[0, -1].topk(2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        tokens.append(int(best.indices[0]))
        ids = best.indices[:1].unsqueeze(0)
    return tokens, margin


def choose_inputs(model, seed):
    """The first inputs whose greedy tokens all lead by MINIMUM_MARGIN, with those tokens: base and prefix."""
    for draw in range(1, 20):
        rows, targets, prefix = draw_inputs(model.config, 1000 * draw + seed)
        answers, margin = {}, float('inf')
        for kind, past in (('base', None), ('prefix', prefix)):
            results = [greedy(model, row, past) for row in rows]
            answers[kind] = [tokens for tokens, _ in results]
            margin = min([margin] + [lead for _, lead in results])
        if margin >= MINIMUM_MARGIN:
            return rows, targets, prefix, answers | {'smallestMargin': round(margin, 6)}
    raise SystemExit('no inputs without a near tie; take another seed')


def reference(spec: Spec, folder: pathlib.Path):
    """reference.json and reference.safetensors of a saved model."""
    model = load_model(folder, torch.float32)
    rows, targets, prefix, answers = choose_inputs(model, spec.seed)
    tensors = {'prefix': prefix, 'token_keys_and_values': token_keys_and_values(model, PREFIX_LENGTH)}
    losses = {}
    for dtype in spec.reference_dtypes:
        model = load_model(folder, dtype)
        name = str(dtype).removeprefix('torch.')
        losses[name] = {}
        for kind, past in (('base', None), ('prefix', prefix)):
            total, count = 0.0, 0
            for k, row in enumerate(rows):
                logits = row_logits(model, row, past)
                tensors[f'{name}.{kind}.logits.{k}'] = logits
                part, tokens = loss_sum(logits, torch.tensor(targets[k]))
                total, count = total + part.item(), count + tokens
            losses[name][kind] = {'sum': total, 'count': count}
            tensors[f'{name}.{kind}.split_logits'] = row_logits(model, rows[-1], past, SPLIT)
    about = {'about': spec.about, 'prefixLength': PREFIX_LENGTH, 'rows': rows, 'targets': targets, 'split': SPLIT, 'newTokens': NEW_TOKENS,
             'losses': losses, 'greedy': answers}
    write_tensors(folder / 'reference.safetensors', tensors)
    write_json(folder / 'reference.json', about)
    return tensors, about
