import type { ModelDType } from '../../lib/model/neox-model';
import { native } from '../../lib/native';
import { difference, relativeDifference } from '../golden/fixtures';
import { packedBackendsFor, runProgram, temporaryFolder, writeRandomModel } from '../helpers';
import { TOLERANCES } from '../tolerances';

interface Output {
  kernels: string;
  backend: string;
  loss: number;
  logits: number[];
  gradients: Record<string, number[]>;
}

const folder = temporaryFolder();
beforeAll(() =>
  writeRandomModel(folder.path, { hidden_size: 57, num_attention_heads: 3, use_parallel_residual: true, hidden_act: 'quick_gelu' }),
);

async function compute(kernels: string, backend: string, dtype: ModelDType): Promise<Output> {
  const { code, stdout, stderr } = await runProgram('kernels', [folder.path, backend, dtype], { NEOX_PREFIX_KERNELS: kernels });
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(stdout) as Output;
}

/** From the widest down: a processor that has one has those behind it. */
const SETS = ['avx512_bf16', 'avx512', 'avx2', 'portable'];
const available = SETS.slice(SETS.indexOf(native().systemInfo().kernels));
const CASES = (['float32', 'bfloat16'] as const).flatMap((dtype) => packedBackendsFor(dtype).map((backend) => ({ dtype, backend })));

test.each(CASES)('the kernels of every instruction set compute the same: $backend, $dtype', async ({ dtype, backend }) => {
  const tolerance = TOLERANCES[dtype];
  const outputs = await Promise.all(available.map((name) => compute(name, backend, dtype)));
  expect(outputs.map((output) => output.kernels)).toEqual(available);
  // A backend may need a set; then it runs on the others nowhere.
  const ran = outputs.filter((output) => output.backend === backend);
  const reference = ran.at(-1) as Output;
  for (const { loss, logits, gradients } of ran.slice(0, -1)) {
    expect(difference(logits, reference.logits).max).toBeLessThanOrEqual(tolerance.logits);
    expect(Math.abs(loss - reference.loss) / 76).toBeLessThanOrEqual(tolerance.loss);
    for (const [name, gradient] of Object.entries(gradients)) {
      expect(relativeDifference(gradient, reference.gradients[name] as number[])).toBeLessThanOrEqual(tolerance.gradientRelative);
    }
  }
});

test('an instruction set that is not there is an error', async () => {
  const { code, stderr } = await runProgram('kernels', [folder.path, 'auto', 'float32'], { NEOX_PREFIX_KERNELS: 'sse9' });
  expect(code).toBe(1);
  expect(stderr).toContain("NEOX_PREFIX_KERNELS is 'sse9', which this processor does not run");
  expect(stderr).toContain('NEOX_BAD_ARGUMENT');
});
