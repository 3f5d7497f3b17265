"""Writes test/fixtures/files: what torch, safetensors and PEFT write, for the readers of lib/checkpoint and lib/prefix.

Every file is a few hundred bytes to a few kilobytes. expected.json holds the values that the readers must find.
Run: python scripts/golden/files.py
"""

import collections
import json
import pathlib
import shutil

import torch
from peft import PrefixTuningConfig, get_peft_model
from safetensors.torch import save_file
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

OUT = pathlib.Path(__file__).resolve().parents[2] / 'test' / 'fixtures' / 'files'
expected = {}


def values(tensor):
    return {'shape': list(tensor.shape), 'values': tensor.detach().float().flatten().tolist()}


def record(name, tensors):
    expected[name] = {key: values(tensor) for key, tensor in tensors.items()}


def save_both(name, value, tensors):
    """Saves in the zip form and in the form of torch before 1.6."""
    torch.save(value, OUT / f'{name}.bin')
    torch.save(value, OUT / f'{name}.legacy.bin', _use_new_zipfile_serialization=False)
    record(f'{name}.bin', tensors)
    record(f'{name}.legacy.bin', tensors)


def torch_files():
    generator = torch.Generator().manual_seed(7)
    base = torch.randn(4, 6, generator=generator)
    dtypes = {
        'float32': base.clone(),
        'float16': base.half(),
        'bfloat16': base.bfloat16(),
        'float64': base.double(),
        'scalar': torch.tensor(2.5),
        'empty': torch.zeros(0, 3),
    }
    save_both('dtypes', dtypes, dtypes)
    views = {'whole': base, 'rows': base[1:3], 'column': base[:, 2], 'transposed': base.t(), 'steps': base[::2, 1::3], 'one_row': base[1:2, ::2]}
    save_both('views', views, views)
    ordered = collections.OrderedDict(weight=base[0].clone(), bias=base[1].clone())
    ordered._metadata = collections.OrderedDict({'': {'version': 1}})
    save_both('wrapped', {'epoch': 3, 'big': 2**40, 'rate': 1e-4, 'done': True, 'model': ordered}, ordered)
    save_both('state_dict', {'state_dict': ordered, 'names': ['weight', ('bias', None)]}, ordered)
    parameter = torch.nn.Parameter(base.clone())
    save_both('parameter', {'weight': parameter}, {'weight': parameter})
    integers = {'long': torch.arange(4), 'byte': torch.ones(3, dtype=torch.uint8), 'bool': torch.tensor([True, False]), 'weight': base[0].clone()}
    save_both('integers', integers, integers)
    torch.save({'namespace': argparse_namespace(), 'weight': base}, OUT / 'namespace.bin')
    torch.save({'weight': base.to(torch.float8_e4m3fn)}, OUT / 'float8.bin')
    torch.save({'weight': base[:1].expand(4, 6)}, OUT / 'expanded.bin')
    torch.save({'weight': base}, OUT / 'protocol4.bin', pickle_protocol=4)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), OUT / 'torchscript.bin')


def argparse_namespace():
    import argparse

    return argparse.Namespace(learning_rate=1e-4)


def safetensors_files():
    generator = torch.Generator().manual_seed(8)
    tensors = {
        'a.weight': torch.randn(3, 5, generator=generator),
        'b.half': torch.randn(7, generator=generator).half(),
        'c.brain': torch.randn(2, 2, generator=generator).bfloat16(),
        'd.double': torch.randn(3, generator=generator).double(),
        'e.scalar': torch.tensor(1.5),
        'f.empty': torch.zeros(2, 0),
        'g.mask': torch.ones(5, dtype=torch.uint8),
        'h.flags': torch.tensor([True, False, True]),
        'i.ids': torch.arange(3),
        'j.float8': torch.ones(4).to(torch.float8_e4m3fn),
    }
    save_file(tensors, OUT / 'mixed.safetensors', metadata={'format': 'pt', 'note': '猫'})
    record('mixed.safetensors', {key: tensor for key, tensor in tensors.items() if tensor.is_floating_point() and 'float8' not in key})


def model():
    torch.manual_seed(9)
    config = GPTNeoXConfig(vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, rotary_pct=0.5,
                           max_position_embeddings=32, bos_token_id=2, eos_token_id=3)
    return GPTNeoXForCausalLM(config)


