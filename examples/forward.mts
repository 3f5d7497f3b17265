// One forward pass at a time, with key/value vectors injected in front of the text: a prefix, a KV cache, or the KV of
// another text. Needs what train.mts leaves.
//
//   node scripts/run-typescript.mjs examples/forward.mts [FOLDER OF train.mts]
import { join } from 'node:path';
import { NeoXModel, PrefixWeights, type Logits } from 'neox-prefix';

const folder = import.meta.dirname;
const out = process.argv[2] ?? join(folder, 'out');

await using model = await NeoXModel.load(join(folder, 'models', 'tiny-ja-neox'));
const { tokenizer } = model;
const smile = await PrefixWeights.load(join(out, 'smile', 'best.safetensors'), { config: model });

/** The most likely next token of a row: the largest logit of its last position. */
function mostLikely({ data, shape: [, length, vocabulary] }: Logits, row = 0): number {
  const last = data.subarray((row * length + length - 1) * vocabulary, (row + 1) * length * vocabulary);
  return last.indexOf(Math.max(...last));
}

// 1. A prefix as past key values. Every layer attends to its P keys and values; text token j has position P + j.
const text = tokenizer.encode('空がきれいでした。');
for (const pastKeyValues of [undefined, smile]) {
  const { logits } = await model.forward({ inputIds: [text], ...(pastKeyValues && { pastKeyValues }) });
  if (logits === null) throw new Error('unreachable: logits were not switched off');
  console.log(`logits ${JSON.stringify(logits.shape)}, next token ${tokenizer.idToToken(mostLikely(logits))}`);
}

// 2. Going on from a cache: the prompt goes through the model once, then one token at a time.
let { logits, pastKeyValues } = await model.forward({
  inputIds: [tokenizer.encode('今日は')],
  pastKeyValues: smile,
  logits: 'last',
});
const start = pastKeyValues;
const ids: number[] = [];
while (logits !== null && ids.length < 40) {
  const next = mostLikely(logits);
  if (model.config.eosTokenIds.includes(next)) break;
  ids.push(next);
  ({ logits, pastKeyValues } = await model.forward({ inputIds: [[next]], pastKeyValues, logits: 'last' }));
}
console.log(`step by step: 今日は${tokenizer.decode(ids)}`);
const generated = await model.generate('今日は', { prefix: smile, temperature: 0, maxNewTokens: 40 });
console.log(`as generate() does it: ${generated.tokens.join() === ids.join()}`);

// 3. A cache is never changed, so one beginning can be gone on from in several ways.
for (const word of ['公園で', '図書館で']) {
  const branch = await model.forward({ inputIds: [tokenizer.encode(word)], pastKeyValues: start, logits: 'last' });
  if (branch.logits !== null) console.log(`今日は${word}... then ${tokenizer.idToToken(mostLikely(branch.logits))}`);
}
console.log(`the beginning still has ${start.lengths[0]} tokens behind a prefix of ${start.prefixLengths[0]}`);

// 4. The keys and values of any text are a prefix too: what follows sees the same as behind the text itself.
const before = tokenizer.encode('昨日は海辺で');
const { pastKeyValues: read } = await model.forward({ inputIds: [before], logits: 'none' });
const { data, shape } = await read.read(); // [P, L, 2, N, D]
const [prefixLength, numLayers, , numHeads, headSize] = shape;
const fromText = PrefixWeights.fromTensor(data, { prefixLength, numLayers, numHeads, headSize });
const behind = await model.forward({ inputIds: [text], pastKeyValues: fromText, logits: 'last' });
const whole = await model.forward({ inputIds: [[...before, ...text]], logits: 'last' });
const difference = Math.max(
  ...(whole.logits?.data ?? []).map((value, i) => Math.abs(value - (behind.logits?.data[i] ?? NaN))),
);
console.log(`a text as prefix, largest difference of a logit: ${difference < 1e-4 ? 'below 1e-4' : difference}`);
