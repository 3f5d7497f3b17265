import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { NeoXPrefixError } from '../../../lib/base/errors';
import { loadAddon } from '../../../lib/addon/addon';
import { run as buildAddon } from '../../../lib/cli/commands/build';
import { run as fetchLibtorch } from '../../../lib/cli/commands/fetch-libtorch';
import { inOptionNames, reportError, UsageError } from '../../../lib/cli/usage-errors';
import { shellWord } from '../../../lib/cli/text-columns';
import { collectTasks, integer, number } from '../../../lib/cli/flags';
import { createProgram } from '../../../lib/cli/program';
import { Interrupted, OutputLost } from '../../../lib/cli/io';
import { Ui } from '../../../lib/cli/ui';
import { describe as describeLibtorch, findLibtorch, type Libtorch } from '../../../lib/addon/libtorch';
import { resolveRecipe } from '../../../lib/training/recipe';
import { packageVersion } from '../../../lib/base/package';
import { temporaryFolder } from '../../helpers';
import { cli, fakeIO, jsonLines } from './cli-helpers';

const folder = temporaryFolder();
const TRAIN = [
  'train',
  '--model',
  folder.join('none'),
  '--data',
  __filename,
  '--format',
  'text',
  '--out',
  folder.join('run'),
];

describe('help', () => {
  test('alone, the program prints what it is, its commands and examples', async () => {
    const { code, stdout, stderr } = await cli([]);
    expect(code).toBe(0);
    expect(stderr).toBe('');
    for (const command of ['train', 'generate', 'evaluate', 'export', 'inspect', 'doctor', 'fetch-libtorch', 'build']) {
      expect(stdout).toMatch(new RegExp(`^  ${command} `, 'm'));
    }
    expect(stdout).toContain('Examples:\n  $ neox-prefix doctor');
  });

  test.each([
    ['train'],
    ['generate'],
    ['evaluate'],
    ['inspect'],
    ['doctor'],
    ['fetch-libtorch'],
    ['build'],
    ['export', 'ft'],
    ['export', 'rinna'],
    ['export', 'peft'],
  ])('%s %s explains itself with an example', async (...command) => {
    const { code, stdout, stderr } = await cli([...command, '--help']);
    expect(code).toBe(0);
    expect(stderr).toBe('');
    expect(stdout).toContain(`$ neox-prefix ${command.join(' ')}`);
    expect(stdout).toContain('--json');
  });

  test('the version is that of the package', async () => {
    expect(await cli(['--version'])).toEqual({ code: 0, stdout: `${packageVersion()}\n`, stderr: '' });
  });

  test("train's help tells the library's own defaults", async () => {
    const { stdout } = await cli(['train', '--help']);
    const text = stdout.replace(/\s+/g, ' ');
    const recipe = resolveRecipe({});
    for (const [name, value] of Object.entries({
      'n-epochs': recipe.epochs,
      'n-training-steps': recipe.trainingSteps,
      'batch-size': recipe.batchSize,
      'max-lr': recipe.learningRate,
      'adam-beta2': recipe.adamBeta2,
      'adam-eps': recipe.adamEpsilon,
      'weight-decay': recipe.weightDecay,
      'grad-clip': recipe.gradClip,
      seed: recipe.seed,
    })) {
      expect(text).toMatch(new RegExp(`--${name} <\\w+> [^<]*\\(default: ${value}\\)`));
    }
  });
});

// The arguments of rinnakk/prefix-tuning-gpt, src/prefix_tuning_example.py and src/prefix_inference.py.
const RINNA_TRAIN =
  'local_rank model_type pretrained_model_dir prefix_seq_len prefix_input_dim prefix_hidden_dim seed batch_size n_training_steps n_epochs ' +
  'n_warmup_steps n_accum_steps adam_beta1 adam_beta2 adam_eps weight_decay min_lr max_lr grad_clip data_filepath train_data_size dev_data_size ' +
  'checkpoint_path resume_training save_log save_model save_name log_every_n_steps filename_note fp16 bf16 deepspeed deepspeed_config';
