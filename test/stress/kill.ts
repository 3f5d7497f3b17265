// node -r ./test/typescript.cjs test/stress/kill.ts [KILLS]: a training run whose process is killed with SIGKILL at
// random moments, so many times (20), and started again each time. Ends in the bytes of a run that nobody disturbed, or
// says what differs.
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TINY_CONFIG, writeRandomModel } from '../helpers';

const PROGRAM = join(__dirname, '..', 'exit', 'programs', 'train.ts');
const LOADER = join(__dirname, '..', 'typescript.cjs');
const FILES = ['best.safetensors', 'last.safetensors', 'encoder.safetensors'];

/**
 * Runs the training; kills it so many milliseconds after its first word, if it is not done by then. Returns whether it
 * was done.
 */
function run(model: string, output: string, killAfter: number): Promise<boolean> {
  const child = spawn(process.execPath, ['-r', LOADER, PROGRAM, model, output], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let timer: NodeJS.Timeout | undefined;
  child.stdout.on(
    'data',
    () => (timer ??= killAfter === Infinity ? undefined : setTimeout(() => child.kill('SIGKILL'), killAfter)),
  );
  return new Promise((resolve, reject) => {
    child.on('error', reject).on('close', (code, signal) => {
      clearTimeout(timer);
      if (signal === null && code !== 0) reject(new Error(`the run ended with code ${code}`));
      else resolve(signal === null);
    });
  });
}

async function main(kills: number): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'neox-prefix-stress-'));
  try {
    mkdirSync(join(folder, 'model'));
    const model = await writeRandomModel(join(folder, 'model'), { ...TINY_CONFIG, max_position_embeddings: 64 }, 5);
    const [whole, killed] = [join(folder, 'whole'), join(folder, 'killed')];
    await run(model, whole, Infinity);
    let done = false;
    let count = 0;
    while (count < kills) {
      // Some moments are before the first state, some within the writing of one.
      done = await run(model, killed, Math.random() * 150);
      if (done) rmSync(killed, { recursive: true });
      else
        process.stdout.write(
          `killed ${++count} times; ${
            readdirSync(killed)
              .filter((name) => name.startsWith('state-'))
              .join(', ') || 'no state'
          }\n`,
        );
    }
    await run(model, killed, Infinity);
    for (const name of FILES) {
      if (!readFileSync(join(whole, name)).equals(readFileSync(join(killed, name)))) throw new Error(`${name} differs`);
    }
    process.stdout.write(`killed ${kills} times, and the same bytes in ${FILES.join(', ')}\n`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

void main(Number(process.argv[2] ?? 20));
