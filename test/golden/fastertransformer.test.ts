import { createHash } from 'node:crypto';
import { mkdtemp, readFile, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { openCheckpoint } from '../../lib/checkpoint/open';
import { FTExporter } from '../../lib/export/exporter';
import { FASTER_TRANSFORMER_CASES, GOLDEN_DIRECTORY, loadGoldenFasterTransformer } from './fixtures';

const DTYPES = { fp16: 'float16', fp32: 'float32' } as const;

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'neox-prefix-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

async function hashesOf(directory: string): Promise<Record<string, { bytes: number; sha256: string }>> {
  const hashes: Record<string, { bytes: number; sha256: string }> = {};
  for (const name of (await readdir(directory)).sort()) {
    if (name === 'config.ini') continue;
    const content = await readFile(join(directory, name));
    hashes[name] = { bytes: content.length, sha256: createHash('sha256').update(content).digest('hex') };
  }
  return hashes;
}

describe.each(FASTER_TRANSFORMER_CASES)('the model %s', (name) => {
  const golden = loadGoldenFasterTransformer(name);

  const cases = golden.conversions.map((conversion) => ({
    ...conversion,
    label: `${conversion.dtype}, ${conversion.tensorParallel} GPU`,
  }));

  it.each(cases)("is exported as NVIDIA's converter does it: $label", async (conversion) => {
    const exporter = new FTExporter({ checkpoint: await openCheckpoint(join(GOLDEN_DIRECTORY, name)) });
    const { directory } = await exporter.export(folder, {
      dtype: DTYPES[conversion.dtype],
      tensorParallel: conversion.tensorParallel,
      modelName: golden.modelName,
      denseBias: 'huggingface_converter',
    });
    expect(await hashesOf(directory)).toEqual(conversion.files);
    const written = await readFile(join(directory, 'config.ini'), 'utf8');
    // The converter of GPT-2 forgets the epsilon, for which FasterTransformer then takes 1e-6.
    const epsilon = golden.modelName === 'gpt' ? 'layernorm_eps = 0.00001\n' : '';
    expect(written).toBe(conversion.configIni.replace(/\n$/, `${epsilon}\n`));
  });

  it.each(cases)(
    "differs by default from NVIDIA's converter only where that one is wrong: $label",
    async (conversion) => {
      const checkpoint = await openCheckpoint(join(GOLDEN_DIRECTORY, name));
      const { directory } = await new FTExporter({ checkpoint }).export(folder, {
        dtype: DTYPES[conversion.dtype],
        tensorParallel: conversion.tensorParallel,
      });
      const files = await hashesOf(directory);
      const different = Object.keys(conversion.files).filter(
        (file) => files[file]?.sha256 !== conversion.files[file]?.sha256,
      );
      const { architecture, useParallelResidual } = checkpoint.config;
      if (architecture === 'gpt2' || useParallelResidual || conversion.tensorParallel === 1) {
        expect(different).toEqual([]);
        return;
      }
      // A sequential residual adds the bias once, after the sum over the GPUs: it is the same for any number of them.
      expect(different).toHaveLength(2 * checkpoint.config.numLayers);
      const whole = golden.conversions.find((other) => other.tensorParallel === 1 && other.dtype === conversion.dtype);
      for (const file of different) {
        expect(file).toMatch(/\.(attention\.dense|mlp\.dense_4h_to_h)\.bias\.bin$/);
        expect(files[file]).toEqual(whole?.files[file]);
      }
    },
  );
});