const RINNA_INFERENCE =
  'model_type pretrained_model_dir prefix_checkpoint_path prefix_seq_len max_output_len decode_method top_p top_k';

test.each([
  ['train', RINNA_TRAIN],
  ['generate', RINNA_INFERENCE],
])("every option of rinna's script is known to %s", (name, options) => {
  const program = createProgram(fakeIO(), () => () => Promise.resolve());
  const command = program.commands.find((candidate) => candidate.name() === name);
  const known = command?.options.flatMap(({ long, short }) => [long, short]);
  for (const option of options.split(' ')) expect(known).toContain(`--${option.replaceAll('_', '-')}`);
});

describe('wrong usage ends with code 2 and says what is right', () => {
  test.each([
    ['an unknown command', ['trian'], "unknown command 'trian'\n(Did you mean train?)"],
    ['an unknown option', ['train', '--modell', 'x'], "unknown option '--modell'\n(Did you mean --model?)"],
    [
      'an option that is needed',
      ['train', '--data', 'x', '--out', 'y'],
      '--pretrained-model-dir, --model <dir> is needed',
    ],
    [
      'a number out of range',
      [...TRAIN, '--batch-size', '0'],
      "'0' is invalid. Expected a whole number of at least 1.",
    ],
    ['no number', [...TRAIN, '--max-lr', 'fast'], "'fast' is invalid. Expected a number of at least 0."],
    ['an unknown choice', [...TRAIN, '--dtype', 'int4'], 'Allowed choices are auto, float32, bfloat16, float16, int8.'],
    [
      'options that exclude each other',
      [...TRAIN, '--checkpoint-path', 'x', '--init', 'zero'],
      "cannot be used with option '--init <how>'",
    ],
    ['a command without its subcommand', ['export'], 'Usage: neox-prefix export'],
    ['a task without a file', ['export', 'ft', '--model', 'x', '--out', 'y', '--task', 'smile'], 'Expected NAME=FILE.'],
    ['a task twice', ['export', 'ft', '--task', 'a=x', '--task', 'a=y'], "Two tasks are named 'a'."],
    ['nothing to inspect', ['inspect'], "missing required argument 'path'"],
    ['--append without a task', ['export', 'ft', '--model', 'x', '--out', 'y', '--append'], 'no --task is given'],
    [
      '--replace without --append',
      ['export', 'ft', '--model', 'x', '--out', 'y', '--replace'],
      '--replace has no effect without --append',
    ],
    ['--init-text without --init text', [...TRAIN, '--init-text', 'x'], '--init text and --init-text TEXT go together'],
    [
      'an option of packing without packing',
      [...TRAIN, '--suffix', 'x'],
      '--suffix has no effect without --packing lines',
    ],
    ['a file where the run should go', ['train', '--model', 'x', '--data', 'y', '--out', __filename], 'is a file'],
    [
      '--stream with several answers',
      ['generate', '--model', 'x', '--prefix', 'y', '--compare', '--stream'],
      '--stream shows one answer at a time',
    ],
    [
      '--top-p with greedy',
      ['generate', '--model', 'x', '--decode-method', 'greedy', '--top-p', '0.5'],
      '--top-p and --top-k have no effect',
    ],
  ])('%s', async (_, args, message) => {
    const { code, stdout, stderr } = await cli(args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain(message);
    expect(stderr).not.toContain('    at ');
  });

  test("an option of rinna's that has no meaning here says what to do instead, in either spelling", async () => {
    for (const spelling of ['--save-model', '--save_model']) {
      const { code, stderr } = await cli([...TRAIN, spelling]);
      expect(code).toBe(2);
      expect(stderr).toBe(
        "error: --save-model of rinna's script has no meaning here\nhint: leave it out: --out always gets the best and the last prefix\n",
      );
    }
    expect((await cli([...TRAIN, '--local_rank=0'])).stderr).toContain('--local-rank changes nothing');
  });

  test('a training run that is in the folder already is not replaced', async () => {
    mkdirSync(folder.join('done'));
    writeFileSync(folder.join('done', 'best.safetensors'), '');
    const { code, stderr } = await cli(['train', '--model', 'x', '--data', 'y', '--out', folder.join('done')]);
    expect(code).toBe(2);
    expect(stderr).toContain(
      'hint: give --resume to go on with it, --overwrite to replace it, or choose another --out',
    );
  });
});

describe('errors', () => {
  test('a missing model is one line, a hint and code 1', async () => {
    const { code, stdout, stderr } = await cli(TRAIN);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toBe(
      `error: No such checkpoint folder: ${folder.join('none')}\nhint: models are read from disk only; download the repository first and give its folder\n`,
    );
  });

  test('missing data is found before the model is looked at', async () => {
    for (const args of [['train', '--out', folder.join('run')], ['evaluate']]) {
      const { code, stderr } = await cli([
        ...args,
        '--model',
        folder.join('none'),
        '--data',
        folder.join('none.jsonl'),
      ]);
      expect(code).toBe(1);
      expect(stderr).toBe(`error: No such file: ${folder.join('none.jsonl')}\n`);
    }
  });

  test('with --json it is an object on stdout too', async () => {
    const { code, stdout, stderr } = await cli([...TRAIN, '--json', '--quiet']);
    expect(code).toBe(1);
    expect(jsonLines(stdout)).toEqual([
      {
        error: {
          code: 'NEOX_FILE_NOT_FOUND',
          message: `No such checkpoint folder: ${folder.join('none')}`,
          hint: expect.any(String),
          path: folder.join('none'),
        },
      },
    ]);
    expect(stderr).toMatch(/^error: .*\nhint: /);
  });

  test.each<[string, string[], string, string | undefined]>([
    ['an unknown command', ['--json', 'trian'], "unknown command 'trian'", 'Did you mean train?'],
    [
      'an unknown option, before --json',
      ['train', '--modell', 'x', '--json'],
      "unknown option '--modell'",
      'Did you mean --model?',
    ],
    [
      'an option that is needed',
      ['train', '--data', 'x', '--out', 'y', '--json'],
      '--pretrained-model-dir, --model <dir> is needed',
      undefined,
    ],
    [
      'a value out of range',
      [...TRAIN, '--batch-size', '0', '--json'],
      "'0' is invalid. Expected a whole number of at least 1.",
      undefined,
    ],
    ['a command without its subcommand', ['export', '--json'], 'a command is needed', '--help lists the commands'],
    [
      'options that our own checks refuse',
      [...TRAIN, '--suffix', 'x', '--json'],
      '--suffix has no effect without --packing lines',
      undefined,
    ],
    [
      "an option of rinna's, before --json",
      [...TRAIN, '--fp16', '--json'],
      "--fp16 of rinna's script has no meaning here",
      'use --dtype float16, or better bfloat16, which has the range of float32',
    ],
  ])('with --json, wrong usage is an object on stdout: %s', async (_, args, message, hint) => {
    const { code, stdout, stderr } = await cli(args);
    expect(code).toBe(2);
    const expected = {
      code: 'USAGE',
      message: expect.stringContaining(message) as string,
      ...(hint === undefined ? {} : { hint }),
    };
    expect(jsonLines(stdout)).toEqual([{ error: expected }]);
    expect(stderr).not.toBe('');
    // Not where --json is an argument, and none of the options.
    expect((await cli([...args.filter((arg) => arg !== '--json'), '--', '--json'])).stdout).toBe('');
  });

  test('--debug and NEOX_PREFIX_DEBUG add where it comes from', async () => {
    for (const result of [await cli([...TRAIN, '--debug']), await cli(TRAIN, { env: { NEOX_PREFIX_DEBUG: '1' } })]) {
      expect(result.stderr).toMatch(/\n {4}at .*checkpoint/);
    }
    expect((await cli(TRAIN, { env: { NEOX_PREFIX_DEBUG: '0' } })).stderr).not.toContain('    at ');
  });

  test('on a terminal the word is red, unless NO_COLOR is set', async () => {
    expect((await cli(TRAIN, { isTTY: true })).stderr).toContain('\x1b[31merror:\x1b[39m No such');
    expect((await cli(TRAIN, { isTTY: true, env: { NO_COLOR: '1' } })).stderr).toMatch(/^error: /);
  });

  const report = (error: unknown): { code: number; stderr: string } => {
    const io = fakeIO();
    const stderr: string[] = [];
    const ui = new Ui(
      { ...io, stderr: { write: (text) => stderr.push(text) } },
      { json: false, quiet: false, debug: false },
    );
    return { code: reportError(error, ui), stderr: stderr.join('') };
  };

  test('kinds of errors have their exit codes', () => {
    expect(report(new UsageError('no', 'yes'))).toEqual({ code: 2, stderr: 'error: no\nhint: yes\n' });
    expect(report(new Interrupted(130))).toEqual({ code: 130, stderr: 'interrupted\n' });
    expect(report(new NeoXPrefixError('NEOX_IO', 'full', { hint: 'set `replace: true`' }))).toEqual({
      code: 1,
      stderr: 'error: full\nhint: give --replace\n',
    });
    expect(report(new TypeError('x is undefined'))).toEqual({
      code: 1,
      stderr: 'error: x is undefined\nhint: this error was not foreseen; --debug shows where it comes from\n',
    });
    expect(report('text')).toMatchObject({ code: 1 });
  });

  test('an output that takes no more ends with 141 or 1, whatever fails because of it', () => {
    for (const [code, exitCode] of [
      ['EPIPE', 141],
      ['ENOSPC', 1],
    ] as const) {
      const io = fakeIO();
      const lost = new OutputLost(Object.assign(new Error(`${code}: why, write`), { code }));
      expect(lost.message).toBe(`cannot write the output: ${code}: why`);
      const ui = new Ui({ ...io, signal: AbortSignal.abort(lost) }, { json: true, quiet: false, debug: false });
      ui.note('heard by nobody');
      expect(reportError(new TypeError('a consequence'), ui)).toBe(exitCode);
      expect(io.text).toEqual({ stdout: '', stderr: '' });
    }
  });

  test("the library's option names become those of the command line", () => {
    expect(inOptionNames("use device: 'cpu', or a CUDA build")).toBe('use --device cpu, or a CUDA build');
    expect(inOptionNames('choose another modelName, set `overwrite: true` to replace it')).toBe(
      'choose another --model-name, give --overwrite to replace it',
    );
    expect(inOptionNames('nothing of the kind')).toBe('nothing of the kind');
  });
});

describe('option values', () => {
  test('whole numbers', () => {
    expect(integer(1)('5e4')).toBe(50_000);
    for (const text of ['', ' ', '1.5', 'x', '0', 'Infinity', '1e99'])
      expect(() => integer(1)(text)).toThrow('Expected a whole number of at least 1.');
    expect(() => integer(0, 3)('4')).toThrow('from 0 to 3');
  });

  test('numbers', () => {
    expect(number(0, 1)('1e-3')).toBe(0.001);
    for (const text of ['', 'x', '-1', '2', 'NaN'])
      expect(() => number(0, 1)(text)).toThrow('Expected a number from 0 to 1.');
  });

  test('tasks', () => {
    expect(collectTasks('a=x=y', [{ name: 'b', path: 'z' }])).toEqual([
      { name: 'b', path: 'z' },
      { name: 'a', path: 'x=y' },
    ]);
    for (const text of ['a', '=x', 'a=']) expect(() => collectTasks(text, undefined)).toThrow('Expected NAME=FILE.');
    expect(() => collectTasks('a/b=x', undefined)).toThrow('a/b');
  });
});

describe('doctor', () => {
  const before = process.env['NEOX_PREFIX_LIBTORCH'];
  afterEach(() => {
    if (before === undefined) delete process.env['NEOX_PREFIX_LIBTORCH'];
    else process.env['NEOX_PREFIX_LIBTORCH'] = before;
  });

  test('prints what is here', async () => {
    const { code, stdout } = await cli(['doctor']);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^ok {3}libtorch /m);
    expect(jsonLines((await cli(['doctor', '--json'])).stdout)).toEqual([
      expect.objectContaining({ ok: true, version: packageVersion() }),
    ]);
  });

  test('ends with 1 and the way to mend it when something is missing', async () => {
    process.env['NEOX_PREFIX_LIBTORCH'] = folder.join('nowhere');
    const { code, stdout } = await cli(['doctor']);
    expect(code).toBe(1);
    expect(stdout).toMatch(/^FAIL libtorch .*nowhere.*\n +fix: .*fetch-libtorch/m);
  });
});

