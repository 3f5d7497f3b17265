import { badArgument, checkOptions } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';

/** One turn of a conversation. */
export interface InstructionTurn {
  /** Who speaks: the user (ユーザー) or the model (システム). */
  speaker: 'user' | 'system';
  text: string;
}

/** How to write a conversation. */
export interface InstructionOptions {
  /**
   * What to do with a text that contains the format's own marks (`<NL>`, `<s>`, `</s>`, or a speaker's name and colon
   * at the start of a line) and so could pretend to be another turn: refuse it, or write a space into each mark.
   * Defaults to `'reject'`.
   */
  marks?: 'reject' | 'escape';
}

/** One message of a conversation, as chat data has it. */
export interface Message {
  /** `'system'`, `'user'` or `'assistant'`; a template that is a function may know others. */
  role: string;
  content: string;
}

/** A piece of a conversation as the model reads it. Pieces are encoded one by one, without special tokens. */
export interface Segment {
  text: string;
  /** Whether the model learns to write it; behind a learned piece, or several in a row, it learns to stop. */
  learned: boolean;
}

export const TEMPLATES = ['rinna', 'plain'] as const;

/**
 * How conversations are written. `'rinna'`: as {@link formatInstruction}, where user is ユーザー and assistant システム; there
 * is no system role. `'plain'`: the contents, each on a line of its own, without names. Or a function from messages to
 * pieces.
 */
export type Template = (typeof TEMPLATES)[number] | ((messages: readonly Message[]) => readonly Segment[]);

const SPEAKERS: Readonly<Record<InstructionTurn['speaker'], string>> = { user: 'ユーザー', system: 'システム' };
const NEW_LINE = '<NL>';
const MARKS = /<(?=(?:NL|\/?s)>)|(?<=(?:^|\n)\s*(?:ユーザー|システム))(?=:)/g;

/**
 * A prompt in the format of rinna's instruction-tuned GPT-NeoX models (japanese-gpt-neox-3.6b-instruction-sft, -sft-v2,
 * -ppo): each turn is `ユーザー: TEXT` or `システム: TEXT`, line breaks are written `<NL>`, turns are joined by `<NL>`, and the
 * prompt ends in `<NL>システム: ` for the model to go on. Encode it without special tokens; write the answer's `<NL>` back
 * with `parseInstructionAnswer`.
 *
 * @throws NEOX_BAD_ARGUMENT for a text with marks in it, unless `marks` is `'escape'`.
 */
export function formatInstruction(turns: readonly InstructionTurn[], options?: InstructionOptions): string {
  if (!Array.isArray(turns) || turns.length === 0)
    throw badArgument('turns', 'a non-empty array of { speaker, text }', turns);
  const { marks = 'reject' } = checkOptions('options', options, ['marks']) as InstructionOptions;
  if (marks !== 'reject' && marks !== 'escape') throw badArgument('marks', "'reject' or 'escape'", marks);
  const lines = (turns as InstructionTurn[]).map((turn, i) => {
    const { speaker, text } = checkOptions(`turns[${i}]`, turn, ['speaker', 'text']);
    if (speaker !== 'user' && speaker !== 'system')
      throw badArgument(`turns[${i}].speaker`, "'user' or 'system'", speaker);
    if (typeof text !== 'string') throw badArgument(`turns[${i}].text`, 'a string', text);
    const hint = "pass { marks: 'escape' } to write a space into each";
    return `${SPEAKERS[speaker]}: ${withoutMarks(text, `turns[${i}].text`, marks, hint)}`;
  });
  return [...lines, `${SPEAKERS.system}: `].join(NEW_LINE);
}

/** The answer of an instruction-tuned model as plain text: `<NL>` becomes a line break. */
export function parseInstructionAnswer(text: string): string {
  if (typeof text !== 'string') throw badArgument('text', 'a string', text);
  return text.replaceAll(NEW_LINE, '\n');
}

/**
 * A conversation as pieces, of which those of the assistant are learned.
 *
 * @throws NEOX_BAD_ARGUMENT for a message that the template has no place for
 */
export function conversationSegments(messages: readonly Message[], template: Template): readonly Segment[] {
  for (const [i, message] of messages.entries()) checkMessage(message, i);
  if (typeof template === 'function') return template(messages);
  const newLine = template === 'rinna' ? NEW_LINE : '\n';
  return messages.flatMap(({ role, content }, i) => {
    const name = `messages[${i}]`;
    if (role !== 'user' && role !== 'assistant' && (role !== 'system' || template === 'rinna')) {
      const known = template === 'rinna' ? "'user' or 'assistant'" : "'system', 'user' or 'assistant'";
      const hint = role === 'system' ? 'put what it says in front of the first message of the user' : undefined;
      throw badArgument(`${name}.role`, `${known} (template '${template}')`, role, hint);
    }
    const learned = role === 'assistant';
    if (learned && content === '') throw badArgument(`${name}.content`, 'a text that is not empty', content);
    const mark = template === 'plain' ? '' : `${SPEAKERS[learned ? 'system' : 'user']}: `;
    const hint = 'write line breaks as line breaks: they become <NL>';
    const text = template === 'plain' ? content : withoutMarks(content, `${name}.content`, 'reject', hint);
    const between = i === 0 ? '' : newLine;
    if (learned) return [{ text: between + mark, learned: false }, { text, learned }]; // prettier-ignore
    return [{ text: between + mark + text, learned }];
  });
}

function checkMessage(message: Message, index: number): void {
  const name = `messages[${index}]`;
  if (message === null || typeof message !== 'object') throw badArgument(name, 'an object { role, content }', message);
  if (typeof message.role !== 'string') throw badArgument(`${name}.role`, 'a string', message.role);
  if (typeof message.content !== 'string') throw badArgument(`${name}.content`, 'a string', message.content);
}

/** The text with `<NL>` for line breaks. */
function withoutMarks(text: string, name: string, marks: 'reject' | 'escape', hint: string): string {
  const lines = text.replace(/\r\n?/g, '\n');
  const folded = asTokenized(lines);
  const isMarked = folded.match(MARKS) !== null;
  if (isMarked && marks === 'reject') {
    throw new NeoXPrefixError(
      'NEOX_BAD_ARGUMENT',
      `${name} contains marks of the prompt format (<NL>, <s>, </s> or a speaker's name at the start of a line)`,
      { hint },
    );
  }
  return (isMarked ? folded.replace(MARKS, (mark) => `${mark} `) : lines).replaceAll('\n', NEW_LINE);
}

/**
 * The text as the tokenizer's own normalisation leaves it, line breaks apart: width forms and control characters must
 * not hide a mark.
 */
function asTokenized(text: string): string {
  return text.replace(/[\x00-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]/g, '').normalize('NFKC');
}
