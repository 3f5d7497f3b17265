"""Write every golden fixture: python scripts/golden/generate_all.py --out test/fixtures/golden

A second run writes the same bytes. `--measure` also prints how far correct implementations lie apart, the ground
of test/tolerances.ts.
"""
import argparse
import pathlib

import torch

import models
import training
from common import load_model, make_deterministic, prefix_cache, quiet, row_logits


def measure(folder, tensors, about):
    """Largest difference to the reference: with fused attention, and with all rows padded into one batch."""
    result = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix('torch.')
        if f'{name}.base.logits.0' not in tensors:
            continue
        fused, eager = load_model(folder, dtype, 'sdpa'), load_model(folder, dtype)
        sdpa = batch = mean = 0.0
        for kind, prefix in (('base', None), ('prefix', tensors['prefix'])):
            rows = about['rows']
            longest = max(map(len, rows))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
            with torch.no_grad():
                padded = eager(ids, past_key_values=prefix_cache(eager, prefix, len(rows))).logits
            for k, row in enumerate(rows):
                truth = tensors[f'{name}.{kind}.logits.{k}']
                apart = (row_logits(fused, row, prefix) - truth).abs().float()
                sdpa, mean = max(sdpa, apart.max().item()), max(mean, apart.mean().item())
                batch = max(batch, (padded[k, :len(row)] - truth).abs().max().item())
        result.append(f'{name}: sdpa {sdpa:.1e} (mean {mean:.1e}) batch {batch:.1e}')
    return ', '.join(result)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--only', help='models whose names begin so')
    parser.add_argument('--measure', action='store_true')
    options = parser.parse_args()
    make_deterministic()
    quiet()
    for spec in models.SPECS:
        if not spec.name.startswith(options.only or ''):
            continue
        folder = options.out / spec.name
        models.save_model(spec, folder)
        tensors, about = models.reference(spec, folder)
        scale = tensors['float32.base.logits.3'].abs().max().item()
        print(f'{spec.name}: logits up to {scale:.1f}', flush=True)
        if options.measure:
            print('  ' + measure(folder, tensors, about), flush=True)
    for name, dtype in training.CASES:
        if not name.startswith(options.only or ''):
            continue
        print(training.write_case(options.out / name, dtype, options.measure), flush=True)


if __name__ == '__main__':
    main()
