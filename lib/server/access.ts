import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { NeoXPrefixError } from '../base/errors';
import { HttpError } from './http-error';
import type { Access } from './router';
import type { Settings } from './server-options';

const LOOPBACK = ['localhost', '127.0.0.1', '[::1]'];

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);
}

/** Digests have one length, so that comparing them takes one time, whatever is given. */
function digest(key: string): Buffer {
  return createHash('sha256').update(key).digest();
}

/** Who may ask for what. */
export class AccessControl {
  private readonly api: readonly Buffer[];
  private readonly admin: readonly Buffer[];
  private readonly hosts: ReadonlySet<string> | undefined;
  private readonly origins: ReadonlySet<string>;

  /** @throws NEOX_BAD_ARGUMENT for a server that everybody could reach and use */
  constructor(settings: Settings) {
    const { host, apiKeys, adminKeys, allowedHosts, cors, noKey } = settings;
    if (!isLoopback(host) && apiKeys.length === 0 && !noKey) {
      throw new NeoXPrefixError(
        'NEOX_BAD_ARGUMENT',
        `host ${host} is reached from other machines, and there is no key`,
        {
          hint: 'give apiKeys, or noKey: true where something else keeps others out',
        },
      );
    }
    this.api = apiKeys.map(digest);
    this.admin = adminKeys.map(digest);
    this.origins = new Set(cors);
    const names = allowedHosts ?? (isLoopback(host) ? [] : undefined);
    this.hosts = names && new Set([...LOOPBACK, ...names].map((name) => name.toLowerCase()));
  }

  /**
   * Refuses requests that a page made a browser send under another name of this machine (DNS rebinding): such a page
   * needs no CORS. @throws HttpError
   */
  checkHost({ headers: { host } }: IncomingMessage): void {
    if (this.hosts === undefined) return;
    const name = (host ?? '').replace(/:\d+$/, '').toLowerCase();
    if (!this.hosts.has(name))
      throw new HttpError(403, 'forbidden_host', 'The header Host names no host of this server');
  }

  /** The headers that let a page of an allowed origin read the answer. */
  corsHeaders({ headers: { origin } }: IncomingMessage): Record<string, string> {
    if (this.origins.size === 0) return {};
    if (origin === undefined || !this.origins.has(origin)) return { vary: 'origin' };
    return {
      vary: 'origin',
      'access-control-allow-origin': origin,
      'access-control-expose-headers': 'x-request-id, x-ignored-fields, retry-after',
    };
  }

  preflightHeaders(): Record<string, string> {
    return {
      'access-control-allow-methods': 'GET, POST, PUT, DELETE',
      'access-control-allow-headers': 'authorization, content-type, x-request-id',
      'access-control-max-age': '600',
    };
  }

  /**
   * Checks the value of a header `Authorization` for what is asked.
   * @throws HttpError 401, 403
   */
  check(access: Access, authorization: string | undefined): void {
    if (access === 'open') return;
    const given = /^Bearer +(\S+)$/i.exec(authorization ?? '')?.[1];
    const isAdmin = this.matches(this.admin, given);
    if (isAdmin) return;
    const isKnown = this.matches(this.api, given);
    const needsAdmin = access === 'admin' && this.admin.length > 0;
    if (!needsAdmin && (this.api.length === 0 || isKnown)) return;
    if (needsAdmin && isKnown) throw new HttpError(403, 'admin_only', 'This needs a key of an administrator');
    throw new HttpError(401, 'invalid_api_key', 'The API key is missing or wrong', {
      headers: { 'www-authenticate': 'Bearer' },
    });
  }

  /** All keys are compared, so that the time does not tell which one nearly was it. */
  private matches(keys: readonly Buffer[], given: string | undefined): boolean {
    const own = digest(given ?? '');
    let found = false;
    for (const key of keys) if (timingSafeEqual(key, own)) found = given !== undefined;
    return found;
  }
}
