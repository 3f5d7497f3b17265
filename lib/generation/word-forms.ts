import type { Tokenizer } from '../tokenizer/tokenizer';

/** A word as the tokenizer writes it at the start of a text, behind a space, and behind other text. */
export function wordForms(tokenizer: Tokenizer, word: string): Int32Array[] {
  const forms = [tokenizer.encode(word), tokenizer.encode(` ${word}`)];
  for (const other of ['。', 'a', '\n']) {
    const before = tokenizer.encode(other);
    const both = tokenizer.encode(other + word);
    // Where the other text and the word are not written together.
    if (before.length > 0 && before.every((id, i) => id === both[i])) forms.push(both.subarray(before.length));
  }
  return forms;
}
