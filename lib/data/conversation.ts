import { badArgument } from '../base/arguments';
import { NeoXPrefixError } from '../base/errors';
import { conversationSegments, type Message, type Segment, type Template, TEMPLATES } from '../tokenizer/templates';
import type { Encoder, Sample, Turn } from './sample';

/**
 * The template for the conversations of a model: the one that is given, else that of rinna's instruction models where
 * the tokenizer has a token for their line break, `<NL>`.
 *
 * @param place what has the conversation, for the error
 * @throws NEOX_BAD_ARGUMENT when neither decides it
 */
export function templateFor(template: Template | undefined, tokenizer: Encoder | undefined, place: string): Template {
  if (template !== undefined) return template;
  if (tokenizer?.tokenToId?.('<NL>') !== undefined) return 'rinna';
  throw new NeoXPrefixError(
    'NEOX_BAD_ARGUMENT',
    `${place} has {"messages"}, and nothing says how the model's conversations are written`,
    {
      hint: "give template: 'rinna' (rinna's instruction models), 'plain' (the contents, one below the other), or a function",
    },
  );
}

/** @throws NEOX_BAD_ARGUMENT */
export function checkTemplate(template: unknown): Template | undefined {
  if (template === undefined || typeof template === 'function' || TEMPLATES.includes(template as never))
    return template as Template | undefined;
  throw badArgument('template', `${TEMPLATES.map((name) => `'${name}'`).join(', ')} or a function`, template);
}

/**
 * A conversation as one sample that learns every message of the assistant, each behind all before it. What stands
 * behind the last one is left out.
 *
 * ```ts
 * const sample = conversationSample([{ role: 'user', content: '今日は' }, { role: 'assistant', content: 'いい天気ですね' }],
 * 'rinna'); // { prompt: 'ユーザー: 今日は<NL>システム: ', completion: 'いい天気ですね' }
 * ```
 *
 * @throws NEOX_BAD_ARGUMENT for a wrong message or template, or where nothing is learned
 */
export function conversationSample(messages: readonly Message[], template: Template): Sample {
  if (!Array.isArray(messages)) throw badArgument('messages', 'an array of { role, content }', messages);
  const turns: (Turn & { prompt: string; completion: string })[] = [];
  let prompt = '';
  for (const { text, learned } of checkSegments(
    conversationSegments(messages as Message[], checkTemplate(template) as Template),
  )) {
    if (text === '') continue;
    const last = turns.at(-1);
    if (!learned) prompt += text;
    else if (last !== undefined && prompt === '') last.completion += text;
    else {
      turns.push({ prompt, completion: text });
      prompt = '';
    }
  }
  const [first, ...rest] = turns;
  if (first === undefined) {
    throw new NeoXPrefixError('NEOX_BAD_ARGUMENT', "messages has nothing to learn: no message is the assistant's");
  }
  return {
    ...(first.prompt === '' ? {} : { prompt: first.prompt }),
    completion: first.completion,
    ...(rest.length === 0 ? {} : { turns: rest }),
  };
}

/** Templates may be functions of anybody's. */
function checkSegments(segments: unknown): readonly Segment[] {
  if (!Array.isArray(segments)) throw badArgument('what template returns', 'an array of { text, learned }', segments);
  for (const [i, segment] of (segments as (Segment | null)[]).entries()) {
    const name = `segment ${i} of template`;
    if (segment === null || typeof segment !== 'object')
      throw badArgument(name, 'an object { text, learned }', segment);
    if (typeof segment.text !== 'string') throw badArgument(`the text of ${name}`, 'a string', segment.text);
    if (typeof segment.learned !== 'boolean') throw badArgument(`learned of ${name}`, 'a boolean', segment.learned);
  }
  return segments as Segment[];
}
