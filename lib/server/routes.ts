import { adminRoutes } from './openai/admin';
import { chatRoutes } from './openai/chat';
import { completionRoutes } from './openai/completions';
import { embeddingRoutes } from './openai/embeddings';
import { modelRoutes } from './openai/model-routes';
import { tokenizeRoutes } from './openai/tokenize';
import type { Route } from './router';
import type { Service } from './service';
import { playgroundRoutes } from './playground/playground-routes';
import { v2Routes } from './v2/v2-routes';
import { statusRoutes } from './status-routes';

/** All endpoints. A protocol or a page is a list of routes more. */
export function allRoutes(service: Service): Route[] {
  const routes: Route[] = [
    ...statusRoutes(service, () => routes),
    ...modelRoutes(service),
    ...completionRoutes(service),
    ...chatRoutes(service),
    ...embeddingRoutes(service),
    ...tokenizeRoutes(service),
    ...adminRoutes(service),
    ...v2Routes(service),
    ...playgroundRoutes(service),
  ];
  return routes;
}
