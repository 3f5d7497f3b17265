import { printableLine } from '../base/printable';
import { formatNumber } from '../base/quantities';

export { formatBytes, formatCount, formatNumber, formatSeconds, plural } from '../base/quantities';

/** Text and tables on a terminal. */

const WIDE =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1f64f}\u{1f680}-\u{1faff}\u{20000}-\u{3fffd}]/u;

/** Columns of a terminal that a text takes. */
export function displayWidth(text: string): number {
  let width = 0;
  for (const character of text) width += WIDE.test(character) ? 2 : 1;
  return width;
}

export function padEnd(text: string, width: number): string {
  return text + ' '.repeat(Math.max(0, width - displayWidth(text)));
}

/** Rows under a heading; columns after the first are numbers and stand to the right. */
export function table(heading: readonly string[], rows: readonly (readonly string[])[]): string {
  // Values come from files: one with a line break would forge a line.
  const all = [heading, ...rows].map((row) => row.map(printableLine));
  const widths = heading.map((_, column) => Math.max(...all.map((row) => displayWidth(row[column] ?? ''))));
  const cell = (text: string, column: number): string => {
    const width = widths[column] ?? 0;
    return column === 0 ? padEnd(text, width) : ' '.repeat(Math.max(0, width - displayWidth(text))) + text;
  };
  return all.map((row) => row.map(cell).join('  ').trimEnd()).join('\n');
}

/** `name  value` lines with the values under each other. */
export function fields(
  entries: readonly (readonly [name: string, value: string | number | undefined])[],
  indent = '',
): string {
  const present = entries.flatMap(([name, value]) =>
    value === undefined ? [] : [[printableLine(name), printableLine(String(value))] as const],
  );
  const width = Math.max(...present.map(([name]) => displayWidth(name)));
  return present.map(([name, value]) => `${indent}${padEnd(name, width)}  ${value}`).join('\n');
}

/** An object of plain values on one line. */
export function inline(values: Readonly<Record<string, unknown>>): string {
  return Object.entries(values)
    .map(
      ([name, value]) =>
        `${name} ${typeof value === 'number' ? formatNumber(value) : typeof value === 'string' ? value : JSON.stringify(value)}`,
    )
    .join(', ');
}

/** A path as a shell takes it, for a command that is to be pasted. */
export function shellWord(text: string): string {
  return /^[\p{L}\p{N}_@%+=:,./-]+$/u.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
