import type { Route } from '../router';
import type { Service } from '../service';
import { playgroundPage } from './playground-page';

/** The page to try it. It is open: a key, if one is needed, is asked for by what it calls. */
export function playgroundRoutes({ settings }: Service): Route[] {
  if (!settings.playground) return [];
  return ['/', '/playground'].map((path): Route => ({
    ...{ method: 'GET', path, access: 'open', summary: 'A page to try it' },
    handle: (exchange) => {
      const { html, contentSecurityPolicy } = playgroundPage();
      exchange.send(200, html, 'text/html; charset=utf-8', {
        'content-security-policy': contentSecurityPolicy,
        'x-content-type-options': 'nosniff',
        'referrer-policy': 'no-referrer',
      });
    },
  }));
}
