/** Markup. Only {@link markup} and {@link verbatim} make it, so no text gets into a page without being escaped. */
export class Html {
  constructor(readonly text: string) {}
}

type Part = string | number | Html | undefined | readonly Part[];

/**
 * Markup with values put in as text; markup among them stays what it is, lists are joined, `undefined` leaves nothing.
 */
export function markup(strings: TemplateStringsArray, ...parts: readonly Part[]): Html {
  return new Html(strings.reduce((text, string, i) => text + render(parts[i - 1]) + string));
}

/** What is markup already. */
export function verbatim(text: string): Html {
  return new Html(text);
}

function render(part: Part): string {
  if (part === undefined) return '';
  if (part instanceof Html) return part.text;
  return typeof part === 'object' ? part.map(render).join('') : escape(String(part));
}

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Text as markup that shows it; control characters, which a page may not have, become replacement characters. */
export function escape(text: string): string {
  return text
    .replace(/[&<>"']/g, (character) => ENTITIES[character] as string)
    .replace(/(?![\t\n\r])\p{Cc}/gu, '\ufffd');
}

/** A value as a script element of a page can hold it. */
export function json(value: unknown): Html {
  return verbatim(JSON.stringify(value).replaceAll('<', '\\u003c'));
}
