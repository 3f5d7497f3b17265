import { randomBytes } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdtemp, realpath, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative, resolve, sep } from 'node:path';
import { PrefixWeights } from '../../prefix/weights';
import type { PrefixStore } from '../../engine/prefix-store';
import { isNeoXPrefixError } from '../../base/errors';
import { without } from '../../base/options';
import type { Exchange } from '../exchange';
import { badField, HttpError } from '../http-error';
import { bodySchema, type FieldTable, flag, readFields, string } from '../field-table';
import type { Route } from '../router';
import type { Service } from '../service';

const LOAD: FieldTable = {
  lora_name: string('the name that requests will call it by'),
  lora_path: string('its file, in the folder that the server may load from'),
  load_inplace: flag('in place of the one that has the name'),
};
const UNLOAD: FieldTable = { lora_name: string('its name') };
const PATH: FieldTable = { path: string('its file, in the folder that the server may load from') };

/** What changes the server: prefixes that come and go while requests run. */
export function adminRoutes(service: Service): Route[] {
  const admin = { access: 'admin' as const };
  return [
    {
      ...{ method: 'POST', path: '/v1/load_lora_adapter', ...admin, summary: 'Loads a prefix, by the names of vLLM' },
      schema: bodySchema(LOAD, ['lora_name', 'lora_path']),
      handle: async (exchange) => {
        const { values } = readFields(LOAD, await exchange.json());
        const { lora_name: name, lora_path: path } = values as Record<string, string | undefined>;
        if (name === undefined || path === undefined) throw badField('lora_name', 'lora_name and lora_path are needed');
        await put(service, name, await inFolder(service, path), values['load_inplace'] === true);
        exchange.send(200, `Success: LoRA adapter '${name}' added successfully.`, 'text/plain; charset=utf-8');
      },
    },
    {
      ...{ method: 'POST', path: '/v1/unload_lora_adapter', ...admin, summary: 'Takes a prefix out' },
      schema: bodySchema(UNLOAD, ['lora_name']),
      handle: async (exchange) => {
        const { values } = readFields(UNLOAD, await exchange.json());
        const name = values['lora_name'] as string | undefined;
        if (name === undefined) throw badField('lora_name', 'lora_name is needed', 'missing_field');
        await storeOf(service).remove(name);
        exchange.send(200, `Success: LoRA adapter '${name}' removed successfully.`, 'text/plain; charset=utf-8');
      },
    },
    ...(['POST', 'PUT'] as const).map((method): Route => ({
      ...{ method, path: '/v1/prefixes/:name', ...admin },
      summary: `${method === 'POST' ? 'Adds' : 'Adds or replaces'} a prefix: {"path"}, or a safetensors file`,
      schema: bodySchema(PATH, []),
      handle: (exchange) => receive(exchange, service, method === 'PUT'),
    })),
    {
      ...{ method: 'DELETE', path: '/v1/prefixes/:name', ...admin, summary: 'Takes a prefix out' },
      handle: async (exchange) => {
        await storeOf(service).remove(exchange.params['name'] ?? '');
        exchange.sendJson(200, { deleted: true });
      },
    },
    {
      ...{ method: 'POST', path: '/v1/prefixes/:name/pin', ...admin, summary: 'Keeps a prefix in memory' },
      handle: async (exchange) => {
        await storeOf(service).pin(exchange.params['name'] ?? '');
        exchange.sendJson(200, { pinned: true });
      },
    },
    {
      ...{ method: 'DELETE', path: '/v1/prefixes/:name/pin', ...admin, summary: 'Lets a prefix leave memory' },
      handle: async (exchange) => {
        await storeOf(service).unpin(exchange.params['name'] ?? '');
        exchange.sendJson(200, { pinned: false });
      },
    },
    {
      ...{ method: 'GET', path: '/v1/stats', ...admin, summary: 'What the engine does, and the prefixes' },
      handle: (exchange) => {
        const prefixes = (service.prefixes?.list() ?? []).map((one) => without(one, 'path'));
        exchange.sendJson(200, { engine: service.engine.stats(), prefixes });
      },
    },
  ];
}

