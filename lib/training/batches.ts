import { NeoXPrefixError } from '../errors';
import { sampleRows, tokenizeSamples, type Row, type Sample } from '../data/sample';
import type { NeoXModel } from '../model/neox-model';
import { checkLength, packRows } from '../model/rows';

/** A sample's rows, checked against the model. */
export type SampleRows = readonly Row[];

/** A batch as the addon takes it. */
export interface PackedBatch {
  tokens: Int32Array;
  targets: Int32Array;
  lengths: Int32Array;
}

export interface PrepareOptions {
  twoRows: boolean;
  prefixLength: number;
  /** What errors call the data, for example `'train'`. */
  what: string;
  signal: AbortSignal | undefined;
}

/**
 * Tokenizes samples and makes their rows.
 * @throws NEOX_BAD_DATA for samples that cannot train anything, NEOX_TOO_LONG, each naming the sample
 */
export async function prepareRows(model: NeoXModel, samples: readonly Sample[], options: PrepareOptions): Promise<SampleRows[]> {
  const { twoRows, prefixLength, what, signal } = options;
  const bosId = model.config.bosTokenId;
  const eosId = model.config.eosTokenIds[0];
  if (bosId === null || eosId === undefined) {
    throw new NeoXPrefixError(
      'NEOX_BAD_CONFIG',
      'The model has no bos_token_id or eos_token_id, and training rows begin and end with them',
      {
        path: model.checkpoint.directory,
        hint: 'add both to config.json',
      },
    );
  }
  // Ids need no tokenizer, so one is asked for only when there is text.
  const tokenizer = { encode: (text: string) => model.tokenizer.encode(text) };
  const tokenized = await tokenizeSamples(samples, tokenizer, signal);
  return tokenized.map((sample, i) => {
    const rows = sampleRows(sample, { bosId, eosId, twoRows });
    for (const { inputs, targets } of rows) {
      const name = `${what} sample ${i}`;
      checkLength(name, inputs.length + prefixLength, model.config);
      checkVocabulary(name, inputs, model.config.vocabSize);
      checkVocabulary(name, targets, model.config.vocabSize);
    }
    return rows;
  });
}

export function packBatch(samples: readonly SampleRows[]): PackedBatch {
  const rows = samples.flat();
  return { ...packRows(rows.map(({ inputs }) => inputs)), targets: packRows(rows.map(({ targets }) => targets)).tokens };
}

function checkVocabulary(name: string, ids: Int32Array, vocabSize: number): void {
  const wrong = ids.find((id) => id >= vocabSize);
  if (wrong === undefined) return;
  throw new NeoXPrefixError('NEOX_BAD_DATA', `${name} has the token id ${wrong}, and the model's ids end at ${vocabSize - 1}`);
}
