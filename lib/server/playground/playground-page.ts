import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The page, and the policy that it is sent with. */
export interface PlaygroundPage {
  readonly html: string;
  /** Its own script and style by their hashes, requests to its own server, and nothing else. */
  readonly contentSecurityPolicy: string;
}

let page: PlaygroundPage | undefined;

/** A page that tries models side by side; no file of it comes from anywhere else. Read once. */
export function playgroundPage(): PlaygroundPage {
  page ??= compose();
  return page;
}

function compose(): PlaygroundPage {
  const read = (name: string): string => readFileSync(join(__dirname, name), 'utf8');
  const style = `\n${read('playground.css')}`;
  const script = `\n${read('playground.js')}`;
  // A function, because `$` in the text of a replacement has a meaning.
  const html = read('playground.html')
    .replace(/(<style>)[\s\S]*?(<\/style>)/, (_, open: string, close: string) => `${open}${style}${close}`)
    .replace(/(<script>)[\s\S]*?(<\/script>)/, (_, open: string, close: string) => `${open}${script}${close}`);
  const hash = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
  const contentSecurityPolicy = [
    "default-src 'none'",
    "connect-src 'self'",
    `script-src ${hash(script)}`,
    `style-src ${hash(style)}`,
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ');
  return { html, contentSecurityPolicy };
}
