import { badArgument, checkOptions } from '../arguments';
import { NeoXPrefixError } from '../errors';

/** One turn of a conversation. */
export interface InstructionTurn {
  /** Who speaks: the user (ユーザー) or the model (システム). */
  speaker: 'user' | 'system';
  text: string;
}

/** How to write a conversation. */
export interface InstructionOptions {
  /**
   * What to do with a text that contains the format's own marks (`<NL>`, `<s>`, `</s>`, or a speaker's name and colon at the start of a
   * line) and so could pretend to be another turn: refuse it, or write a space into each mark. Defaults to `'reject'`.
   */
  marks?: 'reject' | 'escape';
}

const SPEAKERS: Readonly<Record<InstructionTurn['speaker'], string>> = { user: 'ユーザー', system: 'システム' };
const NEW_LINE = '<NL>';
const MARKS = /<(?=(?:NL|\/?s)>)|(?<=(?:^|\n)\s*(?:ユーザー|システム))(?=:)/g;

/**
 * A prompt in the format of rinna's instruction-tuned GPT-NeoX models (japanese-gpt-neox-3.6b-instruction-sft, -sft-v2, -ppo): each turn
 * is `ユーザー: TEXT` or `システム: TEXT`, line breaks are written `<NL>`, turns are joined by `<NL>`, and the prompt ends in
 * `<NL>システム: ` for the model to go on. Encode it without special tokens; write the answer's `<NL>` back with `parseInstructionAnswer`.
 *
 * @throws NEOX_BAD_ARGUMENT for a text with marks in it, unless `marks` is `'escape'`.
 */
export function formatInstruction(turns: readonly InstructionTurn[], options?: InstructionOptions): string {
  if (!Array.isArray(turns) || turns.length === 0) throw badArgument('turns', 'a non-empty array of { speaker, text }', turns);
  const { marks = 'reject' } = checkOptions('options', options, ['marks']) as InstructionOptions;
  if (marks !== 'reject' && marks !== 'escape') throw badArgument('marks', "'reject' or 'escape'", marks);
  const lines = (turns as InstructionTurn[]).map((turn, i) => {
    const { speaker, text } = checkOptions(`turns[${i}]`, turn, ['speaker', 'text']);
    if (speaker !== 'user' && speaker !== 'system') throw badArgument(`turns[${i}].speaker`, "'user' or 'system'", speaker);
    if (typeof text !== 'string') throw badArgument(`turns[${i}].text`, 'a string', text);
    return `${SPEAKERS[speaker]}: ${withoutMarks(text, i, marks).replaceAll('\n', NEW_LINE)}`;
  });
  return [...lines, `${SPEAKERS.system}: `].join(NEW_LINE);
}

/** The answer of an instruction-tuned model as plain text: `<NL>` becomes a line break. */
export function parseInstructionAnswer(text: string): string {
  if (typeof text !== 'string') throw badArgument('text', 'a string', text);
  return text.replaceAll(NEW_LINE, '\n');
}

function withoutMarks(text: string, index: number, marks: 'reject' | 'escape'): string {
  const lines = text.replace(/\r\n?/g, '\n');
  const folded = asTokenized(lines);
  const found = folded.match(MARKS);
  if (found === null) return lines;
  if (marks === 'escape') return folded.replace(MARKS, (mark) => `${mark} `);
  throw new NeoXPrefixError(
    'NEOX_BAD_ARGUMENT',
    `turns[${index}].text contains marks of the prompt format (<NL>, <s>, </s> or a speaker's name at the start of a line)`,
    {
      hint: "pass { marks: 'escape' } to write a space into each",
    },
  );
}

/** The text as the tokenizer's own normalisation leaves it, line breaks apart: width forms and control characters must not hide a mark. */
function asTokenized(text: string): string {
  return text.replace(/[\x00-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]/g, '').normalize('NFKC');
}
