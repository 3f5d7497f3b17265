import { createHash } from 'node:crypto';
import { mkdtemp, readFile, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { openCheckpoint } from '../../lib/checkpoint/open';
import { FTExporter } from '../../lib/export/exporter';
import { NeoXModel } from '../../lib/neox-model';
import { PrefixWeights } from '../../lib/prefix/weights';
import { TOLERANCES } from '../tolerances';
import {
  FASTER_TRANSFORMER_CASES,
  GOLDEN_KINDS,
  difference,
  loadGoldenFasterTransformer,
  loadGoldenModel,
  type GoldenModel,
} from './fixtures';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'neox-prefix-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

function goldenPrefix({ prefix }: GoldenModel): PrefixWeights {
  const [prefixLength, numLayers, , numHeads, headSize] = prefix.shape as [number, number, number, number, number];
  return PrefixWeights.fromTensor(prefix.data, { prefixLength, numLayers, numHeads, headSize });
}

describe.each(FASTER_TRANSFORMER_CASES)("the folder that NVIDIA's converter makes of the model %s", (name) => {
  const golden = loadGoldenModel(name);
  const conversions = loadGoldenFasterTransformer(name).conversions.filter(({ dtype }) => dtype === 'fp32');

  it.each(conversions.map(({ tensorParallel }) => tensorParallel))(
    "gives Python's logits, for %i GPUs",
    async (tensorParallel) => {
      const checkpoint = await openCheckpoint(golden.directory);
      const { directory } = await new FTExporter({ checkpoint }).export(folder, {
        dtype: 'float32',
        tensorParallel,
        denseBias: 'huggingface_converter',
        tasks: { golden: goldenPrefix(golden) },
      });
      // These are the converter's files, byte for byte.
      const files = conversions.find((conversion) => conversion.tensorParallel === tensorParallel)!.files;
      for (const file of await readdir(directory)) {
        if (file === 'config.ini' || file.startsWith('model.prefix_prompt.')) continue;
        expect([
          file,
          createHash('sha256')
            .update(await readFile(join(directory, file)))
            .digest('hex'),
        ]).toEqual([file, files[file]?.sha256]);
      }

      const { architecture, hiddenAct, layerNormEps, rotaryBase } = checkpoint.config;
      // Of a GPT-2, config.ini says all of it.
      const arithmetic = architecture === 'gpt2' ? 'checkpoint' : { hiddenAct, layerNormEps, rotaryBase };
      await using model = await NeoXModel.load(directory, {
        threads: 1,
        denseBias: 'huggingface_converter',
        arithmetic,
      });
      const prefix = await model.loadTask('golden');
      for (const [row, ids] of golden.reference.rows.entries()) {
        for (const kind of GOLDEN_KINDS) {
          const { logits } = await model.forward({
            inputIds: [[...ids]],
            ...(kind === 'prefix' && prefix ? { pastKeyValues: prefix } : {}),
          });
          const apart = difference(logits!.data, golden.logits('float32', kind, row).data);
          expect(apart.max).toBeLessThan(TOLERANCES.float32.logits);
          expect(apart.mean).toBeLessThan(TOLERANCES.float32.logitsMean);
        }
      }
    },
  );
});
