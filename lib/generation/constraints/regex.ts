import { isError } from '../../base/errors';
import { badArgument } from '../../base/arguments';
import { NeoXPrefixError } from '../../base/errors';

type Range = readonly [low: number, high: number];

const MOST_REPETITIONS = 256;
/** Ranges of characters in one class: a class of thousands (all letters of all scripts) takes minutes to compile. */
const MOST_RANGES = 128;
/** Characters and classes, with counts written out: the counts within each other multiply. */
const MOST_WRITTEN_OUT = 2 ** 14;
const CHUNK = 4096;

/**
 * A regular expression of JavaScript with the flag `u` as XGrammar (0.1.27) shall read it. XGrammar has a syntax very
 * much like it, but takes the characters of a class for bytes; so a class with characters outside ASCII becomes
 * alternatives of the bytes of their UTF-8, and everything that stands for a set of characters (`.`, `\s`, `\p{...}`)
 * becomes a class. What XGrammar does not have (anchors inside, looking around, references) it refuses by itself.
 *
 * @param inJson whether the text is the inside of a JSON string, where quotes, backslashes and control characters would
 *   have to be escaped: classes are without them, and elsewhere they are refused
 * @throws NEOX_BAD_ARGUMENT
 */
export function xgrammarRegex(source: string, name: string, inJson = false): string {
  try {
    new RegExp(source, 'u');
  } catch (error) {
    const reason = isError(error) ? error.message : '';
    throw badArgument(name, `the source of a regular expression with the flag u (${reason})`, source);
  }
  const refuse = (what: string): never => {
    throw new NeoXPrefixError('NEOX_BAD_ARGUMENT', `${name} ${what}`);
  };
  const classes = new Map<string, string>();
  const classOf = (atom: string): string => {
    const known = classes.get(atom) ?? classSource(membersOf(atom, inJson), atom, refuse);
    classes.set(atom, known);
    return known;
  };
  const literal = (character: string): string => {
    if (inJson && isEscapedInJson(character))
      refuse(`has ${JSON.stringify(character)}, which a JSON string has only escaped`);
    const code = character.codePointAt(0) as number;
    return code < 0x80 ? hex(code) : character;
  };

  const written = writtenOut(source);
  if (written > MOST_WRITTEN_OUT) {
    refuse(`has ${written} characters with its counts written out, and ${MOST_WRITTEN_OUT} is the most`);
  }
  let out = '';
  for (const [atom] of source.matchAll(ATOMS)) {
    const hexadecimal = /^\\(?:x|u\{?)([\da-f]+)\}?(?:\\u([\da-f]+))?$/i.exec(atom);
    if (/^\\[dswp]|^\[|^\.$/i.test(atom)) out += classOf(atom);
    else if (hexadecimal) out += literal(characterOf(hexadecimal));
    else if (/^\\(?:[tnvfr0]|c.)$/.test(atom))
      out += inJson ? refuse(`has ${atom}, which a JSON string has only escaped`) : atom;
    else if (/^\\[^bBk1-9]$/.test(atom)) out += literal(atom.slice(1));
    else if (/^\{/.test(atom)) out += checkedRepetition(atom, refuse);
    else if (/^[\\^$()|*+?]/.test(atom)) out += atom;
    else out += literal(atom);
  }
  return out;
}

/** What a regular expression is made of: escapes, classes, openings of groups, counts, and single characters. */
const ATOMS =
  /\\u\{[^}]*\}|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u.{4}|\\x..|\\c.|\\[pP]\{[^}]*\}|\\.|\[(?:\\.|[^\\\]])*\]|\((?:\?(?:<[^>=!]*>|<?[=!:]))?|\{[\d,]*\}|./gsu;

/** How many characters and classes a regular expression has when x{3} is written as xxx. */
function writtenOut(source: string): number {
  // Of each group that is open: its sum, and its last part, which a count behind it repeats.
  const groups = [{ sum: 0, last: 0 }];
  const add = (size: number): void => {
    const group = groups.at(-1) as { sum: number; last: number };
    group.sum += size;
    group.last = size;
  };
  for (const [atom] of source.matchAll(ATOMS)) {
    if (atom.startsWith('(')) {
      groups.push({ sum: 0, last: 0 });
    } else if (atom === ')' && groups.length > 1) {
      add((groups.pop() as { sum: number }).sum);
    } else if (/^\{\d/.test(atom)) {
      const counts = Array.from(atom.matchAll(/\d+/g), ([count]) => Number(count));
      const group = groups.at(-1) as { sum: number; last: number };
      group.sum += group.last * (Math.max(1, ...counts) - 1);
      group.last *= Math.max(1, ...counts);
    } else if (!/^[*+?|^$]$/.test(atom)) {
      add(1);
    }
  }
  return groups.reduce((sum, group) => sum + group.sum, 0);
}

function characterOf([, first, second]: RegExpExecArray): string {
  const units = [first, second].filter((unit) => unit !== undefined).map((unit) => parseInt(unit, 16));
  return units.length === 2 ? String.fromCharCode(...units) : String.fromCodePoint(...units);
}

function checkedRepetition(atom: string, refuse: (what: string) => never): string {
  for (const [count] of atom.matchAll(/\d+/g)) {
    if (Number(count) > MOST_REPETITIONS)
      refuse(`repeats something ${count} times, and ${MOST_REPETITIONS} is the most`);
  }
  return atom;
}

const isEscapedInJson = (character: string): boolean => character < ' ' || character === '"' || character === '\\';

/**
 * The characters that an atom of a regular expression matches, in ranges of code points; as JavaScript's own engine
 * says.
 */
function membersOf(atom: string, inJson: boolean): Range[] {
  const runs = new RegExp(`(?:${atom})+`, 'gu');
  const ranges: [number, number][] = [];
  for (let first = 0; first < 0x110000; first += CHUNK) {
    const codes = Array.from({ length: CHUNK }, (_, i) => first + i).filter((code) => code < 0xd800 || code > 0xdfff);
    let text = String.fromCodePoint(...codes);
    if (inJson && first === 0)
      text = Array.from(text, (character) => (isEscapedInJson(character) ? '\ud800' : character)).join('');
    for (const [run] of text.matchAll(runs)) {
      for (const character of run) {
        const code = character.codePointAt(0) as number;
        if (code >= 0xd800 && code <= 0xdfff) continue;
        const last = ranges.at(-1);
        if (last !== undefined && last[1] === code - 1) last[1] = code;
        else ranges.push([code, code]);
      }
    }
  }
  return ranges;
}

function classSource(members: readonly Range[], atom: string, refuse: (what: string) => never): string {
  if (members.length === 0) refuse(`has ${atom}, which matches no character`);
  if (members.length > MOST_RANGES) refuse(`has ${atom}, which is more than ${MOST_RANGES} ranges of characters`);
  const ascii = members.filter(([low]) => low < 0x80).map(([low, high]) => `${hex(low)}-${hex(Math.min(high, 0x7f))}`);
  const others = members
    .flatMap(([low, high]) => utf8Sequences(low, high))
    .map((sequence) => sequence.map(byteClass).join(''));
  return `(?:${[...(ascii.length > 0 ? [`[${ascii.join('')}]`] : []), ...others].join('|')})`;
}

const hex = (code: number): string => `\\x${code.toString(16).padStart(2, '0')}`;

/** One byte of a range. Not as a class of one, which XGrammar would make the character of that number. */
const byteClass = ([low, high]: Range): string =>
  low === high ? `[${hex(low)}${hex(low)}]` : `[${hex(low)}-${hex(high)}]`;

/** The UTF-8 of the characters outside ASCII in a range: sequences of ranges of bytes. */
function utf8Sequences(low: number, high: number): Range[][] {
  const widths: Range[] = [
    [0x80, 0x7ff],
    [0x800, 0xd7ff],
    [0xe000, 0xffff],
    [0x10000, 0x10ffff],
  ];
  return widths
    .map(([first, last]): Range => [Math.max(first, low), Math.min(last, high)])
    .filter(([from, to]) => from <= to)
    .flatMap(([from, to]) => sequencesBetween(bytesOf(from), bytesOf(to)));
}

const bytesOf = (code: number): number[] => [...Buffer.from(String.fromCodePoint(code))];

/** Sequences of bytes from `low` to `high`, which are of one length. */
function sequencesBetween([low = 0, ...lows]: readonly number[], [high = 0, ...highs]: readonly number[]): Range[][] {
  if (lows.length === 0) return [[[low, high]]];
  const [least, most] = [lows.map(() => 0x80), lows.map(() => 0xbf)];
  if (low === high) return sequencesBetween(lows, highs).map((rest) => [[low, low], ...rest]);
  const head = lows.some((byte) => byte !== 0x80) ? sequencesBetween([low, ...lows], [low, ...most]) : [];
  const tail = highs.some((byte) => byte !== 0xbf) ? sequencesBetween([high, ...least], [high, ...highs]) : [];
  const [from, to] = [head.length > 0 ? low + 1 : low, tail.length > 0 ? high - 1 : high];
  const middle: Range[][] = from <= to ? [[[from, to], ...lows.map((): Range => [0x80, 0xbf])]] : [];
  return [...head, ...middle, ...tail];
}
