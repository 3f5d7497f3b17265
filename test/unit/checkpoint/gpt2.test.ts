import { cpSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { openCheckpoint } from '../../../lib/checkpoint/open';
import { readSafetensorsHeader, writeSafetensors } from '../../../lib/formats/safetensors';
import { readTensor } from '../../../lib/formats/values';
import { NeoXModel } from '../../../lib/neox-model';
import { expectRefusal, temporaryFolder } from '../../helpers';

const SOURCE = join(__dirname, '..', '..', 'fixtures', 'golden', 'gpt2');
const temporary = temporaryFolder();

type Written = Parameters<typeof writeSafetensors>[1][number];

/** The golden GPT-2 with other tensors. */
async function rewrite(name: string, change: (tensors: Written[]) => Written[]): Promise<string> {
  const folder = temporary.join(name);
  mkdirSync(folder);
  cpSync(join(SOURCE, 'config.json'), join(folder, 'config.json'));
  const { tensors } = await readSafetensorsHeader(join(SOURCE, 'model.safetensors'));
  const read = [...tensors.values()].map(async (entry): Promise<Written> => ({
    name: entry.name,
    dtype: 'F32',
    shape: entry.shape,
    data: await readTensor(entry),
  }));
  await writeSafetensors(join(folder, 'model.safetensors'), change(await Promise.all(read)), {});
  return folder;
}

const ones = (name: string, shape: number[]): Written => ({
  name,
  dtype: 'F32',
  shape,
  data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(1),
});

test('names without transformer., old masks and a head beside a tied embedding change nothing', async () => {
  const folder = await rewrite('openai', (tensors) => [
    ...tensors.map((tensor) => ({ ...tensor, name: tensor.name.replace(/^transformer\./, '') })),
    ones('h.0.attn.bias', [1, 1, 4, 4]),
    ones('h.0.attn.masked_bias', [1]),
    ones('lm_head.weight', [128, 32]),
  ]);
  const plain = await openCheckpoint(SOURCE);
  const bare = await openCheckpoint(folder);
  expect(bare.fingerprint).toBe(plain.fingerprint);
  expect(bare.warnings).toEqual(['tensors that are no part of a GPT-2 model are ignored: lm_head.weight']);
});

test('a weight is what transformers multiplies with, head by head', async () => {
  const { tensors } = await openCheckpoint(SOURCE);
  const { tensors: stored } = await readSafetensorsHeader(join(SOURCE, 'model.safetensors'));
  const fused = await readTensor(tensors.get('gpt_neox.layers.1.attention.query_key_value.weight')!); // [N, 3, D, H]
  const source = await readTensor(stored.get('transformer.h.1.attn.c_attn.weight')!); // [H, 3, N, D]
  const [hidden, heads, size] = [32, 4, 8];
  for (const [head, which, d, input] of [
    [0, 0, 0, 0],
    [3, 2, 7, 31],
    [1, 2, 5, 17],
  ] as const)
    expect(fused[((head * 3 + which) * size + d) * hidden + input]).toBe(
      source[input * 3 * hidden + which * hidden + head * size + d],
    );
  expect(heads * size).toBe(hidden);
});

test.each([
  [
    'a missing position table',
    (t: Written[]) => t.filter(({ name }) => !name.includes('wpe')),
    /transformer\.wpe\.weight \[64, 32\] is missing$/,
  ],
  [
    'weights as [out, in]',
    (t: Written[]) => t.map((w) => (w.name.includes('1.mlp.c_fc.weight') ? { ...w, shape: [128, 32] } : w)),
    /transformer\.h\.1\.mlp\.c_fc\.weight has shape \[128, 32\]; config\.json asks for \[32, 128\]$/,
  ],
])('%s is told by the name in the file', async (name, change, text) => {
  const folder = await rewrite(name, change);
  await expectRefusal({ name, act: () => openCheckpoint(folder), code: 'NEOX_BAD_CHECKPOINT', text });
});

test.each([
  [{ rotaryBase: 500 }, 'A GPT-2 has no rotary positions to compute with another rotaryBase'],
  ['fastertransformer', "A GPT-2 has no rotary positions to compute with arithmetic: 'fastertransformer'"],
] as const)('the arithmetic %j is not for it', async (arithmetic, text) => {
  const act = (): Promise<unknown> => NeoXModel.load(SOURCE, { arithmetic });
  await expectRefusal({ name: 'load', act, code: 'NEOX_UNSUPPORTED', text });
});
