"""Shared parts of the fixture scripts: determinism, files, key/value caches and reference forwards."""
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils import logging

IGNORED = -1


def make_deterministic():
    """One thread, so that sums are taken in one order and a second run writes the same bytes."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def quiet():
    """No progress bars and no warnings of transformers."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def write_json(path: pathlib.Path, value):
    """Objects are spread over lines, lists of numbers stay on one."""
    path.write_text(_format(value, '') + '\n')


def _format(value, indent):
    inner = indent + '  '
    if isinstance(value, dict) and value:
        items = [f'{inner}{json.dumps(key)}: {_format(item, inner)}' for key, item in value.items()]
        return '{\n' + ',\n'.join(items) + f'\n{indent}}}'
    if isinstance(value, list) and value and isinstance(value[0], (list, dict)):
        return '[\n' + ',\n'.join(inner + _format(item, inner) for item in value) + f'\n{indent}]'
    return json.dumps(value)


def write_tensors(path: pathlib.Path, tensors: dict[str, torch.Tensor]):
    save_file({name: tensors[name].detach().contiguous().clone() for name in sorted(tensors)}, path, metadata={'format': 'pt'})


def load_model(folder, dtype, attention='eager'):
    """A frozen model. `dtype` is given at load, so that the rotary frequencies stay float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    return model.eval().requires_grad_(False)


def reset_rotary(model):
    """Forget the longest sequence seen: with dynamic scaling transformers keeps it from call to call."""
    if model.config.model_type != 'gpt_neox':
        return
    rotary = model.gpt_neox.rotary_emb
    rotary.inv_freq = rotary.original_inv_freq.clone()
    rotary.max_seq_len_cached = rotary.original_max_seq_len


def prefix_cache(model, prefix, batch=1):
    """A cache that holds `prefix` [P, L, 2, N, D], in the model's dtype, for every row. None gives None."""
    if prefix is None:
        return None
    cache = DynamicCache(config=model.config)
    values = prefix.to(model.dtype).permute(1, 2, 3, 0, 4)  # [L, 2, N, P, D]
    for layer in range(values.shape[0]):
        key, value = (values[layer, part].unsqueeze(0).expand(batch, -1, -1, -1) for part in range(2))
        cache.update(key, value, layer)
    return cache


def cache_tensor(cache, length):
    """The first `length` positions of a cache of one row, as prefix weights [P, L, 2, N, D]."""
    layers = [torch.stack([layer.keys[0, :, :length], layer.values[0, :, :length]]) for layer in cache.layers]
    return torch.stack(layers).permute(3, 0, 1, 2, 4)


@torch.no_grad()
def row_logits(model, row, prefix=None, split=None):
    """Logits [T, V] of one unpadded row; `split` runs the first `split` tokens and then the rest on their cache."""
    reset_rotary(model)
    cache = prefix_cache(model, prefix)
    ids = torch.tensor([row])
    if split is None:
        return model(ids, past_key_values=cache).logits[0]
    first = model(ids[:, :split], past_key_values=cache, use_cache=True)
    rest = model(ids[:, split:], past_key_values=first.past_key_values)
    return torch.cat([first.logits[0], rest.logits[0]])


@torch.no_grad()
def token_keys_and_values(model, length):
    """The model's own keys and values of the token ids 0..length-1, [P, L, 2, N, D] float32."""
    reset_rotary(model)
    output = model(torch.arange(length).unsqueeze(0), use_cache=True)
    return cache_tensor(output.past_key_values, length).float()


def loss_sum(logits, targets):
    """Sum of the cross entropies in float32, and how many targets there are. logits [..., V], targets [...]."""
    total = torch.nn.functional.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction='sum')
    return total, int((targets != IGNORED).sum())
