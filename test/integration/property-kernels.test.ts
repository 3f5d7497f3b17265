import type { ModelDType } from '../../lib/model/neox-model';
import { native } from '../../lib/native';
import { difference, relativeDifference } from '../golden/fixtures';
import { backendsFor, runProgram, temporaryFolder, writeRandomModel } from '../helpers';
import { TOLERANCES } from '../tolerances';

interface Output {
  kernels: string;
  backend: string;
  loss: number;
  logits: number[];
  gradients: Record<string, number[]>;
}

const folder = temporaryFolder();
beforeAll(() => writeRandomModel(folder.path, { hidden_size: 57, num_attention_heads: 3, use_parallel_residual: true, hidden_act: 'quick_gelu' }));

async function compute(kernels: string, dtype: ModelDType): Promise<Output> {
  const { code, stdout, stderr } = await runProgram('kernels', [folder.path, dtype], { NEOX_PREFIX_KERNELS: kernels });
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(stdout) as Output;
}

/** From the widest that this processor has down: each implies the ones behind it. */
const SETS = ['avx512', 'avx2', 'portable'];
const available = SETS.slice(SETS.indexOf(native().systemInfo().kernels));

test.each((['float32', 'bfloat16'] as const).filter((dtype) => backendsFor(dtype).includes('onednn')))(
  'the kernels of every instruction set compute the same: %s',
  async (dtype) => {
    const tolerance = TOLERANCES[dtype];
    const [reference, ...others] = await Promise.all(['portable', ...available.filter((name) => name !== 'portable')].map((name) => compute(name, dtype)));
    expect(reference).toMatchObject({ kernels: 'portable', backend: 'onednn' });
    for (const { kernels, backend, loss, logits, gradients } of others) {
      expect(available).toContain(kernels);
      expect(kernels).not.toBe('portable');
      expect(backend).toBe('onednn');
      expect(difference(logits, reference?.logits ?? []).max).toBeLessThanOrEqual(tolerance.logits);
      expect(Math.abs(loss - (reference?.loss ?? 0)) / 76).toBeLessThanOrEqual(tolerance.loss);
      for (const [name, gradient] of Object.entries(gradients)) {
        expect(relativeDifference(gradient, reference?.gradients[name] ?? [])).toBeLessThanOrEqual(tolerance.gradientRelative);
      }
    }
  },
);

test('an instruction set that is not there is an error', async () => {
  const { code, stderr } = await runProgram('kernels', [folder.path, 'float32'], { NEOX_PREFIX_KERNELS: 'sse9' });
  expect(code).toBe(1);
  expect(stderr).toContain("NEOX_PREFIX_KERNELS is 'sse9', which this processor does not run");
  expect(stderr).toContain('NEOX_BAD_ARGUMENT');
});
