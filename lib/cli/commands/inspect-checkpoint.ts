import { maxPositions } from '../../architecture/rope';
import { keyValueWidth } from '../../architecture/sizes';
import type { GenerationConfig } from '../../architecture/generation-config';
import { NeoXPrefixError } from '../../base/errors';
import { openCheckpoint } from '../../checkpoint/open';
import { DTYPE_BYTES, elementCount } from '../../formats/tensor';
import { Tokenizer } from '../../tokenizer/tokenizer';
import { fields, formatBytes, formatCount, table } from '../text-columns';
import type { Finding, InspectFlags } from './finding';

export async function inspectCheckpoint(path: string, flags: InspectFlags): Promise<Finding> {
  const { directory, config, tensors, generation, format, fingerprint, warnings } = await openCheckpoint(path);
  const counted = [...tensors.values()].filter(
    ({ name }) => !(config.tieWordEmbeddings && name === 'embed_out.weight'),
  );
  const sizes = counted.map(({ name, shape, dtype, file }) => ({ dtype, elements: elementCount(name, shape, file) }));
  const parameters = sizes.reduce((sum, { elements }) => sum + elements, 0);
  const bytes = sizes.reduce((sum, { dtype, elements }) => sum + elements * DTYPE_BYTES[dtype], 0);
  const dtypes = [...new Set(sizes.map(({ dtype }) => dtype))];
  const tokenizer = await describeTokenizer(path);
  const list = [...tensors.values()].map(({ name, dtype, shape }) => ({ name, dtype, shape }));
  const { ropeScaling } = config;
  const text = fields([
    ['checkpoint', directory],
    ['files', format],
    [
      'parameters',
      `${formatCount(parameters)} in ${counted.length} tensors, ${formatBytes(bytes)} of ${dtypes.join(', ')}`,
    ],
    ['layers', config.numLayers],
    ['hidden size', `${config.hiddenSize}  (${config.numHeads} heads of ${config.headSize})`],
    ['intermediate size', config.intermediateSize],
    ['vocabulary', `${config.vocabSize}${config.tieWordEmbeddings ? ', output head tied to the embedding' : ''}`],
    ['positions', maxPositions(config)],
    [
      'rotary',
      `${config.rotaryDims} of ${config.headSize} dimensions, base ${config.rotaryBase}${ropeScaling.type === 'default' ? '' : `, ${ropeScaling.type} x ${ropeScaling.factor}`}`,
    ],
    ['residual', config.useParallelResidual ? 'parallel' : 'sequential'],
    ['activation', config.hiddenAct],
    ['layer norm epsilon', config.layerNormEps],
    [
      'token ids',
      `bos ${config.bosTokenId ?? 'none'}, eos ${config.eosTokenIds.join(' or ') || 'none'}, pad ${config.padTokenId ?? 'none'}`,
    ],
    ['generation', describeGeneration(generation)],
    ['tokenizer', tokenizer],
    ['a prefix takes', `${formatCount(keyValueWidth(config))} values a position`],
    ['fingerprint', fingerprint],
  ]);
  const rows = list.map(({ name, dtype, shape }) => [name, dtype, `[${shape.join(', ')}]`]);
  return {
    kind: 'checkpoint',
    path,
    data: {
      directory,
      format,
      parameters,
      bytes,
      dtypes,
      fingerprint,
      config,
      generation,
      tokenizer,
      ...(flags.tensors === true ? { tensors: list } : {}),
    },
    text: flags.tensors === true ? `${text}\n\n${table(['tensor', 'type', 'shape'], rows)}` : text,
    warnings,
  };
}

function describeGeneration({ eosTokenIds, bosTokenId, padTokenId, defaults }: GenerationConfig): string {
  const options = Object.entries(defaults).map(([name, value]) => `${name} ${value as number}`);
  const ids = `bos ${bosTokenId ?? 'none'}, eos ${eosTokenIds.join(' or ') || 'none'}, pad ${padTokenId ?? 'none'}`;
  return [ids, ...options].join(', ');
}

async function describeTokenizer(path: string): Promise<string> {
  try {
    const { kind, vocabSize } = await Tokenizer.load(path);
    return `${kind}, ${vocabSize} tokens`;
  } catch (error) {
    if (error instanceof NeoXPrefixError) return `none that can be used: ${error.message.split('\n')[0] ?? ''}`;
    throw error;
  }
}
