// node -r test/typescript.cjs lock.ts FILE: takes the lock of a run and holds it until it is killed, or told to go on.
import { RunLock } from '../../../lib/runs/run-lock';

async function main(path: string): Promise<void> {
  const lock = await RunLock.take(path);
  process.stdout.write('taken\n');
  process.stdin.once('data', () => void lock.release().then(() => process.exit()));
}

void main(process.argv[2] as string);