export function storeOf({ prefixes }: Service): PrefixStore {
  if (prefixes !== undefined) return prefixes;
  throw new HttpError(400, 'no_prefixes', 'The server has no store of prefixes');
}

/** Adds a prefix, or gives a name that there is another one. */
export async function put(
  service: Service,
  name: string,
  source: string | PrefixWeights,
  replace: boolean,
): Promise<void> {
  service.checkNewName(name);
  const store = storeOf(service);
  const isThere = store.has(name);
  if (isThere && !replace)
    throw new HttpError(400, 'name_taken', `There is a prefix ${name} already`, { param: 'name' });
  try {
    await (isThere ? store.replace(name, source) : store.add(name, source));
  } catch (error) {
    // What is wrong with a file is the caller's to know, but not where it is.
    if (
      !isNeoXPrefixError(error) ||
      !['NEOX_FILE_NOT_FOUND', 'NEOX_BAD_CHECKPOINT', 'NEOX_BAD_CONFIG'].includes(error.code)
    )
      throw error;
    throw new HttpError(400, error.code.toLowerCase(), 'The file is no prefix that can be read', { param: 'path' });
  }
}

/**
 * A file in the folder that may be loaded from. What is outside, what is not there and links that lead out are all told
 * in the same way, so that nobody can look around by asking.
 * @throws HttpError 403
 */
export async function inFolder({ settings: { loadFolder } }: Service, path: string): Promise<string> {
  const forbidden = new HttpError(403, 'forbidden_path', 'The server may not load this path', { param: 'path' });
  if (loadFolder === undefined || path === '' || path.includes('\0') || /%2e|%2f|%5c/i.test(path)) throw forbidden;
  try {
    const folder = await realpath(loadFolder);
    const file = await realpath(resolve(folder, path));
    const inside = relative(folder, file);
    if (inside === '' || inside === '..' || inside.startsWith(`..${sep}`) || resolve(inside) === inside)
      throw forbidden;
    const known = await stat(file);
    if (!known.isFile() && !known.isDirectory()) throw forbidden;
    return file;
  } catch {
    throw forbidden;
  }
}

async function receive(exchange: Exchange, service: Service, replace: boolean): Promise<void> {
  const name = exchange.params['name'] ?? '';
  service.checkNewName(name);
  const type = exchange.request.headers['content-type'] ?? '';
  if (/^application\/json/i.test(type)) {
    const { values } = readFields(PATH, await exchange.json());
    const path = values['path'] as string | undefined;
    if (path === undefined) throw badField('path', 'path is needed', 'missing_field');
    await put(service, name, await inFolder(service, path), replace);
  } else {
    // The body is a file of its own for as long as it is read: it never touches a path that somebody named.
    const folder = await mkdtemp(join(tmpdir(), 'neox-prefix-'));
    try {
      const file = join(folder, `${randomBytes(8).toString('hex')}.safetensors`);
      await write(file, await exchange.bytes(exchange.limits.prefixBytes));
      const weights = await PrefixWeights.load(file, { config: service.model });
      await put(service, name, weights, replace);
    } catch (error) {
      if (!isNeoXPrefixError(error) || error.code === 'NEOX_PREFIX_MISMATCH') throw error;
      throw new HttpError(400, error.code.toLowerCase(), 'The body is no prefix that can be read');
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }
  const known = storeOf(service)
    .list()
    .find((one) => one.name === name);
  exchange.sendJson(200, { name, sha256: known?.hash, prefix_length: known?.prefixLength });
}

async function write(file: string, bytes: Buffer): Promise<void> {
  const stream = createWriteStream(file, { mode: 0o600 });
  await new Promise<void>((done, failed) => stream.on('error', failed).end(bytes, () => done()));
}
