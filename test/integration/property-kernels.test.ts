import { native } from '../../lib/addon/addon';
import { difference, relativeDifference } from '../golden/fixtures';
import { packedBackendsFor, runProgram, temporaryFolder, writeRandomModel } from '../helpers';
import { TOLERANCES } from '../tolerances';

interface Output {
  kernels: string;
  /** By backend and dtype. */
  results: Record<string, { loss: number; logits: number[]; gradients: Record<string, number[]> } | undefined>;
}

const folder = temporaryFolder();
const outputs: Output[] = [];

/** From the widest down: a processor that has one has those behind it. */
const SETS = ['avx512_bf16', 'avx512', 'avx2', 'portable'];
const available = SETS.slice(SETS.indexOf(native().systemInfo().kernels));
const CASES = (['float32', 'bfloat16', 'int8'] as const).flatMap((dtype) =>
  packedBackendsFor(dtype).map((backend) => ({ dtype, backend })),
);

beforeAll(async () => {
  await writeRandomModel(folder.path, {
    hidden_size: 57,
    num_attention_heads: 3,
    use_parallel_residual: true,
    hidden_act: 'quick_gelu',
  });
  for (const name of available) {
    const { code, stdout, stderr } = await runProgram('kernels', [folder.path], { NEOX_PREFIX_KERNELS: name });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    outputs.push(JSON.parse(stdout) as Output);
  }
});

test('each process used the instruction set that it was told to', () => {
  expect(outputs.map(({ kernels }) => kernels)).toEqual(available);
});

test.each(CASES)('the kernels of every instruction set compute the same: $backend, $dtype', ({ dtype, backend }) => {
  const tolerance = TOLERANCES[dtype];
  // A backend may need more than the portable set.
  const ran = outputs.map(({ results }) => results[`${backend}, ${dtype}`]).filter((result) => result !== undefined);
  const reference = ran.at(-1);
  expect(reference).toBeDefined();
  for (const { loss, logits, gradients } of ran) {
    expect(difference(logits, reference?.logits ?? []).max).toBeLessThanOrEqual(tolerance.logits);
    expect(Math.abs(loss - (reference?.loss ?? NaN))).toBeLessThanOrEqual(tolerance.loss);
    for (const [name, gradient] of Object.entries(gradients)) {
      expect(relativeDifference(gradient, reference?.gradients[name] ?? [])).toBeLessThanOrEqual(
        tolerance.gradientRelative,
      );
    }
  }
});

test('an instruction set that is not there is an error', async () => {
  const { code, stderr } = await runProgram('kernels', [folder.path], { NEOX_PREFIX_KERNELS: 'sse9' });
  expect(code).toBe(1);
  expect(stderr).toContain("NEOX_PREFIX_KERNELS is 'sse9', which this processor does not run");
  expect(stderr).toContain('NEOX_BAD_ARGUMENT');
});