test('fetch-libtorch shows its progress and says where libtorch is', async () => {
  const libtorch: Libtorch = {
    root: join('/', 'opt', 'libtorch'),
    source: 'package',
    version: '2.13.0+cpu',
    headers: true,
    cuda: false,
  };
  const io = fakeIO();
  let time = 0;
  const ui = new Ui(io, { json: false, quiet: false, debug: false, now: () => (time += 11_000) });
  await fetchLibtorch({ torchVersion: '2.13.0', force: true }, ui, (options) => {
    expect(options).toMatchObject({ version: '2.13.0', force: true, signal: io.signal });
    expect(options).not.toHaveProperty('destination');
    options.onProgress?.({ phase: 'download', done: 100e6, total: 200e6 });
    options.onProgress?.({ phase: 'unpack', done: 1e6, total: 500e6 });
    return Promise.resolve(libtorch);
  });
  await new Promise(setImmediate);
  expect(io.text.stdout).toBe('libtorch 2.13.0+cpu in /opt/libtorch\n');
  expect(io.text.stderr).toMatch(
    /^asking pip\nlibtorch: 50% \| 100 MB of 200 MB \| ETA .* \| download\nlibtorch: 0% \| 1.0 MB of 500 MB \| .* \| unpack\n$/,
  );
});

