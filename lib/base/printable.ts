/**
 * Text from files and requests stands in messages and tables, and these on terminals: what could steer one (control
 * characters, changes of the writing direction) is written as an escape. Line breaks and tabs stay.
 */
export function printable(text: string): string {
  return text.replace(
    /(?![\n\t])\p{Cc}|[\u2028-\u202e\u2066-\u2069]/gu,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** The same for a value within a line, where a line break could forge the next line. */
export function printableLine(text: string): string {
  return printable(text.replace(/[\n\t]/g, (char) => (char === '\n' ? '\\n' : '\\t')));
}
