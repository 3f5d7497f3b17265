import { readFile } from 'node:fs/promises';
import { isNeoXPrefixError, NeoXPrefixError } from '../../base/errors';
import { namesOf, pick } from '../../base/options';
import { ENGINE_OPTIONS, type EngineOptions } from '../../engine/engine-options';
import { GenerationEngine } from '../../engine/engine';
import { PrefixStore } from '../../engine/prefix-store';
import { PrefixServer } from '../../server/server';
import { type RequestEvent, SERVER_OPTIONS, type ServerOptions } from '../../server/server-options';
import type { Template } from '../../tokenizer/templates';
import type { CommandSpec } from '../command';
import { collect, collectTasks, given, integer, type NamedFile, number, option, optionOf } from '../flags';
import { loadModel, type ModelFlags, modelOptions } from '../model';
import type { Ui } from '../ui';
import { UsageError } from '../usage-errors';

const ENGINE = pick(ENGINE_OPTIONS, 'maxRows', 'maxQueue', 'kvBudgetBytes', 'prefillTokens', 'promptCacheBytes');
const SERVER = pick(SERVER_OPTIONS, 'host', 'port', 'baseName', 'metrics', 'noKey');

interface ServeFlags
  extends ModelFlags, Pick<EngineOptions, keyof typeof ENGINE>, Pick<ServerOptions, keyof typeof SERVER> {
  prefix?: NamedFile[];
  pin?: string[];
  storeBytes?: number;
  spill?: string;
  template?: Template;
  apiKeyFile?: string;
  adminKeyFile?: string;
  corsOrigin?: string[];
  allowedHost?: string[];
  allowLoad?: string;
  drainSeconds?: number;
  logContent?: boolean;
}

const DESCRIPTION = `Serves the base model and any number of prefixes over OpenAI's API: each prefix is a model.

Ctrl-C or SIGTERM ends it: new requests are refused, the present ones go on for --drain-seconds. A second signal ends it at once. Its log, a line of JSON for
each request, goes to stderr and has no prompts, no texts and no keys.`;

const EXAMPLES = `
Examples:
  $ neox-prefix serve --model models/japanese-gpt-neox-small --prefix smile=runs/smileface/best.safetensors --port 8000
  $ curl -s localhost:8000/v1/completions -H 'content-type: application/json' -d '{"model": "smile", "prompt": "今日は"}'

Keys are one a line in a file, or in NEOX_PREFIX_API_KEY and NEOX_PREFIX_ADMIN_KEY; never on the command line, which others can read.
With --json: {"url", "models", "pid"} in one line, once it is ready.`;

export const command: CommandSpec = {
  name: 'serve',
  summary: "serve prefixes over OpenAI's API",
  description: DESCRIPTION,
  examples: EXAMPLES,
  options: () => ({
    Model: modelOptions(),
    Prefixes: [
      option<NamedFile[]>('--prefix <name=file>', 'a prefix and the model name that it has; may be repeated', {
        parse: collectTasks,
      }),
      option<string[]>('--pin <name>', 'keep this prefix in memory; may be repeated', { parse: collect }),
      option('--store-bytes <n>', 'most memory for prefixes', { parse: integer(1), default: 'no limit' }),
      option('--spill <dir>', 'folder for values of prefixes that were sent, when memory is short'),
      option('--allow-load <dir>', 'folder that prefixes may be loaded from while the server runs'),
    ],
    Server: [
      ...namesOf(SERVER).map((name) => optionOf(name, SERVER[name])),
      option('--template <name>', 'how a chat becomes a prompt', { choices: ['rinna', 'plain'] }),
      option('--api-key-file <file>', 'keys that requests need, one a line'),
      option('--admin-key-file <file>', 'keys that what changes the server needs, one a line'),
      option<string[]>('--cors-origin <origin>', 'an origin whose pages may ask; may be repeated', { parse: collect }),
      option<string[]>('--allowed-host <name>', 'a name of this server in the header Host; may be repeated', {
        parse: collect,
      }),
      option('--drain-seconds <s>', 'that requests may go on at the end', { parse: number(0, 1e6), default: 30 }),
      option('--log-content', 'log what is asked, too'),
    ],
    Engine: namesOf(ENGINE).map((name) => optionOf(name, ENGINE[name])),
  }),
  run,
};

export async function run(flags: ServeFlags, ui: Ui): Promise<number> {
  const { prefix: named = [], pin = [] } = flags;
  for (const name of pin)
    if (!named.some((one) => one.name === name)) throw new UsageError(`--pin ${name} is the name of no --prefix`);
  const apiKeys = await keysOf(flags.apiKeyFile, ui.io.env['NEOX_PREFIX_API_KEY']);
  const adminKeys = await keysOf(flags.adminKeyFile, ui.io.env['NEOX_PREFIX_ADMIN_KEY']);
  await using model = await loadModel(flags, ui);
  const { storeBytes, spill } = flags;
  await using store = new PrefixStore(model, given({ maxBytes: storeBytes, spillFolder: spill }));
  await addAll(store, named, ui);
  for (const name of pin) await store.pin(name);
  await using engine = new GenerationEngine(model, { ...given(pick(flags, ...namesOf(ENGINE))), prefixes: store });
  await using server = new PrefixServer(engine, {
    ...given(pick(flags, ...namesOf(SERVER))),
    ...given({ template: flags.template, loadFolder: flags.allowLoad, logContent: flags.logContent }),
    ...given({ cors: flags.corsOrigin, allowedHosts: flags.allowedHost }),
    ...{ apiKeys, adminKeys, onRequest: (event: RequestEvent) => ui.note(JSON.stringify(event)) },
  });
  ui.signal.throwIfAborted();
  const { url } = await server.start();
  const models = named.length + 1;
  ui.print(`${url}  ${models} ${models === 1 ? 'model' : 'models'}`);
  ui.json({ url, models, pid: process.pid });
  await new Promise<void>((resolve) => {
    if (ui.signal.aborted) resolve();
    else ui.signal.addEventListener('abort', () => resolve(), { once: true });
  });
  ui.note('no more requests are taken; the present ones end');
  await server.close(given({ drainSeconds: flags.drainSeconds }));
  return 0;
}

/** Reads all prefixes; every one that does not fit is told, not only the first. */
async function addAll(store: PrefixStore, named: readonly NamedFile[], ui: Ui): Promise<void> {
  const problems: string[] = [];
  for (const { name, path } of named) {
    try {
      await store.add(name, path);
    } catch (error) {
      if (!isNeoXPrefixError(error)) throw error;
      problems.push(`${name}: ${error.message}`);
      if (named.length === 1) throw error;
      ui.error(`${name}: ${error.message}`);
    }
  }
  if (problems.length > 0)
    throw new NeoXPrefixError('NEOX_BAD_PREFIX', `${problems.length} of ${named.length} prefixes cannot be served`);
}

async function keysOf(file: string | undefined, variable: string | undefined): Promise<string[]> {
  const lines = file === undefined ? [] : (await read(file)).split('\n');
  return [...lines, variable ?? ''].map((line) => line.trim()).filter((line) => line !== '');
}

async function read(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    throw new NeoXPrefixError('NEOX_FILE_NOT_FOUND', `Cannot read the keys in ${path}`, { path, cause });
  }
}
