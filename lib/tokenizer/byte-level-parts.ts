import { show } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { isObject } from '../formats/json';

/** Parts of a tokenizer.json that take time and memory in proportion to the text, whatever the file says. */
const NORMALIZERS = ['NFC', 'NFD', 'NFKC', 'NFKD', 'Lowercase', 'Strip', 'StripAccents'];
const PRE_TOKENIZERS = ['ByteLevel', 'Digits', 'Punctuation', 'Split', 'Whitespace', 'WhitespaceSplit'];
const POST_PROCESSORS = ['ByteLevel', 'TemplateProcessing', 'RobertaProcessing', 'BertProcessing'];

/**
 * Regular expressions that tokenizers split text with: GPT-2's and those of its successors. Any other is refused,
 * because one that somebody made up can run for ever on a short text.
 */
const PATTERNS = [
  String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`,
  String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
];

const MAX_STEPS = 16;
const MAX_TEMPLATE = 64;

/** The key of a sequence's own parts. */
const LISTS: Readonly<Record<string, string>> = {
  normalizer: 'normalizers',
  pre_tokenizer: 'pretokenizers',
  post_processor: 'processors',
};

/**
 * Checks the parts of a byte-level BPE tokenizer.json that see the text.
 * @throws NEOX_UNSUPPORTED for a part that is not on the list; NEOX_BAD_TOKENIZER for one that is out of all proportion
 */
export function checkParts(file: Readonly<Record<string, unknown>>, path: string): void {
  for (const [key, allowed] of [
    ['normalizer', NORMALIZERS],
    ['pre_tokenizer', PRE_TOKENIZERS],
    ['post_processor', POST_PROCESSORS],
  ] as const) {
    const parts = flatten(file[key], key, path);
    if (parts.length > MAX_STEPS) throw bad(path, `its ${key} has ${parts.length} steps, more than ${MAX_STEPS}`);
    for (const part of parts) {
      const { type } = part;
      if (typeof type !== 'string' || !allowed.includes(type)) {
        throw unsupported(path, `the ${key} ${show(type)}`, allowed.join(', '));
      }
      if (type === 'Split') checkPattern(part['pattern'], path);
      if (type === 'TemplateProcessing') checkTemplate(part, path);
    }
  }
}

/** A part, or the parts of a sequence; sequences in sequences are not known. */
function flatten(value: unknown, key: string, path: string): Readonly<Record<string, unknown>>[] {
  if (value === undefined || value === null) return [];
  if (!isObject(value)) throw bad(path, `its ${key} is ${show(value)}, expected an object`);
  if (value['type'] !== 'Sequence') return [value];
  const list: unknown = value[LISTS[key] as string];
  if (!Array.isArray(list) || !list.every(isObject))
    throw bad(path, `its ${key} is a sequence without a list of parts`);
  return list;
}

/** GPT-2's pattern, which a ByteLevel part splits by unless told otherwise. */
const GPT2_PATTERN = PATTERNS[0] as string;

/** White space as Unicode has it and the Rust tokenizers take it; JavaScript's \s has U+FEFF and lacks U+0085. */
const SPACES = '\\t-\\r\\u0020\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';

/** A pattern with Unicode's white space in place of JavaScript's. */
function withUnicodeSpaces(pattern: string): string {
  let inClass = false;
  return pattern.replace(/\\[\s\S]|[[\]]/g, (part) => {
    if (part === '[' || part === ']') inClass = part === '[';
    if (part === '\\s') return inClass ? SPACES : `[${SPACES}]`;
    return part === '\\S' && !inClass ? `[^${SPACES}]` : part;
  });
}

/**
 * A pre_tokenizer that was checked, with the white space of the Rust tokenizers. A ByteLevel part that puts a space in
 * front of the text stays as it is: its pattern sees the text with it.
 */
export function preTokenizerOf(part: unknown): unknown {
  if (!isObject(part)) return part;
  const list: unknown = part['pretokenizers'];
  if (part['type'] === 'Sequence' && Array.isArray(list))
    return { ...part, pretokenizers: (list as unknown[]).map(preTokenizerOf) };
  const pattern = part['pattern'];
  if (part['type'] === 'Split' && isObject(pattern) && typeof pattern['Regex'] === 'string')
    return { ...part, pattern: { Regex: withUnicodeSpaces(pattern['Regex']) } };
  if (part['type'] !== 'ByteLevel' || part['use_regex'] === false || part['add_prefix_space'] === true) return part;
  const split = {
    type: 'Split',
    pattern: { Regex: withUnicodeSpaces(GPT2_PATTERN) },
    behavior: 'Isolated',
    invert: false,
  };
  return { type: 'Sequence', pretokenizers: [split, { ...part, use_regex: false }] };
}

function checkPattern(pattern: unknown, path: string): void {
  const regex: unknown = isObject(pattern) ? pattern['Regex'] : undefined;
  const text: unknown = isObject(pattern) ? pattern['String'] : undefined;
  if (regex === undefined && typeof text === 'string' && text !== '' && text.length <= 100) return;
  if (typeof regex === 'string' && PATTERNS.includes(regex)) return;
  throw unsupported(
    path,
    `a split by ${show(regex ?? text)}`,
    'the patterns of GPT-2 and its successors, and plain text',
  );
}

function checkTemplate(part: Readonly<Record<string, unknown>>, path: string): void {
  for (const key of ['single', 'pair']) {
    const list: unknown = part[key];
    if (!Array.isArray(list) || list.length > MAX_TEMPLATE)
      throw bad(path, `the template ${key} is no list of at most ${MAX_TEMPLATE} parts`);
  }
}

function bad(path: string, problem: string): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_BAD_TOKENIZER', `${path}: ${problem}`, { path });
}

function unsupported(path: string, what: string, supported: string): NeoXPrefixError {
  return new NeoXPrefixError(
    'NEOX_UNSUPPORTED',
    `${path} has ${what}, which is not supported; supported: ${supported}`,
    { path },
  );
}
