// The process that fuzzes one format, started by main.ts:  worker.ts FORMAT FOLDER SECONDS SEED CRASHES
import { Fuzzer, save } from './fuzzer';
import type { Format } from './targets';

/** What a worker tells its parent twice a second, unless it hangs. */
export interface Progress {
  readonly runs: number;
  readonly accepted: number;
  readonly corpus: number;
  readonly places: number;
  readonly saved: readonly string[];
  /** How long the input at hand has been open, in milliseconds. */
  readonly open: number;
}

async function main(): Promise<void> {
  const [format, folder, seconds, seed, crashes] = process.argv.slice(2) as [Format, string, string, string, string];
  const fuzzer = new Fuzzer(format, folder, Number(seed));
  const until = performance.now() + Number(seconds) * 1000;
  const saved = new Map<string, string>();
  const report = (): void => {
    for (const [key, finding] of fuzzer.findings) if (!saved.has(key)) saved.set(key, save(crashes, format, finding));
    const { runs, accepted, corpusSize: corpus, places, startedAt } = fuzzer;
    const open = startedAt === 0 ? 0 : performance.now() - startedAt;
    process.send?.({ runs, accepted, corpus, places, saved: [...saved.values()], open } satisfies Progress);
  };
  const timer = setInterval(report, 500);
  await fuzzer.begin();
  while (performance.now() < until) {
    await fuzzer.step();
    // Opening may settle without a turn of the event loop, which the reports need.
    if (fuzzer.runs % 16 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  clearInterval(timer);
  report();
  process.disconnect();
}

void main();
