import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import * as api from '../../lib';
import { PACKAGE_ROOT } from '../../lib/base/package';

/** What the script would write. It is an ES module, which a test cannot import, so a process of its own does. */
function generated(): string {
  const url = pathToFileURL(join(PACKAGE_ROOT, 'scripts', 'api-reference.mjs')).href;
  const program = `import { apiReference } from ${JSON.stringify(url)}; process.stdout.write(apiReference());`;
  return execFileSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8' });
}

const page = readFileSync(join(PACKAGE_ROOT, 'docs', 'api.md'), 'utf8');

test('docs/api.md is what the sources say (`npm run docs` writes it)', () => {
  expect(page).toBe(generated());
});

test('docs/api.md has an entry for every exported value, and no path of a machine', () => {
  const entries = new Set(Array.from(page.matchAll(/^### (\w+)$/gm), ([, name]) => name));
  expect(Object.keys(api).filter((name) => !entries.has(name))).toEqual([]);
  expect(page).not.toContain(PACKAGE_ROOT);
});

/** The parts of a section, by their headings. */
function entriesOf(section: string): [name: string, text: string][] {
  const text = page.split(/^## /m).find((part) => part.startsWith(`${section}\n`))!;
  return text
    .split(/^### /m)
    .slice(1)
    .map((entry) => [entry.slice(0, entry.indexOf('\n')), entry.slice(entry.indexOf('\n'))]);
}

test.each(['Generating', 'Prefixes'])('everything under %s is described', (section) => {
  const entries = entriesOf(section);
  expect(entries.length).toBeGreaterThan(7);
  const bare = entries.flatMap(([name, text]) => {
    const properties = Array.from(text.matchAll(/^\| `(\w+)\??` .*\|  \|$/gm), ([, property]) => `${name}.${property}`);
    const methods = Array.from(
      text.matchAll(/^```typescript\n([^`]*)```(?=\n\n(?:```|$))/gm),
      ([, signature]) => `${name}: ${signature}`,
    );
    const prose = text.replace(/```[^]*?```|^\|.*$|^Has all of .*$/gm, '').trim();
    return [...properties, ...methods, ...(prose === '' ? [name] : [])];
  });
  expect(bare).toEqual([]);
});

test('every link within docs/api.md leads to a heading', () => {
  const taken = new Map<string, number>();
  const anchors = new Set<string>();
  for (const [, title] of page.matchAll(/^#+ (.+)$/gm)) {
    const slug = title!.toLowerCase().replaceAll(' ', '-');
    const count = taken.get(slug) ?? 0;
    taken.set(slug, count + 1);
    anchors.add(count === 0 ? slug : `${slug}-${count}`);
  }
  const targets = Array.from(page.matchAll(/\]\(#([^)]+)\)/g), ([, target]) => target!);
  expect(targets.length).toBeGreaterThan(100);
  expect(targets.filter((target) => !anchors.has(target))).toEqual([]);
});
