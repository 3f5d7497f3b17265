import { badArgument, checkBoolean, checkOneOf, checkOptions, checkPath, checkString } from '../base/arguments';
import { checkReplaceable } from '../base/new-folder';
import { openCheckpoint } from '../checkpoint/open';
import { isExportFolder } from '../fastertransformer/folder';
import { formatOfPath, PREFIX_FORMATS, type PrefixFormat, SOURCE_FORMATS } from '../prefix/formats/index';
import { PREFIX_LOAD_OPTIONS, type PrefixLoadOptions, PrefixWeights } from '../prefix/weights';
import { FTExporter } from './exporter';

/** What to read, and what to write. */
export interface ConvertOptions extends PrefixLoadOptions {
  /**
   * The format to write. Defaults to what the path says: `.safetensors`; `.checkpoint`, `.weight` or `.pt` for rinna; a
   * folder or a name without an extension for peft; an existing FasterTransformer folder for fastertransformer.
   */
  format?: PrefixFormat | 'fastertransformer';
  /** The task's name in what is written. Defaults to the one that the source knows. */
  name?: string;
  /** What the prefix names as its base model, as `base_model_name_or_path` of an adapter. Defaults to what it knows. */
  baseModelName?: string;
  /** Replace what is there: a file, an adapter folder, or a task of the same name. Defaults to `false`. */
  overwrite?: boolean;
}

/** What was read and written. */
export interface ConvertReport {
  /** The source as it was found. */
  readonly from: { readonly path: string; readonly format: PrefixFormat | 'fastertransformer' };
  /** What was written. `taskId`: the id that requests send, of a task in a FasterTransformer folder. */
  readonly to: { readonly path: string; readonly format: PrefixFormat | 'fastertransformer'; readonly taskId?: number };
  /** Shape of the prefix, [P, L, 2, N, D]. */
  readonly shape: readonly number[];
  /** Name of the task, where it has one. */
  readonly task: string | undefined;
  /** Things worth showing to a person: from reading, and what the new format cannot hold. */
  readonly warnings: readonly string[];
}

/**
 * Reads a prefix of any format and writes it in any other: safetensors, rinna's .checkpoint, a PEFT adapter, or a task
 * of a FasterTransformer folder. The source is recognised by its content; `task` chooses one of a FasterTransformer
 * folder.
 *
 * A FasterTransformer folder as the target must be there already (FTExporter makes it); the prefix is added to its
 * tasks.
 * @throws what PrefixWeights.load throws; NEOX_BAD_ARGUMENT when something is there and `overwrite` is not set; NEOX_IO
 */
export async function convertPrefix(from: string, to: string, options: ConvertOptions = {}): Promise<ConvertReport> {
  checkPath('from', from);
  checkPath('to', to);
  checkOptions('options', options, [...PREFIX_LOAD_OPTIONS, 'format', 'name', 'baseModelName', 'overwrite']);
  const { format: wanted, name, baseModelName, overwrite: replace, ...loadOptions } = options;
  const overwrite = checkBoolean('options.overwrite', replace ?? false);
  if (name !== undefined) checkString('options.name', name);
  if (baseModelName !== undefined) checkString('options.baseModelName', baseModelName);
  const format =
    wanted === undefined
      ? (await isExportFolder(to))
        ? 'fastertransformer'
        : await formatOfPath(to)
      : checkOneOf('options.format', wanted, SOURCE_FORMATS);

  const loaded = await PrefixWeights.load(from, loadOptions);
  const prefix = loaded.withMetadata({
    ...(name !== undefined && { task: name }),
    ...(baseModelName !== undefined && { baseModel: { ...loaded.metadata.baseModel, name: baseModelName } }),
  });
  const source = { path: from, format: loaded.format ?? 'safetensors' };
  const described = { from: source, shape: prefix.shape, task: prefix.metadata.task };
  if (format === 'fastertransformer') {
    const { taskId, warnings } = await addTask(prefix, to, overwrite);
    return { ...described, to: { path: to, format, taskId }, warnings: [...prefix.warnings, ...warnings] };
  }
  const { kind } = PREFIX_FORMATS[format];
  await checkReplaceable(to, {
    ...{ overwrite, kind, isOurs: () => true, what: `a ${kind}`, code: 'NEOX_BAD_ARGUMENT' },
    hints: { ours: 'choose another path, or set `overwrite: true` to replace it', other: 'choose another path' },
  });
  await prefix.save(to, { format });
  const lost =
    !PREFIX_FORMATS[format].keepsMetadata && hasMetadata(prefix)
      ? [`${to} holds the numbers only: the task, the base model and the recipe are not in it`]
      : [];
  return { ...described, to: { path: to, format }, warnings: [...prefix.warnings, ...lost] };
}

async function addTask(
  prefix: PrefixWeights,
  to: string,
  replace: boolean,
): Promise<{ taskId: number; warnings: string[] }> {
  const { task } = prefix.metadata;
  if (task === undefined)
    throw badArgument('options.name', 'a name for the task, which the source does not know,', undefined);
  const checkpoint = await openCheckpoint(to);
  const unknown = prefix.baseModelFingerprint !== undefined;
  // The folder does not say which checkpoint it was made from, so only the sizes can be compared.
  const { data, prefixLength, numLayers, numHeads, headSize } = prefix;
  const bare = PrefixWeights.fromTensor(data, { prefixLength, numLayers, numHeads, headSize });
  const { tasks, warnings } = await new FTExporter({ checkpoint }).addTasks(to, { [task]: bare }, { replace });
  return {
    taskId: tasks.findIndex(({ name }) => name === task),
    warnings: [
      ...warnings.map(({ message }) => message),
      ...(unknown ? [`${to} does not say which base model it was made from: only the sizes were compared`] : []),
    ],
  };
}

function hasMetadata({ metadata }: PrefixWeights): boolean {
  return Object.keys(metadata).some((key) => key !== 'formatVersion');
}
