import { isError } from '../../base/errors';
import { badArgument, checkOptions, show } from '../../base/arguments';

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

/** More would take long to compile, on the thread of JavaScript. */
const MOST_CHOICES = 10_000;

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
    return { regex };
  }
  if (choices !== undefined) return { choices: checkChoices(choices) };
  if (
    typeof jsonSchema !== 'boolean' &&
    (typeof jsonSchema !== 'object' || jsonSchema === null || Array.isArray(jsonSchema))
  ) {
    throw badArgument('format.jsonSchema', 'an object or true', jsonSchema);
  }
  try {
    return { jsonSchema: JSON.parse(JSON.stringify(jsonSchema)) as Record<string, unknown> | boolean };
  } catch (error) {
    const reason = isError(error) ? (error.message.split('\n')[0] ?? '') : show(error);
    throw badArgument('format.jsonSchema', `a JSON value (${reason})`, jsonSchema);
  }
}

function checkChoices(choices: unknown): string[] {
  if (!Array.isArray(choices) || choices.length === 0 || choices.length > MOST_CHOICES) {
    throw badArgument('format.choices', `an array of 1 to ${MOST_CHOICES} strings`, choices);
  }
  return choices.map((choice: unknown, i) => {
    // A half of a surrogate pair is no text.
    if (typeof choice !== 'string' || /\p{Surrogate}/u.test(choice))
      throw badArgument(`format.choices[${i}]`, 'a well-formed string', choice);
    return choice;
  });
}
