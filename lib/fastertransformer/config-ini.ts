import { badArgument, checkString } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';

/** Line buffer of FasterTransformer's reader (3rdparty/INIReader.h), without the terminating zero. */
const MAX_LINE_BYTES = 199;

interface Line {
  readonly section?: string;
  /** Lower-case, because FasterTransformer and Python's configparser ignore case. Undefined for other lines. */
  readonly key?: string;
  readonly value?: string;
  readonly text: string;
}

/**
 * FasterTransformer's config.ini. Lines that nobody changes stay as they are; new ones are written as Python's
 * configparser writes them: `key = value`, and a blank line after every section.
 */
export class ConfigIni {
  private readonly values = new Map<string, string>();

  private constructor(private readonly lines: Line[]) {
    for (const line of lines) this.remember(line);
  }

  static empty(): ConfigIni {
    return new ConfigIni([]);
  }

  /**
   * Reads as FasterTransformer's reader does, but refuses what that one skips or misreads.
   * @throws NEOX_BAD_EXPORT naming the line
   */
  static parse(text: string, path: string): ConfigIni {
    const lines: Line[] = [];
    let section: string | undefined;
    const sections = new Set<string>();
    const keys = new Set<string>();
    const bad = (index: number, what: string): NeoXPrefixError =>
      new NeoXPrefixError('NEOX_BAD_EXPORT', `Line ${index + 1} of ${path} is not usable: ${what}`, { path });
    const source = text.replace(/^\uFEFF/, '').split(/\r?\n/);
    if (source.at(-1) === '') source.pop();
    for (const [index, raw] of source.entries()) {
      const content = raw.trim();
      if (content === '' || content.startsWith('#') || content.startsWith(';')) {
        lines.push({ text: raw, ...(section === undefined ? {} : { section }) });
        continue;
      }
      // The reader's buffer: what is beyond becomes a line of its own there.
      if (Buffer.byteLength(raw) > MAX_LINE_BYTES)
        throw bad(index, `FasterTransformer reads its first ${MAX_LINE_BYTES} bytes only`);
      if (/^\s/.test(raw)) throw bad(index, 'it continues the line before, which is not supported');
      const header = /^\[([^\]]+)\]/.exec(content);
      if (header !== null) {
        section = (header[1] as string).toLowerCase();
        if (sections.has(section)) throw bad(index, `section [${section}] is given twice`);
        sections.add(section);
        lines.push({ text: raw, section });
        continue;
      }
      const pair = /^([^=:]+?)\s*[=:](.*)$/.exec(content);
      if (pair === null) throw bad(index, 'expected [section] or key = value');
      if (section === undefined) throw bad(index, 'expected a [section] before the first key');
      const key = (pair[1] as string).toLowerCase();
      const place = placeOf(section, key);
      if (keys.has(place)) throw bad(index, `${key} is given twice in [${section}]`);
      keys.add(place);
      lines.push({ text: raw, section, key, value: (pair[2] as string).replace(/\s;.*$/, '').trim() });
    }
    return new ConfigIni(lines);
  }

  /** Whether there is such a section. */
  has(section: string): boolean {
    return this.lines.some((line) => line.section === section);
  }

  get(section: string, key: string): string | undefined {
    return this.values.get(placeOf(section, key));
  }

  /**
   * A whole number as FasterTransformer's reader takes it, by C's strtol of base 0: `12`, `0x0c` and `014` are twelve,
   * and what follows after a blank does not count. Undefined when there is no such key, NaN when it is no number.
   */
  getInteger(section: string, key: string): number | undefined {
    const text = this.get(section, key);
    if (text === undefined) return undefined;
    const found = /^([+-]?)(?:0x([0-9a-f]+)|(0[0-7]*)|([1-9]\d*))(?:\s.*)?$/i.exec(text);
    if (found === null) return NaN;
    const [, sign, hexadecimal, octal, decimal] = found;
    const value =
      hexadecimal !== undefined
        ? parseInt(hexadecimal, 16)
        : octal !== undefined
          ? parseInt(octal, 8)
          : Number(decimal);
    return sign === '-' ? -value : value;
  }

  /** All keys and values, by section. */
  toObject(): Record<string, Record<string, string>> {
    const sections = new Map<string, Map<string, string>>();
    for (const { section, key, value } of this.lines) {
      if (section === undefined || key === undefined || value === undefined) continue;
      const keys = sections.get(section) ?? new Map<string, string>();
      sections.set(section, keys.set(key, value));
    }
    return Object.fromEntries([...sections].map(([section, keys]) => [section, Object.fromEntries(keys)]));
  }

  /** Sets a key where it stands, or after the last key of its section, or in a new section at the end. */
  set(section: string, key: string, value: string | number): void {
    const line: Line = { section, key, value: String(value), text: `${key} = ${value}` };
    this.remember(line);
    const at = this.lines.findIndex((other) => other.section === section && other.key === key);
    if (at >= 0) {
      this.lines[at] = line;
      return;
    }
    const last = this.lines.findLastIndex((other) => other.section === section && other.text.trim() !== '');
    if (last >= 0) {
      this.lines.splice(last + 1, 0, line);
      return;
    }
    const before = this.lines.at(-1);
    if (before !== undefined && before.text.trim() !== '') this.lines.push({ text: '' });
    this.lines.push({ section, text: `[${section}]` }, line, { section, text: '' });
  }

  toString(): string {
    return this.lines.map((line) => `${line.text}\n`).join('');
  }

  private remember({ section, key, value }: Line): void {
    if (section !== undefined && key !== undefined && value !== undefined)
      this.values.set(placeOf(section, key), value);
  }
}

function placeOf(section: string, key: string): string {
  return `${section}\n${key}`;
}

/**
 * Checks a value that is written into config.ini: FasterTransformer cuts a line at 199 bytes and at ` ;`, trims blanks
 * and reads one line only; Python's configparser refuses `%`.
 */
function checkIniValue(name: string, key: string, value: unknown): string {
  const text = checkString(name, value);
  const fault =
    text !== text.trim()
      ? 'without blanks at its ends'
      : /[;%]/.test(text)
        ? "without ';' and '%', which config.ini cannot hold"
        : /\p{C}|\p{Zl}|\p{Zp}/u.test(text)
          ? 'without control characters'
          : undefined;
  if (fault !== undefined) throw badArgument(name, `a name ${fault}`, value);
  const available = MAX_LINE_BYTES - Buffer.byteLength(`${key} = \n`);
  if (Buffer.byteLength(text) > available) {
    throw badArgument(
      name,
      `a name of at most ${available} bytes, because FasterTransformer cuts longer lines of config.ini`,
      value,
    );
  }
  return text;
}

export function checkModelName(name: string, value: unknown): string {
  return checkIniValue(name, 'model_name', value);
}

/** A task's name is also a part of its prefix file's name. */
export function checkTaskName(value: unknown): string {
  const text = checkIniValue('task name', 'task_name', value);
  if (/[/\\]/.test(text) || /^\.+$/.test(text) || text.includes('..')) {
    throw badArgument(
      'task name',
      "a name without '/', '\\' and '..', because it becomes a part of a file name",
      value,
    );
  }
  return text;
}
