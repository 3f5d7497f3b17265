// `npm run stress [-- NAME...]`: the generation engine under load, for minutes. `npm test` has small versions of all of
// it.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SCENARIOS } from './engine-scenarios';

async function main(wanted: readonly string[]): Promise<void> {
  const unknown = wanted.filter((name) => !(name in SCENARIOS));
  if (unknown.length > 0)
    throw new Error(`no scenario ${unknown.join(', ')}; there are ${Object.keys(SCENARIOS).join(', ')}`);
  const folder = mkdtempSync(join(tmpdir(), 'neox-stress-'));
  try {
    for (const [name, run] of Object.entries(SCENARIOS)) {
      if (wanted.length > 0 && !wanted.includes(name)) continue;
      const started = performance.now();
      const said = await run(join(folder, name));
      process.stdout.write(`${name}: ${said} (${((performance.now() - started) / 1000).toFixed(0)} s)\n`);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

main(process.argv.slice(2)).catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  process.exitCode = 1;
});
