import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

/** The folder that holds package.json: the parent of lib/ in a checkout and of dist/ in an installed package. */
export const PACKAGE_ROOT = resolve(__dirname, '..', '..');

/** The version in package.json. */
export function packageVersion(): string {
  const text = readFileSync(join(PACKAGE_ROOT, 'package.json'), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
