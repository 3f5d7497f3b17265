import { packageVersion } from '../base/package';
import type { Route } from './router';
import type { Service } from './service';

/** Whether it lives, what it counts, and what it takes. */
export function statusRoutes(service: Service, all: () => readonly Route[]): Route[] {
  const open = { method: 'GET', access: 'open', always: true } as const;
  const { adminKeys, metrics } = service.settings;
  return [
    ...['/health', '/health/live'].map((path): Route => ({
      ...{ ...open, path, summary: 'Whether the process answers' },
      handle: (exchange) => exchange.send(200, '', 'text/plain'),
    })),
    {
      ...{ ...open, path: '/health/ready', summary: 'Whether requests are taken' },
      handle: (exchange) => exchange.send(service.draining ? 503 : 200, '', 'text/plain'),
    },
    {
      ...open,
      path: '/version',
      summary: 'The version',
      handle: (exchange) => exchange.sendJson(200, { version: packageVersion() }),
    },
    ...(metrics === 'off'
      ? []
      : [
          {
            method: 'GET',
            path: '/metrics',
            access: adminKeys.length > 0 ? 'admin' : 'api',
            always: true,
            summary: 'Metrics, as Prometheus reads them',
            handle: async (exchange) => {
              const text = (await service.metrics?.text()) ?? '';
              exchange.send(200, text, service.metrics?.contentType ?? 'text/plain');
            },
          } satisfies Route,
        ]),
    {
      ...{ ...open, path: '/openapi.json', summary: 'This list' },
      handle: (exchange) => exchange.sendJson(200, openApi(all())),
    },
  ];
}

/** The endpoints in OpenAPI's form. */
export function openApi(routes: readonly Route[]): Record<string, unknown> {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const { method, path, summary, access, schema } of routes) {
    const parts = [...path.matchAll(/:(\w+)/g)].map(([, name]) => name as string);
    const own = (paths[path.replace(/:(\w+)/g, '{$1}')] ??= {});
    own[method.toLowerCase()] = {
      summary,
      security: access === 'open' ? [] : [{ key: [] }],
      ...(parts.length > 0 && {
        parameters: parts.map((name) => ({ name, in: 'path', required: true, schema: { type: 'string' } })),
      }),
      ...(schema !== undefined && { requestBody: { content: { 'application/json': { schema } } } }),
      responses: { default: { description: 'See the guide of serving' } },
    };
  }
  return {
    openapi: '3.1.0',
    info: { title: 'neox-prefix', version: packageVersion() },
    components: { securitySchemes: { key: { type: 'http', scheme: 'bearer' } } },
    paths,
  };
}
