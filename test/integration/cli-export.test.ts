import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PrefixWeights } from '../../lib/prefix/weights';
import { temporaryFolder } from '../helpers';
import { cli, jsonLines } from '../unit/cli/cli-helpers';
import { MODEL, trainSmile } from './cli-run';

const folder = temporaryFolder();
const RUN = folder.join('run');
const BEST = join(RUN, 'best.safetensors');

jest.setTimeout(120_000);

beforeAll(async () => {
  expect(await trainSmile(RUN)).toMatchObject({ code: 0 });
});

describe('export', () => {
  const FT = ['export', 'ft', '--model', MODEL, '--out', folder.join('ft')];

  test('ft writes, refuses, appends, verifies', async () => {
    const first = await cli([
      ...FT,
      '--task',
      `smile=${BEST}`,
      '--dtype',
      'float16',
      '--tensor-parallel',
      '2',
      '--model-name',
      'gptneox',
      '--verify',
    ]);
    expect(first.code).toBe(0);
    const directory = folder.join('ft', '2-gpu');
    expect(first.stdout).toMatch(
      /2-gpu: \d+ files, 5\.2 MB, float16, for 2 GPUs\n {2}task 0 {2}smile {2}\(prefix length 10\)\nverified .*: (\d+) of \1 files equal to their source\n$/,
    );
    expect(first.stderr).toContain('warning: The model uses the erf form of GELU');
    expect(readdirSync(directory)).toContain('model.prefix_prompt.smile.weight.1.bin');

    const again = await cli([...FT, '--tensor-parallel', '2']);
    expect(again.code).toBe(1);
    expect(again.stderr).toContain(
      'hint: choose another folder, give --overwrite to replace it, or --append to add tasks to it',
    );
    const twice = await cli([...FT, '--task', `smile=${BEST}`, '--append']);
    expect(twice).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('hint: choose another name, or give --replace'),
    });

    const appended = await cli([...FT, '--task', `second=${BEST}`, '--append', '--json']);
    expect(jsonLines(appended.stdout)).toEqual([
      expect.objectContaining({
        directory,
        tasks: [expect.objectContaining({ name: 'smile' }), { id: 1, name: 'second', prefixLength: 10 }],
      }),
    ]);
    expect((await cli([...FT, '--task', `smile=${BEST}`, '--append', '--replace'])).code).toBe(0);

    const inspected = await cli(['inspect', directory, '--json']);
    expect(jsonLines(inspected.stdout)).toEqual([
      expect.objectContaining({ kind: 'fastertransformer', dtype: 'float16', tensorParallel: 2 }),
    ]);
  });

  test('ft --verify-only finds a file that was changed, and ends with 1', async () => {
    const out = folder.join('changed');
    const args = ['export', 'ft', '--model', MODEL, '--task', `smile=${BEST}`, '--out', out];
    await cli(args);
    const path = join(out, '1-gpu', 'model.final_layernorm.bias.bin');
    const bytes = readFileSync(path);
    bytes.writeUInt16LE(bytes.readUInt16LE(6) ^ 0x100, 6);
    writeFileSync(path, bytes);
    const { code, stdout } = await cli([...args, '--verify-only']);
    expect(code).toBe(1);
    expect(stdout).toMatch(/^differs: .*1-gpu: \d+ of \d+ files equal to their source\n/);
    expect(stdout).toContain('  model.final_layernorm.bias.bin: differs in 1 element, by up to ');
  });

  test('triton writes a model that inspect knows', async () => {
    const out = folder.join('triton');
    const args = [
      'export',
      'triton',
      '--model',
      MODEL,
      '--task',
      `smile=${BEST}`,
      '--out',
      out,
      '--tensor-parallel',
      '2',
    ];
    expect((await cli([...args, '--model-name', 'neox'])).code).toBe(0);
    expect((await cli([...args, '--model-name', 'neox'])).stderr).toContain(
      'hint: choose another --model-name, give --overwrite',
    );
    const { stdout } = await cli(['inspect', join(out, 'neox')]);
    expect(stdout).toMatch(/^model +neox$/m);
    expect(stdout).toMatch(/^tensor parallel +2$/m);
    expect(stdout).toMatch(/^smile +0 +10$/m);
    expect(jsonLines((await cli(['inspect', join(out, 'neox'), '--json'])).stdout)).toMatchObject([
      {
        kind: 'triton',
        model: 'neox',
        backend: 'fastertransformer',
        tensorParallel: 2,
        tasks: [{ name: 'smile', id: 0 }],
      },
    ]);
    // The repository: its models, of other backends too.
    mkdirSync(join(out, 'ensemble', '3'), { recursive: true });
    writeFileSync(join(out, 'ensemble', 'config.pbtxt'), 'name: "ensemble"\nplatform: "ensemble"\n');
    writeFileSync(join(out, 'README'), '');
    expect((await cli(['inspect', out])).stdout).toBe(
      `Triton repository  ${out}\n\nmodel               backend  versions\nensemble           ensemble         3\nneox      fastertransformer         1\n\n` +
        '(inspect the folder of a model to see its tasks)\n',
    );
    expect(jsonLines((await cli(['inspect', out, '--json'])).stdout)).toMatchObject([
      {
        kind: 'triton-repository',
        models: [
          { name: 'ensemble', backend: 'ensemble', versions: [3] },
          { name: 'neox', backend: 'fastertransformer', versions: [1] },
        ],
      },
    ]);
  });

  test('convert speaks of its own options', async () => {
    const ft = folder.join('two-tasks');
    await cli(['export', 'ft', '--model', MODEL, '--task', `a=${BEST}`, '--task', `b=${BEST}`, '--out', ft]);
    const hintOf = async (...args: string[]): Promise<string> => (await cli(['convert', ...args])).stderr;
    expect(await hintOf(BEST, ft, '--name', 'a')).toContain('or give --overwrite to replace it');
    expect(await hintOf(ft, folder.join('a.safetensors'))).toMatch(
      /^error: --task needs the name or id of a task of .*; none was given\nhint: it has a \(0\), b \(1\)\n$/,
    );
    expect(await hintOf(ft, folder.join('a.safetensors'), '--task', 'c')).toContain("; 'c' was given");
    expect(await hintOf(BEST, folder.join('a.xyz'))).toContain('give --format peft for an adapter folder of this name');
  });

  test("a prefix goes to rinna's and PEFT's formats and back", async () => {
    const original = await PrefixWeights.load(BEST);
    for (const [format, out] of [
      ['rinna', folder.join('smile.checkpoint')],
      ['peft', folder.join('adapter')],
    ] as const) {
      expect((await cli(['export', format, '--prefix', BEST, '--out', out])).code).toBe(0);
      const again = await cli(['export', format, '--prefix', BEST, '--out', out]);
      expect(again.code).toBe(1);
      expect(again.stderr).toMatch(
        /^error: There is a (file|folder) already: .*\nhint: .*give --overwrite to replace it\n$/,
      );
      const back = `${out}.safetensors`;
      expect((await cli(['export', 'safetensors', '--prefix', out, '--model', MODEL, '--out', back])).code).toBe(0);
      expect((await PrefixWeights.load(back)).hash).toBe(original.hash);
    }
  });
});
