import { isError } from '../../base/errors';
import { badArgument, checkOptions, show } from '../../base/arguments';
import { NeoXPrefixError } from '../../base/errors';

/**
 * What a text must be. One of: a JSON value that is valid by a schema; a text that a regular expression matches from
 * its beginning to its end; one of a list.
 */
export type OutputFormat =
  | {
      /** A JSON schema; docs/guides/generating.md says which keywords it may have. `true` is any JSON value. */
      jsonSchema: Readonly<Record<string, unknown>> | boolean;
    }
  | {
      /** A regular expression as JavaScript has them with the flag `u`, without the slashes. */
      regex: string;
    }
  | { choices: readonly string[] };

const KINDS = ['jsonSchema', 'regex', 'choices'] as const;

/** What is longer is not worth a try: it takes minutes and gigabytes to compile. */
const MOST_CHOICES = 10_000;
/** Of all choices together, of a schema as JSON, and of a regular expression. */
const MOST_CHARACTERS = 2 ** 18;
const MOST_REGEX_CHARACTERS = 2 ** 14;

/**
 * Checks what a format is made of.
 * @returns a plain copy, which the caller cannot change
 * @throws NEOX_BAD_ARGUMENT
 */
export function checkFormat(format: unknown): OutputFormat {
  const given = checkOptions('format', format, KINDS);
  const kinds = KINDS.filter((kind) => given[kind] !== undefined);
  if (kinds.length !== 1) throw badArgument('format', `one of ${KINDS.join(', ')}`, format);
  const { jsonSchema, regex, choices } = given;
  if (regex !== undefined) {
    if (typeof regex !== 'string' || regex === '') {
      throw badArgument('format.regex', 'a non-empty string', regex, 'give the source of a RegExp');
    }
    if (regex.length > MOST_REGEX_CHARACTERS) throw tooLong('format.regex', regex.length, MOST_REGEX_CHARACTERS);
    return { regex };
  }
  if (choices !== undefined) return { choices: checkChoices(choices) };
  if (
    typeof jsonSchema !== 'boolean' &&
    (typeof jsonSchema !== 'object' || jsonSchema === null || Array.isArray(jsonSchema))
  ) {
    throw badArgument('format.jsonSchema', 'an object or true', jsonSchema);
  }
  let json: string;
  try {
    json = JSON.stringify(jsonSchema);
  } catch (error) {
    const reason = isError(error) ? (error.message.split('\n')[0] ?? '') : show(error);
    throw badArgument('format.jsonSchema', `a JSON value (${reason})`, jsonSchema);
  }
  if (json.length > MOST_CHARACTERS) throw tooLong('format.jsonSchema', json.length, MOST_CHARACTERS);
  return { jsonSchema: JSON.parse(json) as Record<string, unknown> | boolean };
}

function tooLong(name: string, length: number, most: number): NeoXPrefixError {
  return new NeoXPrefixError('NEOX_BAD_ARGUMENT', `${name} has ${length} characters, and ${most} is the most`);
}

function checkChoices(choices: unknown): string[] {
  if (!Array.isArray(choices) || choices.length === 0 || choices.length > MOST_CHOICES) {
    throw badArgument('format.choices', `an array of 1 to ${MOST_CHOICES} strings`, choices);
  }
  let characters = 0;
  for (const choice of choices) if (typeof choice === 'string') characters += choice.length;
  if (characters > MOST_CHARACTERS) throw tooLong('format.choices', characters, MOST_CHARACTERS);
  return choices.map((choice: unknown, i) => {
    // A half of a surrogate pair is no text.
    if (typeof choice !== 'string' || /\p{Surrogate}/u.test(choice))
      throw badArgument(`format.choices[${i}]`, 'a well-formed string', choice);
    return choice;
  });
}
