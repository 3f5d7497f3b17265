// Reads a small file and then one of so many megabytes, both with 1 MiB of ids in memory, and prints how the memory of
// the process grew.
import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { openDataset } from '../../../lib/data/dataset';
import type { TokenizedDataset } from '../../../lib/data/tokenized-dataset';

const [folder, megabytes] = process.argv.slice(2) as [string, string];
setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** One id for two characters. */
const tokenizer = {
  encode(text: string): Int32Array {
    const ids = new Int32Array((text.length + 1) >> 1);
    for (let i = 0; i < ids.length; i++) ids[i] = text.charCodeAt(2 * i);
    return ids;
  },
};

function write(name: string, bytes: number): string {
  const path = join(folder, name);
  const file = openSync(path, 'w');
  let number = 0;
  for (let written = 0; written < bytes; ) {
    let block = '';
    for (let i = 0; i < 1000; i++) block += `${JSON.stringify({ prompt: `question ${number++}`, completion: 'an answer. '.repeat(1 + (number % 40)) })}\n`;
    written += writeSync(file, block);
  }
  closeSync(file);
  return path;
} // prettier-ignore

let peak = 0;
const open = (path: string): Promise<TokenizedDataset> =>
  openDataset(path, {
    tokenizer,
    inMemoryLimit: 2 ** 20,
    cacheDir: folder,
    onProgress: () => (peak = Math.max(peak, process.memoryUsage.rss())),
  });

async function used(): Promise<number> {
  // The memory behind array buffers is given back behind the collection that finds them dead.
  collect();
  await setImmediate();
  collect();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

async function main(): Promise<void> {
  const [small, large] = [write('small.jsonl', 4e6), write('large.jsonl', Number(megabytes) * 1e6)];
  for (let i = 0; i < 3; i++) await (await open(small)).close();
  const [before, rss] = [await used(), Math.max(peak, process.memoryUsage.rss())];
  peak = 0;
  await using dataset = await open(large);
  const after = await used();
  const sample = (await dataset.get([dataset.length - 1]))[0];
  const { promptTokens, completionTokens } = dataset.statistics;
  const last = String.fromCharCode(...(sample?.prompt ?? []));
  const grown = { live: after - before, rss: peak - rss };
  process.stdout.write(
    JSON.stringify({ samples: dataset.length, ids: promptTokens + completionTokens, last, ...grown }),
  );
  for (const path of [small, large]) rmSync(path);
}

void main();
