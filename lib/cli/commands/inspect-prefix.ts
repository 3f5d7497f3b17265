import { NeoXPrefixError } from '../../base/errors';
import { openCheckpoint } from '../../checkpoint/open';
import { readSafetensorsHeader } from '../../formats/safetensors';
import { PREFIX_FORMATS, readPrefixFile } from '../../prefix/formats/index';
import { PrefixWeights } from '../../prefix/weights';
import { fields, formatCount, formatNumber, inline, shellWord, table } from '../text-columns';
import { given } from '../flags';
import type { Finding, InspectFlags } from './finding';

export async function inspectPrefix(path: string, flags: InspectFlags): Promise<Finding> {
  const encoder = path.endsWith('.safetensors') ? await inspectEncoder(path) : undefined;
  if (encoder !== undefined) return encoder;
  const checkpoint = flags.model === undefined ? undefined : await openCheckpoint(flags.model);
  const { format } = await readPrefixFile(path, { config: checkpoint?.config, prefixLength: flags.prefixSeqLen });
  const prefix = await PrefixWeights.load(path, {
    // Without its fingerprint: what does not fit is told, not refused.
    ...given({ config: checkpoint?.config, prefixLength: flags.prefixSeqLen }),
    allowNonFinite: true,
  });
  const { shape, prefixLength, numLayers, numHeads, headSize, hash, metadata } = prefix;
  const { layers, nanCount, infinityCount } = prefix.statistics();
  const { task, baseModel, recipe, metrics, tokenizerHash } = metadata;
  const warnings = [...prefix.warnings];
  if (nanCount + infinityCount > 0)
    warnings.push(`${path} has ${nanCount} NaN and ${infinityCount} infinite values: models refuse it`);
  const text = [
    fields([
      ['prefix', path],
      ['format', PREFIX_FORMATS[format].title],
      ['task', task],
      ['shape', `[${shape.join(', ')}]  (positions, layers, key and value, heads, head size)`],
      ['values', `${formatCount(prefix.data.length)}, float32 in memory`],
      ['prefix length', prefixLength],
      [
        'base model',
        baseModel === undefined
          ? 'not known'
          : `${baseModel.name ?? 'no name'}, fingerprint ${baseModel.fingerprint ?? 'not known'}`,
      ],
      ['fits the model', checkpoint === undefined ? undefined : fits(prefix, checkpoint)],
      ['tokenizer', tokenizerHash],
      ['recipe', recipe === undefined ? undefined : inline(recipe)],
      ['metrics', metrics === undefined ? undefined : inline(metrics)],
      ['sha256', hash],
    ]),
    table(
      ['layer', 'key norm', 'value norm'],
      layers.map(({ keyNorm, valueNorm }, i) => [String(i), formatNumber(keyNorm), formatNumber(valueNorm)]),
    ),
  ];
  return {
    kind: 'prefix',
    path,
    data: {
      format,
      shape,
      prefixLength,
      numLayers,
      numHeads,
      headSize,
      hash,
      metadata,
      statistics: { layers, nanCount, infinityCount },
    },
    text: text.join('\n\n'),
    warnings,
  };
}

function fits(prefix: PrefixWeights, { config, fingerprint }: Awaited<ReturnType<typeof openCheckpoint>>): string {
  try {
    prefix.checkFits(config, fingerprint);
    return prefix.baseModelFingerprint === undefined ? 'its shape does; the file does not name its model' : 'yes';
  } catch (error) {
    if (error instanceof NeoXPrefixError) return `no: ${error.message.split('\n')[0] ?? ''}`;
    throw error;
  }
}

/** The state of a prefix encoder, or undefined when the file holds something else. */
async function inspectEncoder(path: string): Promise<Finding | undefined> {
  const { tensors, metadata } = await readSafetensorsHeader(path);
  const embedding = tensors.get('prefix_wte.weight');
  if (embedding === undefined) return undefined;
  const list = [...tensors.values()].map(({ name, dtype, shape }) => ({ name, dtype, shape }));
  const rows = list.map(({ name, dtype, shape }) => [name, dtype, `[${shape.join(', ')}]`]);
  return {
    kind: 'encoder',
    path,
    data: { prefixLength: embedding.shape[0], tensors: list, metadata: Object.fromEntries(metadata) },
    text: `${fields([
      ['prefix encoder', path],
      ['prefix length', embedding.shape[0]],
      ['go on from it', `neox-prefix train --checkpoint-path ${shellWord(path)}`],
    ])}\n\n${table(['tensor', 'type', 'shape'], rows)}`,
  };
}