def checkpoints():
    """One set of weights in every form in which transformers has ever saved it."""
    tiny = model()
    whole, shards = OUT / 'checkpoint', OUT / 'checkpoint-sharded'
    tiny.save_pretrained(whole)
    tiny.save_pretrained(shards, max_shard_size='3KB')
    state = {key.replace('lm_head.', 'embed_out.'): tensor for key, tensor in tiny.state_dict().items()}
    for layer in range(2):
        name = f'gpt_neox.layers.{layer}.attention.'
        state[name + 'bias'] = torch.ones(1, 1, 4, 4, dtype=torch.uint8)
        state[name + 'masked_bias'] = torch.tensor(-1e9)
        state[name + 'rotary_emb.inv_freq'] = torch.ones(1)
    folder = OUT / 'checkpoint-pickled'
    folder.mkdir()
    torch.save(collections.OrderedDict(state), folder / 'pytorch_model.bin')
    shutil.copy(whole / 'config.json', folder)
    old_rinna(tiny, OUT / 'checkpoint-old-rinna')
    for config in OUT.glob('*/generation_config.json'):
        config.unlink()
    expected['checkpoint'] = {key: values(tensor) for key, tensor in state.items() if 'rotary' not in key and 'masked' not in key and tensor.dtype != torch.uint8}


def old_rinna(tiny, folder):
    folder.mkdir()
    names = [('gpt_neox.layers.', 'transformer.h.'), ('gpt_neox.embed_in', 'transformer.wte'), ('gpt_neox.final_layer_norm', 'transformer.ln_f'),
             ('input_layernorm', 'ln_1'), ('post_attention_layernorm', 'ln_2'), ('attention.query_key_value', 'attn.qkv_proj'),
             ('attention.dense', 'attn.out_proj'), ('dense_h_to_4h', 'fc_in'), ('dense_4h_to_h', 'fc_out')]
    state = collections.OrderedDict()
    for key, tensor in tiny.state_dict().items():
        for new, old in names:
            key = key.replace(new, old)
        state[key] = tensor
    state['transformer.h.0.attn.bias'] = torch.ones(1, 1, 4, 4, dtype=torch.uint8)
    state['transformer.h.0.attn.masked_bias'] = torch.tensor(-1e9)
    torch.save(state, folder / 'pytorch_model.bin', _use_new_zipfile_serialization=False)
    config = {'model_type': 'gpt-neox', 'vocab_size': 20, 'n_embd': 8, 'n_layer': 2, 'n_head': 2, 'n_inner': 12, 'n_positions': 32, 'rotary_dim': 2,
              'activation_function': 'gelu', 'layer_norm_epsilon': 1e-5, 'gpt_j_residual': True, 'lm_head_bias': False, 'bos_token_id': 2, 'eos_token_id': 3}
    (folder / 'config.json').write_text(json.dumps(config, indent=2) + '\n')


def prefixes():
    """Prefixes for the model above: P = 3, so [3, 2 * 2 * 8] = [3, 32]."""
    generator = torch.Generator().manual_seed(10)
    weight = torch.randn(3, 32, generator=generator, requires_grad=True)
    torch.save(weight * 1, OUT / 'prefix.checkpoint')
    torch.save((weight * 1).half(), OUT / 'prefix.half.checkpoint')
    torch.save((weight * 1).view(3, 4, 2, 4), OUT / 'prefix.4d.checkpoint')
    torch.save(torch.nn.Parameter(weight.detach()), OUT / 'prefix.legacy.weight', _use_new_zipfile_serialization=False)
    archive = (OUT / 'prefix.checkpoint').read_bytes()
    # Saved from another device (a name as long, of a device that torch knows), so that the archive stays whole. Readers
    # do not check CRCs.
    (OUT / 'prefix.device.checkpoint').write_bytes(archive.replace(b'X\x03\x00\x00\x00cpu', b'X\x03\x00\x00\x00hpu'))
    expected['prefix'] = values(weight)
    peft_model = get_peft_model(model(), PrefixTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=3))
    peft_model.prompt_encoder['default'].embedding.weight.data.copy_(weight.detach())
    peft_model.save_pretrained(OUT / 'peft')
    (OUT / 'peft' / 'README.md').unlink(missing_ok=True)
    (OUT / 'peft-bin').mkdir()
    torch.save({'prompt_embeddings': weight.detach()}, OUT / 'peft-bin' / 'adapter_model.bin')
    config = json.loads((OUT / 'peft' / 'adapter_config.json').read_text())
    (OUT / 'peft-bin' / 'adapter_config.json').write_text(json.dumps({**config, 'num_layers': None, 'token_dim': None, 'from_the_future': 1}, indent=2))
    torch.save({'prefix_wte.weight': weight.detach(), 'prefix_mlp.0.weight': weight.detach()}, OUT / 'encoder.bin')
    # What rinna's script writes before the training: an encoder for 2 layers of 32, prefix length 4.
    shapes = {'prefix_wte.weight': (4, 3), 'prefix_mlp.0.weight': (5, 3), 'prefix_mlp.0.bias': (5,),
              'prefix_mlp.2.weight': (128, 5), 'prefix_mlp.2.bias': (128,)}
    state = collections.OrderedDict((name, torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape) / 1000)
                                    for name, shape in shapes.items())
    torch.save({'model': state}, OUT / 'initial.pt')


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    torch_files()
    safetensors_files()
    checkpoints()
    prefixes()
    (OUT / 'expected.json').write_text(json.dumps(expected) + '\n')


if __name__ == '__main__':
    main()
