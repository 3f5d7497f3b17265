import { basename } from 'node:path';
import type { StoredPrefix } from '../../engine/prefix-store';
import type { Route } from '../router';
import type { Service } from '../service';

/** Lists the models: the base model first, then a model for each prefix. */
export function modelRoutes(service: Service): Route[] {
  return [
    {
      method: 'GET',
      path: '/v1/models',
      access: 'api',
      summary: 'Lists the base model and the prefixes',
      handle: (exchange) => {
        const prefixes = service.prefixes?.list() ?? [];
        const data = [baseCard(service), ...prefixes.map((prefix) => prefixCard(service, prefix))];
        exchange.sendJson(200, { object: 'list', data });
      },
    },
    {
      method: 'GET',
      path: '/v1/models/:id',
      access: 'api',
      summary: 'Tells of one model',
      handle: (exchange) => {
        const name = service.prefixOf(exchange.params['id'] ?? '', exchange);
        const prefix = service.prefixes?.list().find((one) => one.name === name);
        exchange.sendJson(200, prefix === undefined ? baseCard(service) : prefixCard(service, prefix));
      },
    },
  ];
}

function baseCard(service: Service): Record<string, unknown> {
  return {
    id: service.baseName,
    object: 'model',
    created: service.created,
    owned_by: 'neox-prefix',
    // Never a path: scanners read it.
    root: basename(service.model.checkpoint.directory),
    parent: null,
    max_model_len: service.maxPositions,
  };
}

function prefixCard(service: Service, { name, path, prefixLength, hash }: StoredPrefix): Record<string, unknown> {
  return {
    id: name,
    object: 'model',
    created: service.created,
    owned_by: 'neox-prefix',
    root: path === undefined ? name : basename(path),
    parent: service.baseName,
    max_model_len: service.maxPositions - prefixLength,
    prefix_length: prefixLength,
    sha256: hash,
  };
}
