import type { Exchange } from './exchange';
import { HttpError } from './http-error';
import type { JsonSchema } from './field-table';

/** Who may ask: everybody, holders of a key, administrators. */
export type Access = 'open' | 'api' | 'admin';

/** One endpoint. */
export interface Route {
  method: 'GET' | 'POST' | 'PUT' | 'DELETE';
  /** Its parts; one that begins with a colon takes any value, which is percent-decoded once. */
  path: string;
  access: Access;
  /** What it does, in a phrase, for /openapi.json. */
  summary: string;
  /** Schema of a body of JSON, for /openapi.json. */
  schema?: JsonSchema;
  /** Whether it answers while the server drains. Defaults to `false`. */
  always?: boolean;
  /** The body of an error, where it is not OpenAI's. */
  errorBody?: (error: HttpError) => unknown;
  handle(exchange: Exchange): Promise<void> | void;
}

/** A route and the values of the named parts of its path. */
export interface Match {
  route: Route;
  params: Readonly<Record<string, string>>;
}

export class Router {
  private readonly routes: { route: Route; parts: string[] }[];

  constructor(routes: readonly Route[]) {
    this.routes = routes.map((route) => ({ route, parts: route.path.split('/') }));
  }

  /**
   * The route of a request.
   * @param path as it was sent, without the query
   * @throws HttpError 404, 405
   */
  find(method: string, path: string): Match {
    const parts = path.split('/');
    const fitting = this.routes.filter(({ parts: own }) => fits(own, parts));
    // GET of a page is HEAD, too: node leaves the body out.
    const wanted = method === 'HEAD' ? 'GET' : method;
    const found = fitting.find(({ route }) => route.method === wanted);
    if (found !== undefined) return { route: found.route, params: paramsOf(found.parts, parts) };
    if (fitting.length > 0) {
      const allow = [...new Set(fitting.map(({ route }) => route.method))].join(', ');
      throw new HttpError(405, 'method_not_allowed', `This endpoint takes ${allow}`, { headers: { allow } });
    }
    const there = this.routes.map(({ route }) => `${route.method} ${route.path}`).join(', ');
    throw new HttpError(404, 'not_found', `There is no such endpoint. There are: ${there}`);
  }
}

function fits(own: readonly string[], parts: readonly string[]): boolean {
  return (
    own.length === parts.length && own.every((part, i) => (part.startsWith(':') ? parts[i] !== '' : part === parts[i]))
  );
}

function paramsOf(own: readonly string[], parts: readonly string[]): Record<string, string> {
  const params: Record<string, string> = {};
  own.forEach((part, i) => {
    if (!part.startsWith(':')) return;
    try {
      params[part.slice(1)] = decodeURIComponent(parts[i] as string);
    } catch {
      throw new HttpError(400, 'invalid_url', 'The address has a percent sign that begins no byte');
    }
  });
  return params;
}