test('fetch-libtorch does not speak of pip when libtorch is there', async () => {
  const { root } = findLibtorch();
  const io = fakeIO();
  const present = describeLibtorch(root, 'package');
  const flags = { destination: root, torchVersion: present!.version.split('+')[0]! };
  await fetchLibtorch(flags, new Ui(io, { json: false, quiet: false, debug: false }), () => Promise.resolve(present!));
  await new Promise(setImmediate);
  expect(io.text.stderr).toBe('it is there already\n');
});

test('build says where the addon is that it built, and for which libtorch', async () => {
  const io = fakeIO();
  const ui = new Ui(io, { json: false, quiet: false, debug: false });
  expect(await buildAddon({}, ui, () => Promise.resolve(0))).toBe(0);
  const { path, libtorch } = loadAddon();
  expect(io.text.stdout).toBe(`${path}\nbuilt for libtorch ${libtorch.version} in ${libtorch.root}\n`);
  await expect(buildAddon({}, ui, () => Promise.resolve(1))).rejects.toMatchObject({
    code: 'NEOX_NATIVE_NOT_FOUND',
    message:
      'The addon could not be built: the reason is above\nHint: `neox-prefix doctor` shows which tools were found',
  });
});

test('paths are quoted where a shell needs it', () => {
  expect(shellWord('runs/日記-1/best.safetensors')).toBe('runs/日記-1/best.safetensors');
  expect(shellWord("my runs/it's")).toBe("'my runs/it'\\''s'");
  expect(shellWord('')).toBe("''");
});
